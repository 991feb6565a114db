"""The door over tiers in memory."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from holdfast.clock import Clock
from holdfast.errors import SettingsError
from holdfast.flows import Flows
from holdfast.given import Given
from holdfast.invalidation.fence_map import WINDOW_SECONDS
from holdfast.invalidation.rules import Rule
from holdfast.invalidation.rules import check as check_rules
from holdfast.kinds import ESCALATION, REVIEW, Kind, register
from holdfast.protocols import (
    AuditRows,
    ChangeSource,
    DecisionIndex,
    DeliveryQueue,
    EventTransport,
    FenceSink,
    JournalBase,
    JournalStreams,
    KeyRows,
    QuarantineRows,
    RecoveryLogRows,
    RunIndex,
    SharedCache,
    Storage,
)
from holdfast.protocols.guards import StorageGuard, TierGuard
from holdfast.recovery.escalation_hooks import EscalationHook
from holdfast.run_context.exports import Exporter, Transformation
from holdfast.settings import Settings
from holdfast.store import StateStore
from holdfast.testing.clock import ManualClock
from holdfast.testing.memory_audit import MemoryAudit
from holdfast.testing.memory_cache import MemoryCache
from holdfast.testing.memory_decisions import MemoryDecisions
from holdfast.testing.memory_deliveries import MemoryDeliveries
from holdfast.testing.memory_events import EventHub, MemoryEvents
from holdfast.testing.memory_feed import MemoryFeed
from holdfast.testing.memory_guard import MemoryGuard
from holdfast.testing.memory_journal_base import MemoryJournalBase
from holdfast.testing.memory_journals import JournalHub, MemoryJournals
from holdfast.testing.memory_keys import MemoryKeys
from holdfast.testing.memory_recovery import MemoryQuarantine, MemoryRecoveryLog
from holdfast.testing.memory_runs import MemoryRuns
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_decisions import PostgresDecisions
from holdfast.tiers.l3_deliveries import PostgresDeliveries
from holdfast.tiers.l3_journals import PostgresJournals
from holdfast.tiers.l3_keys import PostgresKeys
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.tiers.l3_recovery import PostgresQuarantine, PostgresRecoveryLog
from holdfast.tiers.l3_runs import PostgresRuns


@asynccontextmanager
async def connect_flows(
    *,
    kinds: Iterable[Kind[Any]] = (),
    l2: SharedCache | None = None,
    l3: Storage | None = None,
    feed: ChangeSource | None = None,
    relay: tuple[ChangeSource, FenceSink] | None = None,
    events: EventTransport | None = None,
    journals: JournalBase | None = None,
    streams: JournalStreams | None = None,
    runs: RunIndex | None = None,
    key_rows: KeyRows | None = None,
    reviews: DecisionIndex | None = None,
    escalations: DecisionIndex | None = None,
    audit: AuditRows | None = None,
    recovery_log: RecoveryLogRows | None = None,
    quarantine: QuarantineRows | None = None,
    clock: Clock | None = None,
    settings: Settings | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    seed: int = 0,
    window_seconds: float = WINDOW_SECONDS,
    untrusted: Mapping[str, str] = MappingProxyType({}),
    rules: Iterable[Rule] = (),
    deliveries: DeliveryQueue | None = None,
    transformations: Mapping[str, Transformation] = MappingProxyType({}),
    exporters: Mapping[str, Exporter] = MappingProxyType({}),
    l2_guard: TierGuard | None = None,
    l3_guard: StorageGuard | None = None,
    escalation_hooks: Mapping[str, EscalationHook] = MappingProxyType({}),
    server: str = "a server",
) -> AsyncIterator[Flows]:
    """A server's inside over the given tiers, for tests that look at caches and counters.

    Args:
        feed: by default that of an L3 in memory, which wrappers show as `inner`; any other L3 needs its own.
        relay: by default over the given L2 and L3 if both are in memory.
        events, streams: by default in memory, of this server alone.
        journals, runs, key_rows, reviews, escalations, audit, deliveries, recovery_log, quarantine: by default those of
            the L3, in memory or in PostgreSQL; any other L3 needs its own.
        l2_guard, l3_guard: by default L2 and L3 answer unless, in memory, they are `away`.
        untrusted: kinds that no cache may answer for, with the reason.
        rules: invalidation rules.
        transformations: of what leaves runs, and `exporters`: who bring it to external systems, by name.
        escalation_hooks: who are told of escalations, by name.
        window_seconds: how long it remembers a change, to judge L2 by.
        server: its name.
    """
    # Long because a server is given so much: each argument is one of them, which to pass on would say all twice more.
    registered = register(kinds)
    clock = clock or ManualClock()
    storage = l3 if l3 is not None else MemoryStorage(registered.values(), seed=seed)
    cache = l2 if l2 is not None else MemoryCache(clock)
    flows = Flows(
        Given(
            settings=settings or Settings(),
            kinds=registered,
            l2=cache,
            l3=storage,
            feed=feed or _feed_of(storage),
            relay=relay or _relay_over(storage, cache),
            events=events or MemoryEvents(EventHub(clock)),
            journals=journals or _journals_of(storage, registered, clock),
            streams=streams or MemoryJournals(JournalHub()),
            runs=runs or _runs_of(storage, clock, settings or Settings()),
            key_rows=key_rows or _key_rows_of(storage),
            entropy=os.urandom,
            reviews=reviews or _decisions_of(storage, clock, REVIEW),
            escalations=escalations or _decisions_of(storage, clock, ESCALATION),
            audit=audit or _audit_of(storage),
            recovery_log=recovery_log or _recovery_log_of(storage),
            quarantine=quarantine or _quarantine_of(storage),
            new_id=lambda: uuid.uuid4().hex,  # servers of one test must differ, whatever their seed
            wall=clock.monotonic,
            coherence=(await storage.load([])).coherence,
            clock=clock,
            sleep=sleep,
            random_=random.Random(seed),  # noqa: S311 - jitter of a test must repeat
            window_seconds=window_seconds,
            untrusted=untrusted,
            rules=check_rules(rules, registered),
            deliveries=deliveries or _deliveries_of(storage, clock),
            l2_guard=l2_guard or MemoryGuard(_beneath(cache)),
            l3_guard=l3_guard or MemoryGuard(_beneath(storage)),
            transformations=transformations,
            exporters=exporters,
            escalation_hooks=escalation_hooks,
            server=server,
        )
    )
    try:
        await flows.start()
        yield flows
    finally:
        await flows.stop()


@asynccontextmanager
async def connect(
    *,
    kinds: Iterable[Kind[Any]] = (),
    l2: MemoryCache | None = None,
    l3: MemoryStorage | None = None,
    events: EventHub | None = None,
    journals: JournalHub | None = None,
    clock: Clock | None = None,
    settings: Settings | None = None,
    seed: int = 0,
) -> AsyncIterator[StateStore]:
    """A server over tiers in memory.

    Args:
        l2, l3, events, journals: share them between several servers of one test; each server has its own L1 anyway.
        clock: for TTLs and ages; by default one that stands still.
        seed: of everything random.
    """
    clock = clock or ManualClock()
    transport, streams = MemoryEvents(events or EventHub(clock)), MemoryJournals(journals or JournalHub())
    async with connect_flows(
        kinds=kinds, l2=l2, l3=l3, events=transport, streams=streams, clock=clock, settings=settings, seed=seed
    ) as flows:
        yield flows.store


def _feed_of(storage: Storage) -> MemoryFeed:
    beneath = _beneath(storage)
    if not isinstance(beneath, MemoryStorage):
        raise SettingsError("connect_flows: an L3 that is not in memory needs its change feed: feed=...")
    return MemoryFeed(beneath)


def _l3_beneath(storage: Storage, needs: str) -> MemoryStorage | PostgresStorage:
    """The L3 whose sides are known here; of any other the caller has to give what it `needs`."""
    beneath = _beneath(storage)
    if isinstance(beneath, MemoryStorage | PostgresStorage):
        return beneath
    raise SettingsError(f"connect_flows: this L3 needs {needs}=...")


def _journals_of(storage: Storage, kinds: Mapping[str, Kind[Any]], clock: Clock) -> JournalBase:
    l3 = _l3_beneath(storage, "what it knows of journals: journals")
    return MemoryJournalBase(l3, clock) if isinstance(l3, MemoryStorage) else PostgresJournals(l3.pool, kinds)


def _runs_of(storage: Storage, clock: Clock, settings: Settings) -> RunIndex:
    l3, seconds = _l3_beneath(storage, "its side of run contexts: runs"), settings.write_behind_takeover_seconds
    if isinstance(l3, MemoryStorage):
        return MemoryRuns(l3, clock, dead_after_seconds=seconds)
    return PostgresRuns(l3.pool, dead_after_seconds=seconds)


def _key_rows_of(storage: Storage) -> KeyRows:
    l3 = _l3_beneath(storage, "its data keys: key_rows")
    return MemoryKeys(l3) if isinstance(l3, MemoryStorage) else PostgresKeys(l3.pool)


def _decisions_of(storage: Storage, clock: Clock, kind: Kind[Any]) -> DecisionIndex:
    l3 = _l3_beneath(storage, f"its side of {kind.name}s: {kind.name}s")
    return MemoryDecisions(l3, clock, kind) if isinstance(l3, MemoryStorage) else PostgresDecisions(l3.pool, kind)


def _audit_of(storage: Storage) -> AuditRows:
    l3 = _l3_beneath(storage, "its audit log: audit")
    return MemoryAudit(l3) if isinstance(l3, MemoryStorage) else PostgresAudit(l3.pool)


def _recovery_log_of(storage: Storage) -> RecoveryLogRows:
    l3 = _l3_beneath(storage, "its recovery log: recovery_log")
    return MemoryRecoveryLog(l3) if isinstance(l3, MemoryStorage) else PostgresRecoveryLog(l3.pool)


def _quarantine_of(storage: Storage) -> QuarantineRows:
    l3 = _l3_beneath(storage, "its quarantine: quarantine")
    return MemoryQuarantine(l3) if isinstance(l3, MemoryStorage) else PostgresQuarantine(l3.pool)


def _deliveries_of(storage: Storage, clock: Clock) -> DeliveryQueue:
    l3 = _l3_beneath(storage, "what it knows of deliveries: deliveries")
    return MemoryDeliveries(l3, clock) if isinstance(l3, MemoryStorage) else PostgresDeliveries(l3.pool)


def _relay_over(storage: Storage, cache: SharedCache) -> tuple[MemoryFeed, MemoryCache] | None:
    beneath, sink = _beneath(storage), _beneath(cache)
    if isinstance(beneath, MemoryStorage) and isinstance(sink, MemoryCache):
        return MemoryFeed(beneath), sink
    return None


def _beneath(tier: object) -> object:
    while (inner := getattr(tier, "inner", None)) is not None:
        tier = inner
    return tier
