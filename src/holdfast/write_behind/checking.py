"""Whether operations fit a class of documents, told before anything is accepted (pure)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from holdfast.documents import Document, Limits, freeze
from holdfast.documents.faults import at_key
from holdfast.errors import DocumentTooDeep, InvalidDocument, InvalidOperation
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Place, Set, Step
from holdfast.write_behind.places import (
    Annotation,
    fields_of,
    id_names,
    id_of,
    is_free,
    members,
    sequence_type,
    structs_of,
    takes_mapping,
    type_at,
)
from holdfast.write_behind.typed_values import decode_as, encode_as, freeze_as, reads_back, rebuilt, values_of

OPERATIONS_MAX: Final = 1000
"""Of one patch."""
FRAME_BYTES: Final = 16
FRAME_BYTES_MAX: Final = 64 * 1024
"""What each text and value of a patch takes beside its own bytes, and what that may add to the limit of a document."""

_FIXED_ID: Final = "the id of an item does not change"


def checked(document_type: type[Document], operations: Iterable[Operation], limits: Limits) -> tuple[Operation, ...]:
    """The operations as they are kept: each fit for its place in documents of a class, values as they are read back.

    So a whole number in a field of floats is a float from now on, and a list of the caller's may change.
    Whether a document's current value allows them, only applying them tells.

    Raises:
        InvalidOperation: naming the place: there is none such, it takes no such value, or a limit is passed.
    """
    given = tuple(operations)
    if len(given) > OPERATIONS_MAX:
        raise InvalidOperation("", f"{len(given)} operations in one patch; at most {OPERATIONS_MAX}")
    kept, room = [], limits.bytes_max + FRAME_BYTES_MAX
    for operation in given:
        if type(operation) not in (Set, Delete, Append, Increment, Merge):
            raise InvalidOperation("", f"expected an operation such as Set, got {type(operation).__qualname__}")
        fit, size = _fit(document_type, operation, limits)
        room -= size
        if room < 0:
            raise InvalidOperation(str(operation.place), f"here the patch passes {limits.bytes_max} bytes")
        kept.append(fit)
    return tuple(kept)


def _fit(document_type: type[Document], operation: Operation, limits: Limits) -> tuple[Operation, int]:
    """The operation with its values frozen, and the bytes it takes."""
    place = operation.place
    reason = misfit(document_type, operation)
    if reason is not None:
        raise InvalidOperation(str(place), reason)
    if isinstance(operation, Merge):
        operation = _frozen_merge(operation)
    levels, size, values = len(place.steps), FRAME_BYTES + _text_bytes(place.steps), []
    for keys, annotation, value in values_of(document_type, operation):
        if annotation is None:
            raise InvalidOperation(_path(place, keys, ""), "there is no such attribute")
        try:
            frozen = freeze_as(annotation, value)
            data = encode_as(annotation, frozen, _below(limits, levels + len(keys)))
        except InvalidDocument as fault:
            raise InvalidOperation(_path(place, keys, fault.path), fault.reason) from fault
        size += len(data) + _text_bytes(keys)
        values.append((keys, frozen if reads_back(annotation, frozen) else decode_as(annotation, data, str(place))))
    fit = rebuilt(type(operation), place, values)
    if isinstance(fit, Set) and place.item is not None and not place.inside and id_of(fit.value) != place.item:
        raise InvalidOperation(str(place), f"the value's own id is {id_of(fit.value)!r:.60}: it must be the item's")
    return fit, size


def _text_bytes(steps: Sequence[Step]) -> int:
    texts = [step if isinstance(step, str) else step.id for step in steps]
    return sum(FRAME_BYTES + (len(text) if text.isascii() else len(text.encode())) for text in texts)


def _path(place: Place, keys: tuple[str, ...], rest: str) -> str:
    """A place, what is below it in a mapping, and what is below that in a value, as one path."""
    dotted = rest if not rest or rest[0] in ".[" else f".{rest}"
    return f"{place}{''.join(map(at_key, keys))}{dotted}".removeprefix(".")


@functools.lru_cache(maxsize=1024)
def _below(limits: Limits, levels: int) -> Limits:
    """The limits of a value behind so many steps; what it is encoded in takes one level, as the document does."""
    room = limits.depth_max - max(0, levels - 1)
    if room < 1:
        raise DocumentTooDeep("", f"lies deeper than {limits.depth_max} levels")
    return Limits(limits.bytes_max, room)


def _frozen_merge(operation: Merge) -> Merge:
    path, item, inside = operation.place
    try:
        return Merge(*path, freeze(dict(operation.mapping)), item=item, inside=inside)
    except InvalidDocument as fault:
        raise InvalidOperation(_path(operation.place, (), fault.path), fault.reason) from fault


def misfit(document_type: type[Document], operation: Operation) -> str | None:
    """Why an operation of this sort cannot act on what may stand at its place; None: it can.

    Raises:
        InvalidOperation: documents of this class have no such place.
    """
    place = operation.place
    here = type_at(document_type, place)
    match operation:
        case _ if len(place.inside) == 1 and place.inside[0] in _item_ids(document_type, place):
            return _FIXED_ID
        case Delete() if _is_required(document_type, place):
            return "has no default, so that it cannot be deleted"
        case Append() if sequence_type(here) is None:
            return "is no sequence"
        case Increment():
            return _misfit_number(operation.by, here)
        case Merge():
            return _misfit_mapping(operation, here)
    return None


def _item_ids(document_type: type[Document], place: Place) -> set[str]:
    return id_names(type_at(document_type, place._replace(inside=())))


def _is_required(document_type: type[Document], place: Place) -> bool:
    """Whether a place is an attribute without a default, of every class that may be there."""
    path, item, inside = place
    name = inside[-1] if inside else path[-1] if path and item is None else None
    if name is None:
        return False
    outer = Place(path, item, inside[:-1]) if inside else Place(path[:-1])
    around = type_at(document_type, outer)
    infos = [fields_of(struct)[name] for struct in structs_of(around) if name in fields_of(struct)]
    return bool(infos) and all(info.required for info in infos) and not takes_mapping(around)


def _misfit_number(by: object, here: Annotation) -> str | None:
    if type(by) is not int and not (isinstance(by, float) and math.isfinite(by)):
        return f"by= is a finite number, not {by!r:.60}"
    if is_free(here) or float in members(here):
        return None
    if int not in members(here):
        return "is no number"
    return None if type(by) is int else f"is an int, which {by!r} cannot be added to"


def _misfit_mapping(operation: Merge, here: Annotation) -> str | None:
    mapping: object = operation.mapping
    _, item, inside = operation.place
    if not isinstance(mapping, Mapping):
        return f"Merge takes a mapping, not {type(mapping).__qualname__}"
    if not (structs_of(here) or takes_mapping(here)):
        return "is no mapping, and no part of a document"
    if item is not None and not inside and any(mapping.get(name, item) != item for name in id_names(here)):
        return _FIXED_ID
    return None
