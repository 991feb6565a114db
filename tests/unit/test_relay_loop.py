"""The relay's loop: it outlives faults, wakes when something changed, and ends when it is stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fix_races import until
from fix_relay import A, Bench, begun
from holdfast.invalidation.relay import IDLE_SECONDS, Relay
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage


@pytest.fixture
async def bench() -> Bench:
    """A relay that leads, over nodes that have begun."""
    return await begun()


async def test_the_loop_outlives_a_fault_and_shows_it(bench: Bench) -> None:
    """A tier that breaks its contract stops nothing: the fault reaches the loop's exception handler, the fence L2."""
    shown: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
    fault = RuntimeError("a bug")
    bench.line.faults = [fault]
    versions = await bench.put(A)

    async def told() -> bool:
        bench.relay.wake()
        return bench.relay.fault is None and bool(shown)

    bench.relay.start()
    await until(told)
    await bench.relay.stop()
    assert [context["exception"] for context in shown] == [fault]
    assert bench.fence(A) == versions[A]


async def test_a_change_wakes_the_loop(bench: Bench) -> None:
    """It does not wait for its next turn; one that stands by is not woken."""
    other = Relay(MemoryFeed(bench.l3), bench.line, clock=bench.clock)
    other.wake()
    assert not other._wake.is_set()
    bench.relay.start()
    versions = await bench.put(A)
    bench.relay.wake()

    async def told() -> bool:
        return bench.fence(A) == versions[A]

    began = asyncio.get_running_loop().time()
    await until(told)
    assert asyncio.get_running_loop().time() - began < IDLE_SECONDS
    await bench.relay.stop()


async def test_stopping_ends_it_and_lets_another_lead(bench: Bench) -> None:
    """Nothing runs afterwards; stopping twice, or what never ran, is harmless."""
    bench.relay.start()
    bench.relay.start()
    assert len(asyncio.all_tasks()) == 2
    await bench.relay.stop()
    await bench.relay.stop()
    assert len(asyncio.all_tasks()) == 1
    assert not bench.relay.leading
    other = Relay(MemoryFeed(bench.l3), bench.line, clock=bench.clock)
    await other._round()
    assert other.leading
    await other.stop()


async def test_stopping_in_the_middle_of_an_advance_ends_it(bench: Bench) -> None:
    """A node that does not answer cannot hold up the end of a server."""
    await bench.put(A)
    bench.line.held_up = asyncio.Event()
    bench.line.sent.clear()
    bench.relay.start()

    async def under_way() -> bool:
        return bool(bench.line.sent)

    await until(under_way)
    async with asyncio.timeout(10):
        await bench.relay.stop()
    assert len(asyncio.all_tasks()) == 1


def test_a_relay_is_made_without_a_loop() -> None:
    """The constructor starts nothing."""
    l3, clock = MemoryStorage(), ManualClock()
    relay = Relay(MemoryFeed(l3), MemoryCache(clock), clock=clock)
    assert (relay.leading, relay.fenced, l3.leader) == (False, 0, None)
