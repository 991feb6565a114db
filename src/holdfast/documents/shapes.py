"""The shape of a field: what its annotation says about freezing a value, storing it and reading it back.

A field that is None, bool, int, text or a literal has no shape: msgspec checks and stores it as it is. The others
have one, derived once per class by `holdfast.documents.annotations`:

    Leaf     a number, which JSON wants finite; a time, Decimal or bytes, stored as text; an enum
    Free     Any: a free value, see `holdfast.documents.tagging`
    Items    a list, tuple or set of one shape, or a tuple with a shape for each position; in `containers`
    Table    a mapping; in `containers`
    Nested   a struct; in `structs`, since it needs the plans of its fields

"Stored" means the plain JSON types that become the document's body. None never reaches a shape.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from holdfast.documents.faults import DEPTH_CEILING, FaultError, at_index, at_key
from holdfast.documents.frozen import (
    IMMUTABLE,
    FreeValue,
    FrozenDict,
    FrozenList,
    freeze_within,
)
from holdfast.documents.tagging import to_wire
from holdfast.documents.untagging import from_wire

_CONTAINER_NAMES: dict[type, str] = {FrozenList: "list", FrozenDict: "dict"}


def type_name(kind: type) -> str:
    """The type as its user knows it: a `FrozenList` is a list."""
    return _CONTAINER_NAMES.get(kind, kind.__qualname__)


class Shape:
    """A shape that leaves everything as it is; the others override what they do differently."""

    __slots__ = ()

    @property
    def has_parts(self) -> bool:
        """Whether structs are inside: each read must look for their unknown fields."""
        return False

    @property
    def settled(self) -> AbstractSet[type]:
        """Types whose instances `freeze` would return as they are."""
        return IMMUTABLE

    def freeze(self, value: FreeValue) -> FreeValue:
        """The value so that it cannot change, in the type reading gives; FaultError if it is too deep."""
        return freeze_within(value, DEPTH_CEILING)

    def store(self, value: FreeValue, room: int) -> FreeValue:  # noqa: ARG002  # containers need it
        """The stored form of a frozen value; FaultError if it cannot be stored or needs more room."""
        return value

    def load(self, stored: FreeValue, *, tagged: bool) -> FreeValue:  # noqa: ARG002  # Free needs it
        """Prepare a stored value for msgspec: unknown fields go into `extra`, tags are resolved.

        What is stored in another shape is returned as it is: msgspec refuses it and names the place.
        """
        return stored

    def descend(self, step: str | int, stored: FreeValue) -> tuple[str, Shape | None, FreeValue]:
        """One step along a path of stored names: its name in Python, the shape and stored value behind it."""
        return at_key(step) if isinstance(step, str) else at_index(step), None, child(stored, step)


def child(stored: FreeValue, step: str | int) -> FreeValue:
    """What a stored container holds at a key or index; None if it has no such place."""
    if isinstance(stored, dict):
        return stored.get(step)
    if isinstance(stored, list) and isinstance(step, int) and step < len(stored):
        return stored[step]
    return None


@dataclass(frozen=True, slots=True)
class Leaf(Shape):
    """A value that is no container, but not every instance of its type can be stored.

    Attributes:
        kinds: types that msgspec would take text or a number for; only their instances are stored. None for float.
        alone: these are all the annotation allows (beside None), else other members of a union are.
    """

    kinds: tuple[type, ...] = ()
    alone: bool = True

    def store(self, value: FreeValue, room: int) -> FreeValue:  # noqa: ARG002
        """The value itself, if msgspec stores it without loss."""
        kind = type(value)
        if kind is dt.datetime or kind is dt.time:
            _check_offset(value)
        if kind is float and not math.isfinite(value):
            raise FaultError(f"{value} is no JSON number; only a free value can hold NaN or an infinity")
        if kind is int and self.alone and not self.kinds and float(value) != value:
            raise FaultError("this int has no exact float, which it would be read as: declare the field int | float")
        if self.kinds and not isinstance(value, self.kinds) and (self.alone or kind is str):
            wanted = " | ".join(kind.__qualname__ for kind in self.kinds)
            raise FaultError(f"Expected `{wanted}`, got `{type_name(kind)}`")
        return value


def _check_offset(value: dt.datetime | dt.time) -> None:
    if value.tzinfo is None or value.tzinfo is dt.UTC:
        return
    offset = value.utcoffset()
    if offset and offset % dt.timedelta(minutes=1):
        raise FaultError(f"the UTC offset {offset} has seconds, which JSON times cannot say; convert it to UTC")


@dataclass(frozen=True, slots=True)
class Free(Shape):
    """Any: stored with tags where JSON has no form for it."""

    def store(self, value: FreeValue, room: int) -> FreeValue:
        """See `tagging.to_wire`."""
        return to_wire(value, room)

    def load(self, stored: FreeValue, *, tagged: bool) -> FreeValue:
        """See `untagging.from_wire`."""
        return from_wire(stored) if tagged else stored
