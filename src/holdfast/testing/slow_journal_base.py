"""What L3 knows of journals, behind a slow and lossy network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.audit.chain import AuditNote
from holdfast.errors import HoldfastError, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import DeadWrite, JournalRecord, JournalState, Letter, Row, Write
from holdfast.seq_set import SeqSet
from holdfast.testing.memory_journal_base import MemoryFlush, MemoryJournalBase
from holdfast.testing.simulated_process import begun_outside
from holdfast.testing.slow_link import NOTICE_SECONDS, SlowLink

Result = TypeVar("Result")


class SlowJournalBase:
    """`JournalBase` as one process sees it."""

    def __init__(self, inner: MemoryJournalBase, link: SlowLink) -> None:
        self._inner = inner
        self._link = link
        self._open: dict[MemoryFlush, None] = {}

    async def register(self, journal: str, server: str) -> None:
        """Enter a journal; see `JournalBase.register`."""
        await self._link.write(lambda: self._inner.register(journal, server), "register")

    async def beat(self, journal: str, epoch: int) -> bool:
        """Show that its server lives; see `JournalBase.beat`."""
        return await self._link.call(lambda: self._inner.beat(journal, epoch), "beat")

    async def records(self) -> Sequence[JournalRecord]:
        """All journals; see `JournalBase.records`."""
        return await self._link.call(self._inner.records, "records")

    async def take(self, journal: str, epoch: int, taker: str) -> bool:
        """Take a journal over; see `JournalBase.take`."""
        return await self._link.write(lambda: self._inner.take(journal, epoch, taker), "take")

    async def enter_state(self, journal: str, epoch: int, state: JournalState) -> bool:
        """Change a journal's state; see `JournalBase.enter_state`."""
        return await self._link.write(lambda: self._inner.enter_state(journal, epoch, state), "state")

    async def forget(self, journal: str, epoch: int) -> bool:
        """Remove a journal; see `JournalBase.forget`."""
        return await self._link.write(lambda: self._inner.forget(journal, epoch), "forget")

    async def open_flush(self, journal: str, epoch: int) -> SlowFlush:
        """Begin to decide entries; see `JournalBase.open_flush`."""
        opened: list[MemoryFlush] = []

        async def act() -> MemoryFlush:
            flush = await self._inner.open_flush(journal, epoch)
            opened.append(flush)
            self._open[flush] = None
            return flush

        def lost() -> None:
            for flush in opened:
                self.lose(flush)

        flush = await self._link.call(act, "opening a flush", lost=lost)
        return SlowFlush(flush, self, self._link)

    async def rows_and_marks(
        self, keys: Sequence[Key], journals: Sequence[str]
    ) -> tuple[Mapping[Key, Row], Mapping[str, SeqSet]]:
        """Rows, and what is decided; see `JournalBase.rows_and_marks`."""
        return await self._link.call(lambda: self._inner.rows_and_marks(keys, journals), "rows and marks")

    async def letters(self, *, limit: int) -> Sequence[DeadWrite]:
        """Writes that were given up; see `JournalBase.letters`."""
        return await self._link.call(lambda: self._inner.letters(limit=limit), "letters")

    async def letter(self, identifier: int) -> DeadWrite | None:
        """One of them; see `JournalBase.letter`."""
        return await self._link.call(lambda: self._inner.letter(identifier), "letter")

    async def discard(self, identifier: int, note: AuditNote | None = None) -> bool:
        """Remove one; see `JournalBase.discard`."""
        return await self._link.write(lambda: self._inner.discard(identifier, note), "discard")

    def lose(self, flush: MemoryFlush) -> None:
        """The connection of a flush is gone, which L3 notices after a while."""
        begun_outside(self._lose(flush))

    def ended(self, flush: MemoryFlush) -> None:
        """A flush has ended."""
        self._open.pop(flush, None)

    def cut(self) -> None:
        """The process is gone, and with it its connections."""
        for flush in list(self._open):
            self.lose(flush)

    async def _lose(self, flush: MemoryFlush) -> None:
        await self._link.world.pause(NOTICE_SECONDS)
        await flush.rollback()
        self.ended(flush)


class SlowFlush:
    """`FlushTransaction` as one process sees it."""

    def __init__(self, inner: MemoryFlush, base: SlowJournalBase, link: SlowLink) -> None:
        self.decided, self.refused = inner.decided, inner.refused
        self._inner = inner
        self._base = base
        self._link = link
        self._is_gone = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """Read rows and lock them; see `FlushTransaction.load`."""
        return await self._statement(lambda: self._inner.load(keys))

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `FlushTransaction.save`."""
        return await self._statement(lambda: self._inner.save(writes))

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `FlushTransaction.delete`."""
        return await self._statement(lambda: self._inner.delete(key, expected=expected))

    async def decide(self, decided: SeqSet, refused: SeqSet, letters: Sequence[Letter]) -> None:
        """Note what this transaction decides; see `FlushTransaction.decide`."""
        await self._statement(lambda: self._inner.decide(decided, refused, letters))

    async def commit(self) -> None:
        """Let all of it take effect; see `FlushTransaction.commit`."""
        self._is_gone = True  # whatever becomes of it, there is nothing to roll back

        async def act() -> None:
            try:
                await self._inner.commit()
            except HoldfastError:
                await self._inner.rollback()
                raise
            finally:
                self._base.ended(self._inner)

        try:
            await self._link.write(act, "commit", lost=lambda: self._base.lose(self._inner))
        except asyncio.CancelledError:  # it may not have been sent
            self._base.lose(self._inner)
            raise

    async def rollback(self) -> None:
        """Let nothing of it take effect; see `FlushTransaction.rollback`."""
        if self._is_gone:
            return
        self._is_gone = True

        async def act() -> None:
            await self._inner.rollback()
            self._base.ended(self._inner)

        with contextlib.suppress(TierUnavailable):
            await self._link.call(act, "rollback", lost=lambda: self._base.lose(self._inner))

    async def _statement(self, act: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        if self._is_gone:
            raise TierUnavailable("the connection is gone")
        try:
            return await self._link.call(act, "statement", lost=self._lose)
        except TierUnavailable:
            self._lose()
            raise

    def _lose(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._base.lose(self._inner)
