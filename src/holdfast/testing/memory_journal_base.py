"""What L3 in memory knows of journals.

Each server of a test has one `MemoryJournalBase` over the `MemoryStorage` they share. The marks are committed, lost,
copied and restored with the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.clock import Clock
from holdfast.errors import NotOwner, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import DeadWrite, Isolation, JournalRecord, JournalState, Letter, Row, Write
from holdfast.seq_set import SeqSet
from holdfast.testing.memory_marks import Marks
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.testing.memory_transaction import MemoryTransaction

Result = TypeVar("Result")
Kept = TypeVar("Kept", JournalRecord, DeadWrite)

LETTERS_MAX: Final = 100_000
_ANSWERING: Final = {JournalState.LIVE, JournalState.TAKEN}


class MemoryJournalBase:
    """`JournalBase` in memory.

    Args:
        idle_seconds: after which L3 ends a flush that does nothing, by the timers of the event loop.
        lock_seconds: how long `take` waits for a flush, by the same; `row_seconds`: a flush for each row.
        letters_max: of more letters the oldest are dropped.
    """

    def __init__(
        self,
        storage: MemoryStorage,
        clock: Clock,
        *,
        idle_seconds: float = 5.0,
        lock_seconds: float = 1.0,
        row_seconds: float = 0.25,
        letters_max: int = LETTERS_MAX,
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._lock_seconds = lock_seconds
        self._row_seconds = row_seconds
        self._letters_max = letters_max

    async def register(self, journal: str, server: str) -> None:
        """Enter a journal; see `JournalBase.register`."""
        async with self._transaction() as transaction:
            await transaction.lock(_row(journal))
            if self._record(journal) is None:
                record = JournalRecord(
                    journal, server, 1, 0, JournalState.LIVE, None, SeqSet(), SeqSet(), self._clock.monotonic()
                )
                transaction.note(lambda marks: marks.entered(record))

    async def beat(self, journal: str, epoch: int) -> bool:
        """Show that its server lives; see `JournalBase.beat`. A flush does not hold it up."""
        async with self._transaction() as transaction:
            record = self._record(journal)
            if record is None or record.epoch != epoch or record.state not in _ANSWERING:
                return False
            transaction.note(self._replacing(record, beat=record.beat + 1))
        return True

    async def records(self) -> Sequence[JournalRecord]:
        """All journals; see `JournalBase.records`."""
        async with self._transaction():
            return [self._aged(record) for record in self._marks.journals.values()]

    async def take(self, journal: str, epoch: int, taker: str) -> bool:
        """Take a journal over; see `JournalBase.take`."""
        async with self._locked(journal, epoch) as (transaction, record):
            if record is None or record.state is JournalState.DRAINED:
                return False
            transaction.note(self._replacing(record, epoch=epoch + 1, state=JournalState.TAKEN, taker=taker))
        return True

    async def enter_state(self, journal: str, epoch: int, state: JournalState) -> bool:
        """Change a journal's state; see `JournalBase.enter_state`."""
        async with self._locked(journal, epoch) as (transaction, record):
            if record is None:
                return False
            transaction.note(self._replacing(record, state=state))
        return True

    async def forget(self, journal: str, epoch: int) -> bool:
        """Remove a journal; see `JournalBase.forget`."""
        async with self._locked(journal, epoch) as (transaction, record):
            if record is None:
                return False
            transaction.note(lambda marks: marks.forgotten(journal))
        return True

    async def open_flush(self, journal: str, epoch: int) -> MemoryFlush:
        """Begin to decide entries; see `JournalBase.open_flush`."""
        transaction = await self._storage.open_transaction(Isolation.READ_COMMITTED)
        try:
            await transaction.lock(_row(journal))
            record = self._owned(journal, epoch)
            transaction.lock_seconds = self._row_seconds
        except BaseException:
            await transaction.rollback()
            raise
        return MemoryFlush(transaction, record, self._clock, self._idle_seconds, self._letters_max)

    async def rows_and_marks(
        self, keys: Sequence[Key], journals: Sequence[str]
    ) -> tuple[Mapping[Key, Row], Mapping[str, SeqSet]]:
        """Rows, and what is decided; see `JournalBase.rows_and_marks`."""
        async with self._transaction() as transaction:
            rows, held = await transaction.load(keys), self._marks.journals
            return rows, {journal: held[journal].decided for journal in journals if journal in held}

    async def letters(self, *, limit: int) -> Sequence[DeadWrite]:
        """Writes that were given up; see `JournalBase.letters`."""
        async with self._transaction():
            return [self._aged(letter) for letter in self._marks.letters[:limit]]

    async def letter(self, identifier: int) -> DeadWrite | None:
        """One of them; see `JournalBase.letter`."""
        async with self._transaction():
            found = (self._aged(letter) for letter in self._marks.letters if letter.id == identifier)
            return next(found, None)

    async def discard(self, identifier: int, note: AuditNote | None = None) -> bool:
        """Remove one; see `JournalBase.discard`."""
        async with self._transaction() as transaction:
            if all(letter.id != identifier for letter in self._marks.letters):
                return False
            transaction.note(lambda marks: marks.discarded(identifier))
            if note is not None:
                await transaction.audit(note)
        return True

    @property
    def _marks(self) -> Marks:
        return self._storage.log.marks

    def _record(self, journal: str) -> JournalRecord | None:
        return self._marks.journals.get(journal)

    def _owned(self, journal: str, epoch: int) -> JournalRecord:
        record = self._record(journal)
        if record is None or record.epoch != epoch:
            raise NotOwner(f"journal {journal} is not at epoch {epoch}")
        return record

    def _aged(self, kept: Kept) -> Kept:
        return msgspec.structs.replace(kept, seconds=self._clock.monotonic() - kept.seconds)

    def _replacing(self, record: JournalRecord, **changed: object) -> Callable[[Marks], Marks]:
        replaced = msgspec.structs.replace(record, **changed, seconds=self._clock.monotonic())
        return lambda marks: marks.entered(replaced)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[MemoryTransaction]:
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED) as transaction:
            yield transaction

    @asynccontextmanager
    async def _locked(self, journal: str, epoch: int) -> AsyncIterator[tuple[MemoryTransaction, JournalRecord | None]]:
        """A transaction that has a journal's lock, and its record; None: it is not at that epoch."""
        async with self._transaction() as transaction:
            try:
                async with asyncio.timeout(self._lock_seconds):
                    await transaction.lock(_row(journal))
            except TimeoutError as fault:
                raise TierUnavailable(f"L3 in memory: a flush of journal {journal} does not end") from fault
            record = self._record(journal)
            yield transaction, record if record is not None and record.epoch == epoch else None


class MemoryFlush:
    """`FlushTransaction` in memory: it has its journal's lock until it ends, or is idle for too long."""

    def __init__(
        self, transaction: MemoryTransaction, record: JournalRecord, clock: Clock, idle_seconds: float, letters_max: int
    ) -> None:
        self.decided, self.refused = record.decided, record.refused
        self._transaction = transaction
        self._journal = record.journal
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._letters_max = letters_max
        self._timer = self._rest()

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """Read rows and lock them; see `FlushTransaction.load`."""
        return await self._statement(self._transaction.load(keys, lock=True))

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `FlushTransaction.save`."""
        return await self._statement(self._transaction.save(writes))

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `FlushTransaction.delete`."""
        return await self._statement(self._transaction.delete(key, expected=expected))

    async def decide(self, decided: SeqSet, refused: SeqSet, letters: Sequence[Letter]) -> None:
        """Note what this transaction decides; see `FlushTransaction.decide`."""
        at = self._clock.monotonic()
        self._timer.cancel()
        self._transaction.note(
            lambda marks: marks.decided(
                self._journal, decided, refused, letters=letters, letters_max=self._letters_max, at=at
            )
        )
        self._timer = self._rest()

    async def commit(self) -> None:
        """Let all of it take effect; see `FlushTransaction.commit`."""
        self._timer.cancel()
        await self._transaction.commit()

    async def rollback(self) -> None:
        """Let nothing of it take effect; see `FlushTransaction.rollback`."""
        self._timer.cancel()
        await self._transaction.rollback()

    async def _statement(self, statement: Awaitable[Result]) -> Result:
        self._timer.cancel()
        try:
            return await statement
        finally:
            self._timer = self._rest()

    def _rest(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._idle_seconds, self._transaction.lose)


def _row(journal: str) -> Key:
    """What stands for a journal's row among the locks: no kind has this name."""
    return Key("", journal)
