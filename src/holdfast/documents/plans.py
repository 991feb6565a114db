"""What is known of a class of structs, worked out from its annotations once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from holdfast.documents.annotations import PartShape, checked, shape_of
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST, freeze_within
from holdfast.documents.shapes import Leaf, Shape

EXTRA = "$extra"
"""What msgspec knows the field `extra` as; nothing is ever stored under this name."""
VERSION = "__version"
"""Where a document stores the number of its schema."""

NEVER = object()


class Field(NamedTuple):
    """One field with a shape: its name in Python, its name as stored, `Shape.settled`, and what freezes a value."""

    attribute: str
    name: str
    shape: Shape
    settled: AbstractSet[type]
    freeze: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """A class of structs.

    Attributes:
        names: the stored names of all fields, in the order of `msgspec.structs.astuple`.
        omitted: for each, the value that is not stored: None where that is the default; with ``omit_defaults=True``
            also an empty list or dict, True or False where that is; else `NEVER`.
        attributes: stored name, or position in the check, to the field's name in Python and its shape.
        check: an array-like twin of the class that msgspec compares an instance's values with.
        shaped: the fields with a shape, but not `extra`.
        with_parts: those of them that hold structs.
        containers: the fields that may hold something changeable, `extra` included.
        known: every name that is not an unknown field in a stored struct.
        is_open: it has `extra`, where unknown fields are kept.
        tag: name and value of the stored field that tells members of a union apart, if the class has one.
    """

    names: tuple[str, ...]
    omitted: tuple[object, ...]
    attributes: dict[str | int, tuple[str, Shape | None]]
    check: type[msgspec.Struct]
    shaped: tuple[Field, ...]
    with_parts: tuple[Field, ...]
    containers: tuple[Field, ...]
    known: frozenset[str]
    is_open: bool
    tag: tuple[str, str | int] | None


def build_plan(struct: type[msgspec.Struct], part: PartShape) -> Plan:
    """Work out the plan of a class of structs; `part` makes the shapes of the structs it holds.

    Raises:
        TypeError: values could not be kept immutable or stored without loss; it names class and field.
    """
    config = struct.__struct_config__
    if not config.frozen or config.array_like:
        raise TypeError(f"{struct.__qualname__}: a part of a document is a frozen struct, and not array_like")
    if EXTRA in struct.__struct_encode_fields__ and not config.forbid_unknown_fields:
        raise TypeError(f"{struct.__qualname__}: forbid_unknown_fields tells apart what goes into `extra`: keep it")
    try:
        infos = msgspec.structs.fields(struct)
    except NameError as error:
        where = f"{struct.__qualname__}: an annotation names {error.name!r}, unknown in module {struct.__module__}"
        raise TypeError(f"{where}; parts of documents are defined at its top level") from error
    shapes = [_shape(struct, info, part) for info in infos]
    fields = [
        Field(info.name, info.encode_name, shape, shape.settled, _freezing(shape))
        for info, shape in zip(infos, shapes, strict=True)
        if shape is not None
    ]
    names = [info.encode_name for info in infos]
    tag = None if config.tag is None or config.tag_field is None else (config.tag_field, config.tag)
    places = [(info.name, shape) for info, shape in zip(infos, shapes, strict=True)]
    shaped = tuple(field for field in fields if field.name != EXTRA)
    return Plan(
        names=tuple(names),
        omitted=tuple(_omitted(info.default, sparse=config.omit_defaults) for info in infos),
        attributes=dict(enumerate(places)) | dict(zip(names, places, strict=True)),
        check=_check(struct, infos),
        shaped=shaped,
        with_parts=tuple(field for field in shaped if field.shape.has_parts),
        containers=tuple(field for field in fields if not isinstance(field.shape, Leaf)),
        known=_known(struct, names, tag),
        is_open=EXTRA in names,
        tag=tag,
    )


def _freezing(shape: Shape) -> Callable[[Any], Any]:
    """`Shape.freeze`, without a frame of its own where a shape has none: it runs for each part that is read."""
    return freeze_within if type(shape).freeze is Shape.freeze else shape.freeze


def _omitted(default: object, *, sparse: bool) -> object:
    alone = default is EMPTY_LIST or default is EMPTY_DICT or isinstance(default, bool)  # found by identity
    return default if default is None or (sparse and alone) else NEVER


def _shape(struct: type, info: msgspec.structs.FieldInfo, part: PartShape) -> Shape | None:
    where = f"{struct.__qualname__}.{info.name}"
    if info.encode_name == VERSION or (info.encode_name.startswith("$") and info.encode_name != EXTRA):
        raise TypeError(f"{where}: the stored name {info.encode_name!r} is reserved")
    try:
        return shape_of(info.type, part)
    except TypeError as fault:
        raise TypeError(f"{where}: {fault}") from fault


def _check(struct: type, infos: tuple[msgspec.structs.FieldInfo, ...]) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any]] = [(info.name, checked(info.type)) for info in infos]
    return msgspec.defstruct(f"{struct.__name__}Check", fields, array_like=True, gc=False)


def _known(struct: type, names: list[str], tag: tuple[str, str | int] | None) -> frozenset[str]:
    version = [VERSION] if hasattr(struct, "SCHEMA") else []
    return frozenset([*names, *version, *([tag[0]] if tag else [])]) - {EXTRA}
