"""What an operation makes of a document (pure, and the same on every server).

The operations are `checked` ones, of the document's class. What they may still meet is a value that does not allow
them: `Inapplicable` says which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgspec

from holdfast.documents import Document, FreeValue, FrozenDict, FrozenList
from holdfast.documents.frozen import EMPTY_DICT, seal_dict, seal_list
from holdfast.entry import MISSING
from holdfast.write_behind.operations import Append, Increment, Merge, Operation, Set
from holdfast.write_behind.places import Annotation, fields_of, members, takes_mapping, type_at, type_below
from holdfast.write_behind.routes import Change, Inapplicable, changed, with_attributes
from holdfast.write_behind.typed_values import fingerprint, freeze_as

D = TypeVar("D", bound=Document)


def apply(document: D | None, operation: Operation) -> D | None:
    """The document after an operation; None: its row is deleted. `Set` of a whole document needs none before.

    Raises:
        Inapplicable: the document, or that there is none, does not allow it.
    """
    if document is None:
        if isinstance(operation, Set) and not operation.place.path:
            return cast("D", operation.value)
        raise Inapplicable("there is no document")
    made = changed(document, operation.place.steps, change_of(operation, type(document)))
    return None if made is MISSING else cast("D", made)


def apply_all(document: D | None, operations: Iterable[Operation]) -> D | None:
    """The document after operations, one after the other; raises as `apply`."""
    for operation in operations:
        document = apply(document, operation)
    return document


def apply_noting(document: D | None, operations: Iterable[Operation]) -> tuple[D | None, tuple[bytes | None, ...]]:
    """The document after operations, and of each `Set` the fingerprint of what it replaced; raises as `apply`."""
    expects: list[bytes | None] = []
    for operation in operations:
        expects.append(fingerprint(document, operation.place) if isinstance(operation, Set) else None)
        document = apply(document, operation)
    return document, tuple(expects)


def change_of(operation: Operation, document_type: type[Document]) -> Change:
    """What an operation does with the value at its place."""
    match operation:
        case Set(value=value):
            return lambda _: value
        case Append(values=values):
            sequence = type_at(document_type, operation.place)
            return lambda current: _appended(sequence, current, values)
        case Increment(by=by):
            number = type_at(document_type, operation.place)
            return lambda current: _sum(number, current, by)
        case Merge(mapping=mapping):
            annotation = type_at(document_type, operation.place)
            return lambda current: merged(annotation, current, mapping)
    return lambda _: MISSING


def _appended(annotation: Annotation, current: FreeValue, values: tuple[FreeValue, ...]) -> FreeValue:
    if current is MISSING:
        return freeze_as(annotation, list(values))
    if type(current) is FrozenList:
        return seal_list([*current, *values])
    if type(current) is tuple:
        return current + values
    raise Inapplicable(f"{_name(current)} is no sequence to append to")


def _sum(annotation: Annotation, current: FreeValue, by: float) -> FreeValue:
    if current is MISSING:
        current = 0.0 if members(annotation) == (float,) else 0
    if type(current) not in (int, float):
        raise Inapplicable(f"{_name(current)} is no number to add to")
    try:
        total = current + by
    except OverflowError:  # an int that no float reaches
        total = math.inf
    if type(total) is float and not math.isfinite(total):
        raise Inapplicable(f"{current!r:.60} and {by!r:.60} make no finite number")
    return total


def merged(annotation: Annotation, current: FreeValue, given: FreeValue) -> FreeValue:
    """A value, or `MISSING`, with another one merged into it.

    Args:
        annotation: of what may stand there: a mapping does not come to stand where only a struct may.

    Raises:
        Inapplicable: there is no struct whose attributes a mapping in `given` names.
    """
    if type(given) is not FrozenDict:
        return given
    if isinstance(current, msgspec.Struct):
        return _merged_struct(current, given)
    if type(current) is not FrozenDict:
        if not takes_mapping(annotation):
            raise Inapplicable(f"{_name(current)} has no attributes to merge into")
        current = EMPTY_DICT
    inner = {name: merged(_below(annotation, name), current.get(name, MISSING), each) for name, each in given.items()}
    return seal_dict({**current, **inner})


def _merged_struct(current: msgspec.Struct, given: FrozenDict) -> msgspec.Struct:
    fields = fields_of(type(current))
    for name in given:
        if name not in fields:
            raise Inapplicable(f"{type(current).__qualname__} has no attribute {name!r:.60}")
    changes = {name: merged(fields[name].type, getattr(current, name), each) for name, each in given.items()}
    return with_attributes(current, changes)


def _below(annotation: Annotation, name: FreeValue) -> Annotation:
    return Any if not isinstance(name, str) else type_below(annotation, name)


def _name(current: FreeValue) -> str:
    return "nothing" if current is MISSING else "None" if current is None else f"a {type(current).__name__}"
