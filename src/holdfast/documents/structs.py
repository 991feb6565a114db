"""Storing a struct as a dict, preparing a stored one for msgspec, and saying where either went wrong."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.documents.containers import ANY_KEY, store_values
from holdfast.documents.faults import FaultError, at_key, too_deep
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST, FreeValue, FrozenDict, seal_dict
from holdfast.documents.plans import EXTRA, Plan, build_plan
from holdfast.documents.shapes import Free, Shape, child, type_name

_FREE = Free()
_set = msgspec.structs.force_setattr
_PLACE = re.compile(r" - at `(?P<key>key` in `)?\$(?P<path>.*)`\Z", re.DOTALL)
_STEP = re.compile(r"\[(?P<index>\d+)\]|(?P<any>\[\.\.\.\])|\.(?P<name>[^.\[]+)")


@functools.cache
def plan_of(struct: type[msgspec.Struct]) -> Plan:
    """The plan of a class of structs; TypeError if it is none for a document."""
    return build_plan(struct, Nested)


@dataclass(frozen=True, slots=True)
class Nested(Shape):
    """A struct of this class, or of one of these, told apart by their tags."""

    structs: tuple[type[msgspec.Struct], ...]

    @property
    def names(self) -> str:
        """What a fault calls them."""
        return " | ".join(struct.__qualname__ for struct in self.structs)

    @property
    def has_parts(self) -> bool:
        """It is one."""
        return True

    def store(self, value: FreeValue, room: int) -> FreeValue:
        """The struct as a dict."""
        if type(value) not in self.structs:
            raise FaultError(f"Expected `{self.names}`, got `{type_name(type(value))}`")
        return store_struct(value, room)

    def load(self, stored: FreeValue, *, tagged: bool) -> FreeValue:
        """The dict, prepared for the class that its tag names."""
        struct = self._struct_of(stored)
        return load_struct(plan_of(struct), stored, tagged=tagged) if struct else stored

    def _struct_of(self, stored: FreeValue) -> type[msgspec.Struct] | None:
        if type(stored) is not dict:
            return None
        if len(self.structs) == 1:
            return self.structs[0]
        tags = ((struct, plan_of(struct).tag) for struct in self.structs)
        return next((struct for struct, tag in tags if tag and stored.get(tag[0]) == tag[1]), None)

    def descend(self, step: FreeValue, stored: FreeValue) -> tuple[str, Shape | None, FreeValue]:
        """To a field."""
        plan = plan_of(self._struct_of(stored) or self.structs[0])
        if step in plan.attributes:
            attribute, shape = plan.attributes[step]
            return at_key(attribute), shape, child(stored, step)
        name = at_key(step)
        return name if step in plan.known else f".extra{name}", None, child(stored, step)


_FREEZES: dict[type, tuple[tuple[str, AbstractSet[type], Callable[[Any], Any]], ...]] = {}
"""Of each class the fields that may hold something changeable, as its plan says: asked for each struct that is read."""


def freeze_fields(struct: msgspec.Struct) -> None:
    """Replace what could change in a new struct's fields; `freeze` says by what.

    Raises:
        DocumentTooDeep: a field nests deeper than 128 levels, or contains itself.
    """
    fields = _FREEZES.get(type(struct))
    if fields is None:
        containers = plan_of(type(struct)).containers
        fields = _FREEZES[type(struct)] = tuple((each.attribute, each.settled, each.freeze) for each in containers)
    attribute = ""
    try:
        for attribute, settled, freeze in fields:
            value = getattr(struct, attribute)
            if type(value) not in settled:
                _set(struct, attribute, freeze(value))
    except FaultError as fault:
        fault.under(at_key(attribute))
        raise fault.refused() from None


def store_struct(struct: msgspec.Struct, room: int) -> dict[str, Any]:
    """The struct as the dict that becomes its JSON object, unknown fields beside the known ones.

    Raises:
        FaultError: a value is of the wrong type, cannot be stored, or needs more than `room` levels.
    """
    if room <= 0:
        raise too_deep()
    plan = plan_of(type(struct))
    values = msgspec.structs.astuple(struct)
    try:
        msgspec.convert(values, plan.check)
    except msgspec.ValidationError as error:
        raise locate(Nested((type(struct),)), list(values), error) from None
    stored = {
        name: value
        for name, value, omitted in zip(plan.names, values, plan.omitted, strict=False)
        if value is not omitted
    }
    attribute = ""
    try:
        for attribute, name, shape, *_ in plan.shaped:  # noqa: B007  # a fault names the field
            value = stored.get(name)
            if value is not None and value is not EMPTY_LIST and value is not EMPTY_DICT:
                stored[name] = shape.store(value, room - 1)
    except FaultError as fault:
        fault.under(at_key(attribute))
        raise
    if plan.tag:
        stored = dict([plan.tag]) | stored
    if plan.is_open and (unknown := stored.pop(EXTRA, None)):
        stored.update(_store_unknown(unknown, type(struct), plan, room - 1))
    return stored


def _store_unknown(unknown: FrozenDict, struct: type, plan: Plan, room: int) -> dict[str, Any]:
    try:
        for name in unknown:
            _check_unknown(name, struct, plan)
        return store_values(unknown, _FREE, room)
    except FaultError as fault:
        fault.under(".extra")
        raise


def _check_unknown(name: object, struct: type, plan: Plan) -> None:
    if isinstance(name, str) and name not in plan.known:
        return
    known = f"is a field of {struct.__qualname__}: set that one"
    fault = FaultError(known if isinstance(name, str) else "the name of a field is text")
    fault.under(at_key(name))
    raise fault


def load_struct(plan: Plan, stored: dict[str, Any], *, tagged: bool) -> dict[str, Any]:
    """Prepare a stored struct, in place, for msgspec to make an instance of.

    Args:
        plan: of the class.
        stored: its JSON object.
        tagged: whether the body may hold tags at all.

    Raises:
        FaultError: a tag holds what it never does, or an unknown field nests too deep.
    """
    if plan.is_open and not stored.keys() <= plan.known:
        strangers = [name for name in stored if name not in plan.known]
        stored[EXTRA] = seal_dict({name: _load_under(name, _FREE, stored.pop(name)) for name in strangers})
    for attribute, name, shape, *_ in plan.shaped if tagged else plan.with_parts:
        value = stored.get(name)
        if value is not None:
            stored[name] = _load_under(attribute, shape, value, tagged=tagged)
    return stored


def _load_under(name: str, shape: Shape, stored: FreeValue, *, tagged: bool = True) -> FreeValue:
    try:
        return shape.load(stored, tagged=tagged)
    except FaultError as fault:
        fault.under(at_key(name))
        raise


def locate(shape: Shape, stored: FreeValue, error: msgspec.ValidationError) -> FaultError:
    """The fault msgspec found, at the path as Python names it: attributes, and keys, which msgspec omits."""
    text = str(error)
    place = _PLACE.search(text)
    if place is None:
        return FaultError(text)
    here: Shape = shape
    steps: list[str] = []
    for found in _STEP.finditer(place["path"] + (ANY_KEY if place["key"] else "")):
        step = int(found["index"]) if found["index"] else found["any"] or found["name"]
        name, inner, stored = here.descend(step, stored)
        steps.append(name)
        here = inner or Shape()
    reason = text[: place.start()]
    fault = FaultError(reason.replace("`object`", f"`{here.names}`") if isinstance(here, Nested) else reason)
    for name in reversed(steps):
        fault.under(name)
    return fault
