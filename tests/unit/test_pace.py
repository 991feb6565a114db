"""L3 ends a transaction that takes too long; what takes less time comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import Durability, Increment, Settings, Swarm
from holdfast.entry import Consistency
from holdfast.errors import TierUnavailable
from holdfast.flows import Flows
from holdfast.protocols import JournalState
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_journal_base import MemoryJournalBase
from holdfast.testing.memory_journals import JournalHub, MemoryJournals
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.flushing import Batch, Flushing
from holdfast.write_behind.pace import KEY_WRITES_MAX, KEYS_MAX, Pace

WRITES, TOO_MANY = 300, 20
VIRTUAL_SECONDS = 120.0
SETTINGS = Settings(write_behind_quiet_seconds=1.0, write_behind_takeover_seconds=2.0, verify_share=0.0)


class Servers:
    """Servers over an L3 that ends each transaction with more than `TOO_MANY` entries."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.l3 = MemoryStorage()
        self.base = MemoryJournalBase(self.l3, world)
        self.hub = JournalHub()
        flush = Flushing.flush

        async def flush_few(flushing: Flushing, journal: str, epoch: int, batch: Batch, **given: Any) -> Any:
            if sum(map(len, batch.values())) > TOO_MANY:
                raise TierUnavailable("L3: the session was ended, for the time it took")
            return await flush(flushing, journal, epoch, batch, **given)

        monkeypatch.setattr(Flushing, "flush", flush_few)

    def connect(self, settings: Settings = SETTINGS) -> Any:
        """One more server."""
        return connect_flows(
            l3=self.l3, journals=self.base, streams=MemoryJournals(self.hub), clock=self.world, settings=settings
        )


async def add(flows: Flows) -> None:
    """Accept many writes of one key."""
    for _ in range(WRITES):
        await flows.store.swarms.patch(
            "s", Increment("stats", "total_tool_calls"), default=Swarm(), durability=Durability.ACCEPTED
        )


async def until(done: Callable[[], bool]) -> bool:
    """Whether it came to be so in time."""
    try:
        async with asyncio.timeout(VIRTUAL_SECONDS):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # virtual
    except TimeoutError:
        return False
    return True


async def calls(flows: Flows) -> int:
    """What L3 has counted."""
    swarm = await flows.store.swarms.get("s", consistency=Consistency.STRONG)
    return 0 if swarm is None else swarm.stats.total_tool_calls


async def flushed(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many writes of one key a server brings to L3."""
    async with Servers(world, monkeypatch).connect() as flows:
        await add(flows)
        return await calls(flows) if await until(lambda: not len(flows.write_behind.buffer)) else 0


async def taken_over(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of a dead server's are decided by another."""
    servers = Servers(world, monkeypatch)
    slow = Settings(write_behind_quiet_seconds=60.0, write_behind_age_seconds=60.0, write_behind_close_seconds=0.1)
    async with servers.connect(slow) as dying:
        await add(dying)
        assert await until(lambda: all(write.in_journal for write in dying.write_behind.buffer))

    def drained() -> bool:
        return all(record.state is JournalState.DRAINED for record in servers.l3.log.marks.journals.values())

    async with servers.connect() as flows:
        return await calls(flows) if await until(drained) else 0


def never_slower(_: Pace) -> None:
    """Mutant: the same is tried again."""


@pytest.mark.parametrize("decide", [flushed, taken_over])
def test_what_takes_too_long_is_done_in_parts(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its server, and by one that takes over: of one key too."""
    assert simulate(1, lambda world: decide(world, monkeypatch)) == WRITES


@pytest.mark.parametrize("decide", [flushed, taken_over])
def test_mutant_the_same_is_tried_again(decide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes too long each time."""
    monkeypatch.setattr(Pace, "slower", never_slower)
    assert simulate(1, lambda world: decide(world, monkeypatch)) == 0


def test_a_pace_has_its_limits() -> None:
    """One write is the least, and what it began with the most."""
    pace = Pace()
    for _ in range(20):
        pace.slower()
    assert (pace.keys, pace.writes) == (1, 1)
    for _ in range(100):
        pace.faster()
    assert (pace.keys, pace.writes) == (KEYS_MAX, KEY_WRITES_MAX)
