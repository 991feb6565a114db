"""Lists and dicts that cannot change, and the way into and out of them.

`FrozenList` is a list and `FrozenDict` a dict, so that ``==``, ``isinstance``, `json` and msgspec take them
for what they are; every method that would change one raises a TypeError that says what to do instead. This
keeps an honest program from changing a value that others read at the same time. It is no lock: code that
names the base class (``list.append(frozen, x)``), or C code that never asks (`heapq`), still can. What was
measured and rejected is in docs/adr/0002-immutable-values.md.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn, TypeAlias

import msgspec

from holdfast.documents.faults import DEPTH_CEILING, FaultError, at_index, at_key, too_deep
from holdfast.documents.sealed import Sealed

FreeValue: TypeAlias = Any
"""A value without a declared shape; `holdfast.documents.tagging` lists what it may hold."""

_HINT = "belongs to a document: store a new value with update(); thaw() makes a copy that can be changed"


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    raise TypeError(f"cannot change this {'dict' if isinstance(self, dict) else 'list'}, it {_HINT}")


class _Sealing(type):
    """Builds instances without ``__init__``, which can therefore refuse to fill one a second time."""

    def __call__(cls, *args: object, **kwargs: object) -> FreeValue:
        return cls.sealed(*args, **kwargs)  # type: ignore[attr-defined]  # both classes below have it


class FrozenList(list[Any], metaclass=_Sealing):
    """A list that cannot change, nor anything in it. ``copy()``, slices and ``+`` give plain lists."""

    __slots__ = ()

    @classmethod
    def sealed(cls, items: Iterable[Any] = ()) -> FrozenList:
        """What calling the class does: freeze the items and build the list."""
        return seal_list([freeze(each) for each in items])

    __init__ = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> FrozenList:
        return self

    def __deepcopy__(self, memo: object) -> FrozenList:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return type(self), (list(self),)


class FrozenDict(dict[Any, Any], metaclass=_Sealing):
    """A dict that cannot change, nor any value in it. ``copy()`` and ``|`` give plain dicts."""

    __slots__ = ()

    @classmethod
    def sealed(cls, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (), **more: FreeValue) -> FrozenDict:
        """What calling the class does: freeze the values and build the dict."""
        return seal_dict({name: freeze(each) for name, each in dict(items, **more).items()}, cls)

    __init__ = _refuse
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    @classmethod
    def fromkeys(cls, names: Iterable[Any], value: FreeValue = None) -> FrozenDict:
        """As `dict.fromkeys`, frozen."""
        return cls.sealed(dict.fromkeys(names, value))

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return type(self), (dict(self),)


_new_list, _fill_list, _set_in_list = list.__new__, list.extend, list.__setitem__
_new_dict, _fill_dict, _set_in_dict = dict.__new__, dict.update, dict.__setitem__


def seal_list(frozen: Sequence[Any]) -> FrozenList:
    """A `FrozenList` of items that are frozen already."""
    if not frozen:
        return EMPTY_LIST
    sealed: FrozenList = _new_list(FrozenList)
    _fill_list(sealed, frozen)
    return sealed


def seal_dict(frozen: Mapping[Any, Any], kind: type[FrozenDict] = FrozenDict) -> FrozenDict:
    """A `FrozenDict`, or a subclass, of values that are frozen already."""
    if not frozen and kind is FrozenDict:
        return EMPTY_DICT
    sealed: FrozenDict = _new_dict(kind)
    _fill_dict(sealed, frozen)
    return sealed


EMPTY_LIST: FrozenList = _new_list(FrozenList)
EMPTY_DICT: FrozenDict = _new_dict(FrozenDict)

IMMUTABLE: set[type] = {
    *(type(None), bool, int, float, str, bytes, frozenset, Decimal, uuid.UUID),
    *(dt.datetime, dt.date, dt.time, dt.timedelta, FrozenList, FrozenDict, Sealed),
}
"""Exact types whose instances never change; each class of document parts adds itself."""


def freeze(value: FreeValue) -> FreeValue:
    """Return the value with every list, dict, set and bytearray in it replaced by one that cannot change.

    What is already frozen is returned as it is, not rebuilt. Subclasses become the plain frozen type: an
    OrderedDict a `FrozenDict`, a named tuple a tuple. Objects of other classes are left alone; `encode`
    refuses them.

    Raises:
        DocumentTooDeep: the value nests deeper than 128 levels, or contains itself.
    """
    try:
        return freeze_within(value, DEPTH_CEILING)
    except FaultError as fault:
        raise fault.refused() from None


def freeze_within(value: FreeValue, room: int = DEPTH_CEILING) -> FreeValue:  # noqa: PLR0911  # a table of cases
    """`freeze`, with a `FaultError` for a value that needs more than `room` levels of containers."""
    kind = type(value)
    if kind in IMMUTABLE:
        return value
    # Every value read passes here, and these two are nearly all there is.
    if kind is dict and room > 0:
        return _freeze_dict(value, room - 1)
    if kind is list and room > 0:
        return _freeze_list(value, room - 1)
    if isinstance(value, list | dict | tuple):
        if room <= 0:
            raise too_deep()
        if isinstance(value, dict):
            return _freeze_dict(value, room - 1)
        return _freeze_tuple(value, room - 1) if isinstance(value, tuple) else _freeze_list(value, room - 1)
    if isinstance(value, set | frozenset):
        return frozenset(value)
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, msgspec.Struct):
        return _freeze_struct(value, room)
    return value


# Most of what a container holds is a leaf: all is copied and, in the copy, which nobody else knows, the rest replaced.


def _freeze_dict(value: dict[Any, Any], room: int) -> FrozenDict:
    frozen: FrozenDict = _new_dict(FrozenDict)
    _fill_dict(frozen, value if type(value) is dict else value.items())
    name: object = None
    try:
        for name, each in frozen.items():
            if type(each) not in IMMUTABLE:
                _set_in_dict(frozen, name, freeze_within(each, room))  # a key that is there: the walk goes on
    except FaultError as fault:
        fault.under(at_key(name))
        raise
    return frozen or EMPTY_DICT


def _freeze_list(value: Iterable[Any], room: int) -> FrozenList:
    frozen: FrozenList = _new_list(FrozenList)
    _fill_list(frozen, value)
    index = 0
    try:
        for index, each in enumerate(frozen):
            if type(each) not in IMMUTABLE:
                _set_in_list(frozen, index, freeze_within(each, room))
    except FaultError as fault:
        fault.under(at_index(index))
        raise
    return frozen or EMPTY_LIST


def _freeze_tuple(value: tuple[Any, ...], room: int) -> tuple[Any, ...]:
    frozen = _freeze_list(value, room)
    same = type(value) is tuple and all(each is was for each, was in zip(frozen, value, strict=True))
    return value if same else tuple(frozen)


def _freeze_struct(struct: msgspec.Struct, room: int) -> msgspec.Struct:
    """A frozen struct that is not one of ours: itself, or a copy whose fields cannot change either."""
    if not struct.__struct_config__.frozen:
        return struct
    fields = {name: getattr(struct, name) for name in struct.__struct_fields__}
    frozen = _freeze_dict(fields, room)
    changed = {name: each for name, each in frozen.items() if each is not fields[name]}
    return msgspec.structs.replace(struct, **changed) if changed else struct


def thaw(value: FreeValue) -> FreeValue:
    """Return a deep copy in plain lists and dicts, which may be changed and given back to a document.

    Tuples keep their type, frozensets stay frozen, and structs (immutable parts of documents) are shared.
    """
    if isinstance(value, dict):
        return {name: thaw(each) for name, each in value.items()}
    if isinstance(value, list):
        return [thaw(each) for each in value]
    if type(value) is tuple:
        return tuple(thaw(each) for each in value)
    return value
