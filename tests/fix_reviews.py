"""Reviews and the audit log for tests, and for the suites of their contracts: in memory, over PostgreSQL, mutants."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.adapters import connection_pool
from holdfast.audit.chain import GENESIS, AuditEntry, AuditNote, Link, chained
from holdfast.documents import ContextVariable
from holdfast.kinds import REVIEW, Kind, register
from holdfast.settings import Settings
from holdfast.testing import ManualClock, MemoryAudit, MemoryDecisions, MemoryStorage
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_decisions import PostgresDecisions
from holdfast.tiers.l3_postgres import PostgresStorage

PARENT = ContextVariable(key="site", value="north", clock="000000000001.0000.a")
CHILD = ContextVariable(key="site", value="south", clock="000000000002.0000.b")


class MemoryTiers:
    """`AuditLogs` and `DecisionIndexes` over an L3 in memory."""

    def __init__(
        self,
        kind: Kind[Any] = REVIEW,
        audit: type[MemoryAudit] = MemoryAudit,
        decisions: type[MemoryDecisions] = MemoryDecisions,
    ) -> None:
        self.kind = kind.name
        self.storage = MemoryStorage()
        self.clock = ManualClock(100_000.0)
        self.index = decisions(self.storage, self.clock, kind)
        self._audit = audit

    def rows(self) -> MemoryAudit:
        return self._audit(self.storage)


class Unnumbered(MemoryAudit):
    """Mutant: an entry follows what this server saw last."""

    def __init__(self, storage: MemoryStorage) -> None:
        super().__init__(storage)
        self._last = GENESIS

    async def append(self, note: AuditNote) -> None:
        entry = chained(self._last, note, dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
        self._last = Link(entry.number, entry.hash)
        marks = self._storage.log.marks
        self._storage.log.marks = marks._replace(audit=(*marks.audit, entry), audit_head=self._last)


class Cut(MemoryAudit):
    """Mutant: tells entries as the head of a log that has lost its end."""

    async def head(self) -> Link:
        entries: tuple[AuditEntry, ...] = self._entries[:-1]
        return Link(entries[-1].number, entries[-1].hash) if entries else GENESIS


class Undecided(MemoryDecisions):
    """Mutant: what is decided is overdue still."""

    def _rows(self) -> Any:
        for name, row, fields in super()._rows():
            yield name, row, {**fields, "status": "open"}


class Forgetful(MemoryDecisions):
    """Mutant: what is old goes, though its run may need it."""

    def _goes_on(self, run_id: object) -> bool:
        return False


class PostgresTiers:
    """`AuditLogs` and `DecisionIndexes` over a real PostgreSQL."""

    def __init__(self, settings: Settings, kind: Kind[Any] = REVIEW) -> None:
        self.kind = kind.name
        self.pool = connection_pool(settings)
        self.storage = PostgresStorage(self.pool, register([]))
        self.index = PostgresDecisions(self.pool, kind)

    def rows(self) -> PostgresAudit:
        return PostgresAudit(self.pool)


@pytest.fixture
async def postgres_tiers(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[PostgresTiers]:
    """The audit log and reviews in this test's database, or another kind that is decided once."""
    tiers = PostgresTiers(settings, getattr(request, "param", REVIEW))
    yield tiers
    await tiers.pool.close()
