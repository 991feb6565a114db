"""What servers of a test know of journals, for the suite of the contract: in memory, and over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from holdfast.clock import SystemClock
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.node import connection_pool
from holdfast.settings import Settings
from holdfast.testing import MemoryJournalBase, MemoryStorage
from holdfast.testing.conformance.journal_harness import PATIENT_SECONDS
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
