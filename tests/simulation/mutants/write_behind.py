"""Write-behind, with a mechanism switched off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from holdfast.keys import Key
from holdfast.protocols import Appended, Letter, Row
from holdfast.seq_set import SeqSet
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.testing.slow_journals import SlowJournals
from holdfast.write_behind import deciding, renewal
from holdfast.write_behind.buffer import Buffer
from holdfast.write_behind.deciding import _Rules
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.flusher import Flusher
from holdfast.write_behind.flushing import Flushing, Settled
from holdfast.write_behind.lives import Lives
from holdfast.write_behind.operations import Operation
from holdfast.write_behind.pace import Pace
from holdfast.write_behind.receipts import PendingWrite
from simulation.mutants.registry import mutant


@mutant("W4")
def marks_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """A flush applies what was decided before."""
    healthy = Flushing._settle

    def settle(self: Flushing, key: Key, row: Row | None, entries: Sequence[Entry], decided: SeqSet) -> Any:
        return healthy(self, key, row, entries, SeqSet())

    patch.setattr(Flushing, "_settle", settle)


@mutant("W4")
def marked_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """What is decided is noted in a transaction of its own, before the rows are written."""

    async def decide(self: MemoryFlush, decided: SeqSet, refused: SeqSet, letters: Sequence[Letter]) -> None:
        log = self._transaction._log

        def note(marks: Any) -> Any:
            return marks.decided(self._journal, decided, refused, letters=letters, letters_max=100, at=0.0)

        log.commit(log.start(), {}, [], notes=[note])

    patch.setattr(MemoryFlush, "decide", decide)


@mutant("W4")
def trimmed_too_far(patch: pytest.MonkeyPatch) -> None:
    """An append drops all that came before it, decided or not."""
    healthy = SlowJournals.append

    async def append(
        self: SlowJournals, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        keep_from = entries[0][0] if entries else keep_from
        return await healthy(self, journal, entries, expected=expected, keep_from=keep_from)

    patch.setattr(SlowJournals, "append", append)


@mutant("W6")
def set_wins_over_what_was_committed(patch: pytest.MonkeyPatch) -> None:
    """A late `Set` replaces whatever is there."""

    def settled(self: _Rules, document: Any, operation: Operation, expects: bytes | None, _: Any) -> Operation:
        return operation

    patch.setattr(_Rules, "_settled", settled)


@mutant("V3")
def operations_cross_a_delete(patch: pytest.MonkeyPatch) -> None:
    """Whatever row is there now takes what was addressed to an earlier one."""

    def gone(entry: Entry, life: Any) -> str | None:
        exists = life.document is not None or entry.default is not None or deciding._begins(entry)
        return None if exists else "there is no row"

    patch.setattr(deciding, "_gone", gone)


@mutant("W7")
def not_stamped_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Undecided writes are laid over whatever is read until the commit is answered."""
    healthy = Flusher._stamp

    def stamp(self: Flusher, batch: Any, settled: Mapping[Key, Settled]) -> None:
        healthy(self, batch, settled)
        self._unstamp(batch)

    patch.setattr(Flusher, "_stamp", stamp)


@mutant("W7")
def doubt_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """After a commit of unknown outcome reads go on as if it had failed."""
    patch.setattr(Flusher, "_set_doubt", Flusher._unstamp)


@mutant("W7-W9")
def always_sure(patch: pytest.MonkeyPatch) -> None:
    """A server that stood still for long lays its writes over what the one that took over has made of them."""
    patch.setattr(Lives, "is_sure", True)


@mutant("W10")
def refusals_of_unknown_outcome_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What the transaction of unknown outcome refused counts as applied."""
    healthy = Flusher._stamp

    def stamp(self: Flusher, batch: Any, settled: Mapping[Key, Settled]) -> None:
        healthy(self, batch, settled)
        for key, writes in batch.items():
            for write in writes:
                write.tentative = settled[key].refused.get(write.entry.seq)

    patch.setattr(Flusher, "_stamp", stamp)


@mutant("W8")
def out_of_order(patch: pytest.MonkeyPatch) -> None:
    """The writes of a key are decided the last one first."""
    healthy = Buffer.take

    def take(self: Buffer, now: float, pace: Pace, bytes_max: int) -> dict[Key, list[Any]]:
        return {key: writes[::-1] for key, writes in healthy(self, now, pace, bytes_max).items()}

    patch.setattr(Buffer, "take", take)


@mutant("W9")
def renewal_enters_everything_again(patch: pytest.MonkeyPatch) -> None:
    """A server that was replaced writes again what the other one has decided."""

    def settle(_journal: str, writes: Iterable[PendingWrite], *_: Any) -> list[PendingWrite]:
        return list(writes)

    patch.setattr(renewal, "settle", settle)


@mutant("W9")
def renewal_enters_nothing_again(patch: pytest.MonkeyPatch) -> None:
    """A server that was replaced gives up what its journal never had."""
    healthy = renewal.settle

    def settle(journal: str, writes: Iterable[PendingWrite], *facts: Any) -> list[PendingWrite]:
        for write in healthy(journal, writes, *facts):
            write.committed(1)
        return []

    patch.setattr(renewal, "settle", settle)
