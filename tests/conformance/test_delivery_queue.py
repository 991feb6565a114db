"""`DeliveryQueue`: the same suite on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import msgspec
import pytest

from holdfast.adapters import connection_pool
from holdfast.audit.chain import AuditNote
from holdfast.kinds import register
from holdfast.protocols import DeliveryRow
from holdfast.settings import Settings
from holdfast.testing import ManualClock, MemoryAudit, MemoryDeliveries, MemoryStorage
from holdfast.testing.conformance import DeliveryQueueSuite, checks
from holdfast.testing.memory_storage import Turn
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_deliveries import PostgresDeliveries
from holdfast.tiers.l3_postgres import PostgresStorage

ALL = pytest.mark.parametrize("check", checks(DeliveryQueueSuite), ids=lambda check: check.__name__)

AGE = """
UPDATE holdfast."Delivery"
SET due = due - $1 * interval '1 second', leased_until = leased_until - $1 * interval '1 second'"""


class MemoryQueues:
    """`DeliveryQueues` over an L3 in memory."""

    def __init__(self, of: type[MemoryDeliveries] = MemoryDeliveries) -> None:
        self.storage = MemoryStorage()
        self.audit = MemoryAudit(self.storage)
        self._clock = ManualClock()
        self._of = of

    def queue(self) -> MemoryDeliveries:
        return self._of(self.storage, self._clock)

    async def age(self, seconds: float) -> None:
        for key in self.storage.log.rows:  # what has no turn yet is due since it was written
            turn = self.storage.turns.get(key.id)
            if turn is None:
                self.storage.turns[key.id] = Turn(0, self._clock.monotonic(), dead=False, error=None)
        self._clock.advance(seconds)


class PostgresQueues:
    """`DeliveryQueues` over a real PostgreSQL."""

    def __init__(self, settings: Settings, sql: Any, stack: AsyncExitStack) -> None:
        self._sql = sql
        self._pool = connection_pool(settings)
        stack.push_async_callback(self._pool.close)
        self.storage = PostgresStorage(self._pool, register([]))
        self.audit = PostgresAudit(self._pool)

    def queue(self) -> PostgresDeliveries:
        return PostgresDeliveries(self._pool)

    async def age(self, seconds: float) -> None:
        await self._sql.execute(AGE, float(seconds))


class Unleased(MemoryDeliveries):
    """Mutant: who claims tells nobody."""

    async def claim(self, exporters: Collection[str], *, limit: int, lease_seconds: float) -> Sequence[DeliveryRow]:
        return await super().claim(exporters, limit=limit, lease_seconds=0.0)


class AnyAttempt(MemoryDeliveries):
    """Mutant: who failed is believed, whoever tries now."""

    async def failed(self, row: DeliveryRow, error: str, *, again_seconds: float | None) -> bool:
        held = self._row(row.id)
        return held is not None and await super().failed(held, error, again_seconds=again_seconds)


class AnyBreak(MemoryDeliveries):
    """Mutant: who breaks off is believed, whoever tries now."""

    async def broken_off(self, row: DeliveryRow) -> bool:
        held = self._row(row.id)
        return held is not None and await super().broken_off(held)


class Counted(MemoryDeliveries):
    """Mutant: an attempt that is broken off counts."""

    async def broken_off(self, row: DeliveryRow) -> bool:
        held = self._leased(row)
        if held is not None:
            self._note(msgspec.structs.replace(held, lease=0.0), 0.0)
        return held is not None


class AtOnce(MemoryDeliveries):
    """Mutant: what is tried anew is due, whoever is at it."""

    async def retry(self, identifier: str, note: AuditNote | None = None) -> bool:
        done = await super().retry(identifier, note)
        if (held := self._row(identifier)) is not None:
            self._note(held, 0.0)
        return done


class Numbered(MemoryDeliveries):
    """Mutant: an attempt is known by its number alone."""

    async def failed(self, row: DeliveryRow, error: str, *, again_seconds: float | None) -> bool:
        held = self._row(row.id)
        known = held is not None and held.attempts == row.attempts
        row = msgspec.structs.replace(row, lease=held.lease) if held is not None and known else row
        return await super().failed(row, error, again_seconds=again_seconds)


class AnyBirth(MemoryDeliveries):
    """Mutant: one of the same id is taken for the one that was delivered."""

    async def delivered(self, identifier: str, birth: int) -> bool:
        return await self.discard(identifier)


class AtLeastOnce(MemoryDeliveries):
    """Mutant: what is not there is recorded too."""

    async def discard(self, identifier: str, note: AuditNote | None = None) -> bool:
        if note is not None:
            await MemoryAudit(self._storage).append(note)
        return await super().discard(identifier)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(DeliveryQueueSuite(MemoryQueues()))


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (Unleased, DeliveryQueueSuite.check_nobody_claims_what_another_has),
        (AnyAttempt, DeliveryQueueSuite.check_who_lost_the_lease_tells_nothing),
        (AnyBreak, DeliveryQueueSuite.check_who_lost_the_lease_breaks_nothing_off),
        (Counted, DeliveryQueueSuite.check_an_attempt_that_is_broken_off_is_none),
        (AtOnce, DeliveryQueueSuite.check_a_retry_waits_for_who_is_at_it),
        (Numbered, DeliveryQueueSuite.check_an_attempt_of_before_a_retry_is_another),
        (AnyBirth, DeliveryQueueSuite.check_what_was_delivered_is_gone),
        (AtLeastOnce, DeliveryQueueSuite.check_what_is_done_by_hand_is_recorded_if_it_is_done),
    ],
    ids=lambda each: each.__name__,
)
async def test_the_suite_catches(mutant: type[MemoryDeliveries], check: Callable[[Any], Any]) -> None:
    """With one mechanism switched off a check fails."""
    with pytest.raises(AssertionError):
        await check(DeliveryQueueSuite(MemoryQueues(mutant)))


@pytest.fixture
async def postgres_queues(settings: Settings) -> AsyncIterator[PostgresQueues]:
    """L3's deliveries in this test's database."""
    async with AsyncExitStack() as stack:
        sql = await asyncpg.connect(settings.postgres_url)
        stack.push_async_callback(sql.close)
        yield PostgresQueues(settings, sql, stack)


@ALL
async def test_postgres(check: Callable[[Any], Any], postgres_queues: PostgresQueues) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(DeliveryQueueSuite(postgres_queues))
