"""Free values come back as they were, with their exact types."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import subprocess
import sys
import zoneinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.documents import (
    BlackboardItem,
    FrozenDict,
    FrozenList,
    Swarm,
    SwarmStats,
    UnknownTag,
    decode,
    encode,
    freeze,
)
from holdfast.errors import CorruptDocument, InvalidDocument

PARIS = zoneinfo.ZoneInfo("Europe/Paris")
ZONES = [PARIS, *map(zoneinfo.ZoneInfo, ("America/New_York", "Australia/Lord_Howe", "Africa/Monrovia", "UTC"))]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
OFFSETS = st.integers(-86_399, 86_399).map(lambda seconds: dt.timezone(dt.timedelta(seconds=seconds)))
TIME_ZONES = st.none() | st.just(dt.UTC) | OFFSETS | st.sampled_from(ZONES)

hashable_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=12)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=TIME_ZONES, allow_imaginary=True)
    | st.times(timezones=st.none() | st.just(dt.UTC))
)
hashables = st.recursive(
    hashable_leaves, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
tag_like = st.sampled_from(["$decimal", "$$decimal", "$set", "$new", "$", "$$", "$dict", "plain"])
free_values = st.recursive(
    hashables | st.just(math.nan),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXT | tag_like, inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.dictionaries(tag_like, inner, min_size=1, max_size=1)
    ),
    max_leaves=12,
)


def exactly(value: object) -> object:
    """The value as nested text that tells apart what ``==`` does not: 1, 1.0 and True, -0.0, folds, zones."""
    if isinstance(value, dict):
        return ["dict", [[exactly(name), exactly(each)] for name, each in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [exactly(each) for each in value]]
    if isinstance(value, frozenset):
        return ["set", sorted(repr(exactly(each)) for each in value)]
    if isinstance(value, dt.datetime | dt.time):
        zone = getattr(value.tzinfo, "key", None)
        return [type(value).__name__, value.isoformat(), str(value.tzinfo), zone, value.fold]
    return [type(value).__name__, hex(value) if type(value) is int else repr(value)]


def round_trip(value: object) -> Any:
    """What comes back of a value put on a blackboard."""
    return decode(Swarm, encode(Swarm(blackboard=[BlackboardItem(id="b", value=value)]))).blackboard[0].value


@settings(deadline=None, max_examples=400)
@given(value=free_values)
@example(value=[1, 1.0, True, 0, False, -0.0, 0.0, 1e300, 5e-324, 2**53 + 1])
@example(value=[2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**4299, -(10**6000)])
@example(value={"$decimal": "1.10"})
@example(value={"$$decimal": {"$ref": Decimal("1.10")}})
@example(value=[Decimal("NaN"), Decimal("-sNaN12"), Decimal("-0E+3"), Decimal("Infinity")])
@example(value=[math.inf, -math.inf, math.nan])
@example(value={1: "int", "1": "text", 1.5: "float", (1, "a"): "tuple", None: "none"})
@example(value=dt.datetime(2025, 10, 26, 2, 30, tzinfo=PARIS, fold=1))
@example(value=dt.datetime(2025, 3, 30, 2, 30, tzinfo=PARIS))
@example(value=[dt.datetime(2025, 1, 1, 12, fold=1), dt.time(1, 2, tzinfo=PARIS), dt.time(3, fold=1)])  # noqa: DTZ001  # naive on purpose
def test_a_free_value_comes_back_exactly(value: object) -> None:
    """Any nesting of the supported types is restored with types, signs, zones, folds and order of keys."""
    frozen = freeze(value)
    assert exactly(round_trip(value)) == exactly(frozen)


@settings(deadline=None, max_examples=100)
@given(value=free_values)
def test_storing_again_what_was_read_gives_the_same_bytes(value: object) -> None:
    """Reading and storing without a change does not change a byte."""
    first = encode(Swarm(metadata={"v": value}))
    assert encode(decode(Swarm, first)) == first


@settings(deadline=None, max_examples=100)
@given(value=free_values)
def test_every_stored_body_is_json_that_others_read(value: object) -> None:
    """The standard library's strict parser takes it: no NaN, no duplicate of a schema number, UTF-8."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    stored = json.loads(encode(Swarm(metadata={"v": value})).decode(), parse_constant=refuse)
    assert stored["__version"] == 2


def test_plain_json_is_stored_without_tags() -> None:
    """What JSON can say is stored as it is, readable from psql."""
    plain = {"a": [1, 2.5, True, None, "x"], "$schema": "s", "type": "t"}
    assert encode(Swarm(metadata=plain)).endswith(b'"metadata":{"a":[1,2.5,true,null,"x"],"$schema":"s","type":"t"}}')


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Decimal("1.10"), '{"$decimal":"1.10"}'),
        (2**64, '{"$int":"18446744073709551616"}'),
        (math.inf, '{"$float":"inf"}'),
        (b"\x00\xff", '{"$bytes":"AP8="}'),
        (UUID(int=1), '{"$uuid":"00000000-0000-0000-0000-000000000001"}'),
        ((1, [2]), '{"$tuple":[1,[2]]}'),
        ({"b", "a", "c"}, '{"$set":["a","b","c"]}'),
        ({1: "one"}, '{"$dict":[[1,"one"]]}'),
        (dt.date(2025, 6, 1), '{"$date":"2025-06-01"}'),
        (dt.time(10, 0, 0, 5), '{"$time":"10:00:00.000005"}'),
        (dt.timedelta(days=-1, microseconds=3), '{"$timedelta":[-1,0,3]}'),
        (dt.datetime(2025, 6, 1, 10, tzinfo=dt.UTC), '{"$datetime":"2025-06-01T10:00:00+00:00"}'),
        (
            dt.datetime(2025, 10, 26, 2, 30, tzinfo=PARIS, fold=1),
            '{"$datetime":["2025-10-26T02:30:00+01:00","Europe/Paris",1]}',
        ),
        ({"$ref": "#/x"}, '{"$$ref":"#/x"}'),
        ({"$$ref": 1}, '{"$$$ref":1}'),
    ],
)
def test_the_stored_form_of_each_tag(value: object, stored: str) -> None:
    """The tags are a wire format: servers of other versions read them, so they never change."""
    assert encode(Swarm(metadata={"v": value})).endswith(f'"metadata":{{"v":{stored}}}}}'.encode())


def test_a_mapping_that_looks_like_a_tag_stays_a_mapping_in_a_typed_field() -> None:
    """Fields declared as mappings escape like free values: an older reader would take them for tags."""
    swarm = Swarm(subtask_leaders={"$set": "bot"}, metadata={"$set": [1]})
    body = encode(swarm)
    assert b'"subtaskLeaders":{"$$set":"bot"}' in body
    assert decode(Swarm, body) == swarm


def test_a_tag_of_a_newer_version_is_kept_as_it_is_stored() -> None:
    """An older server neither fails on a tag it does not know nor turns it into something else."""
    body = encode(Swarm(metadata={"v": 0})).replace(b'"v":0', b'"v":[{"$fraction":[1,{"$of":3}]}]')
    swarm = decode(Swarm, body)
    assert type(swarm.metadata["v"][0]) is UnknownTag
    assert swarm.metadata["v"][0] == {"$fraction": [1, {"$of": 3}]}
    assert encode(swarm) == body


@pytest.mark.parametrize(
    "stored",
    [
        '{"$decimal":"x"}',
        '{"$decimal":1}',
        '{"$set":1}',
        '{"$set":[[1]]}',
        '{"$bytes":"*"}',
        '{"$dict":[[1]]}',
        '{"$datetime":"today"}',
        '{"$datetime":["2025-06-01T10:00:00"]}',
        '{"$date":"2025-13-01"}',
        '{"$timedelta":[1e99]}',
        '{"$int":"twelve"}',
        '{"$uuid":""}',
        '{"$float":null}',
    ],
)
def test_a_tag_with_the_wrong_content_is_corruption_with_its_path(stored: str) -> None:
    """Holdfast never wrote such a tag: the document is reported, not served."""
    body = encode(Swarm(metadata={"v": 0})).replace(b'"v":0', f'"v":[0,{stored}]'.encode())
    with pytest.raises(CorruptDocument, match=r"swarm:s1 .* at metadata\.v\[1\]: not the content of a \$"):
        decode(Swarm, body, what="swarm:s1")


def test_a_zone_this_machine_does_not_know_leaves_the_instant() -> None:
    """A datetime whose zone is missing here, or has other rules here, keeps its instant and offset."""
    for zone in ("Mars/Olympus", "Asia/Tokyo", "../../etc/passwd", "America"):
        stored = f'"v":{{"$datetime":["2025-06-01T10:00:00+02:00","{zone}",0]}}'
        body = encode(Swarm(metadata={"v": 0})).replace(b'"v":0', stored.encode())
        value = decode(Swarm, body).metadata["v"]
        assert value == dt.datetime(2025, 6, 1, 8, tzinfo=dt.UTC)
        assert value.utcoffset() == dt.timedelta(hours=2)


class Colour(enum.StrEnum):
    RED = "red"


class Count(int):
    pass


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "object cannot be stored in a free value"),
        (Colour.RED, "Colour cannot be stored in a free value; convert it to str"),
        (Count(3), "Count cannot be stored in a free value; convert it to int"),
        (SwarmStats(), "SwarmStats cannot be stored in a free value; declare a field"),
        (print, "builtin_function_or_method cannot be stored"),
        (1j, "complex cannot be stored"),
        (range(3), "range cannot be stored"),
        ("a\0b", "holds a NUL character"),
        ("a\ud800b", "is not valid Unicode"),
    ],
)
@pytest.mark.parametrize("beside", [1, Decimal(1)], ids=["plain", "tagged"])
def test_what_cannot_be_stored_is_refused_with_its_path(value: object, reason: str, beside: object) -> None:
    """An object, an enum, a text PostgreSQL cannot read back: nothing is written, and the path is named."""
    swarm = Swarm(
        blackboard=[
            BlackboardItem(id="a"),
            BlackboardItem(id="b", value={"beside": beside, "prices": [1, {"price": value}]}),
        ]
    )
    with pytest.raises(InvalidDocument) as caught:
        encode(swarm)
    assert caught.value.path == "blackboard[1].value.prices[1].price"
    assert reason in caught.value.reason


@pytest.mark.parametrize("name", ["a\0", "\udfff"])
@pytest.mark.parametrize("beside", [1, Decimal(1)], ids=["plain", "tagged"])
def test_keys_are_held_to_the_same_rules_as_text(name: str, beside: object) -> None:
    """A key that cannot be stored is refused, with the key in the path."""
    with pytest.raises(InvalidDocument, match=r"^metadata\.v\["):
        encode(Swarm(metadata={"v": {name: beside, "other": 1}}))


def test_text_that_spells_an_escaped_nul_is_stored() -> None:
    """Backslash, u and four zeros as text are no NUL."""
    assert round_trip({"text": "\\u0000", "big": 10**5000}) == {"text": "\\u0000", "big": 10**5000}


def test_a_set_has_the_same_bytes_in_every_process() -> None:
    """Hashing of text is seeded per process; the stored order of a set is not."""
    program = (
        "from holdfast.documents import Swarm, encode;"
        "print(encode(Swarm(metadata={'v': {'alpha', 'beta', 'gamma', ('x', 1), None}})).decode())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_a_value_that_was_read_is_frozen_whatever_its_tag() -> None:
    """Lists inside tuples and dicts inside tagged dicts take no write."""
    value = round_trip({(1,): ([1], {"a": {2: [3]}})})
    pair = value[(1,)]
    assert (type(pair), type(pair[0]), type(pair[1]["a"])) == (tuple, FrozenList, FrozenDict)
    with pytest.raises(TypeError, match="cannot change"):
        pair[1]["a"][2].append(4)


def test_free_fields_of_every_kind_are_tagged() -> None:
    """Params, metadata and unknown fields hold the same values as a blackboard item."""
    swarm = Swarm(
        available_tools=[Decimal("1.5")],
        metadata={"t": (1,)},
        extra=FrozenDict(later=b"x"),
    )
    body = encode(swarm)
    assert decode(Swarm, body) == swarm
    assert msgspec.json.decode(body)["later"] == {"$bytes": "eA=="}
