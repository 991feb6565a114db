"""What may stand at a place of a class of documents, told from its annotations (pure).

Below a struct are its attributes, below a mapping its keys, of a sequence its items by their ids; below a free value
everything may be, and only applying an operation tells.
"""

from __future__ import annotations

import functools
import types
import typing
from collections import abc
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from holdfast.documents import Document, FreeValue, FrozenDict, FrozenList
from holdfast.errors import InvalidOperation
from holdfast.write_behind.operations import ItemId, Place, Step, text_of

Annotation: TypeAlias = Any
"""A type, or a form of `typing` that stands for one."""

STEPS_MAX: Final = 16
"""Of a path, and again inside an item."""
STEP_CHARS_MAX: Final = 200
ITEM_CHARS_MAX: Final = 512
"""Of an item's id, as of a document's."""
PLACES_KNOWN_MAX: Final = 8192
"""Looked up and remembered at once: paths hold keys that users invent, so there is no end of them."""

_FREE: set[Annotation] = {Any, object}
_MAPPINGS: set[Annotation] = {dict, abc.Mapping, abc.MutableMapping, FrozenDict}
_SEQUENCES: set[Annotation] = {list, abc.Sequence, abc.MutableSequence, abc.Collection, FrozenList}
_IDS: Final = ("id", "pending_id")


def type_at(document_type: type[Document], place: Place) -> Annotation:
    """The annotation of what may stand at a place.

    Raises:
        InvalidOperation: it is no place by its form, or documents of this class have none such; says how far the way
            goes.
    """
    try:
        return _type_at(document_type, place)
    except TypeError:  # of what cannot be looked up, which is no text
        _check_form(place)
        raise


@functools.lru_cache(maxsize=PLACES_KNOWN_MAX)
def _type_at(document_type: type[Document], place: Place) -> Annotation:
    _check_form(place)
    here: Annotation = document_type
    steps = place.steps
    for position, step in enumerate(steps):
        inner = item_type(here) if isinstance(step, ItemId) else type_below(here, step)
        if inner is None:
            raise InvalidOperation(text_of(steps[: position + 1]), _no_way(here, step))
        here = inner
    return here


def _check_form(place: Place) -> None:
    """Refuse what is no place by its form alone: InvalidOperation says why."""
    path, item, inside = place
    for steps in (path, inside):
        if not isinstance(steps, tuple) or len(steps) > STEPS_MAX:
            raise InvalidOperation("", f"a path, and what inside= gives, is a tuple of at most {STEPS_MAX} texts")
        for step in steps:
            _check_text(step, STEP_CHARS_MAX)
    if item is not None:
        _check_text(item, ITEM_CHARS_MAX)
    elif inside:
        raise InvalidOperation("", "inside= says where in an item, and item= is missing")


def _check_text(step: object, chars_max: int) -> None:
    if not isinstance(step, str) or not 0 < len(step) <= chars_max or "\0" in step:
        raise InvalidOperation("", f"a step of a path is a text of 1 to {chars_max} characters, not {step!r:.60}")
    if not step.isascii():
        try:
            step.encode()
        except UnicodeEncodeError as fault:
            raise InvalidOperation("", f"the step {step!r:.60} of a path is not valid Unicode") from fault


@functools.cache
def members(annotation: Annotation) -> tuple[Annotation, ...]:
    """What a union allows, or the annotation alone; None is left out: nothing is below it."""
    origin: Annotation = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        return members(arguments[0])
    if origin is typing.Union or origin is types.UnionType:
        return tuple(member for argument in arguments for member in members(argument))
    return () if annotation is type(None) else (annotation,)


@functools.cache
def is_free(annotation: Annotation) -> bool:
    """Whether a free value may stand there."""
    return any(member in _FREE for member in members(annotation))


def structs_of(annotation: Annotation) -> list[type[msgspec.Struct]]:
    """The structs that may stand there."""
    return [member for member in members(annotation) if _is_struct(member)]


@functools.lru_cache(maxsize=PLACES_KNOWN_MAX)
def type_below(annotation: Annotation, name: str) -> Annotation | None:
    """What may stand below it at an attribute or key; None: nothing."""
    if is_free(annotation):
        return Any
    found = [fields_of(struct)[name].type for struct in structs_of(annotation) if name in fields_of(struct)]
    return _either([*found, *(value for value in _values_of(annotation))])


@functools.cache
def sequence_type(annotation: Annotation) -> Annotation | None:
    """What the items of a sequence there may be; None: it is none."""
    if is_free(annotation):
        return Any
    found = []
    for member in members(annotation):
        container, arguments = _container(member), typing.get_args(member)
        if container in _SEQUENCES or (container is tuple and arguments[-1:] in ((), (Ellipsis,))):
            found.append(arguments[0] if arguments else Any)
    return _either(found)


def item_type(annotation: Annotation) -> Annotation | None:
    """What an item with an id may be in a sequence there; None: its things have no ids, or it is no sequence."""
    inner = sequence_type(annotation)
    if inner is None or is_free(inner):
        return inner
    return inner if any(id_attribute(struct) for struct in structs_of(inner)) else None


def takes_mapping(annotation: Annotation) -> bool:
    """Whether a mapping may stand there."""
    return is_free(annotation) or any(_container(member) in _MAPPINGS for member in members(annotation))


@functools.cache
def goes_by_type(annotation: Annotation) -> bool:
    """Whether what is below has types of its own: a struct's attributes, or the values of a typed mapping."""
    if is_free(annotation):
        return False
    return bool(structs_of(annotation)) or any(not is_free(value) for value in _values_of(annotation))


@functools.cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The attributes of a struct that operations may name: all but those unknown to this version."""
    return {info.name: info for info in msgspec.structs.fields(struct) if not info.encode_name.startswith("$")}


@functools.cache
def id_attribute(struct: type[msgspec.Struct]) -> str | None:
    """Which attribute tells things of this class apart in a sequence; None: they have no ids."""
    return next((name for name in _IDS if name in struct.__struct_fields__), None)


def id_of(thing: FreeValue) -> FreeValue:
    """The id of a thing in a sequence; None: it has none."""
    if isinstance(thing, msgspec.Struct):
        name = id_attribute(type(thing))
        return getattr(thing, name) if name else None
    return thing.get("id") if type(thing) is FrozenDict else None


def id_names(annotation: Annotation) -> set[str]:
    """By what names the things that may stand there have their ids."""
    names = {name for struct in structs_of(annotation) if (name := id_attribute(struct))}
    return names | {"id"} if is_free(annotation) else names


def _container(annotation: Annotation) -> Annotation:
    origin: Annotation = typing.get_origin(annotation)
    return annotation if origin is None else origin


def _is_struct(annotation: Annotation) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _values_of(annotation: Annotation) -> Iterable[Annotation]:
    """The annotations of the values of mappings there, as far as their keys are texts."""
    for member in members(annotation):
        if _container(member) in _MAPPINGS:
            key, value = typing.get_args(member) or (str, Any)
            if is_free(key) or str in members(key):
                yield value


def _either(found: list[Annotation]) -> Annotation | None:
    if not found:
        return None
    return found[0] if len(found) == 1 else typing.Union[tuple(found)]  # noqa: UP007  # known when it runs


def _no_way(here: Annotation, step: Step) -> str:
    """Why a step leads nowhere, with the right name where the stored one was given."""
    if isinstance(step, ItemId):
        return "only a sequence of things with ids has items to name"
    structs = structs_of(here)
    if not structs:
        return "nothing is below a value that is no mapping and no part of a document"
    names = " | ".join(struct.__qualname__ for struct in structs)
    stored = [name for struct in structs for name, info in fields_of(struct).items() if info.encode_name == step]
    return f"{names} has no attribute {step!r:.60}" + (f"; {stored[0]!r} is its name here" if stored else "")
