"""L3's side of run contexts for tests, and for the suite of the contract: in memory, over PostgreSQL, and mutants."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import msgspec
import pytest

from holdfast.adapters import change_source, connection_pool
from holdfast.clock import SystemClock
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.protocols import JournalState, Row, RunFilter
from holdfast.settings import Settings
from holdfast.testing import MemoryFeed, MemoryJournalBase, MemoryRuns, MemoryStorage
from holdfast.testing.conformance.run_index import ago
from holdfast.tiers.l3_journals import PostgresJournals
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.tiers.l3_runs import PostgresRuns

SNAPSHOTS = 'holdfast."RunContextSnapshot"'


class MemoryIndexes:
    """`RunIndexes` over an L3 in memory."""

    def __init__(self, of: type[MemoryRuns] = MemoryRuns) -> None:
        self.storage = MemoryStorage()
        self._clock = SystemClock()
        self.journals = MemoryJournalBase(self.storage, self._clock)
        self.feed = MemoryFeed(self.storage)
        self._of = of
        self._days: dict[int, dt.date] = {}

    def index(self) -> MemoryRuns:
        return self._of(self.storage, self._clock, dated=self._dated, today=lambda: ago(0))

    async def put_old(self, key: Key, body: bytes, *, months: int) -> None:
        self._days[await self.storage.raw_put(key, body)] = ago(months)

    async def age(self, journal: str, seconds: float) -> None:
        marks = self.storage.log.marks
        record = marks.journals[journal]
        aged = msgspec.structs.replace(record, seconds=record.seconds - seconds)
        self.storage.log.marks = marks.entered(aged)

    def _dated(self, row: Row) -> dt.datetime:
        return dt.datetime.combine(self._days.get(row.version, ago(0)), dt.time(), dt.UTC)


class AnyPlace(MemoryRuns):
    """Mutant: a run's snapshots are all whose id begins with its own."""

    def _snapshots(self) -> Sequence[tuple[str, int, Key, Row]]:
        return [
            (key.id.partition("/")[0], int(re.findall(r"\d{8}", key.id)[-1]), key, row)
            for key, row in sorted(self._rows("run_snapshot"))
        ]


class NewestFirst(MemoryRuns):
    """Mutant: children come as runs are listed."""

    async def children(self, parent_run_id: str, *, after: int, limit: int) -> Sequence[tuple[str, Row]]:
        found = await self.list(RunFilter(parent_run_id=parent_run_id), limit=limit)
        return [each for each in found if each[1].birth > after]


class ByServer(MemoryRuns):
    """Mutant: a run is nobody's only if no live journal is of a server of its owner's name."""

    def _fits(self, which: RunFilter, run: dict[str, Any]) -> bool:
        records = self._storage.log.marks.journals.values()
        live = {record.server for record in records if record.state is JournalState.LIVE}
        return super()._fits(which, run) and not (which.orphaned and run.get("owner") in live)


class ByState(MemoryRuns):
    """Mutant: a journal is live until somebody has taken it over."""

    def _is_live(self, journal: str | None) -> bool:
        record = self._storage.log.marks.journals.get(journal or "")
        return record is not None and record.state is JournalState.LIVE


class DeltasToo(MemoryRuns):
    """Mutant: any snapshot is a base."""

    async def bases(self, run_id: str, *, below: int | None = None, limit: int) -> Sequence[int]:
        numbers = {number for run, number, _, _ in self._snapshots() if run == run_id}
        return sorted((number for number in numbers if below is None or number < below), reverse=True)[:limit]


class NeedsNoBase(MemoryRuns):
    """Mutant: prunes below anything."""

    async def prune(self, run_id: str, below: int, limit: int) -> int:
        base = Key("run_snapshot", f"{run_id}/{below:08}.base")
        if base not in self._storage.log.rows:
            await self._storage.raw_put(base, b"{}")
        return await super().prune(run_id, below, limit)


class DropsAll(MemoryRuns):
    """Mutant: asks no run whether it is ended."""

    def _is_open(self, run_id: str) -> bool:
        return False


class FreesIds(MemoryRuns):
    """Mutant: what was erased can be written again."""

    async def prune(self, run_id: str, below: int, limit: int) -> int:
        pruned = await super().prune(run_id, below, limit)
        self._storage.log.marks = self._storage.log.marks._replace(erased=frozenset())
        return pruned


class PostgresIndexes:
    """`RunIndexes` over a real PostgreSQL."""

    def __init__(self, settings: Settings, sql: Any, stack: AsyncExitStack) -> None:
        self._sql = sql
        pool = connection_pool(settings)
        stack.push_async_callback(pool.close)
        self._pool = pool
        self.storage = PostgresStorage(pool, register([]))
        self.journals = PostgresJournals(pool, register([]))
        self.feed = change_source(settings)
        stack.push_async_callback(self.feed.close)

    def index(self) -> PostgresRuns:
        return PostgresRuns(self._pool)

    async def age(self, journal: str, seconds: float) -> None:
        for table in ("journals", "journal_beats"):
            await self._sql.execute(
                f"UPDATE holdfast.{table} SET changed = changed - $2 * interval '1 second' WHERE journal = $1",  # noqa: S608
                journal,
                float(seconds),
            )

    async def put_old(self, key: Key, body: bytes, *, months: int) -> None:
        at = dt.datetime.combine(ago(months), dt.time(), dt.UTC)
        await self._sql.execute("SELECT holdfast.ensure_month('RunContextSnapshot', $1)", at)
        await self._sql.execute(
            f"INSERT INTO {SNAPSHOTS} (id, document, created_at) VALUES ($1, $2, $3)",  # noqa: S608 - a table's name
            key.id,
            body.decode(),
            at,
        )


@pytest.fixture
async def postgres_indexes(settings: Settings) -> AsyncIterator[PostgresIndexes]:
    """L3's side of run contexts in this test's database."""
    async with AsyncExitStack() as stack:
        sql = await asyncpg.connect(settings.postgres_url)
        stack.push_async_callback(sql.close)
        yield PostgresIndexes(settings, sql, stack)
