"""What servers of a test know of journals, for the suite of the contract: in memory, over PostgreSQL, and mutants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from holdfast.adapters import connection_pool
from holdfast.clock import SystemClock
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.protocols import Isolation, JournalRecord
from holdfast.settings import Settings
from holdfast.testing import MemoryJournalBase, MemoryStorage
from holdfast.testing.conformance.journal_harness import PATIENT_SECONDS
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_journals import PostgresJournals
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.tiers.l3_statements import quote


class MemoryBases:
    """`JournalBases` over an L3 in memory."""

    def __init__(self, of: type[MemoryJournalBase] = MemoryJournalBase) -> None:
        self._refused: set[Key] = set()
        self._of = of
        self.storage = MemoryStorage(refuses=lambda key, _body: key in self._refused)

    def base(self, **limits: Any) -> MemoryJournalBase:
        return self._of(self.storage, SystemClock(), **limits)

    async def refuse(self, key: Key) -> None:
        self._refused.add(key)


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


class WaitsForRows(MemoryJournalBase):
    """Mutant: a flush waits for a row as long as it takes."""

    def __init__(self, storage: MemoryStorage, clock: SystemClock, **limits: Any) -> None:
        super().__init__(storage, clock, **limits, row_seconds=3600.0)


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


class PostgresBases:
    """`JournalBases` over a real PostgreSQL; every server has a pool of its own."""

    def __init__(self, settings: Settings, sql: Any, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._sql = sql
        self._stack = stack
        self.storage = PostgresStorage(self._pool(), register([]))

    def base(
        self, *, idle_seconds: float = PATIENT_SECONDS, lock_seconds: float = PATIENT_SECONDS, letters_max: int = 1000
    ) -> PostgresJournals:
        return PostgresJournals(
            self._pool(),
            register([]),
            idle_ms=round(idle_seconds * 1000),
            lock_ms=round(lock_seconds * 1000),
            letters_max=letters_max,
        )

    async def refuse(self, key: Key) -> None:
        table = quote(register([])[key.kind].table)
        await self._sql.execute(f"ALTER TABLE holdfast.{table} ADD CHECK (id <> '{key.id}')")

    def _pool(self) -> ConnectionPool:
        pool = connection_pool(self._settings)
        self._stack.push_async_callback(pool.close)
        return pool


@pytest.fixture
async def postgres_bases(settings: Settings) -> AsyncIterator[PostgresBases]:
    """Servers on this test's database."""
    async with AsyncExitStack() as stack:
        sql = await asyncpg.connect(settings.postgres_url)
        stack.push_async_callback(sql.close)
        yield PostgresBases(settings, sql, stack)
