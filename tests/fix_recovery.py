"""Recovery's records for tests, and for the suite of their contracts: in memory, over PostgreSQL, mutants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from holdfast.adapters import connection_pool
from holdfast.protocols import Evidence, RecoveryLine
from holdfast.settings import Settings
from holdfast.testing import MemoryAudit, MemoryQuarantine, MemoryRecoveryLog, MemoryStorage
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_recovery import PostgresQuarantine, PostgresRecoveryLog


class MemoryRecords:
    """`RecoveryRecords` over an L3 in memory."""

    def __init__(
        self,
        log: type[MemoryRecoveryLog] = MemoryRecoveryLog,
        quarantine: type[MemoryQuarantine] = MemoryQuarantine,
    ) -> None:
        self.storage = MemoryStorage()
        self._log, self._quarantine = log, quarantine

    def log(self) -> MemoryRecoveryLog:
        return self._log(self.storage)

    def quarantine(self) -> MemoryQuarantine:
        return self._quarantine(self.storage)

    def audit(self) -> MemoryAudit:
        return MemoryAudit(self.storage)


class Repeating(MemoryRecoveryLog):
    """Mutant: a line that is there is added again, behind the others."""

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        marks = self._storage.log.marks
        self._storage.log.marks = marks._replace(
            recovery_log=tuple(each for each in marks.recovery_log if each.line.id not in {line.id for line in lines})
        )
        await super().append(lines, rows_max=rows_max)


class Endless(MemoryRecoveryLog):
    """Mutant: no line ever goes."""

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        await super().append(lines, rows_max=rows_max * 1000)


class Flooded(MemoryQuarantine):
    """Mutant: the same bytes are kept each time."""

    async def keep(self, found: Sequence[Evidence], *, rows_max: int) -> None:
        held = self._storage.log.marks
        self._storage.log.marks = held._replace(quarantine=())
        await super().keep(found, rows_max=rows_max)
        marks = self._storage.log.marks
        self._storage.log.marks = marks._replace(quarantine=(*held.quarantine, *marks.quarantine))


class Unrecorded(MemoryQuarantine):
    """Mutant: who discards an entry leaves no record of it."""

    async def discard(self, number: int, note: Any) -> bool:
        marks = self._storage.log.marks
        left = tuple(each for each in marks.quarantine if each.number != number)
        self._storage.log.marks = marks._replace(quarantine=left)
        return left != marks.quarantine


class PostgresRecords:
    """`RecoveryRecords` over a real PostgreSQL."""

    def __init__(self, settings: Settings) -> None:
        self.pool = connection_pool(settings)

    def log(self) -> PostgresRecoveryLog:
        return PostgresRecoveryLog(self.pool)

    def quarantine(self) -> PostgresQuarantine:
        return PostgresQuarantine(self.pool)

    def audit(self) -> PostgresAudit:
        return PostgresAudit(self.pool)


@pytest.fixture
async def postgres_records(settings: Settings) -> AsyncIterator[PostgresRecords]:
    """Recovery's records in this test's database."""
    records = PostgresRecords(settings)
    yield records
    await records.pool.close()
