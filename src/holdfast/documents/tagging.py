"""Free values as JSON and back, without loss.

A free value is None, bool, int, float, str, list, dict, or one of those JSON has no form for: datetime, date,
time, timedelta, Decimal, bytes, UUID, tuple, frozenset, an int beyond 64 bits, NaN and the infinities, a dict
whose keys are not all text, a `Sealed` value. The latter are stored under a tag, an object whose one key begins with
``$``:

    {"$decimal": "1.10"}   {"$datetime": "2025-06-01T10:00:00+00:00"}   {"$dict": [[1, "one"]]}

A mapping that looks like a tag itself, such as ``{"$ref": "#/x"}``, is stored with one more ``$`` and has it
taken off on reading, so nothing a user writes can be mistaken. A tag this version does not know, from a newer
version or written by hand, reads as an `UnknownTag` and is stored again as it was.

Types are exact: a subclass (an enum, a numpy float) is refused, because it could not come back. A set comes
back as a frozenset. A datetime keeps its `zoneinfo` zone and its fold; of other zones it keeps the offset.
NaN is tagged here, and refused in a field declared as a number, where JSON has no room for a tag.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from holdfast.documents.faults import FaultError, at_index, at_key, too_deep
from holdfast.documents.frozen import FreeValue, FrozenDict, FrozenList
from holdfast.documents.sealed import Sealed

INT64_MIN, UINT64_MAX = -(2**63), 2**64 - 1
_DIGITS_FREE_BITS = 12_000  # below Python's limit of 4300 digits for text to int, which hexadecimal does not have


class UnknownTag(FrozenDict):
    """A tag that this version does not know, kept as it is stored: one key beginning with ``$``."""

    __slots__ = ()


def is_tag_like(mapping: Mapping[Any, Any]) -> bool:
    """Whether its JSON object would be taken for a tag."""
    if len(mapping) != 1:
        return False
    (name,) = mapping
    return isinstance(name, str) and name.startswith("$")


def escape(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """The mapping as stored: with one more ``$`` if it would be taken for a tag."""
    return {f"${name}": value for name, value in mapping.items()} if is_tag_like(mapping) else mapping


def unescape(stored: dict[Any, Any]) -> dict[Any, Any]:
    """Undo `escape`."""
    if is_tag_like(stored) and next(iter(stored)).startswith("$$"):
        return {name[1:]: value for name, value in stored.items()}
    return stored


def to_wire(value: FreeValue, room: int) -> FreeValue:
    """The value as plain JSON types; the value itself where it is that already.

    Args:
        value: a frozen free value.
        room: levels of containers that may still be entered.

    Raises:
        FaultError: it holds what cannot be stored, or needs more room.
    """
    return value if is_plain(value, room) else _tag(value, room)


def is_plain(value: FreeValue, room: int) -> bool:
    """Whether JSON takes the value as it is; False also for whatever is wrong with it."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(INT64_MIN <= value <= UINT64_MAX)
    if kind is float:
        return math.isfinite(value)
    if room <= 0:
        return False
    if kind is FrozenList:
        return _is_plain_list(value, room - 1)
    return kind is FrozenDict and _is_plain_dict(value, room - 1)


def _is_plain_list(value: FrozenList, room: int) -> bool:
    for each in value:  # noqa: SIM110  # a generator for `all` would take twice as long, here where the time goes
        if type(each) is not str and not is_plain(each, room):
            return False
    return True


def _is_plain_dict(value: FrozenDict, room: int) -> bool:
    if len(value) == 1 and is_tag_like(value):
        return False
    for name, each in value.items():
        if type(name) is not str:
            return False
        if type(each) is not str and not is_plain(each, room):
            return False
    return True


def storable_text(text: str) -> str:
    """The text itself, if UTF-8 and PostgreSQL can hold it.

    PostgreSQL's json type takes an escaped NUL, and then no operator can read that document any more.

    Raises:
        FaultError: it holds a NUL character or half of a surrogate pair.
    """
    if "\0" in text:
        raise FaultError("holds a NUL character, which PostgreSQL cannot read back from JSON")
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise FaultError(f"is not valid Unicode: half a surrogate pair at position {fault.start}") from None
    return text


def _tag(value: FreeValue, room: int) -> FreeValue:
    kind = type(value)
    if kind in _CONTAINER_WRITERS:
        if room <= 0:
            raise too_deep()
        return _CONTAINER_WRITERS[kind](value, room - 1)
    if kind in _WRITERS:
        return _WRITERS[kind](value)
    raise FaultError(f"{kind.__qualname__} cannot be stored in a free value; {_advice(kind)}")


def _advice(kind: type) -> str:
    if issubclass(kind, msgspec.Struct):
        return "declare a field of its type, or use msgspec.to_builtins"
    plain = next((base for base in (bool, int, float, str, dt.datetime, bytes) if issubclass(kind, base)), None)
    return f"convert it to {plain.__name__}" if plain else "use plain values, lists and dicts"


def _tag_items(values: FreeValue, room: int) -> list[Any]:
    stored: list[Any] = []
    try:
        for each in values:
            stored.append(_tag(each, room))  # noqa: PERF401  # a fault needs to know how far we were
    except FaultError as fault:
        fault.under(at_index(len(stored)))
        raise
    return stored


def sort_items(stored: Iterable[Any]) -> list[Any]:
    """A set's items in the order of their JSON: hashing of text differs from one process to the next."""
    try:
        return sorted(stored, key=msgspec.json.encode)
    except (TypeError, ValueError) as error:
        raise FaultError(f"holds an item that cannot be written as JSON: {error}") from error


def _tag_dict(mapping: FreeValue, room: int) -> dict[str, Any]:
    stored: list[list[Any]] = []
    name: object = None
    try:
        for name, each in mapping.items():
            stored.append([_tag(name, room), _tag(each, room)])
    except FaultError as fault:
        fault.under(at_key(name))
        raise
    if all(type(name) is str for name in mapping):
        return escape(dict(stored))
    return {"$dict": stored}


def _tag_int(value: int) -> FreeValue:
    if INT64_MIN <= value <= UINT64_MAX:
        return value
    return {"$int": str(value) if value.bit_length() <= _DIGITS_FREE_BITS else hex(value)}


def _tag_time(tag: str) -> Callable[[FreeValue], dict[str, Any]]:
    def write(value: dt.datetime | dt.time) -> dict[str, Any]:
        zone = value.tzinfo.key if isinstance(value.tzinfo, zoneinfo.ZoneInfo) else None
        plain = zone is None and not value.fold
        return {tag: value.isoformat() if plain else [value.isoformat(), zone, value.fold]}

    return write


_CONTAINER_WRITERS: dict[type, Callable[[FreeValue, int], FreeValue]] = {
    FrozenList: _tag_items,
    FrozenDict: _tag_dict,
    UnknownTag: lambda value, _: value,
    tuple: lambda value, room: {"$tuple": _tag_items(value, room)},
    frozenset: lambda value, room: {"$set": sort_items(_tag_items(value, room))},
}

_WRITERS: dict[type, Callable[[FreeValue], FreeValue]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    str: storable_text,
    int: _tag_int,
    float: lambda value: value if math.isfinite(value) else {"$float": repr(value)},
    dt.datetime: _tag_time("$datetime"),
    dt.date: lambda value: {"$date": value.isoformat()},
    dt.time: _tag_time("$time"),
    dt.timedelta: lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    Decimal: lambda value: {"$decimal": str(value)},
    bytes: lambda value: {"$bytes": base64.b64encode(value).decode()},
    UUID: lambda value: {"$uuid": str(value)},
    Sealed: lambda value: {"$sealed": base64.b64encode(value.content).decode()},
}
