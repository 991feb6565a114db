"""The value at a place of a document, and the document with another one there (pure).

Documents are immutable: a change makes the containers on the way anew and shares everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from holdfast.documents import FreeValue, FrozenDict, FrozenList, Part
from holdfast.documents.frozen import seal_dict, seal_list
from holdfast.entry import MISSING
from holdfast.write_behind.operations import ItemId, Place, Step
from holdfast.write_behind.places import fields_of, id_of

Change = Callable[[Any], Any]
"""From the value at a place, or `MISSING`, to the one to stand there, or `MISSING` for none."""


class Inapplicable(Exception):
    """The document does not allow the operation: the message says why."""


def value_at(document: FreeValue, place: Place) -> FreeValue:
    """The value at a place; `MISSING` if the last step of the way leads nowhere.

    Raises:
        Inapplicable: the way ends before.
    """
    here = document
    for step in place.steps:
        here = _item(_checked_sequence(here, step), step)[1] if type(step) is ItemId else _below(here, step)
    return here


def changed(here: FreeValue, steps: Sequence[Step], change: Change) -> FreeValue:
    """A copy of a value with the one at the end of a way changed; the value itself if that stays what it is.

    Raises:
        Inapplicable: the way ends before, an item would get another id, or a class refuses its new values.
    """
    if not steps:
        return change(here)
    step, rest = steps[0], steps[1:]
    if type(step) is ItemId:
        return _with_item(_checked_sequence(here, step), step, rest, change)
    inner = _below(here, step)
    made = changed(inner, rest, change)
    if made is inner:
        return here
    if type(here) is FrozenDict:
        return _with_key(here, step, made)
    name = str(step)
    return _remade(here, {name: _default(here, name)}) if made is MISSING else with_attributes(here, {name: made})


def with_attributes(here: msgspec.Struct, changes: dict[str, Any]) -> msgspec.Struct:
    """A struct with other, frozen values for some attributes; Inapplicable if its class refuses them."""
    if getattr(type(here), "__post_init__", None) is not Part.__post_init__:
        return _remade(here, changes)
    # All that its constructor does is to freeze every field, and nothing here is left to freeze: a twentieth of the
    # time, in what each `patch` waits for.
    made = copy.copy(here)
    for name, value in changes.items():
        msgspec.structs.force_setattr(made, name, value)
    return made


def _remade(here: msgspec.Struct, changes: dict[str, Any]) -> msgspec.Struct:
    try:
        return msgspec.structs.replace(here, **changes)
    except Exception as fault:  # a class of the user's may check what it is given, by any error
        raise Inapplicable(f"{type(here).__qualname__} refuses it: {fault}") from fault


def _below(here: FreeValue, step: Step) -> FreeValue:
    if type(here) is FrozenDict:
        return here.get(step, MISSING)
    if isinstance(here, msgspec.Struct):
        if step in fields_of(type(here)):
            return getattr(here, str(step))
        raise Inapplicable(f"{type(here).__qualname__} has no attribute {step!r:.60}")
    raise Inapplicable(f"{_name(here)}, nothing is below it at {step!r:.60}")


def _with_key(here: FrozenDict, step: Step, made: FreeValue) -> FrozenDict:
    if made is MISSING:
        return seal_dict({name: each for name, each in here.items() if name != step})
    return seal_dict({**here, step: made})


def _default(here: msgspec.Struct, name: str) -> FreeValue:
    info = fields_of(type(here))[name]
    if info.required:
        raise Inapplicable(f"{type(here).__qualname__} cannot be without {name}")
    return info.default_factory() if info.default is msgspec.NODEFAULT else info.default


def _checked_sequence(here: FreeValue, step: Step) -> FreeValue:
    if type(here) is FrozenList or type(here) is tuple:
        return here
    raise Inapplicable(f"{_name(here)}, and no sequence with an item {step}")


def _item(items: Sequence[Any], step: ItemId) -> tuple[int, FreeValue]:
    """Position and value of the first item of an id; behind the last, and `MISSING`, if there is none."""
    wanted = step.id
    for position, each in enumerate(items):
        if id_of(each) == wanted:
            return position, each
    return len(items), MISSING


def _with_item(items: Sequence[Any], step: ItemId, rest: Sequence[Step], change: Change) -> FreeValue:
    position, inner = _item(items, step)
    made = changed(inner, rest, change)
    if made is inner:
        return items
    if made is not MISSING and id_of(made) != step.id:
        raise Inapplicable(f"there is no item {step}" if inner is MISSING else f"the item {step} keeps its id")
    others = [*items[:position], *([] if made is MISSING else [made]), *items[position + 1 :]]
    return tuple(others) if type(items) is tuple else seal_list(others)


def _name(here: FreeValue) -> str:
    """What stands in the way, in words."""
    return (
        "nothing is there"
        if here is MISSING
        else "None is there"
        if here is None
        else f"a {type(here).__name__} is there"
    )
