"""The short way to JSON gives the same bytes as the long one, or leaves the document to it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_runs import changes
from holdfast.documents import ContextChange, ContextVariable, Document, Limits, Part, Run, Swarm, decode, encode
from holdfast.documents.direct import direct_json
from holdfast.documents.encoding import DEFAULT_LIMITS, _encode_stored
from holdfast.errors import DocumentTooDeep, InvalidDocument

UTC = dt.UTC


class Leg(Part):
    """A part with one of each simple field."""

    name: str
    length: float = 1.0
    at: dt.datetime | None = None
    price: Decimal | None = None
    tags: Sequence[str] = ()
    free: Any = None


class Journey(Document):
    """A document with parts in lists and mappings."""

    SCHEMA = 3

    title: str | None = None
    legs: Sequence[Leg] = ()
    by_name: Mapping[str, Leg] = {}
    notes: Mapping[str, Any] = {}
    choice: Sequence[str] | str = "all"
    seen: frozenset[str] = frozenset()


def journey(**fields: Any) -> Journey:
    """A journey of whatever is given."""
    return Journey(**fields)


def leg(**fields: Any) -> Leg:
    """A leg of whatever is given."""
    return Leg(**fields)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text("ab$é"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab$", max_size=3), inner, max_size=3),
    max_leaves=8,
)
times = st.none() | st.datetimes(timezones=st.sampled_from([UTC, dt.timezone(dt.timedelta(hours=2))]))
legs = st.builds(
    Leg,
    name=st.text("abc"),
    length=st.floats(allow_nan=False, allow_infinity=False),
    at=times,
    price=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
    tags=st.lists(st.text("ab"), max_size=2),
    free=plain,
)
journeys = st.builds(
    Journey,
    title=st.none() | st.text("xyz"),
    legs=st.lists(legs, max_size=3),
    by_name=st.dictionaries(st.text("ab$", max_size=2), legs, max_size=2),
    notes=st.dictionaries(st.text("ab$", max_size=2), plain, max_size=2),
    choice=st.sampled_from(["all", "none"]) | st.lists(st.text("ab"), max_size=2),
)


@given(journeys)
def test_both_ways_give_the_same_bytes(any_journey: Journey) -> None:
    """Whatever goes the short way is stored as the long way would store it."""
    short = direct_json(any_journey, 64)
    assert short is None or short == _encode_stored(any_journey, DEFAULT_LIMITS)
    assert decode(Journey, encode(any_journey)) == any_journey


@given(st.lists(changes(), max_size=4), st.booleans())
def test_what_omits_its_defaults_does_so_both_ways(several: list[ContextChange], critical: bool) -> None:  # noqa: FBT001
    """The parts of a run: by either way, and again after the way through the bytes."""
    run = Run(routine_id="q", changes=several, critical=critical)
    body = encode(run)
    assert body == _encode_stored(run, DEFAULT_LIMITS) == encode(decode(Run, body))
    assert decode(Run, body) == run
    assert direct_json(Run(routine_id="q", changes=[ContextChange(snapshot=True)]), 64) is not None


def test_defaults_that_are_omitted() -> None:
    """An empty list or dict, True and False; and None, as everywhere. Other values are stored."""
    stored = b'{"__version":1,"routineId":"q","depth":0,"status":"running","epoch":1,"handedOver":0,"children":0,'
    assert encode(Run(routine_id="q")).startswith(stored)
    assert b"critical" not in encode(Run(routine_id="q"))
    assert b'"critical":true' in encode(Run(routine_id="q", critical=True))
    change = ContextChange(removed_variables=["a"], variables={"b": ContextVariable(key="b", mutable=False)})
    body = encode(Run(routine_id="q", changes=[change]))
    assert body.count(b'"removedVariables":["a"]') == body.count(b'"mutable":false') == 1
    assert b"[]" not in body
    assert b"{}" not in body


@given(legs)
def test_what_is_plain_does_go_the_short_way(any_leg: Leg) -> None:
    """The short way is taken, not merely agreed with."""
    first = Leg(name=any_leg.name, length=any_leg.length, at=any_leg.at, tags=any_leg.tags)
    assert direct_json(Journey(title="t", legs=[first]), 64) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: journey(extra={"newer": 1}),
        lambda: journey(legs=[leg(name="a", extra={"newer": 1})]),
        lambda: journey(notes={"$ref": "x"}),
        lambda: journey(legs=[leg(name="a", free={"at": dt.datetime(2025, 1, 1, tzinfo=UTC)})]),
        lambda: journey(legs=[leg(name="a", free=(1, 2))]),
        lambda: journey(legs=[leg(name="a", free=2**70)]),
        lambda: journey(legs=[leg(name="a", length=3)]),
        lambda: journey(seen={"a", "b"}),
    ],
)
def test_what_is_unusual_goes_the_long_way(make: Callable[[], Journey]) -> None:
    """Unknown fields, tags, sets and whole numbers for floats are left to the long way, and come back."""
    made = make()
    assert direct_json(made, 64) is None
    assert decode(Journey, encode(made)) == made


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: journey(title=5), "title"),
        (lambda: journey(legs=[{"name": "a"}]), "legs[0]"),
        (lambda: journey(legs=[leg(name="a"), leg(name=None)]), "legs[1].name"),
        (lambda: journey(legs=[leg(name="a", at="2025-01-01T00:00:00Z")]), "legs[0].at"),
        (lambda: journey(legs=[leg(name="a", price="1.5")]), "legs[0].price"),
        (lambda: journey(legs=[leg(name="a", length=float("nan"))]), "legs[0].length"),
        (lambda: journey(by_name={"x": leg(name=b"a")}), "by_name.x.name"),
        (lambda: journey(title="a\0"), "title"),
        (lambda: journey(choice=7), "choice"),
        (lambda: journey(by_name={1: leg(name="a")}), "by_name[1]"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(make: Callable[[], Journey], path: str) -> None:
    """The short way lets nothing through that the long way refuses."""
    with pytest.raises(InvalidDocument) as refused:
        encode(make())
    assert refused.value.path == path


def test_depth_counts_on_the_short_way_too() -> None:
    """A document one level too deep is refused, one that just fits is not."""
    swarm = Swarm(goal="g", metadata={"a": {"b": {"c": 1}}})
    assert encode(swarm, Limits(depth_max=4))
    with pytest.raises(DocumentTooDeep):
        encode(swarm, Limits(depth_max=3))
