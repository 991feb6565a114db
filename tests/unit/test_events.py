"""The envelope of an event: what goes through it, and what is refused, with its place."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CorruptDocument, InvalidEvent, SchemaTooNew
from holdfast.events import Delivery, Event, EventLimits, Metadata, Priority, check_key, decode, encode, partition_of

LIMITS = EventLimits(bytes_max=1000, depth_max=5)
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


class Text(str):
    """Text that is more than that."""

    __slots__ = ()


class Whole(int):
    """A number that is more than that."""


class Real(float):
    """Another."""


def event(data: Any, **how: Any) -> Event:
    return Event("e1", "a/b", NOW, "s1", data, Metadata(**how))


@given(JSON)
def test_what_is_encoded_is_decoded(data: Any) -> None:
    """Any JSON value, and all of the envelope but what differs with each delivery."""
    limits = EventLimits(bytes_max=100_000, depth_max=64)
    sent = event(data, priority=Priority.LOW, delivery=Delivery.RELIABLE, key="k", attempt=7, duplicate=True)
    assert decode(encode(sent, limits), limits) == event(
        data, priority=Priority.LOW, delivery=Delivery.RELIABLE, key="k"
    )


def test_what_handlers_get_cannot_be_changed() -> None:
    """Several may get the same."""
    got = decode(encode(event({"a": [{"b": 1}]}), LIMITS), LIMITS)
    with pytest.raises(TypeError):
        got.data["a"][0]["b"] = 2


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"a": [1, {"b": object()}]}, "a[1].b"),
        ({"a": {1}}, "a"),
        ({1: 2}, ""),
        ({"a": float("nan")}, "a"),
        ([float("inf")], "[0]"),
        (b"x", ""),
        ([2**63], "[0]"),
        (["\ud800"], "[0]"),
        ({"\ud800": 1}, "['\\ud800']"),
        ([[[[[[1]]]]]], "[0][0][0][0][0]"),
        (NOW, ""),
        ({"a": Text("x")}, "a"),
        ([Whole(1)], "[0]"),
        ([{"b": Real(1)}], "[0].b"),
        ({Text("x"): 1}, ""),
    ],
)
def test_refused_data(data: Any, path: str) -> None:
    """With the place of the fault."""
    with pytest.raises(InvalidEvent) as fault:
        encode(event(data), LIMITS)
    assert fault.value.path == path


def test_the_deepest_and_the_largest_that_is_taken() -> None:
    """The limits are the first that is refused, less one."""
    deep: Any = [[[[[1]]]]]
    assert decode(encode(event(deep), LIMITS), LIMITS).data == deep
    assert encode(event("x" * 998), LIMITS)
    with pytest.raises(InvalidEvent, match="1001 bytes of JSON; at most 1000"):
        encode(event("x" * 999), LIMITS)


@pytest.mark.parametrize("leaf", [[], "x" * 1000, {"x" * 1000: 1}])
def test_data_with_much_of_the_same_are_refused_at_once(leaf: Any) -> None:
    """They are small here, and would be without measure as JSON: 2 to the power of 60 times the leaf."""
    data = leaf
    for _ in range(60):
        data = [data, data]
    with pytest.raises(InvalidEvent, match="more than 1000 bytes of JSON"):
        encode(event(data), EventLimits(bytes_max=1000, depth_max=64))


@given(JSON)
def test_data_are_not_too_large_before_their_json_is(data: Any) -> None:
    """The walk counts no more than what is written."""
    size = len(msgspec.json.encode(data))
    assert encode(event(data), EventLimits(bytes_max=size, depth_max=64))


def test_data_that_contain_themselves_are_refused() -> None:
    """They have no end."""
    data: list[Any] = []
    data.append(data)
    with pytest.raises(InvalidEvent):
        encode(event(data), LIMITS)


def stored(**changed: Any) -> bytes:
    return json.dumps(json.loads(encode(event(1), LIMITS)) | changed).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"v":1}',
        stored(priority="urgent"),
        stored(timestamp="yesterday"),
        stored(v="1"),
        stored(data=[[[[[[1]]]]]]),
        stored(data="x" * 20_000),
        b"[" * 100_000,
        stored(data=0)[:-2] + b"[" * 8000,
    ],
)
def test_what_is_no_event_is_corrupt(body: bytes) -> None:
    """Also what is over the limits."""
    with pytest.raises(CorruptDocument):
        decode(body, LIMITS)


def test_an_event_of_a_newer_server_is_not_corrupt() -> None:
    """Whatever else it looks like."""
    with pytest.raises(SchemaTooNew):
        decode(b'{"v": 2, "new": true}', LIMITS)


def test_unknown_fields_are_left_alone() -> None:
    """A newer server of the same format may add some."""
    assert decode(stored(trace="t1"), LIMITS) == event(1)


@pytest.mark.parametrize("key", ["", "k" * 513, 7, "\ud800"])
def test_refused_keys(key: Any) -> None:
    """A key is text of a length."""
    with pytest.raises(InvalidEvent, match="key"):
        check_key(key)


def test_partitions_are_the_same_on_every_server() -> None:
    """Golden: a change would part the events of one key."""
    assert [partition_of(text, 16) for text in ("", "k1", "k2", "é")] == [0, 9, 3, 14]
