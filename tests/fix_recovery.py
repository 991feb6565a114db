"""Recovery's records for tests, and for the suite of their contracts: in memory, over PostgreSQL, mutants."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_voids import until_trusted
from holdfast.adapters import connection_pool
from holdfast.documents.escalation import EscalationStatus
from holdfast.errors import RowRefused
from holdfast.events import Event
from holdfast.flows import Flows
from holdfast.invalidation.topics import RECOVERY_COMPLETED
from holdfast.kinds import Kind, register
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols import Evidence, RecoveryLine
from holdfast.protocols.escalations import Asked, EscalationRequest
from holdfast.settings import Settings
from holdfast.testing import (
    ManualClock,
    MemoryAudit,
    MemoryCache,
    MemoryQuarantine,
    MemoryRecoveryLog,
    MemoryStorage,
)
from holdfast.testing.door import connect_flows
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


class Forgetful(MemoryQuarantine):
    """Mutant: what is kept again is counted again."""

    async def keep(self, found: Sequence[Evidence], *, rows_max: int) -> None:
        await super().keep([msgspec.structs.replace(each, met="") for each in found], rows_max=rows_max)


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


class Person:
    """`FaultEscalator` that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, Any]] = {}

    async def escalate(self, request: EscalationRequest) -> Asked:
        self.asked[request.recovery_id] = {
            "type": request.error_type,
            "subject": request.subject,
            "failed": request.failed,
            "evidence": request.evidence,
            "tried": [(each.step, each.outcome, each.detail) for each in request.tried],
            "seconds": request.timeout_seconds,
            "options": request.options,
            "fallback": request.fallback,
            "cost": request.cost,
            "swarm": request.swarm_id,
            "run": request.run_id,
        }
        return Asked(f"e{len(self.asked)}", EscalationStatus.OPEN)


class Nobody(Person):
    """`FaultEscalator` that cannot ask."""

    async def escalate(self, request: EscalationRequest) -> Asked:
        raise RowRefused("it cannot be kept that somebody is asked")


class Modes:
    """`Degrading` that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[float | None, str]] = []

    def degrade(self, seconds: float | None, why: str, *, subject: str = "") -> None:
        self.told.append((seconds, why))


class Scene:
    """A server over tiers in memory, whose recoveries do not pause.

    Attributes:
        events: what it told its subscribers of recovery.
    """

    def __init__(self, flows: Flows, l2: MemoryCache, l3: MemoryStorage, clock: ManualClock) -> None:
        self.flows, self.l2, self.l3, self.clock = flows, l2, l3, clock
        self.person, self.modes = Person(), Modes()
        self.events: list[Event] = []
        self.log = MemoryRecoveryLog(l3)
        self.quarantine = MemoryQuarantine(l3)

    @property
    def counters(self) -> RecoveryCounters:
        return self.flows.counters.recovery

    async def hear(self, event: Event) -> None:
        self.events.append(event)

    async def so(self, condition: Callable[[], bool]) -> None:
        """Wait until it is so."""

        async def is_so() -> bool:
            return condition()

        await until(is_so)

    async def completed(self, number: int = 1) -> dict[str, Any]:
        """The data of the last of so many ends of recoveries."""
        await self.so(lambda: len(self.ends) >= number)
        assert len(self.ends) == number
        return dict(self.ends[-1].data)

    @property
    def ends(self) -> list[Event]:
        return [each for each in self.events if each.type == RECOVERY_COMPLETED]

    async def lines(self) -> list[tuple[str, str]]:
        """Steps and outcomes in the recovery log of L3, once all of them are there."""
        await self.so(lambda: self.flows.recovery_log.waiting == 0)
        return [(each.line.step, each.line.outcome) for each in await self.log.list(limit=1000)]


def hurry(flows: Flows, person: Person | None = None, modes: Modes | None = None) -> None:
    """Let a server's recoveries not pause, and give them others to ask, and to tell of modes, than its own."""

    async def soon(_: float) -> None:
        await asyncio.sleep(0.001)

    manager = flows.recovery
    manager._sleep = flows.recovery_log._sleep = soon
    means = manager._handlers._means
    manager._handlers._means = dataclasses.replace(
        means, sleep=soon, escalator=person or means.escalator, degrading=modes or means.degrading
    )


@asynccontextmanager
async def scene(kinds: Sequence[Kind[Any]] = (), l2: type[MemoryCache] = MemoryCache) -> AsyncIterator[Scene]:
    """A server whose L2 is trusted.

    Args:
        l2: what is to be its L2.
    """
    clock, l3 = ManualClock(), MemoryStorage(register(kinds).values())
    cache = l2(clock)
    async with connect_flows(kinds=kinds, l2=cache, l3=l3, clock=clock) as flows:
        await until_trusted(cache, flows, clock)
        made = Scene(flows, cache, l3, clock)
        hurry(flows, made.person, made.modes)
        await flows.bus.subscribe("state/recovery/*", made.hear).ready()
        yield made
