"""What L3 knows of journals, behind the network of a `SlowStorage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.errors import HoldfastError
from holdfast.keys import Key
from holdfast.protocols import (
    DeadWrite,
    FlushTransaction,
    JournalBase,
    JournalRecord,
    JournalState,
    Letter,
    Row,
    Write,
)
from holdfast.seq_set import SeqSet
from holdfast.testing.slow_storage import SlowStorage


class SlowJournalBase:
    """`JournalBase` as one server sees it: calls take time, get lost, and take effect late.

    Args:
        inner: over the L3 that `storage` leads to.
    """

    def __init__(self, inner: JournalBase, storage: SlowStorage) -> None:
        self._inner = inner
        self._storage = storage

    async def register(self, journal: str, server: str) -> None:
        """Enter a journal; see `JournalBase.register`."""
        await self._storage.write(lambda: self._inner.register(journal, server))

    async def beat(self, journal: str, epoch: int) -> bool:
        """Show that its server lives; see `JournalBase.beat`."""
        return await self._storage.write(lambda: self._inner.beat(journal, epoch))

    async def records(self) -> Sequence[JournalRecord]:
        """All journals; see `JournalBase.records`."""
        return await self._storage.read(self._inner.records)

    async def take(self, journal: str, epoch: int, taker: str) -> bool:
        """Take a journal over; see `JournalBase.take`."""
        return await self._storage.write(lambda: self._inner.take(journal, epoch, taker))

    async def enter_state(self, journal: str, epoch: int, state: JournalState) -> bool:
        """Change a journal's state; see `JournalBase.enter_state`."""
        return await self._storage.write(lambda: self._inner.enter_state(journal, epoch, state))

    async def forget(self, journal: str, epoch: int) -> bool:
        """Remove a journal; see `JournalBase.forget`."""
        return await self._storage.write(lambda: self._inner.forget(journal, epoch))

    async def open_flush(self, journal: str, epoch: int) -> SlowFlush:
        """Begin to decide entries; see `JournalBase.open_flush`."""
        opened: list[FlushTransaction] = []

        async def open_one() -> None:
            opened.append(await self._inner.open_flush(journal, epoch))

        try:
            await self._storage.step(open_one)
        except BaseException:  # cancelled while the answer was on its way: the connection ends
            for flush in opened:
                await flush.rollback()
            raise
        return SlowFlush(opened[0], self._storage)

    async def rows_and_marks(
        self, keys: Sequence[Key], journals: Sequence[str]
    ) -> tuple[Mapping[Key, Row], Mapping[str, SeqSet]]:
        """Rows, and what is decided; see `JournalBase.rows_and_marks`."""
        return await self._storage.read(lambda: self._inner.rows_and_marks(keys, journals))

    async def letters(self, *, limit: int) -> Sequence[DeadWrite]:
        """Writes that were given up; see `JournalBase.letters`."""
        return await self._storage.read(lambda: self._inner.letters(limit=limit))

    async def letter(self, identifier: int) -> DeadWrite | None:
        """One of them; see `JournalBase.letter`."""
        return await self._storage.read(lambda: self._inner.letter(identifier))

    async def discard(self, identifier: int) -> bool:
        """Remove one; see `JournalBase.discard`."""
        return await self._storage.write(lambda: self._inner.discard(identifier))


class SlowFlush:
    """`FlushTransaction` as one server sees it."""

    def __init__(self, inner: FlushTransaction, storage: SlowStorage) -> None:
        self.decided = inner.decided
        self._inner = inner
        self._storage = storage
        self._sent = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """Read rows and lock them; see `FlushTransaction.load`."""
        return await self._storage.step(lambda: self._inner.load(keys))

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `FlushTransaction.save`."""
        return await self._storage.step(lambda: self._inner.save(writes))

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `FlushTransaction.delete`."""
        return await self._storage.step(lambda: self._inner.delete(key, expected=expected))

    async def decide(self, decided: SeqSet, refused: SeqSet, letters: Sequence[Letter]) -> None:
        """Note what this transaction decides; see `FlushTransaction.decide`."""
        await self._storage.step(lambda: self._inner.decide(decided, refused, letters))

    async def commit(self) -> None:
        """Let all of it take effect; see `FlushTransaction.commit`."""
        self._sent = True
        await self._storage.write(self._end, self._inner.rollback)

    async def rollback(self) -> None:
        """Let nothing of it take effect, unless COMMIT was sent; see `FlushTransaction.rollback`."""
        if not self._sent:
            await self._inner.rollback()

    async def _end(self) -> None:
        try:
            await self._inner.commit()
        except HoldfastError:
            await self._inner.rollback()
            raise
