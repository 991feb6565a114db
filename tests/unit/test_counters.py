"""Counters: each moves exactly when its line says. Watched on a whole server over tiers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from fix_races import until, until_l2_is_trusted
from holdfast.documents import Bot
from holdfast.entry import Consistency
from holdfast.errors import TierUnavailable
from holdfast.flows import Flows
from holdfast.metrics.counters import Counters, TierCounters
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage, PausingStorage
from holdfast.testing.door import connect_flows

ADA = Bot(name="Ada")


@dataclass
class Servers:
    """Two servers on one L2 and one L3; `writer` fills L3, `reader` is watched, and follows `feed`."""

    writer: Flows
    reader: Flows
    clock: ManualClock
    l2: MemoryCache
    l3: MemoryStorage
    feed: MemoryFeed

    @property
    def counted(self) -> Counters:
        """The reader's counters."""
        return self.reader.counters

    async def settle(self) -> None:
        """Let the reader's fills end."""
        await self.reader.resolver.drain()


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    """Both servers, with the bot `ada` in L3 and nothing but her fence in L2, which both believe."""
    clock, l3 = ManualClock(), MemoryStorage()
    l2, feed = MemoryCache(clock), MemoryFeed(l3)
    async with (
        connect_flows(l2=l2, l3=l3, clock=clock) as writer,
        connect_flows(l2=l2, l3=l3, clock=clock, feed=feed) as reader,
    ):
        relay = writer.relay
        assert relay is not None
        await until_l2_is_trusted(writer, reader)
        await writer.store.bots.put("ada", ADA)

        async def told() -> bool:
            return relay.fenced == 1

        await until(told)
        yield Servers(writer, reader, clock, l2, l3, feed)


def test_counters_begin_at_zero_and_belong_to_one_server() -> None:
    """Two servers of one process count apart."""
    first, second = Counters(), Counters()
    first.l2.observe(0.5, 3)
    first.flushes += 1
    assert second == Counters(l2=TierCounters(0, 0, 0, 0, 0, 0, 0.0), l3=TierCounters(), flushes=0)
    assert first.l3 == second.l3


def test_a_round_trip_counts_once_with_its_keys_and_its_time() -> None:
    """Trips, keys and seconds are summed; nothing else moves."""
    counters = TierCounters()
    counters.observe(0.25, 10)
    counters.observe(0.5, 1)
    assert counters == TierCounters(round_trips=2, keys=11, seconds=0.75)


def test_there_are_no_other_counters() -> None:
    """A misspelt counter is an error, not a number that nobody sees."""
    with pytest.raises(AttributeError):
        TierCounters().hit = 1  # type: ignore[attr-defined]


async def test_a_cold_read_misses_l2_hits_l3_and_fills_l2(servers: Servers) -> None:
    """One round trip to each, one key each; L2 takes the entry over from L3."""
    assert await servers.reader.store.bots.get("ada") == ADA
    await servers.settle()
    assert servers.counted.l2 == TierCounters(misses=1, fills=1, round_trips=1, keys=1)
    assert servers.counted.l3 == TierCounters(hits=1, round_trips=1, keys=1)


async def test_a_read_that_l2_answers_is_its_hit_and_no_work_for_l3(servers: Servers) -> None:
    """What another server filled is a hit."""
    servers.writer.caches["bot"].flush()
    await servers.writer.store.bots.get("ada")
    await servers.writer.resolver.drain()
    assert await servers.reader.store.bots.get("ada") == ADA
    assert servers.counted.l2 == TierCounters(hits=1, round_trips=1, keys=1)
    assert servers.counted.l3 == TierCounters()


async def test_no_such_row_is_a_miss_of_both_and_fills_nothing(servers: Servers) -> None:
    """Missing rows are never stored in L2."""
    assert await servers.reader.store.bots.get("nobody") is None
    await servers.settle()
    assert servers.counted.l2 == TierCounters(misses=1, round_trips=1, keys=1)
    assert servers.counted.l3 == TierCounters(misses=1, round_trips=1, keys=1)


async def test_an_l2_that_is_away_is_an_error_for_each_key_and_no_miss(servers: Servers) -> None:
    """The read goes on to L3, and nothing is filled."""
    servers.l2.away = True
    assert await servers.reader.store.bots.get_many(["ada", "nobody"]) == {"ada": ADA}
    await servers.settle()
    counted = servers.counted.l2
    assert (counted.hits, counted.misses, counted.errors, counted.fills) == (0, 0, 2, 0)
    assert (servers.counted.l3.hits, servers.counted.l3.misses) == (1, 1)


async def test_an_l3_that_is_away_is_an_error_for_each_query_and_no_miss(servers: Servers) -> None:
    """Three keys of one query are one error; a query that failed is no round trip."""
    servers.l3.away = True
    with pytest.raises(TierUnavailable):
        await servers.reader.store.bots.get_many(["ada", "bob", "cid"])
    assert servers.counted.l3 == TierCounters(errors=1)
    assert servers.counted.l2.misses == 3


async def test_keys_of_one_moment_are_one_round_trip(servers: Servers) -> None:
    """Round trips count batches, keys what they carried."""
    await servers.reader.store.bots.get_many([f"b{number}" for number in range(7)])
    assert (servers.counted.l2.round_trips, servers.counted.l2.keys) == (1, 7)
    assert (servers.counted.l3.round_trips, servers.counted.l3.keys) == (1, 7)


async def test_a_hit_of_l1_moves_no_counter_of_the_tiers_below(servers: Servers) -> None:
    """L1's own counters lie in its caches."""
    await servers.reader.store.bots.get("ada")
    await servers.settle()
    before = (servers.counted.l2.keys, servers.counted.l3.keys)
    assert await servers.reader.store.bots.get("ada") == ADA
    assert (servers.counted.l2.keys, servers.counted.l3.keys) == before
    assert servers.reader.caches["bot"].shelf("bot").hits == 1


async def test_seconds_are_what_was_spent_waiting() -> None:
    """By the server's own clock, from the question to the answer."""
    clock = ManualClock()
    l3 = PausingStorage(MemoryStorage())
    async with connect_flows(l3=l3, clock=clock) as flows:
        pause = l3.pause_next_load()
        reading = asyncio.get_running_loop().create_task(flows.store.bots.get("ada"))
        await pause.reached.wait()
        clock.advance(1.5)
        pause.release()
        await reading
        assert (flows.counters.l3.seconds, flows.counters.l2.seconds) == (1.5, 0.0)


async def test_a_raised_generation_is_one_flush(servers: Servers) -> None:
    """Counted once when L3 first says so, and not again by later answers."""
    servers.l3.raise_generation("kind:team")
    for _ in range(3):
        await servers.reader.store.bots.get("ada", consistency=Consistency.STRONG)
    assert await servers.reader.feed.refresh()
    assert servers.counted.flushes == 1


async def test_a_new_incarnation_is_one_flush_by_answers_and_one_by_the_feed(servers: Servers) -> None:
    """Counted when L3 first says so, and when the feed begins anew: what was read between may be older than that."""
    servers.feed.hold()
    servers.l3.crash()
    for _ in range(3):
        await servers.reader.store.bots.get("ada", consistency=Consistency.STRONG)
    assert servers.counted.flushes == 1
    servers.feed.release()
    assert await servers.reader.feed.refresh()
    assert servers.counted.flushes == 2
    await servers.reader.store.bots.get("ada", consistency=Consistency.STRONG)
    assert await servers.reader.feed.refresh()
    assert servers.counted.flushes == 2


async def test_the_door_gives_a_copy_of_all_counters_and_those_of_memory(servers: Servers) -> None:
    """It stands still; the time in the present mode counts up to now."""
    store = servers.reader.store
    assert await store.bots.get("ada") == ADA
    assert await store.bots.get("ada") == ADA
    servers.clock.advance(3.0)
    metrics = store.metrics()
    assert (metrics.l1["bot"].hits, metrics.l1["bot"].misses, metrics.l1["bot"].entries) == (1, 1, 1)
    assert metrics.l1["team"].entries == 0
    assert (metrics.l2.misses, metrics.l3.hits) == (1, 1)
    assert metrics.modes.seconds["normal"] >= 3.0
    servers.counted.recovery.stepped("retry_operation", "done")
    servers.clock.advance(3.0)
    later = store.metrics()
    assert (metrics.recovery.steps, later.recovery.steps) == ({}, {("retry_operation", "done"): 1})
    assert later.modes.seconds["normal"] >= metrics.modes.seconds["normal"] + 3.0
