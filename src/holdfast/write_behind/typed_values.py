"""The values of operations, frozen, checked, stored and read back by the type at their place (pure).

Each goes through the documents' own machinery, as the one field of a document made for its type. So a value in an
operation is what it would be in the document, and nothing is accepted that the document would refuse.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple, cast

import msgspec

from holdfast.documents import Document, FreeValue, Limits, decode, encode
from holdfast.documents.frozen import seal_dict
from holdfast.entry import MISSING
from holdfast.errors import InvalidDocument
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Place, Set
from holdfast.write_behind.places import Annotation, goes_by_type, is_free, sequence_type, type_at, type_below
from holdfast.write_behind.routes import Inapplicable, value_at

FINGERPRINT_BYTES: Final = 8
ABSENT: Final = blake2b(b"", digest_size=FINGERPRINT_BYTES).digest()
"""The fingerprint of no value: nothing that is stored is empty."""

_UNLIMITED: Final = Limits(bytes_max=1 << 40, depth_max=128)
_Keys = tuple[str, ...]


class TypedValue(NamedTuple):
    """A value of an operation.

    Attributes:
        keys: of a value of a `Merge`, the way to it from the place; otherwise empty.
        annotation: of what it is stored as.
    """

    keys: _Keys
    annotation: Annotation
    value: FreeValue


def values_of(document_type: type[Document], operation: Operation) -> list[TypedValue]:
    """The values that an operation carries, each with its type.

    Raises:
        InvalidOperation: documents of this class have no such place.
    """
    here = type_at(document_type, operation.place)
    match operation:
        case Set():
            return [TypedValue((), here, operation.value)]
        case Append():
            return [TypedValue((), sequence_type(here), each) for each in operation.values]
        case Increment():
            return [TypedValue((), Any, operation.by)]
        case Merge():
            return list(_leaves(here, operation.mapping, ()))
    return []


def annotation_of(document_type: type[Document], sort: type[Operation], place: Place, keys: _Keys) -> Annotation:
    """The type of a value of an operation of this sort at this place; None: it can have none.

    Raises:
        InvalidOperation: documents of this class have no such place.
    """
    here = type_at(document_type, place)
    if sort is Append:
        return sequence_type(here)
    if sort is Increment:
        return Any
    for key in keys:
        here = None if here is None else type_below(here, key)
    return here


def rebuilt(sort: type[Operation], place: Place, values: Iterable[tuple[_Keys, FreeValue]]) -> Operation:
    """The operation of this sort that carries these values, which are frozen."""
    carried = list(values)
    path, item, inside = place
    if sort is Append:
        return Append.several(place, tuple(value for _, value in carried))
    if sort is Merge:
        return Merge(*path, _joined(carried), item=item, inside=inside)
    if sort is Delete:
        return Delete(*path, item=item, inside=inside)
    ((_, value),) = carried
    return (
        Increment(*path, by=value, item=item, inside=inside)
        if sort is Increment
        else Set(*path, value, item=item, inside=inside)
    )


def freeze_as(annotation: Annotation, value: FreeValue) -> FreeValue:
    """The value as a document would hold it; InvalidDocument if it nests too deep."""
    holder = _holder(annotation)
    return value if holder is annotation else holder(value=value).value  # type: ignore[attr-defined,call-arg]


def encode_as(annotation: Annotation, value: FreeValue, limits: Limits) -> bytes:
    """The value as it is stored.

    Raises:
        InvalidDocument: it cannot be, or not in this type; the path begins behind the value.
    """
    holder = _holder(annotation)
    if holder is annotation:
        if type(value) is not holder:
            raise InvalidDocument("", f"Expected `{holder.__qualname__}`, got `{type(value).__qualname__}`")
        return encode(value, limits)
    try:
        return encode(holder(value=value), limits)  # type: ignore[call-arg]
    except InvalidDocument as fault:
        raise type(fault)(fault.path.removeprefix("value"), fault.reason) from fault


def reads_back(annotation: Annotation, value: FreeValue) -> bool:
    """Whether a value that was stored is sure to be read as what it is: others, as an int for a float, may not be."""
    kind = type(value)
    return kind is str or kind is bool or (kind is int and annotation is int) or is_free(annotation)


def decode_as(annotation: Annotation, data: bytes, what: str) -> FreeValue:
    """What `encode_as` stored; CorruptDocument, SchemaTooNew as `decode` raises them."""
    holder = _holder(annotation)
    read = decode(holder, data, what=what)
    return read if holder is annotation else read.value  # type: ignore[attr-defined]


def fingerprint(document: Document | None, place: Place) -> bytes:
    """8 bytes that tell the value at a place from others.

    Raises:
        Inapplicable: the way to the place ends before it, or the value there is none of its type.
    """
    found = value_at(document, place) if document is not None else MISSING
    return ABSENT if document is None else fingerprint_of(type_at(type(document), place), found)


def fingerprint_of(annotation: Annotation, value: FreeValue) -> bytes:
    """8 bytes that tell a value from others; Inapplicable if it is none of that type."""
    if value is MISSING:
        return ABSENT
    try:
        return blake2b(encode_as(annotation, value, _UNLIMITED), digest_size=FINGERPRINT_BYTES).digest()
    except InvalidDocument as fault:
        raise Inapplicable(f"what is there cannot be stored: {fault}") from fault


@functools.cache
def _holder(annotation: Annotation) -> type[Document]:
    """The class that carries a value of a type: a document itself, or one of a single field."""
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return annotation
    made = msgspec.defstruct("Value", [("value", annotation)], bases=(Document,), frozen=True, kw_only=True)
    return cast("type[Document]", made)


def _leaves(annotation: Annotation, mapping: Mapping[str, Any], keys: _Keys) -> Iterator[TypedValue]:
    """The parts of a mapping that have one type each; what no type is known for leads to a None."""
    if not (goes_by_type(annotation) and mapping and all(isinstance(name, str) for name in mapping)):
        yield TypedValue(keys, annotation, mapping)
        return
    for name, value in mapping.items():
        below = type_below(annotation, name)
        if below is not None and isinstance(value, dict) and goes_by_type(below):
            yield from _leaves(below, value, (*keys, name))
        else:
            yield TypedValue((*keys, name), below, value)


def _joined(values: list[tuple[_Keys, FreeValue]]) -> FreeValue:
    """The mapping that `_leaves` took apart."""
    below: dict[str, list[tuple[_Keys, FreeValue]]] = {}
    for keys, value in values:
        if not keys:
            return value
        below.setdefault(keys[0], []).append((keys[1:], value))
    return seal_dict({name: _joined_one(inner) for name, inner in below.items()})


def _joined_one(inner: list[tuple[_Keys, FreeValue]]) -> FreeValue:
    return inner[0][1] if not inner[0][0] else _joined(inner)
