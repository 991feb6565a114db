"""The shapes of containers: `Items` for lists, tuples and sets, `Table` for mappings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.documents.faults import DEPTH_CEILING, FaultError, at_index, at_key, too_deep
from holdfast.documents.frozen import (
    EMPTY_DICT,
    EMPTY_LIST,
    FreeValue,
    FrozenDict,
    FrozenList,
    freeze_within,
    seal_dict,
    seal_list,
)
from holdfast.documents.shapes import Free, Shape, child, type_name
from holdfast.documents.tagging import UnknownTag, escape, is_plain, sort_items, unescape

ANY_KEY = "[...]"
"""How msgspec writes the step to a mapping's value."""


@dataclass(frozen=True, slots=True)
class Items(Shape):
    """A list, tuple or set.

    Attributes:
        container: the frozen type: `FrozenList`, tuple or frozenset.
        shapes: of every item (one entry), or of each position of a tuple.
        fixed: each position has its own shape.
        alone: no other type is allowed beside it.
        nests: items are lists or mappings themselves.
    """

    container: type
    shapes: tuple[Shape | None, ...]
    fixed: bool = False
    alone: bool = True
    nests: bool = False

    def __post_init__(self) -> None:
        # Asked on every read.
        object.__setattr__(self, "nests", any(isinstance(shape, Items | Table) for shape in self.shapes))

    @property
    def has_parts(self) -> bool:
        """Whether an item may be a struct, or hold one."""
        return any(shape is not None and shape.has_parts for shape in self.shapes)

    @property
    def settled(self) -> AbstractSet[type]:
        """The container itself, unless its items may be settled no further."""
        return {type(None)} if self.container is tuple or self.nests else {type(None), self.container}

    def _each_shape(self) -> Iterable[Shape | None]:
        return self.shapes if self.fixed else itertools.repeat(self.shapes[0])

    def freeze(self, value: FreeValue) -> FreeValue:
        """Frozen; a list given for a tuple becomes one, and the reverse."""
        if not value and type(value) is list and self.container is FrozenList:
            return EMPTY_LIST
        frozen = freeze_within(value, DEPTH_CEILING)
        kind = type(frozen)
        if (
            (kind is self.container and not self.nests)
            or kind not in (FrozenList, tuple)
            or self.container is frozenset
        ):
            return frozen
        if self.nests:
            pairs = zip(frozen, self._each_shape(), strict=False)
            frozen = [each if shape is None else shape.freeze(each) for each, shape in pairs]
        if self.container is tuple:
            return tuple(frozen)
        return frozen if type(frozen) is FrozenList else seal_list(frozen)

    def store(self, value: FreeValue, room: int) -> FreeValue:
        """A list, or the value itself where msgspec can store its items as they are."""
        if type(value) is not self.container:
            return _not_container(value, self.container, alone=self.alone)
        if room <= 0:
            raise too_deep()
        stored: Any = value if self._is_stored_as_it_is(value, room) else self._store_items(value, room - 1)
        return sort_items(stored) if self.container is frozenset else stored

    def _is_stored_as_it_is(self, value: FreeValue, room: int) -> bool:
        if self.fixed:
            return False
        shape = self.shapes[0]
        return shape is None or (type(shape) is Free and is_plain(value, room))

    def _store_items(self, values: FreeValue, room: int) -> list[Any]:
        stored: list[Any] = []
        try:
            for shape, each in zip(self._each_shape(), values, strict=False):
                stored.append(each if shape is None or each is None else shape.store(each, room))
        except FaultError as fault:
            fault.under(at_index(len(stored)))
            raise
        return stored

    def load(self, stored: FreeValue, *, tagged: bool) -> FreeValue:
        """The list with each item prepared."""
        if type(stored) is not list or not (tagged or self.has_parts):
            return stored
        loaded: list[Any] = []
        try:
            for shape, each in zip(self._each_shape(), stored, strict=False):
                loaded.append(each if shape is None or each is None else shape.load(each, tagged=tagged))
        except FaultError as fault:
            fault.under(at_index(len(loaded)))
            raise
        return loaded + stored[len(loaded) :]

    def descend(self, step: str | int, stored: FreeValue) -> tuple[str, Shape | None, FreeValue]:
        """To an item."""
        shape = self.shapes[step] if self.fixed and isinstance(step, int) else self.shapes[0]
        return at_index(step), shape, child(stored, step)


def _not_container(value: FreeValue, container: type, *, alone: bool) -> FreeValue:
    """Another member of a union, which the struct's own check has seen; else a fault."""
    if alone:
        raise FaultError(f"Expected `{type_name(container)}`, got `{type_name(type(value))}`")
    return value


@dataclass(frozen=True, slots=True)
class Table(Shape):
    """A mapping whose values have one shape, or none.

    Attributes:
        annotation: of the mapping; tells which key msgspec could not take, which its errors do not.
        alone: no other type is allowed beside it.
    """

    shape: Shape | None
    annotation: Any
    alone: bool = True

    @property
    def has_parts(self) -> bool:
        """Whether a value may be a struct, or hold one."""
        return self.shape is not None and self.shape.has_parts

    @property
    def settled(self) -> AbstractSet[type]:
        """The frozen mapping, unless its values may be settled no further."""
        return {type(None)} if isinstance(self.shape, Items | Table) else {type(None), FrozenDict}

    def freeze(self, value: FreeValue) -> FreeValue:
        """A `FrozenDict`."""
        if not value and type(value) is dict:
            return EMPTY_DICT
        frozen = freeze_within(value, DEPTH_CEILING)
        if isinstance(frozen, dict) and isinstance(self.shape, Items | Table):
            return seal_dict({name: self.shape.freeze(each) for name, each in frozen.items()})
        return seal_dict(frozen) if isinstance(frozen, UnknownTag) else frozen

    def store(self, value: FreeValue, room: int) -> FreeValue:
        """A dict, escaped if it would be taken for a tag by a reader that does not know this field."""
        if type(value) is not FrozenDict:
            return _not_container(value, FrozenDict, alone=self.alone)
        if room <= 0:
            raise too_deep()
        if type(self.shape) is Free and is_plain(value, room):
            return value
        return escape(value if self.shape is None else store_values(value, self.shape, room - 1))

    def load(self, stored: FreeValue, *, tagged: bool) -> FreeValue:
        """The dict with each value prepared."""
        if type(stored) is not dict or not (tagged or self.has_parts):
            return stored
        loaded = unescape(stored) if tagged else stored
        name: object = None
        try:
            for name, each in loaded.items():
                if self.shape is not None and each is not None:
                    loaded[name] = self.shape.load(each, tagged=tagged)
        except FaultError as fault:
            fault.under(at_key(name))
            raise
        return loaded

    def descend(self, step: str | int, stored: FreeValue) -> tuple[str, Shape | None, FreeValue]:
        """To a value."""
        if step == ANY_KEY and isinstance(stored, dict):
            # The keys of a plain dict are as JSON has them, all text; a frozen one's are what the user gave.
            text_keys = type(stored) is dict
            refused = (name for name, each in stored.items() if self._refuses({name: each}, text_keys=text_keys))
            step = next(refused, step)
        return at_key(step), self.shape, child(stored, step)

    def _refuses(self, single: dict[Any, Any], *, text_keys: bool) -> bool:
        try:
            msgspec.convert(single, self.annotation, str_keys=text_keys)
        except msgspec.ValidationError:
            return True
        return False


def store_values(values: FrozenDict, shape: Shape, room: int) -> dict[Any, Any]:
    """The mapping with each value stored in this shape."""
    stored: dict[Any, Any] = {}
    name: object = None
    try:
        for name, each in values.items():
            stored[name] = None if each is None else shape.store(each, room)
    except FaultError as fault:
        fault.under(at_key(name))
        raise
    return stored
