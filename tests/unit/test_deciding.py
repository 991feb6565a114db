"""What becomes of entries: applied to the current row or refused, with the reason, however many are decided at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_operations import BOARDS, KEY, LIMITS, Board, Card, boards, operations
from holdfast.documents import Document, Limits, decode, encode
from holdfast.kinds import Kind
from holdfast.protocols import Row
from holdfast.run_context.conflicts import ConflictStrategy, Resolution
from holdfast.write_behind import deciding
from holdfast.write_behind.applying import apply_noting
from holdfast.write_behind.checking import checked
from holdfast.write_behind.deciding import Decision, Refusal, RefusalReason, decide
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Set
from holdfast.write_behind.routes import Inapplicable
from holdfast.write_behind.typed_values import ABSENT

PARENT_WINS = ConflictStrategy.PARENT_WINS
BIRTH = 5


def row_of(board: Board, version: int = 9, birth: int = BIRTH) -> Row:
    """The board's row."""
    return Row(version, birth, 1, encode(board))


def written(  # all that an entry says, by name
    *given_: Operation,
    on: Board | None = None,
    seq: int = 1,
    birth: int = BIRTH,
    base_version: int = 9,
    default: Board | None = None,
) -> Entry:
    """An entry accepted when the writer saw `on`, or the default if that was not there."""
    kept = checked(Board, given_, LIMITS)
    _, expects = apply_noting(default if on is None else on, kept)
    return Entry(seq, KEY, kept, birth, base_version, default, expects, 1, 0)


def decided(
    row: Row | None, *entries: Entry, strategy: ConflictStrategy = PARENT_WINS, limits: Limits = LIMITS
) -> Decision[Board]:
    """What becomes of entries of the board."""
    before = None if row is None else decode(Board, row.body)
    return decide(BOARDS, row, entries, strategy, limits, before=before)


def reasons(decision: Decision[Any]) -> dict[int, tuple[RefusalReason, bool]]:
    """Why entries were refused, and whether a person is to see them."""
    return {seq: (refusal.reason, refusal.letter) for seq, refusal in decision.refused.items()}


def test_entries_apply_to_the_row_as_it_is() -> None:
    """To what others have committed meanwhile, in the order of their numbers; and the result is ready to be written."""
    now = Board(seen_count=10, topics={"a": ["theirs"]})
    mine = [written(Increment("seen_count", by=each), on=Board(), seq=each) for each in (1, 2)]
    last = written(Append("topics", "a", "mine"), on=Board(), seq=3)
    decision = decided(row_of(now), *mine, last)
    board = Board(seen_count=13, topics={"a": ["theirs", "mine"]})
    assert (decision.document, decision.body, decision.changed) == (board, encode(board), True)
    assert (decision.applied, decision.refused, decision.deleted) == ((1, 2, 3), {}, False)


def test_what_changes_nothing_is_not_written() -> None:
    """It is applied all the same."""
    board = Board(title="same")
    decision = decided(row_of(board), written(Set("title", "same"), on=board), written(Delete("free", "a"), on=board))
    assert (decision.changed, decision.body, decision.document) == (False, None, board)
    assert decision.applied == (1, 1)


def a_late_set_does_not_undo_a_committed_write() -> None:
    """Rule W6: the writer replaced `old`, and another has committed `theirs` since."""
    decision = decided(row_of(Board(title="theirs")), written(Set("title", "mine"), on=Board(title="old")))
    assert decision.document == Board(title="theirs")
    assert reasons(decision) == {1: (RefusalReason.CONFLICT, False)}
    assert [each.value for each in decision.conflicts] == ["theirs"]
    assert "title" in decision.refused[1].detail


def test_a_late_set_does_not_undo_a_committed_write() -> None:
    """The committed value stands."""
    a_late_set_does_not_undo_a_committed_write()


def test_without_the_fingerprint_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the test above: every value passes for the one that was replaced."""
    monkeypatch.setattr(deciding, "fingerprint", lambda document, place: ABSENT)
    monkeypatch.setattr(deciding, "fingerprint_of", lambda annotation, value: ABSENT)
    with pytest.raises(AssertionError):
        a_late_set_does_not_undo_a_committed_write()


@pytest.mark.parametrize(
    ("strategy", "title", "reason"),
    [
        (ConflictStrategy.CHILD_WINS, "mine", {}),
        (ConflictStrategy.KEEP_LATEST, "theirs", {1: (RefusalReason.CONFLICT, False)}),
        (ConflictStrategy.MERGE_OBJECTS, "theirs", {1: (RefusalReason.CONFLICT, False)}),
        (ConflictStrategy.MANUAL_REVIEW, "theirs", {1: (RefusalReason.CONFLICT, True)}),
    ],
)
def test_the_strategy_says_which_value_stands(
    strategy: ConflictStrategy, title: str, reason: dict[int, tuple[RefusalReason, bool]]
) -> None:
    """And a review is a letter."""
    late = written(Set("title", "mine"), on=Board(title="old"))
    decision = decided(row_of(Board(title="theirs")), late, strategy=strategy)
    assert decision.document == Board(title=title)
    assert reasons(decision) == reason
    assert len(decision.conflicts) == 1


def test_mappings_are_merged_where_that_is_the_strategy() -> None:
    """Neither side's key is lost."""
    late = written(Set("free", {"mine": 1}), on=Board())
    decision = decided(row_of(Board(free={"theirs": 2})), late, strategy=ConflictStrategy.MERGE_OBJECTS)
    assert decision.document == Board(free={"theirs": 2, "mine": 1})
    assert decision.applied == (1,)


def test_two_that_set_the_same_do_not_conflict() -> None:
    """Nothing is undone."""
    decision = decided(row_of(Board(title="both")), written(Set("title", "both"), on=Board(title="old")))
    assert (decision.applied, decision.conflicts) == ((1,), ())


def test_a_set_is_judged_by_what_the_entries_before_it_made() -> None:
    """Not by the row: the writer's second `Set` replaced its first."""
    old, first = Board(title="old"), Board(title="first")
    entries = [written(Set("title", "first"), on=old), written(Set("title", "second"), on=first, seq=2)]
    assert decided(row_of(old), *entries).document == Board(title="second")
    late = decided(row_of(Board(title="theirs")), *entries)
    assert reasons(late) == dict.fromkeys((1, 2), (RefusalReason.CONFLICT, False))


def an_entry_does_not_cross_a_delete() -> None:
    """Rule V3: the row was deleted, and another was born at 20."""
    addressed = written(Increment("seen_count"), on=Board())
    unborn = written(Increment("seen_count"), on=Board(), birth=0, seq=2)
    for row in (None, row_of(Board(), version=21, birth=20)):
        decision = decided(row, addressed, unborn)
        assert reasons(decision) == dict.fromkeys((1, 2), (RefusalReason.GONE, False))
        assert not decision.changed


def test_an_entry_does_not_cross_a_delete() -> None:
    """Whether the birth of its row is known or only a version of it."""
    an_entry_does_not_cross_a_delete()


def test_without_the_birth_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the test above."""
    monkeypatch.setattr(deciding, "_gone", lambda entry, life: None)
    with pytest.raises(AssertionError):
        an_entry_does_not_cross_a_delete()


def test_a_default_begins_a_row_that_is_not_there() -> None:
    """And if it is there meanwhile, the operations apply to it (rule W8); without one there has to be a row."""
    begun = written(Increment("seen_count"), birth=0, base_version=0, default=Board(title="new"))
    assert decided(None, begun).document == Board(title="new", seen_count=1)
    assert decided(row_of(Board(title="theirs")), begun).document == Board(title="theirs", seen_count=1)
    bare = msgspec.structs.replace(begun, default=None)
    assert reasons(decided(None, bare)) == {1: (RefusalReason.GONE, False)}


def test_a_whole_document_needs_no_row() -> None:
    """But a row that came meanwhile stands against it."""
    put = written(Set(Board(title="mine")), birth=0, base_version=0)
    assert decided(None, put).document == Board(title="mine")
    assert reasons(decided(row_of(Board(title="theirs")), put)) == {1: (RefusalReason.CONFLICT, False)}


def test_a_row_deleted_and_put_again_is_born_anew() -> None:
    """So what was addressed to the old one is refused, and what was addressed to none applies."""
    board = Board(title="old")
    delete = written(Delete(), on=board)
    late = written(Increment("seen_count"), on=board, seq=2)
    put = written(Set(Board(title="new")), birth=0, base_version=0, seq=3)
    more = written(Increment("seen_count"), on=Board(), birth=0, base_version=0, seq=4)
    still = written(Increment("seen_count"), on=board, birth=0, seq=5)
    decision = decided(row_of(board), delete, late, put, more, still)
    assert (decision.deleted, decision.document) == (True, Board(title="new", seen_count=1))
    assert decision.applied == (1, 3, 4)
    assert reasons(decision) == dict.fromkeys((2, 5), (RefusalReason.GONE, False))


def test_a_delete_deletes() -> None:
    """With nothing to write, and for a row that never was nothing to do."""
    decision = decided(row_of(Board()), written(Delete(), on=Board()))
    assert (decision.deleted, decision.changed, decision.document, decision.body) == (True, True, None, None)
    put = written(Set(Board()), birth=0, base_version=0)
    again = written(Delete(), on=Board(), birth=0, base_version=0, seq=2)
    nothing = decided(None, put, again)
    assert (nothing.deleted, nothing.changed, nothing.document, nothing.applied) == (False, False, None, (1, 2))


def test_what_the_document_does_not_allow_is_poison() -> None:
    """All of the entry is refused, and the others go on."""
    seen = Board(free={"a": 1}, cards=[Card(id="x")])
    torn = written(Set("title", "half"), Increment("free", "a"), on=seen)
    lost = written(Set("cards", 2, item="x", inside=("done_count",)), on=seen, seq=2)
    fine = written(Increment("seen_count"), on=seen, seq=3)
    decision = decided(row_of(Board(free={"a": "text"})), torn, lost, fine)
    assert decision.document == Board(free={"a": "text"}, seen_count=1)
    assert reasons(decision) == dict.fromkeys((1, 2), (RefusalReason.POISON, True))
    assert decision.applied == (3,)


def test_an_entry_that_makes_the_document_too_large_is_refused_alone() -> None:
    """Those beside it go on."""
    large = [written(Append("pair", "p" * 60), on=Board(), seq=each) for each in (1, 2, 3)]
    decision = decided(row_of(Board()), *large, limits=Limits(bytes_max=260))
    assert decision.document == Board(pair=("p" * 60,))
    assert reasons(decision) == dict.fromkeys((2, 3), (RefusalReason.LIMIT, True))
    assert decision.body == encode(Board(pair=("p" * 60,)))


def test_an_entry_that_makes_the_document_too_deep_is_refused_alone() -> None:
    """Likewise."""
    deep = written(Merge("free", {"a": {"b": {"c": 1}}}), on=Board())
    fine = written(Increment("seen_count"), on=Board(), seq=2)
    decision = decided(row_of(Board()), deep, fine, limits=Limits(depth_max=3))
    assert reasons(decision) == {1: (RefusalReason.LIMIT, True)}
    assert decision.document == Board(seen_count=1)


class Capped(Document, frozen=True, kw_only=True):
    """A document whose own type has a limit."""

    level: Annotated[int, msgspec.Meta(le=5)] = 0


def test_a_result_that_its_type_refuses_is_poison() -> None:
    """Only the row as it is then can tell."""
    kind, before = Kind("board", Capped), Capped(level=4)
    row = Row(9, BIRTH, 1, encode(before))
    raise_ = checked(Capped, [Increment("level", by=1)], LIMITS)
    entries = [Entry(seq, KEY, raise_, BIRTH, 9, None, (None,), 1, 0) for seq in (1, 2)]
    decision = decide(kind, row, entries, PARENT_WINS, LIMITS, before=before)
    assert decision.document == Capped(level=5)
    assert reasons(decision) == {2: (RefusalReason.POISON, True)}


def test_a_kind_whose_tags_cannot_be_told_refuses_the_entry() -> None:
    """Its function is the user's, and may fail by any error."""

    def tags(board: Board) -> list[str]:
        return [f"count:{10 // board.seen_count}"]

    kind, zeroed = Kind("board", Board, tags=tags), written(Increment("seen_count", by=-1), on=Board(seen_count=1))
    fine = written(Increment("seen_count", by=2), on=Board(seen_count=1), seq=2)
    before = Board(seen_count=1)
    decision = decide(kind, row_of(before), [zeroed, fine], PARENT_WINS, LIMITS, before=before)
    assert decision.tags == ("count:5",)  # in the end they can be told
    decision = decide(kind, row_of(before), [zeroed], PARENT_WINS, LIMITS, before=before)
    assert reasons(decision) == {1: (RefusalReason.POISON, True)}


class Base:
    """L3 as far as one row goes: it takes what was decided, and draws versions."""

    def __init__(self, row: Row | None) -> None:
        self.row = row
        self.version = 100

    def take(self, decision: Decision[Board]) -> None:
        if not decision.changed:
            return
        self.version += 1
        birth = self.version if self.row is None or decision.deleted else self.row.birth
        self.row = None if decision.body is None else Row(self.version, birth, 1, decision.body)


def told(board: Board | None, given_: Sequence[Operation]) -> tuple[tuple[Operation, ...], tuple[bytes | None, ...]]:
    """Those of some operations that apply to what a writer sees, and what they replaced there."""
    kept: list[Operation] = []
    expects: tuple[bytes | None, ...] = ()
    for operation in given_:
        try:
            board, more = apply_noting(board, [operation])
        except Inapplicable:
            continue
        kept.append(operation)
        expects += more
    return tuple(kept), expects


_beginnings = st.sampled_from([(BIRTH, 9), (0, 9), (0, 0), (4, 4), (0, 3)])


_sorts = st.sampled_from(["patch", "patch", "patch", "put", "delete", "renew"])
_given = {
    "patch": operations,
    "put": st.builds(lambda each: (Set(each),), boards),
    "delete": st.just((Delete(),)),
    "renew": st.builds(lambda each: (Delete(), Set(each)), boards),
}


@st.composite
def courses(draw: st.DrawFn) -> tuple[Row | None, list[Entry]]:
    """A row, or none, and entries of a writer who saw it, or another one, and then what his own had made of it."""
    board = draw(st.one_of(boards, boards, st.none()))
    seen: Board | None = draw(st.one_of(st.just(board), st.just(board), boards))
    beginning, entries = (0, 0) if board is None else (BIRTH, 9), []
    for seq, sort in enumerate(draw(st.lists(_sorts, min_size=2, max_size=5)), start=1):
        default = draw(boards) if sort == "patch" and seen is None else None
        kept, expects = told(default if seen is None else seen, draw(_given[sort]))
        birth, base_version = draw(st.one_of(*[st.just(beginning)] * 4, _beginnings))
        entries.append(Entry(seq, KEY, kept, birth, base_version, default, expects, 1, 0))
        for each in kept:
            seen = apply_noting(default if seen is None else seen, [each])[0]
            beginning = (0, 0) if seen is None else beginning
    return None if board is None else row_of(board), entries


def at_once(row: Row | None, entries: Sequence[Entry], strategy: ConflictStrategy) -> tuple[Any, ...]:
    """The board, and what was applied and refused, if one transaction decides all."""
    base, decision = Base(row), decided(row, *entries, strategy=strategy)
    base.take(decision)
    return _board(base), list(decision.applied), dict(decision.refused), list(decision.conflicts)


def in_turn(row: Row | None, entries: Sequence[Entry], strategy: ConflictStrategy) -> tuple[Any, ...]:
    """The same if each is decided in a transaction of its own."""
    base = Base(row)
    applied: list[int] = []
    refused: dict[int, Refusal] = {}
    conflicts: list[Resolution] = []
    for entry in entries:
        decision = decided(base.row, entry, strategy=strategy)
        base.take(decision)
        applied += decision.applied
        refused.update(decision.refused)
        conflicts += decision.conflicts
    return _board(base), applied, refused, conflicts


def _board(base: Base) -> Board | None:
    return None if base.row is None else decode(Board, base.row.body)


@given(course=courses(), strategy=st.sampled_from(ConflictStrategy))
def test_it_is_the_same_however_many_are_decided_at_once(
    course: tuple[Row | None, list[Entry]], strategy: ConflictStrategy
) -> None:
    """The row, what was applied, and why the others were refused."""
    row, entries = course
    assert at_once(row, entries, strategy) == in_turn(row, entries, strategy)


def the_order_counts() -> None:
    """What the first makes, the second finds."""
    board = Board(title="old")
    entries = [
        written(Set("title", "first"), on=board),
        written(Merge("free", {"a": 1}), on=board, seq=2),
        written(Set("title", "second"), on=Board(title="first"), seq=3),
    ]
    assert at_once(row_of(board), entries, PARENT_WINS) == in_turn(row_of(board), entries, PARENT_WINS)


def test_the_order_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that decides a batch from its end is caught."""
    the_order_counts()
    run = deciding._Rules.run
    monkeypatch.setattr(deciding._Rules, "run", lambda self, life, entries: run(self, life, entries[::-1]))
    with pytest.raises(AssertionError):
        the_order_counts()
