"""A class of documents with every sort of place, and operations on it, for tests of write-behind's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypothesis import strategies as st

from holdfast.documents import Document, Limits, Part
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.errors import InvalidOperation
from holdfast.keys import Key
from holdfast.kinds import Kind, register
from holdfast.write_behind.checking import checked
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Place, Set

LIMITS: Final = Limits()


class Card(Part, frozen=True, kw_only=True, rename="camel"):
    """A thing with an id."""

    id: str
    done_count: int = 0
    words: Sequence[str] = EMPTY_LIST
    notes: Mapping[str, Any] = EMPTY_DICT


class Board(Document, frozen=True, kw_only=True, rename="camel"):
    """A document with every sort of place."""

    title: str | None = None
    seen_count: int = 0
    ratio: float = 0.0
    cards: Sequence[Card] = EMPTY_LIST
    pinned: Card | None = None
    by_name: Mapping[str, Card] = EMPTY_DICT
    counts: Mapping[str, int] = EMPTY_DICT
    shares: Mapping[str, float] = EMPTY_DICT
    topics: Mapping[str, Sequence[str]] = EMPTY_DICT
    pair: tuple[str, ...] = ()
    either: Sequence[str] | str = "none"
    free: Mapping[str, Any] = EMPTY_DICT
    anything: Any = None


BOARDS: Final = Kind("board", Board)
KINDS: Final = register([BOARDS])
KEY: Final = Key("board", "b1")

_ids = st.sampled_from(["x", "y"])
_names = st.sampled_from(["a", "b", "id"])
_texts = st.sampled_from(["", "p", "q"])
_ints = st.integers(-3, 3)
_floats = st.sampled_from([0.1, 0.2, 0.3, -1.5])
_scalars = st.one_of(st.none(), st.booleans(), _ints, _floats, _texts)
_cards = st.builds(
    Card,
    id=_ids,
    done_count=_ints,
    words=st.lists(_texts, max_size=2),
    notes=st.dictionaries(_names, _scalars, max_size=2),
)
_free = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=2), max_leaves=5
)
_mappings = st.dictionaries(_names, _free, max_size=2)
_values = st.one_of(_scalars, _free, _cards, _mappings, st.lists(_cards, max_size=2), st.lists(_texts, max_size=2))

boards = st.builds(
    Board,
    title=st.none() | _texts,
    seen_count=_ints,
    ratio=_floats,
    cards=st.lists(_cards, max_size=3),
    pinned=st.none() | _cards,
    by_name=st.dictionaries(_names, _cards, max_size=2),
    counts=st.dictionaries(_names, _ints, max_size=2),
    shares=st.dictionaries(_names, _floats, max_size=2),
    topics=st.dictionaries(_names, st.lists(_texts, max_size=2), max_size=2),
    pair=st.lists(_texts, max_size=2).map(tuple),
    either=_texts | st.lists(_texts, max_size=2),
    free=st.dictionaries(_names, _free, max_size=2),
    anything=_free,
)

_inside_card = st.sampled_from([("done_count",), ("words",), ("notes",), ("notes", "a")])
_paths = st.one_of(
    st.sampled_from([("title",), ("seen_count",), ("ratio",), ("cards",), ("pinned",), ("pair",), ("either",)]),
    st.sampled_from(
        [("by_name",), ("counts",), ("shares",), ("topics",), ("free",), ("anything",), ("by_name", "a", "words")]
    ),
    st.tuples(st.sampled_from(["by_name", "counts", "shares", "topics", "free", "anything"]), _names),
    st.tuples(st.sampled_from(["free", "anything"]), _names, _names),
    st.tuples(st.just("pinned"), st.sampled_from(["done_count", "words", "notes"])),
)
_places = st.one_of(
    st.builds(Place, _paths),
    st.builds(Place, st.just(("cards",)), _ids),
    st.builds(Place, st.just(("cards",)), _ids, _inside_card),
    st.builds(Place, st.sampled_from([("free", "a"), ("anything",)]), _ids),
    st.builds(Place, st.sampled_from([("free", "a"), ("anything",)]), _ids, st.just(("a",))),
)
_merges = st.one_of(
    _mappings,
    st.dictionaries(st.just("notes"), _mappings, max_size=1),
    st.dictionaries(_names, _cards | st.fixed_dictionaries({"done_count": _ints}), max_size=2),
    st.fixed_dictionaries({"title": _texts, "pinned": st.fixed_dictionaries({"notes": _mappings})}),
)


def _operation(sort: type[Operation], place: Place, value: Any, by: float, mapping: dict[str, Any]) -> Operation:
    path, item, inside = place
    if sort is Increment:
        return Increment(*path, by=by, item=item, inside=inside)
    if sort is Delete:
        return Delete(*path, item=item, inside=inside)
    if sort is Merge:
        return Merge(*path, mapping, item=item, inside=inside)
    return (Set if sort is Set else Append)(*path, value, item=item, inside=inside)


_sorts: st.SearchStrategy[type[Operation]] = st.sampled_from([Set, Delete, Append, Increment, Merge])
_any_operation = st.one_of(
    st.builds(_operation, _sorts, _places, _values, _ints | _floats, _merges),
    st.builds(Set, boards),
    st.builds(Merge, _merges),
    st.builds(lambda card: Set("cards", card, item=card.id), _cards),
    st.builds(lambda by, name: Increment("counts", name, by=by), _ints, _names),
    st.builds(lambda by, name: Increment("shares", name, by=by), _ints | _floats, _names),
    st.builds(lambda value: Set("ratio", value), _ints | _floats),
    st.builds(lambda text: Append("topics", "a", text), _texts),
)


def fit(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """Those of some operations that documents of the class have a place and a type for, checked."""
    kept: list[Operation] = []
    for operation in operations:
        try:
            kept += checked(Board, [operation], LIMITS)
        except InvalidOperation:
            continue
    return tuple(kept)


operations = st.lists(_any_operation, max_size=5).map(fit)
"""Checked operations, many of them at one place."""


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Operation, ...]:
    """Checked operations at few places, so that some can become one."""
    places = draw(st.lists(_places, min_size=1, max_size=2))
    some = st.builds(_operation, _sorts, st.sampled_from(places), _values, _ints | _floats, _merges)
    return fit(draw(st.lists(some, max_size=10)))
