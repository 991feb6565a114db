"""Operations that became one do what they did one after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_operations import LIMITS, Board, boards, neighbours, operations
from holdfast.write_behind import coalescing
from holdfast.write_behind.applying import apply_all
from holdfast.write_behind.checking import checked
from holdfast.write_behind.coalescing import coalesced
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Set
from holdfast.write_behind.routes import Inapplicable


def outcome(board: Board | None, given: tuple[Operation, ...]) -> str:
    """What operations make of a board, to the order of its keys and the type of each number; or that they do not."""
    try:
        return repr(apply_all(board, given))
    except Inapplicable:
        return "inapplicable"


@given(board=boards, given_=st.one_of(operations, neighbours))
def test_together_they_make_what_they_make_in_turn(board: Board, given_: tuple[Operation, ...]) -> None:
    """Whatever the document and the operations; and what is inapplicable in turn is together."""
    assert outcome(board, coalesced(Board, given_)) == outcome(board, given_)


FEWER: dict[str, tuple[list[Operation], list[Operation | str]]] = {
    "ints": ([Increment("seen_count", by=2), Increment("seen_count", by=3)], [Increment("seen_count", by=5)]),
    "appended": (
        [Append("topics", "a", "p"), Append("topics", "a", "q")],
        ["Append('topics', 'a', 'p', 'q')"],
    ),
    "set_again": ([Set("title", "p"), Set("title", "q")], [Set("title", "q")]),
    "inside_a_set": (
        [Set("free", {"a": {"b": 1}}), Increment("free", "a", "b", by=0.5), Append("free", "c", 2)],
        [Set("free", {"a": {"b": 1.5}, "c": [2]})],
    ),
    "merged": (
        [Merge("free", {"a": {"b": 1}}), Merge("free", {"a": {"c": 2}, "d": 3})],
        [Merge("free", {"a": {"b": 1, "c": 2}, "d": 3})],
    ),
}


@pytest.mark.parametrize("name", FEWER)
def test_neighbours_become_one(name: str) -> None:
    """Where that is possible for every document."""
    several, one = FEWER[name]
    made = coalesced(Board, checked(Board, several, LIMITS))
    assert [repr(each) for each in made] == [each if isinstance(each, str) else repr(each) for each in one]


APART: dict[str, list[Operation]] = {
    "floats": [Increment("ratio", by=0.1), Increment("ratio", by=0.2)],
    "perhaps_floats": [Increment("free", "a", by=1), Increment("free", "a", by=2)],
    "value_then_mapping": [Merge("free", {"a": 1}), Merge("free", {"a": {"b": 2}})],
    "set_after_what_may_be_refused": [Append("free", "a", 1), Set("free", "a", 2)],
    "deleted": [Set("free", "a", 1), Delete("free", "a")],
    "elsewhere": [Increment("counts", "a"), Increment("counts", "b")],
}


@pytest.mark.parametrize("name", APART)
def test_others_stay_apart(name: str) -> None:
    """What would not do the same to every document stays as it was given."""
    given_ = checked(Board, APART[name], LIMITS)
    assert coalesced(Board, given_) == given_


def test_floats_added_up_first_would_make_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that takes every number for an int is caught by one document."""
    board, given_ = Board(ratio=0.1), checked(Board, [Increment("ratio", by=0.7), Increment("ratio", by=0.2)], LIMITS)
    assert outcome(board, coalesced(Board, given_)) == outcome(board, given_)
    monkeypatch.setattr(coalescing, "members", lambda annotation: (int,))
    assert outcome(board, coalesced(Board, given_)) != outcome(board, given_)
