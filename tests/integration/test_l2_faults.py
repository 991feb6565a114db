"""L2 that is away, stands still or holds what does not count: reads fall to L3, and no old value is answered."""

from __future__ import annotations

import signal

import msgspec
import pytest

import holdfast
from fix_bots import ADA
from fix_feed import connected
from fix_races import KEY, until, until_l2_is_trusted, until_l2_was_told
from fix_single import Single
from fix_tiers import flows_of
from holdfast import Bot, Consistency, TierUnavailable
from holdfast.clock import SystemClock
from holdfast.keys import Key, redis_key
from holdfast.node import OpenStore
from holdfast.settings import Settings
from holdfast.testing import MemoryCache
from holdfast.testing.door import connect_flows
from holdfast.tiers.l2_redis import RedisCache


async def test_without_l2_everything_works_from_l3(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """An L2 that cannot be reached costs errors in the counters and nothing else; each server says so once."""
    nowhere = msgspec.structs.replace(
        settings,
        redis_urls=("redis://127.0.0.1:1",),
        l2_connect_timeout_seconds=0.2,
        l2_request_timeout_seconds=0.2,  # the client tries to connect for as long as this
    )
    async with holdfast.connect(nowhere) as state, holdfast.connect(nowhere) as other:
        await state.bots.put("b1", ADA)
        assert await other.bots.get("b1") == ADA
        counters = flows_of(other).counters
        assert (counters.l2.errors, counters.l2.misses, counters.l3.hits) == (1, 0, 1)

        async def told() -> bool:
            return caplog.text.count("is away, reads go to L3") == 2

        await until(told)


async def test_l2_that_dies_and_comes_back(settings: Settings, single: Single) -> None:
    """While L2 is away reads go to L3; when it is back, and empty, it is begun anew and serves."""
    alone = on_single(settings, single)
    async with holdfast.connect(alone) as state, holdfast.connect(alone) as other:
        await until_l2_is_trusted(flows_of(state), flows_of(other))
        await state.bots.put("b1", ADA)
        assert await other.bots.get("b1") == ADA
        single.kill()
        await state.bots.put("b1", Bot(name="Eve"))
        flows_of(state).caches["bot"].flush()
        assert await state.bots.get("b1") == Bot(name="Eve")
        single.start()
        await until_l2_is_trusted(flows_of(state), flows_of(other))
        assert sum(flows.relay.restarts for flows in map(flows_of, (state, other)) if flows.relay is not None) == 2
        assert await tiers_of_reads(state, other) == [holdfast.Tier.L3, holdfast.Tier.L2]
        assert await other.bots.get("b1", consistency=Consistency.STRONG) == Bot(name="Eve")


async def test_l2_that_stands_still_is_told_what_it_missed(settings: Settings, single: Single) -> None:
    """While it says nothing reads go to L3; the value it still holds is fenced when it goes on, and answers nobody."""
    alone = on_single(settings, single)
    async with holdfast.connect(alone) as state, holdfast.connect(alone) as other:
        flows = flows_of(state)
        cache = flows.resolver._l2
        assert isinstance(cache, RedisCache)
        await until_l2_is_trusted(flows, flows_of(other))
        first = await state.bots.put("b1", ADA)
        assert await tiers_of_reads(state, other) == [holdfast.Tier.L3, holdfast.Tier.L2]
        assert single.process is not None
        single.process.send_signal(signal.SIGSTOP)
        try:
            receipt = await state.bots.put("b1", Bot(name="Eve"))
            flows.caches["bot"].flush()
            assert await state.bots.get("b1") == Bot(name="Eve")
        finally:
            single.process.send_signal(signal.SIGCONT)
        assert first.version < receipt.version
        for store in (state, other):
            assert await flows_of(store).feed.refresh()
            flows_of(store).caches["bot"].flush()
            assert await store.bots.get("b1") == Bot(name="Eve")
        await until_l2_was_told(cache, receipt.version)
        await until_l2_is_trusted(flows, flows_of(other))
        _, tier = await tiers_of_reads(state, other)
        assert tier is holdfast.Tier.L2
        assert other.bots.peek("b1") == Bot(name="Eve")


def on_single(settings: Settings, single: Single) -> Settings:
    """Settings with that server as L2."""
    return msgspec.structs.replace(
        settings, redis_urls=single.urls, key_prefix="vrooli:", l2_request_timeout_seconds=0.2
    )


async def tiers_of_reads(*stores: OpenStore) -> list[holdfast.Tier]:
    """Which tier answers these servers one after the other, when none of them holds the key in L1.

    Each has heard of what was written: until the feed has come past a server's own write, it does not believe L2.
    """
    tiers = []
    for store in stores:
        flows = flows_of(store)
        assert await flows.feed.refresh()
        flows.caches["bot"].flush()
        entry = await store.bots.entry("b1")
        assert entry is not None
        tiers.append(entry.tier)
        await flows.resolver.drain()
    return tiers


async def test_a_single_server_with_an_acl_user(settings: Settings, single: Single) -> None:
    """A server that is no cluster works, under a user that may touch only our prefix."""
    alone = on_single(settings, single)
    async with holdfast.connect(alone) as state, holdfast.connect(alone) as other:
        await until_l2_is_trusted(flows_of(state), flows_of(other))
        await state.bots.put("b1", ADA)
        assert await tiers_of_reads(other, state) == [holdfast.Tier.L3, holdfast.Tier.L2]


async def test_another_incarnation_empties_l1(settings: Settings) -> None:
    """When L3 says it is another one, what was cached under the old one is gone from L1 and void in L2."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        flows = flows_of(state)
        await until_l2_is_trusted(flows)
        await state.bots.put("b1", ADA)
        assert await tiers_of_reads(state, state) == [holdfast.Tier.L3, holdfast.Tier.L2]
        await connection.execute("UPDATE holdfast.incarnation SET id = gen_random_uuid()")
        await state.bots.get("unknown")
        assert state.bots.peek("b1") is None
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert (entry.value, entry.tier) == (ADA, holdfast.Tier.L3)
        # Emptied when an answer or the feed first said so; and again if the feed came second, for what was read between
        # the two may be older than where the feed begins anew.
        assert await flows.feed.refresh()
        assert flows.counters.flushes in {1, 2}


async def test_a_raised_generation_voids_a_kind(settings: Settings) -> None:
    """A generation in L3 voids L2's entries of its kind as soon as a server learns of it."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await until_l2_is_trusted(flows_of(state))
        await state.bots.put("b1", ADA)
        assert await tiers_of_reads(state, state) == [holdfast.Tier.L3, holdfast.Tier.L2]
        await connection.execute("SELECT holdfast.raise_generation('kind:bot')")
        await state.bots.get("b2")
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert entry.tier is holdfast.Tier.L3


async def test_a_corrupt_l2_entry_is_read_from_l3_and_replaced(settings: Settings) -> None:
    """A damaged entry counts as an error of L2, is never served, and gives way to a fresh one."""
    async with holdfast.connect(settings) as state:
        flows = flows_of(state)
        cache = flows.resolver._l2
        assert isinstance(cache, RedisCache)
        await until_l2_is_trusted(flows)
        await until_l2_was_told(cache, (await state.bots.put("b1", ADA)).version)
        name = redis_key(cache._prefix, KEY)
        await cache._connection.command(["SET", name, b"H\x01 damaged " + bytes(80)])
        flows.caches["bot"].flush()
        assert await state.bots.get("b1") == ADA
        assert (flows.counters.l2.errors, flows.counters.l2.hits) == (1, 0)
        await flows.resolver.drain()
        flows.caches["bot"].flush()
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert entry.tier is holdfast.Tier.L2


async def test_a_key_of_another_type_disturbs_nobody(settings: Settings) -> None:
    """What another program left under our name in L2 costs a miss, and is written over."""
    async with holdfast.connect(settings) as state:
        flows = flows_of(state)
        cache = flows.resolver._l2
        assert isinstance(cache, RedisCache)
        await until_l2_is_trusted(flows)
        receipts = await state.bots.put_many({f"b{number}": ADA for number in range(60)})
        for identifier, receipt in receipts.items():
            await until_l2_was_told(cache, receipt.version, Key("bot", identifier))
        for number in (1, 2):
            name = redis_key(cache._prefix, Key("bot", f"b{number}"))
            await cache._connection.command(["DEL", name])
            await cache._connection.command(["LPUSH", name, b"x"])
        receipt = await state.bots.put("b2", Bot(name="Eve"))
        await until_l2_was_told(cache, receipt.version, Key("bot", "b2"))
        flows.caches["bot"].flush()
        found = await state.bots.get_many([f"b{number}" for number in range(60)])
        assert len(found) == 60
        assert found["b2"] == Bot(name="Eve")
        await flows.resolver.drain()
        flows.caches["bot"].flush()
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert (entry.tier, flows.counters.l2.errors) == (holdfast.Tier.L2, 0)


async def test_memory_and_real_tiers_mix() -> None:
    """Over tiers in memory too, an L2 that was away is told what it missed."""
    l2 = MemoryCache(SystemClock())
    async with connect_flows(l2=l2, clock=SystemClock()) as flows:
        relay = flows.relay
        assert relay is not None
        await until_l2_is_trusted(flows)
        l2.away = True
        await flows.store.bots.put("b1", ADA)

        async def failed() -> bool:
            return isinstance(relay.fault, TierUnavailable)

        async def told() -> bool:
            return relay.fenced == 1

        await until(failed)
        l2.away = False
        await until(told)
