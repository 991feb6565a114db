"""Neighbouring operations become one where that changes nothing (pure).

Whatever the document: applied together they make what they make one after the other, and are inapplicable to the same
documents. So a `Set` swallows what follows at its place and below, while what came before a `Set` may yet be refused
and stays. Ints are added up; floats are not, for (a + b) + c is not a + (b + c).
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.documents import Document, FreeValue, FrozenDict
from holdfast.documents.frozen import seal_dict
from holdfast.entry import MISSING
from holdfast.write_behind.applying import change_of
from holdfast.write_behind.operations import Append, Increment, Merge, Operation, Set, with_value
from holdfast.write_behind.places import members, type_at
from holdfast.write_behind.routes import Inapplicable, changed


def coalesced(document_type: type[Document], operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Checked operations on documents of a class, in fewer."""
    kept: list[Operation] = []
    for operation in operations:
        joined = _joined(document_type, kept[-1], operation) if kept else None
        if joined is None:
            kept.append(operation)
        else:
            kept[-1] = joined
    return tuple(kept)


def _joined(document_type: type[Document], earlier: Operation, later: Operation) -> Operation | None:
    """One operation for two; None: they stay two."""
    if isinstance(earlier, Set):
        return _swallowed(document_type, earlier, later)
    if earlier.place != later.place:
        return None
    path, item, inside = later.place
    match earlier, later:
        case Append(values=values), Append(values=more):
            return Append.several(later.place, values + more)
        case Increment(by=by), Increment(by=more) if members(type_at(document_type, later.place)) == (int,):
            return Increment(*path, by=by + more, item=item, inside=inside)
        case Merge(mapping=mapping), Merge(mapping=more):
            both = _merged_alike(mapping, more)
            return None if both is None else Merge(*path, both, item=item, inside=inside)
    return None


def _swallowed(document_type: type[Document], earlier: Set, later: Operation) -> Operation | None:
    """The `Set` of what a later operation makes of its value."""
    outer, steps = earlier.place.steps, later.place.steps
    if steps[: len(outer)] != outer:
        return None
    try:
        value = changed(earlier.value, steps[len(outer) :], change_of(later, document_type))
    except Inapplicable:
        return None
    return None if value is MISSING else with_value(earlier, value)


def _merged_alike(earlier: FreeValue, later: FreeValue) -> FreeValue | None:
    """Two mappings as one; None if a key is a mapping's in one and another value's in the other.

    A mapping merges into what is there, and another value replaces it: in turn they do what neither does alone.
    """
    made = dict(earlier)
    for name, each in later.items():
        nested = type(each) is FrozenDict
        if name in made and nested is not (type(made[name]) is FrozenDict):
            return None
        inner = _merged_alike(made[name], each) if name in made and nested else each
        if inner is None and nested:
            return None
        made[name] = inner
    return seal_dict(made)
