"""`JournalBase`: the same suite on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fix_journals import MemoryBases, PostgresBases
from holdfast.clock import SystemClock
from holdfast.protocols import Isolation, JournalRecord
from holdfast.testing import MemoryJournalBase, MemoryStorage
from holdfast.testing.conformance import JournalBaseSuite, checks
from holdfast.testing.memory_journal_base import MemoryFlush

ALL = pytest.mark.parametrize("check", checks(JournalBaseSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(JournalBaseSuite(MemoryBases()))


class AnyEpoch(MemoryJournalBase):
    """Mutant: whoever asks may decide."""

    def _owned(self, journal: str, epoch: int) -> JournalRecord:
        record = self._record(journal)
        return super()._owned(journal, epoch if record is None else record.epoch)


class NoLock(MemoryJournalBase):
    """Mutant: a flush does not lock its journal."""

    async def open_flush(self, journal: str, epoch: int) -> MemoryFlush:
        transaction = await self._storage.open_transaction(Isolation.READ_COMMITTED)
        record = self._owned(journal, epoch)
        return MemoryFlush(transaction, record, self._clock, self._idle_seconds, self._letters_max)


class NeverIdle(MemoryJournalBase):
    """Mutant: a flush may be idle for ever."""

    def __init__(self, storage: MemoryStorage, clock: SystemClock, **limits: Any) -> None:
        super().__init__(storage, clock, **limits | {"idle_seconds": 3600.0})


class DecidesApart(MemoryJournalBase):
    """Mutant: what a flush decides is noted at once, in a transaction of its own."""

    async def open_flush(self, journal: str, epoch: int) -> MemoryFlush:
        flush = await super().open_flush(journal, epoch)
        decide, inside = flush.decide, flush._transaction

        async def decide_apart(*decided: Any) -> None:
            async with self._storage.begin() as flush._transaction:
                await decide(*decided)
            flush._transaction = inside

        flush.decide = decide_apart  # type: ignore[method-assign, assignment]
        return flush


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (AnyEpoch, JournalBaseSuite.check_only_the_owner_decides),
        (AnyEpoch, JournalBaseSuite.check_a_flush_that_waited_while_it_was_replaced),
        (NoLock, JournalBaseSuite.check_a_flush_under_way_is_waited_for),
        (NoLock, JournalBaseSuite.check_flushes_of_a_journal_follow_each_other),
        (DecidesApart, JournalBaseSuite.check_rows_and_what_is_decided_commit_together),
        (DecidesApart, JournalBaseSuite.check_rows_and_marks_are_of_one_moment),
        (NeverIdle, JournalBaseSuite.check_an_idle_flush_is_ended),
    ],
    ids=lambda each: each.__name__,
)
async def test_the_suite_catches(mutant: type[MemoryJournalBase], check: Callable[[Any], Any]) -> None:
    """With one mechanism switched off a check fails, or never ends."""
    with pytest.raises((AssertionError, TimeoutError)):
        async with asyncio.timeout(1.0):
            await check(JournalBaseSuite(MemoryBases(mutant)))


@ALL
async def test_postgres(check: Callable[[Any], Any], postgres_bases: PostgresBases) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(JournalBaseSuite(postgres_bases))
