"""Reading back what `holdfast.documents.tagging` stored."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import zoneinfo
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from holdfast.documents.faults import DEPTH_CEILING, FaultError, at_index, at_key, too_deep
from holdfast.documents.frozen import FreeValue, FrozenDict, freeze_within, seal_dict, seal_list
from holdfast.documents.sealed import SEALED_BYTES_MAX, Sealed
from holdfast.documents.tagging import UnknownTag, is_tag_like


def from_wire(stored: FreeValue, room: int = DEPTH_CEILING) -> FreeValue:
    """The frozen free value that `to_wire` stored as this JSON.

    Raises:
        FaultError: a known tag holds what it never does, or the value nests too deep.
    """
    if type(stored) is dict:
        return _read_dict(stored, _less(room))
    if type(stored) is list:
        return seal_list(_read_items(stored, _less(room)))
    return stored


def _less(room: int) -> int:
    if room <= 0:
        raise too_deep()
    return room - 1


def _read_items(stored: list[Any], room: int) -> list[Any]:
    values: list[Any] = []
    try:
        for each in stored:
            values.append(from_wire(each, room))  # noqa: PERF401  # a fault needs to know how far we were
    except FaultError as fault:
        fault.under(at_index(len(values)))
        raise
    return values


def _read_dict(stored: dict[str, Any], room: int) -> FreeValue:
    if is_tag_like(stored):
        ((name, payload),) = stored.items()
        if not name.startswith("$$"):
            return _read_tag(name, payload, room)
        stored = {name[1:]: payload}
    values: dict[str, Any] = {}
    name = ""
    try:
        for name, each in stored.items():
            values[name] = from_wire(each, room)
    except FaultError as fault:
        fault.under(at_key(name))
        raise
    return seal_dict(values)


def _read_tag(name: str, payload: FreeValue, room: int) -> FreeValue:
    reader = _READERS.get(name)
    if reader is None:
        return seal_dict({name: freeze_within(payload, room)}, UnknownTag)
    try:
        return reader(payload, room)
    except (ValueError, TypeError, InvalidOperation, binascii.Error, OverflowError) as fault:
        raise FaultError(f"not the content of a {name} tag: {type(fault).__name__}") from fault


def _text(payload: FreeValue) -> str:
    if not isinstance(payload, str):
        raise TypeError(f"expected text, got {type(payload).__name__}")
    return payload


def _read_list(payload: FreeValue, room: int) -> list[Any]:
    if not isinstance(payload, list):
        raise TypeError(f"expected a list, got {type(payload).__name__}")
    return _read_items(payload, room)


def _read_pairs(payload: FreeValue, room: int) -> FrozenDict:
    return seal_dict({from_wire(name, room): from_wire(each, room) for name, each in payload})


def _read_time(kind: type[dt.datetime | dt.time]) -> Callable[[FreeValue, int], FreeValue]:
    def read(payload: FreeValue, _: int) -> FreeValue:
        iso, zone, fold = payload if isinstance(payload, list) else (payload, None, 0)
        value = kind.fromisoformat(_text(iso)).replace(fold=fold)
        return value if zone is None else _in_zone(value, _text(zone))

    return read


def _in_zone(value: FreeValue, zone: str) -> FreeValue:
    """The same local time in its zone, unless this machine's zone data would make another instant of it."""
    try:
        zoned = value.replace(tzinfo=zoneinfo.ZoneInfo(zone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return value
    return zoned if zoned.utcoffset() == value.utcoffset() else value


def _read_sealed(payload: FreeValue, _: int) -> Sealed:
    text = _text(payload)
    if len(text) > SEALED_BYTES_MAX * 4 // 3 + 4:  # not even decoded
        raise ValueError(f"a sealed value has at most {SEALED_BYTES_MAX} bytes")
    return Sealed(base64.b64decode(text, validate=True))


_READERS: dict[str, Callable[[FreeValue, int], FreeValue]] = {
    "$tuple": lambda payload, room: tuple(_read_list(payload, room)),
    "$set": lambda payload, room: frozenset(_read_list(payload, room)),
    "$dict": _read_pairs,
    "$int": lambda payload, _: int(_text(payload), 0),
    "$float": lambda payload, _: float(_text(payload)),
    "$datetime": _read_time(dt.datetime),
    "$date": lambda payload, _: dt.date.fromisoformat(_text(payload)),
    "$time": _read_time(dt.time),
    "$timedelta": lambda payload, _: dt.timedelta(*payload),
    "$decimal": lambda payload, _: Decimal(_text(payload)),
    "$bytes": lambda payload, _: base64.b64decode(_text(payload), validate=True),
    "$uuid": lambda payload, _: UUID(_text(payload)),
    "$sealed": _read_sealed,
}
