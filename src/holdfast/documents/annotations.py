"""From a field's annotation to its shape, and to the annotation that checks it before structs are stored."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import operator
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from holdfast.documents.containers import Items, Table
from holdfast.documents.frozen import FrozenDict, FrozenList
from holdfast.documents.shapes import Free, Leaf, Shape

Annotation: TypeAlias = Any
"""A type, or a form of `typing` that stands for one."""
PartShape: TypeAlias = Callable[[tuple[type[msgspec.Struct], ...]], Shape]
"""Makes the shape of a struct, or of a union of structs."""

_PLAIN: set[Annotation] = {type(None), bool, int, str}
_AS_TEXT: set[Annotation] = {dt.datetime, dt.date, dt.time, dt.timedelta, Decimal, bytes, uuid.UUID}
_LISTS: set[Annotation] = {list, abc.Sequence, abc.MutableSequence, abc.Collection, FrozenList}
_SETS: set[Annotation] = {set, frozenset, abc.Set, abc.MutableSet}
_TABLES: set[Annotation] = {dict, abc.Mapping, abc.MutableMapping, FrozenDict}


def shape_of(annotation: Annotation, part: PartShape) -> Shape | None:  # noqa: PLR0911  # a table of cases
    """The shape of values of this annotation; None if msgspec can check and store them as they are.

    Raises:
        TypeError: such values cannot be kept immutable, or not be stored without loss.
    """
    origin, args = _parts(annotation)
    if annotation in _PLAIN or origin is Literal:
        return None
    if annotation is Any or annotation is object:
        return Free()
    if origin is Annotated:
        return shape_of(args[0], part)
    if origin is typing.Union:
        return _shape_of_union([arg for arg in args if arg is not type(None)], part)
    if _is_class(annotation, msgspec.Struct):
        return part((annotation,))
    if annotation is float:
        return Leaf()
    if annotation in _AS_TEXT or _is_class(annotation, enum.Enum):
        return Leaf((annotation,))
    return _shape_of_container(annotation if origin is None else origin, args, part)


def _parts(annotation: Annotation) -> tuple[Annotation, tuple[Annotation, ...]]:
    """Origin and arguments, with both forms of a union as one."""
    origin: Annotation = typing.get_origin(annotation)
    return typing.Union if origin is types.UnionType else origin, typing.get_args(annotation)


def _is_class(annotation: Annotation, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)


def _shape_of_container(container: Annotation, args: tuple[Annotation, ...], part: PartShape) -> Shape:
    if container is tuple and args and args[-1] is not Ellipsis:
        return Items(tuple, tuple(shape_of(arg, part) for arg in args), fixed=True)
    if container in _LISTS or container in _SETS or container is tuple:
        frozen = FrozenList if container in _LISTS else frozenset if container in _SETS else tuple
        return Items(frozen, (shape_of(args[0], part) if args else Free(),))
    if container in _TABLES:
        plain = types.GenericAlias(dict, tuple(checked(arg) for arg in args) or (Any, Any))
        return Table(shape_of(args[1], part) if args else Free(), plain)
    raise TypeError(
        f"a field of type {container!r} cannot be kept immutable and stored without loss: use a frozen "
        "msgspec.Struct, a list, dict, tuple or set of such, or Any for free values"
    )


def _shape_of_union(members: list[Annotation], part: PartShape) -> Shape | None:  # as above
    if len(members) == 1:
        return shape_of(members[0], part)
    if all(_is_class(member, msgspec.Struct) for member in members):
        return part(tuple(members))
    shapes = [shape for shape in (shape_of(member, part) for member in members) if shape is not None]
    if any(isinstance(shape, Free) for shape in shapes):
        return Free()
    if all(isinstance(shape, Leaf) for shape in shapes):
        kinds = [kind for shape in shapes if isinstance(shape, Leaf) for kind in shape.kinds]
        return Leaf(tuple(kinds), alone=False) if shapes else None
    if len(shapes) == 1 and isinstance(shapes[0], Items | Table):
        return dataclasses.replace(shapes[0], alone=False)
    raise TypeError(
        f"a union of {' and '.join(map(str, members))} is not supported: use one container beside None, "
        "bool, int and str, or a union of tagged structs"
    )


def checked(annotation: Annotation) -> Annotation:
    """The annotation with plain types for our own, which msgspec does not know.

    Structs stay: msgspec takes an instance as it is, so each is checked by itself, and one of another class, or None,
    does not pass for it.
    """
    if annotation is FrozenDict:
        return dict[Any, Any]
    if annotation is FrozenList:
        return list[Any]
    origin, args = _parts(annotation)
    if origin is None or origin is Literal:
        return annotation
    if origin is Annotated:
        return Annotated[(checked(args[0]), *args[1:])]
    inner = tuple(arg if arg is Ellipsis else checked(arg) for arg in args)
    if origin is typing.Union:
        return functools.reduce(operator.or_, inner)
    return origin[inner]
