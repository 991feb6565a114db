"""The door over tiers in memory."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Unpack

from holdfast.clock import Clock
from holdfast.errors import SettingsError
from holdfast.flows import Flows
from holdfast.given import Given
from holdfast.invalidation.rules import Rule
from holdfast.invalidation.rules import check as check_rules
from holdfast.kinds import Kind, register
from holdfast.protocols import (
    ChangeSource,
    EventTransport,
    FenceSink,
    JournalStreams,
    SharedCache,
    Storage,
)
from holdfast.protocols.guards import StorageGuard, TierGuard
from holdfast.recovery.escalation_hooks import EscalationHook
from holdfast.run_context.exports import Exporter, Transformation
from holdfast.settings import Settings
from holdfast.store import StateStore
from holdfast.testing.clock import ManualClock
from holdfast.testing.l3_sides import L3Sides, beneath, sides_of
from holdfast.testing.memory_cache import MemoryCache
from holdfast.testing.memory_events import EventHub, MemoryEvents
from holdfast.testing.memory_feed import MemoryFeed
from holdfast.testing.memory_guard import MemoryGuard
from holdfast.testing.memory_journals import JournalHub, MemoryJournals
from holdfast.testing.memory_storage import MemoryStorage


class Beside(L3Sides, total=False):
    """What else a server may be given; see `Given`."""

    window_seconds: float
    untrusted: Mapping[str, str]
    transformations: Mapping[str, Transformation]
    exporters: Mapping[str, Exporter]
    escalation_hooks: Mapping[str, EscalationHook]
    server: str


@asynccontextmanager
async def connect_flows(
    *,
    kinds: Iterable[Kind[Any]] = (),
    l2: SharedCache | None = None,
    l3: Storage | None = None,
    feed: ChangeSource | None = None,
    relay: tuple[ChangeSource, FenceSink] | None = None,
    events: EventTransport | None = None,
    streams: JournalStreams | None = None,
    l2_guard: TierGuard | None = None,
    l3_guard: StorageGuard | None = None,
    clock: Clock | None = None,
    settings: Settings | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    seed: int = 0,
    rules: Iterable[Rule] = (),
    **beside: Unpack[Beside],
) -> AsyncIterator[Flows]:
    """A server's inside over the given tiers, for tests that look at caches and counters.

    Args:
        feed: by default that of an L3 in memory, which wrappers show as `inner`; any other L3 needs its own.
        relay: by default over the given L2 and L3 if both are in memory.
        events, streams: by default in memory, of this server alone.
        l2_guard, l3_guard: by default L2 and L3 answer unless, in memory, they are `away`.
        beside: sides of L3, by default as they are in memory or in PostgreSQL, while any other L3 needs its own; and
            what else a server may be given.
    """
    registered, clock, settings = register(kinds), clock or ManualClock(), settings or Settings()
    storage = l3 if l3 is not None else MemoryStorage(registered.values(), seed=seed)
    cache = l2 if l2 is not None else MemoryCache(clock)
    given: Beside = {**beside, **sides_of(storage, registered, clock, settings, beside)}
    flows = Flows(
        Given(
            settings=settings,
            kinds=registered,
            l2=cache,
            l3=storage,
            feed=feed or _feed_of(storage),
            relay=relay or _relay_over(storage, cache),
            events=events or MemoryEvents(EventHub(clock)),
            streams=streams or MemoryJournals(JournalHub()),
            l2_guard=l2_guard or MemoryGuard(beneath(cache)),
            l3_guard=l3_guard or MemoryGuard(beneath(storage)),
            new_id=lambda: uuid.uuid4().hex,  # servers of one test must differ, whatever their seed
            entropy=os.urandom,
            wall=clock.monotonic,
            coherence=(await storage.load([])).coherence,
            clock=clock,
            sleep=sleep,
            random_=random.Random(seed),  # noqa: S311 - jitter of a test must repeat
            rules=check_rules(rules, registered),
            **given,
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
    l3 = beneath(storage)
    if not isinstance(l3, MemoryStorage):
        raise SettingsError("connect_flows: an L3 that is not in memory needs its change feed: feed=...")
    return MemoryFeed(l3)


def _relay_over(storage: Storage, cache: SharedCache) -> tuple[MemoryFeed, MemoryCache] | None:
    l3, sink = beneath(storage), beneath(cache)
    if isinstance(l3, MemoryStorage) and isinstance(sink, MemoryCache):
        return MemoryFeed(l3), sink
    return None
