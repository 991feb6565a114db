"""A class of documents with every sort of place, and operations on it, for tests of write-behind's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypothesis import strategies as st

from holdfast.documents import Document, Limits, Part
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.keys import Key
from holdfast.kinds import Kind, register
from holdfast.write_behind.checking import checked
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Set

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

_merges = st.dictionaries(_names, _cards | st.fixed_dictionaries({"done_count": _ints}), max_size=2)
_numbers = _ints | _floats
_no_item: st.SearchStrategy[str | None] = st.none()
_nothing: st.SearchStrategy[Any] = st.nothing()


def _at(
    *path: str,
    item: st.SearchStrategy[str | None] = _no_item,
    inside: tuple[str, ...] = (),
    value: st.SearchStrategy[Any] = _nothing,
    each: st.SearchStrategy[Any] = _nothing,
    by: st.SearchStrategy[Any] = _nothing,
    mapping: st.SearchStrategy[Any] = _nothing,
) -> st.SearchStrategy[list[Operation]]:
    """Operations at one place: what may be set there, appended, added and merged."""

    def at(name: str | None) -> st.SearchStrategy[list[Operation]]:
        some: dict[str, Any] = {"item": name, "inside": inside}
        one = st.one_of(
            st.builds(lambda each: Set(*path, each, **some), value),
            st.builds(lambda each: Append(*path, each, **some), each),
            st.builds(lambda each: Increment(*path, by=each, **some), by),
            st.builds(lambda each: Merge(*path, each, **some), mapping),
            st.just(Delete(*path, **some)) if path else _nothing,
        )
        return st.lists(one, min_size=2, max_size=4)

    return item.flatmap(at)


_free_place: dict[str, Any] = {"value": _free, "each": _free, "by": _numbers, "mapping": _mappings}
_at_one_place = st.one_of(
    _at("title", value=_texts | st.none()),
    _at("seen_count", value=_ints, by=_ints),
    _at("ratio", value=_numbers, by=_numbers),
    _at("cards", value=st.lists(_cards, max_size=2), each=_cards),
    _at("cards", item=_ids, inside=("done_count",), value=_ints, by=_ints),
    _at("cards", item=_ids, inside=("notes",), value=_mappings, mapping=_mappings),
    _at("cards", item=_ids, inside=("notes", "a"), **_free_place),
    _at("cards", item=_ids, mapping=st.fixed_dictionaries({"words": st.lists(_texts, max_size=1)})),
    _cards.flatmap(lambda card: _at("cards", item=st.just(card.id), value=st.just(card))),
    _at("pinned", value=_cards | st.none(), mapping=st.fixed_dictionaries({"notes": _mappings})),
    _at("pinned", "done_count", value=_ints, by=_ints),
    _at("by_name", value=st.dictionaries(_names, _cards, max_size=2), mapping=_merges),
    _at("by_name", "a", value=_cards, mapping=st.fixed_dictionaries({"done_count": _ints})),
    _at("by_name", "a", "words", value=st.lists(_texts, max_size=2), each=_texts),
    _at("counts", "a", value=_ints, by=_ints),
    _at("shares", "a", value=_numbers, by=_numbers),
    _at("topics", "a", value=st.lists(_texts, max_size=2), each=_texts),
    _at("topics", mapping=st.dictionaries(_names, st.lists(_texts, max_size=1), max_size=2)),
    _at("pair", value=st.lists(_texts, max_size=2), each=_texts),
    _at("either", value=_texts | st.lists(_texts, max_size=2), each=_texts),
    _at("free", value=_mappings, mapping=_mappings),
    _at("free", "a", **_free_place),
    _at("free", "a", "b", **_free_place),
    _at("anything", **_free_place),
    _at("anything", "a", **_free_place),
    _at("anything", item=_ids, mapping=st.dictionaries(st.sampled_from(["a", "b"]), _free, max_size=2), by=_ints),
    _at("anything", item=_ids, inside=("a",), **_free_place),
    _at(value=boards, mapping=st.fixed_dictionaries({"title": _texts, "by_name": _merges})),
)


def fit(given: Sequence[Operation]) -> tuple[Operation, ...]:
    """Operations as they are kept."""
    return checked(Board, given, LIMITS)


neighbours = _at_one_place.map(fit)
"""Checked operations at one place, in a row."""

operations = st.lists(_at_one_place, min_size=1, max_size=3).map(
    lambda places: fit([each for place in places for each in place])
)
"""Checked operations at several places."""
