"""Servers that write behind over one L2 and one L3 in memory, for schedules in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fix_races import until
from holdfast import Consistency, Durability, Increment, Settings, Swarm
from holdfast.clock import Clock
from holdfast.errors import TierUnavailable
from holdfast.flows import Flows
from holdfast.kinds import BUILT_IN
from holdfast.protocols import Appended, JournalBase, JournalState, JournalStreams
from holdfast.scopes.scope import Scope
from holdfast.store import StateStore
from holdfast.testing import EventHub, JournalHub, MemoryCache, MemoryEvents, MemoryJournalBase, MemoryJournals
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.write_behind.lives import Life

ACCEPTED, JOURNALED, COMMITTED = Durability.ACCEPTED, Durability.JOURNALED, Durability.COMMITTED
ONE = Increment("stats", "total_tool_calls")
CALM: dict[str, Any] = {"write_behind_quiet_seconds": 3600.0, "write_behind_age_seconds": 3600.0}
"""Nothing is due before it is waited for."""


class Servers:
    """Makes servers that share their tiers.

    Attributes:
        l3: theirs; `base`: what it knows of journals; `hub`: the L2 that keeps them; `clock`.
    """

    def __init__(self, clock: Clock) -> None:
        self.l3 = MemoryStorage(BUILT_IN)
        self.base = MemoryJournalBase(self.l3, clock)
        self.hub = JournalHub()
        self._l2 = MemoryCache(clock)
        self._events = EventHub(clock)
        self.clock = clock

    def server(
        self, *, journals: JournalBase | None = None, streams: JournalStreams | None = None, **settings: Any
    ) -> AbstractAsyncContextManager[Flows]:
        """One more, with these settings."""
        return connect_flows(
            l2=self._l2,
            l3=self.l3,
            events=MemoryEvents(self._events),
            journals=journals or self.base,
            streams=streams or MemoryJournals(self.hub),
            clock=self.clock,
            settings=Settings(journal_replicas=0, verify_share=0.0, **settings),
        )

    async def state(self, journal: str) -> JournalState:
        """Of a journal, in L3."""
        return next(each.state for each in await self.base.records() if each.journal == journal)

    async def until_drained(self, journal: str) -> None:
        """Wait until another server has decided all that was in a journal."""

        async def drained() -> bool:
            return await self.state(journal) is JournalState.DRAINED

        await until(drained)


class GatedJournals(MemoryJournals):
    """Appends when its gate is open.

    Attributes:
        fault: raised instead.
    """

    def __init__(self, hub: JournalHub) -> None:
        super().__init__(hub)
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def append(
        self, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return await super().append(journal, entries, expected=expected, keep_from=keep_from)


class GatedBase(MemoryJournalBase):
    """Takes no flushes while it is `away`; all else goes on."""

    away = False

    async def open_flush(self, journal: str, epoch: int) -> MemoryFlush:
        if self.away:
            raise TierUnavailable("L3: away")
        return await super().open_flush(journal, epoch)


def life_of(flows: Flows) -> Life:
    """The one that accepts writes now."""
    life = flows.write_behind.lives.current
    assert life is not None
    return life


async def begin(state: StateStore, *keys: str) -> None:
    """Put rows, and let this server's L1 hold them."""
    for key in keys:
        await state.swarms.put(key, Swarm(goal="old"))
        await state.swarms.get(key)


async def calls(state: StateStore | Scope, key: str, consistency: Consistency = Consistency.BOUNDED) -> int | None:
    """How often `ONE` is in effect on a row, as it is read; None: there is no row."""
    swarm = await state.swarms.get(key, consistency=consistency)
    return None if swarm is None else swarm.stats.total_tool_calls


async def goal(state: StateStore | Scope, key: str, consistency: Consistency = Consistency.BOUNDED) -> str | None:
    """Of a row, as it is read; None: there is no row."""
    swarm = await state.swarms.get(key, consistency=consistency)
    return None if swarm is None else swarm.goal


def tasks() -> list[str]:
    """The names of the background tasks of all servers."""
    return sorted(name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("holdfast"))
