"""Another L3 behind the same address is noticed by writers too, before they fence."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

import holdfast
from fix_races import KEY
from holdfast import Bot, Closed
from holdfast.flows import Flows
from holdfast.node import OpenStore
from holdfast.protocols import Absent, Fill
from holdfast.settings import Settings
from holdfast.testing import ManualClock, MemoryCache, MemoryStorage, PausingStorage
from holdfast.testing.door import connect_flows


def flows_of(store: OpenStore) -> Flows:
    assert store._node.flows is not None
    return store._node.flows


async def become_another(settings: Settings) -> None:
    """Do to the database what a crash does: all connections end, and it is another incarnation."""
    connection = await asyncpg.connect(settings.postgres_url)
    try:
        await connection.execute("TRUNCATE holdfast.incarnation")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


async def test_a_writer_fences_for_the_incarnation_it_wrote_in(settings: Settings) -> None:
    """A server that only writes learns of a crash from its new connection, and fences for what came after."""
    async with holdfast.connect(settings) as writer:
        await writer.bots.put("b1", Bot(name="old"))
        await become_another(settings)
        async with holdfast.connect(settings) as reader:
            flows = flows_of(reader)
            coherence = flows.resolver.coherence
            assert coherence.incarnation != flows_of(writer).resolver.coherence.incarnation
            # The reader is about to fill what it read; the write overtakes it.
            loaded = await flows.writer._l3.load([KEY])
            absent = (await flows.resolver._l2.read([KEY], coherence))[KEY]
            assert isinstance(absent, Absent)
            await writer.bots.put("b1", Bot(name="new"))
            assert flows_of(writer).resolver.coherence == coherence
            late = Fill(KEY, loaded.rows[KEY], 900.0, absent.node_time_ms)
            assert await flows.resolver._l2.fill([late], coherence) == 0
            assert await reader.bots.get("b1") == Bot(name="new")


async def test_an_emptied_identity_is_drawn_anew(settings: Settings) -> None:
    """A server that finds no identity draws one, and another server takes over the same."""
    async with holdfast.connect(settings) as one, holdfast.connect(settings) as two:
        before = flows_of(one).resolver.coherence.incarnation
        await become_another(settings)
        assert await one.bots.get("b1") is None
        assert await two.bots.get("b1") is None
        after = {flows_of(store).resolver.coherence.incarnation for store in (one, two)}
        assert len(after) == 1
        assert before not in after


async def test_a_write_overtaken_by_a_read_still_learns_of_the_crash() -> None:
    """A write that began before a read and ended after a crash fences for what came after."""
    clock, l3 = ManualClock(), MemoryStorage()
    slow = PausingStorage(l3)
    async with connect_flows(l3=slow, clock=clock) as flows:
        pause = slow.pause_next_save()
        writing = asyncio.ensure_future(flows.store.bots.put("b1", Bot(name="x")))
        await pause.reached.wait()
        clock.advance(1)
        await flows.store.bots.get("b2")
        l3.crash()
        pause.release()
        await writing
        assert flows.resolver.coherence == l3.coherence()


async def test_closing_refuses_new_calls_and_leaves_no_task() -> None:
    """Writers that go on during the close are told, and no fence is repeated afterwards."""
    l2 = MemoryCache(ManualClock())
    async with connect_flows(l2=l2) as flows:
        l2.away = True
        await flows.store.bots.put("b1", Bot(name="x"))
        assert flows.fences.pending
    with pytest.raises(Closed):
        await flows.store.bots.put("b1", Bot(name="y"))
    with pytest.raises(Closed):
        await flows.store.bots.get("b1")
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
