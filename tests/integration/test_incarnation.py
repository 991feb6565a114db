"""Another L3 behind the same address is noticed by writers too, and what L2 took before does not count any more."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import KEY, until, until_l2_is_trusted, until_l2_was_told
from fix_tiers import flows_of
from holdfast import Bot, Closed
from holdfast.node import OpenStore
from holdfast.protocols import Absent, Fill
from holdfast.settings import Settings
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage, PausingStorage
from holdfast.testing.door import connect_flows
from holdfast.tiers.l2_redis import RedisCache


async def become_another(settings: Settings) -> None:
    """Do to the database what a crash does: all connections end, and it is another incarnation."""
    async with connected(settings.postgres_url) as connection:
        await connection.execute("TRUNCATE holdfast.incarnation, holdfast.outbox_marks")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def until_all_learnt(former: UUID, *stores: OpenStore) -> None:
    """Wait until servers know that L3 is another incarnation than this one."""

    async def learnt() -> bool:
        return all(flows_of(store).view.coherence.incarnation != former for store in stores)

    await until(learnt)


async def test_l2_begins_anew_and_is_fenced_for_the_new_incarnation(settings: Settings) -> None:
    """After a crash the relay gives L2 a new beginning; a write then overtakes a fill of the same incarnation."""
    async with holdfast.connect(settings) as writer:
        before = flows_of(writer).view.coherence.incarnation
        await writer.bots.put("b1", Bot(name="old"))
        await become_another(settings)
        async with holdfast.connect(settings) as reader:
            flows = flows_of(reader)
            await until_l2_is_trusted(flows_of(writer), flows)
            coherence, cache = flows.view.coherence, flows.resolver._l2
            assert isinstance(cache, RedisCache)
            assert coherence.incarnation != before
            # The reader is about to fill what it read; the write overtakes it.
            loaded = await flows.writer._l3.load([KEY])
            absent = (await cache.read([KEY], flows.view))[KEY]
            assert isinstance(absent, Absent)
            version = (await writer.bots.put("b1", Bot(name="new"))).version
            assert flows_of(writer).view.coherence.incarnation == coherence.incarnation
            await until_l2_was_told(cache, version)
            assert await cache.fill([Fill(KEY, loaded.rows[KEY], 900.0, absent)], coherence) == 0
            assert await reader.bots.get("b1") == Bot(name="new")


async def test_what_l2_took_from_the_former_incarnation_does_not_count(settings: Settings) -> None:
    """An entry that the other server believed is a miss for it after the crash, though L2 and the entry stayed."""
    async with holdfast.connect(settings) as one, holdfast.connect(settings) as two:
        flows = flows_of(two)
        await until_l2_is_trusted(flows_of(one), flows)
        await one.bots.put("b1", Bot(name="old"))
        flows_of(one).caches["bot"].flush()
        await one.bots.get("b1")
        await flows_of(one).resolver.drain()
        entry = await two.bots.entry("b1")
        assert entry is not None
        assert entry.tier is holdfast.Tier.L2
        await become_another(settings)
        await until_all_learnt(flows.view.coherence.incarnation, one, two)
        await until_l2_is_trusted(flows_of(one), flows)
        entry = await two.bots.entry("b1")
        assert entry is not None
        assert entry.tier is holdfast.Tier.L3


async def test_an_emptied_identity_is_drawn_anew(settings: Settings) -> None:
    """A server that finds no identity draws one, and another server takes over the same."""
    async with holdfast.connect(settings) as one, holdfast.connect(settings) as two:
        before = flows_of(one).view.coherence.incarnation
        await become_another(settings)
        await until_all_learnt(before, one, two)
        assert len({flows_of(store).view.coherence.incarnation for store in (one, two)}) == 1
        assert await one.bots.get("b1") is None
        assert await two.bots.get("b1") is None


async def test_a_server_that_only_writes_learns_of_a_crash_from_its_answer() -> None:
    """Before its feed says so: what L1 held of the former incarnation is gone when the write returns."""
    l3 = MemoryStorage()
    feed = MemoryFeed(l3)
    async with connect_flows(l3=l3, feed=feed) as flows:
        await flows.store.bots.put("b1", Bot(name="old"))
        feed.hold()
        l3.crash()
        await flows.store.bots.put("b2", Bot(name="new"))
        assert flows.view.coherence == l3.coherence()
        assert flows.caches["bot"].shelf("bot").entry("b1") is None
        feed.release()
        assert await flows.store.bots.get("b2") == Bot(name="new")


async def test_a_write_overtaken_by_a_read_still_learns_of_the_crash() -> None:
    """A write that began before a read and ended after a crash takes over what came after, feed or no feed."""
    clock, l3 = ManualClock(), MemoryStorage()
    slow, feed = PausingStorage(l3), MemoryFeed(l3)
    async with connect_flows(l3=slow, feed=feed, clock=clock) as flows:
        pause = slow.pause_next_save()
        writing = asyncio.ensure_future(flows.store.bots.put("b1", Bot(name="x")))
        await pause.reached.wait()
        feed.hold()
        clock.advance(0.125)
        await flows.store.bots.get("b2")
        l3.crash()
        pause.release()
        await writing
        assert flows.view.coherence == l3.coherence()
        feed.release()


async def test_closing_refuses_new_calls_and_leaves_no_task() -> None:
    """Calls after the close are told, though L2 was away and not all was done; neither feed nor relay go on."""
    l2, l3 = MemoryCache(ManualClock()), MemoryStorage()
    async with connect_flows(l2=l2, l3=l3) as flows:
        l2.away = True
        await flows.store.bots.put("b1", Bot(name="x"))
        assert {task.get_name() for task in asyncio.all_tasks()} >= {"holdfast change feed", "holdfast relay"}
    with pytest.raises(Closed):
        await flows.store.bots.put("b1", Bot(name="y"))
    with pytest.raises(Closed):
        await flows.store.bots.get("b1")
    with pytest.raises(Closed):
        async with flows.store.transaction():
            pass
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert l3.leader is None
    assert not l3.listeners


async def test_a_copy_of_the_database_is_another_l3(settings: Settings) -> None:
    """One made with TEMPLATE has the row of identity, oids and all: servers of both may share an L2, as in staging."""
    name = urlsplit(settings.postgres_url).path[1:]
    async with holdfast.connect(settings) as state:
        original = flows_of(state).applier.incarnation
    admin_url = urlsplit(settings.postgres_url)._replace(path="/postgres").geturl()
    async with connected(admin_url) as admin:
        await admin.execute(f'CREATE DATABASE "{name}_copy" TEMPLATE "{name}"')
        copied = urlsplit(settings.postgres_url)._replace(path=f"/{name}_copy").geturl()
        try:
            async with holdfast.connect(msgspec.structs.replace(settings, postgres_url=copied)) as state:
                assert flows_of(state).applier.incarnation != original
        finally:
            await admin.execute(f'DROP DATABASE "{name}_copy" WITH (FORCE)')
    async with holdfast.connect(settings) as state:
        assert flows_of(state).applier.incarnation == original
