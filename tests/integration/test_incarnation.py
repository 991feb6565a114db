"""Another L3 behind the same address is noticed by writers too, before they fence."""

from __future__ import annotations

import asyncpg

import holdfast
from fix_races import KEY
from holdfast import Bot
from holdfast.flows import Flows
from holdfast.node import OpenStore
from holdfast.protocols import Absent, Fill
from holdfast.settings import Settings


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
