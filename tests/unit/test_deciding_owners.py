"""Who owns a document decides what is applied to it; and what of it becomes history."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from holdfast import Append, Delete, Increment, Kind, Set
from holdfast.documents import Document, Limits, encode
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.keys import Key
from holdfast.protocols import Row, Write
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.run_context.spilling import Spilled
from holdfast.write_behind.checking import checked
from holdfast.write_behind.deciding import Decision, RefusalReason, decide
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.operations import Operation

KEY = Key("task", "t1")
LIMITS = Limits()


class Task(Document, frozen=True, kw_only=True):
    """A document that is owned under an epoch."""

    epoch: int = 1
    items: Sequence[str] = EMPTY_LIST
    parts: int = 0


class Part(Document, frozen=True, kw_only=True):
    """What became history of one."""

    items: Sequence[str]


PART = Kind("part", Part, append_only=True, tags=lambda part: [f"items:{len(part.items)}"])


def spill_of(most: int) -> Callable[[Key, Task], Spilled[Task] | None]:
    """More items than that become history."""

    def spill(key: Key, task: Task) -> Spilled[Task] | None:
        if len(task.items) <= most:
            return None
        row = msgspec.structs.replace(task, items=EMPTY_LIST, parts=task.parts + 1)
        return Spilled(row, (("part", f"{key.id}/{row.parts}", Part(items=task.items)),))

    return spill


def task_kind(spill: Callable[[Key, Task], Spilled[Task] | None] | None = None) -> Kind[Task]:
    """The kind of these documents."""
    return Kind("task", Task, owned_by=lambda task: task.epoch, spill=spill)


def entry(seq: int, *given: Operation, owner: int = 0, default: Task | None = None, birth: int = 5) -> Entry:
    """An entry addressed to the row."""
    ready = checked(Task, given, LIMITS)
    return Entry(seq, KEY, ready, birth, 9, default, (None,) * len(ready), 1, 0, owner)


def decided(
    task: Task | None, *entries: Entry, kind: Kind[Task] | None = None, limits: Limits = LIMITS
) -> Decision[Task]:
    """What becomes of entries."""
    row = None if task is None else Row(9, 5, 1, encode(task))
    kind = kind or task_kind()
    kinds = {"part": PART}
    return decide(kind, row, entries, ConflictStrategy.PARENT_WINS, limits, before=task, kinds=kinds)


def reasons(decision: Decision[Task]) -> dict[int, RefusalReason]:
    """Why entries were refused."""
    return {seq: refusal.reason for seq, refusal in decision.refused.items()}


def items(*tokens: str, seq: int = 1, owner: int = 0) -> Entry:
    """An entry that appends."""
    return entry(seq, Append.several(Append("items", "x").place, tokens), owner=owner)


def test_only_what_was_written_under_its_epoch_is_applied() -> None:
    """S3: before and after, what was written in nobody's name is."""
    decision = decided(Task(epoch=2), *(items(str(seq), seq=seq, owner=seq - 1) for seq in (1, 2, 3, 4)))
    assert decision.document == Task(epoch=2, items=["1", "3"])
    assert reasons(decision) == {2: RefusalReason.NOT_OWNER, 4: RefusalReason.NOT_OWNER}
    assert not decision.refused[2].letter


def test_an_entry_that_raises_the_epoch_divides_those_around_it() -> None:
    """Each is judged by what those before it have made."""
    raised = entry(2, Increment("epoch"))
    decision = decided(Task(), items("a", owner=1), raised, items("b", seq=3, owner=1), items("c", seq=4, owner=2))
    assert decision.document == Task(epoch=2, items=["a", "c"])
    assert reasons(decision) == {3: RefusalReason.NOT_OWNER}


def test_an_entry_on_a_row_that_is_gone_stays_gone() -> None:
    """Whoever owned it; and a default is owned as it says."""
    assert reasons(decided(None, items("a", owner=1))) == {1: RefusalReason.GONE}
    begun = [entry(seq, Append("items", "a"), owner=seq, default=Task(), birth=0) for seq in (1, 2)]
    begun = [msgspec.structs.replace(each, base_version=0) for each in begun]
    assert reasons(decided(None, *begun)) == {2: RefusalReason.NOT_OWNER}


def test_a_kind_that_cannot_tell_its_owner_refuses() -> None:
    """It has no such function, or that fails."""
    nobody, failing = Kind("task", Task), Kind("task", Task, owned_by=lambda task: 1 // task.parts)
    assert reasons(decided(Task(), items("a", owner=1), kind=nobody)) == {1: RefusalReason.NOT_OWNER}
    assert reasons(decided(Task(), items("a", owner=1), kind=failing)) == {1: RefusalReason.POISON}
    assert decided(Task(), items("a"), kind=failing).applied == (1,)


def test_what_spills_becomes_history_once() -> None:
    """After all entries: however many there are, one part."""
    decision = decided(Task(), *(items(str(seq), seq=seq) for seq in range(1, 6)), kind=task_kind(spill_of(2)))
    part = Part(items=["1", "2", "3", "4", "5"])
    assert decision.document == Task(parts=1)
    assert decision.body == encode(Task(parts=1))
    assert decision.history == (Write(Key("part", "t1/1"), 1, encode(part), 0, ("items:5",)),)


def test_what_does_not_spill_or_changes_nothing_leaves_no_history() -> None:
    """Nor does what is deleted."""
    kind = task_kind(spill_of(2))
    for given in (items("a"), entry(1, Set("parts", 0)), entry(1, Delete())):
        assert decided(Task(), given, kind=kind).history == ()


def test_a_part_that_is_too_large_becomes_several() -> None:
    """Neither the row nor a part of history exceeds the limits: then it spills between the entries."""
    entries = [items(f"{seq:060}", seq=seq) for seq in range(1, 7)]
    limits = Limits(bytes_max=400)
    decision = decided(Task(), *entries, kind=task_kind(spill_of(1)), limits=limits)
    assert (decision.refused, decision.document) == ({}, Task(parts=2))
    assert [write.key.id for write in decision.history] == ["t1/1", "t1/2"]
    assert all(len(write.made()) <= 400 for write in decision.history)


@pytest.mark.parametrize("history", [(("nothing", "x", Part(items=())),), (("part", "", Part(items=())),)])
def test_history_that_cannot_be_stored_refuses_the_entry(history: tuple[tuple[str, str, Document], ...]) -> None:
    """Its kind is not known, or its id is none: nothing half of it is done, and the other entries are applied."""

    def spill(_: Key, task: Task) -> Spilled[Task] | None:
        return Spilled(task, history) if "bad" in task.items else None

    decision = decided(Task(), items("a"), items("bad", seq=2), items("b", seq=3), kind=task_kind(spill))
    assert decision.document == Task(items=["a", "b"])
    assert reasons(decision) == {2: RefusalReason.POISON}
    assert decision.history == ()
    assert decision.refused[2].letter


def test_a_spill_that_fails_refuses_the_entry() -> None:
    """It is the kind's function, and may fail by any error."""

    def spill(_: Key, task: Task) -> None:
        assert "bad" not in task.items

    decision = decided(Task(), items("bad"), items("b", seq=2), kind=task_kind(spill))
    assert (decision.document, reasons(decision)) == (Task(items=["b"]), {1: RefusalReason.POISON})
