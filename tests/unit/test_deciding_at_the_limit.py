"""Many writes of a document that has no room for them: each is refused, and the document is not encoded for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from fix_operations import BOARDS, KEY, LIMITS, Board
from holdfast.documents import Document, Limits, encode
from holdfast.protocols import Row
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.write_behind import deciding
from holdfast.write_behind.applying import apply_all
from holdfast.write_behind.checking import checked
from holdfast.write_behind.deciding import Decision, RefusalReason, decide
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.growth import least_growth
from holdfast.write_behind.operations import Append, Increment, Operation, Set

ENTRIES = 200
FULL = Board(pair=("t" * 20,) * 50)


def decided(entries: Iterable[Entry], room: int) -> Decision[Any]:
    """With so many bytes of room."""
    body = encode(FULL)
    row, limits = Row(9, 9, 1, body), Limits(len(body) + room, 64)
    return decide(BOARDS, row, [*entries], ConflictStrategy.PARENT_WINS, limits, before=FULL)


def appending(seq: int, text: str) -> Entry:
    """One text more."""
    given = checked(Board, (Append("pair", text), Increment("seen_count")), LIMITS)
    return Entry(seq, KEY, given, 9, 9, None, (None, None), 1, 0)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each time that a document is encoded."""
    times: list[int] = []

    def counting(document: Document, limits: Limits) -> bytes:
        times.append(1)
        return encode(document, limits)

    monkeypatch.setattr(deciding, "encode", counting)
    return times


def test_those_that_fit_are_applied_and_the_others_refused(encoded: list[int]) -> None:
    """As if they were decided one by one; a shorter one that comes later still fits."""
    entries = [appending(seq, "x" * 30) for seq in range(1, ENTRIES)] + [appending(ENTRIES, "")]
    decision = decided(entries, room=90)
    assert decision.applied == (1, 2, ENTRIES)
    assert {refusal.reason for refusal in decision.refused.values()} == {RefusalReason.LIMIT}
    assert all(refusal.letter for refusal in decision.refused.values())
    assert len(encoded) < 40


def test_mutant_each_is_encoded(encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not known how much they add: for a large document that takes longer than L3 waits."""
    monkeypatch.setattr(deciding, "least_growth", lambda *_: None)
    decision = decided([appending(seq, "x" * 30) for seq in range(1, ENTRIES)], room=90)
    assert len(decision.applied) == 2
    assert len(encoded) > ENTRIES - 10


@pytest.mark.parametrize(
    "operations",
    [
        (Append("pair", "ä€\n"),),
        (Increment("seen_count"),),
        (Append("pair", "x"), Increment("seen_count", by=999)),
        (Increment("seen_count", by=-5),),
    ],
)
@pytest.mark.parametrize("board", [Board(seen_count=9, pair=("t",)), Board(seen_count=4), FULL])
def test_growth_is_never_above_what_it_is(operations: tuple[Operation, ...], board: Board) -> None:
    """What is refused for it has no room."""
    given = checked(Board, operations, LIMITS)
    growth = least_growth(board, given)
    assert growth is not None
    made = apply_all(board, given)
    assert made is not None
    assert growth <= len(encode(made)) - len(encode(board))


def test_what_may_take_bytes_away_is_not_foretold() -> None:
    """A `Set` may put less there."""
    assert least_growth(FULL, checked(Board, (Append("pair", "x"), Set("title", "")), LIMITS)) is None
