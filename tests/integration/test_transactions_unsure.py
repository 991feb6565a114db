"""A COMMIT whose outcome is unknown, or that the feed cannot confirm yet: no cache answers with the past."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import KEY, until
from fix_tiers import Behind, behind, flows_over, proxy_of
from fix_transactions import AFTER, BEFORE, NEW, NOTES, OLD, change_all, held, prepare
from holdfast import OutcomeUnknown, Tier
from holdfast.adapters import change_source, connection_pool
from holdfast.flows import Flows
from holdfast.kinds import register
from holdfast.settings import Settings
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_postgres import PostgresStorage


@pytest.fixture
async def unsure(settings: Settings, behind_proxy: Behind, l2: RedisCache) -> AsyncIterator[tuple[Flows, Behind]]:
    """A server whose connections to L3 go through a proxy, and whose feed goes through another one."""
    async with holdfast.connect(settings, kinds=[NOTES]) as store:
        await prepare(store, settings)
    async with proxy_of(settings) as feed_proxy:
        feed_behind = behind(feed_proxy, settings.postgres_url)
        through = msgspec.structs.replace(settings, postgres_url=behind_proxy.url)
        fed = msgspec.structs.replace(settings, postgres_url=feed_behind.url)
        l3 = PostgresStorage(connection_pool(through), register([NOTES]))
        async with flows_over(settings, l2, l3, feed=change_source(fed), kinds=[NOTES]) as flows:
            yield flows, feed_behind
            feed_proxy.heal()
        await l3.close()


Commit = Callable[[], Awaitable[None]]


async def change_and_end(flows: Flows, how: Callable[[Commit], Awaitable[None]]) -> None:
    """A transaction that changes all, and whose COMMIT goes as it is told."""
    async with flows.store.transaction() as tx:
        await change_all(tx)
        commit = tx.storage.commit
        tx.storage.commit = lambda: how(commit)  # type: ignore[assignment, method-assign, return-value]


@pytest.mark.parametrize("feed_is", ["there", "held"])
async def test_a_lost_reply_to_commit_is_an_unknown_outcome(
    settings: Settings, unsure: tuple[Flows, Behind], behind_proxy: Behind, feed_is: str
) -> None:
    """S1: it took effect, and from then on no cache of this server answers with the past, cascades included."""
    flows, feed_behind = unsure
    store: Any = flows.store
    assert await held(store) == BEFORE
    async with connected(settings.postgres_url) as sql:
        if feed_is == "held":
            feed_behind.proxy.hold()
        with pytest.raises(OutcomeUnknown):
            await change_and_end(flows, lambda commit: lose_the_reply(commit, sql, behind_proxy))
        assert await held(store) == AFTER
        if feed_is == "held":
            assert flows.store.bots.peek("b1") is None
            feed_behind.proxy.heal()

    async def in_memory() -> bool:
        assert await held(store) == AFTER
        return flows.store.bots.peek("b1") is not None

    await until(in_memory)


async def lose_the_reply(commit: Commit, sql: asyncpg.Connection, behind_proxy: Behind) -> None:
    """Let L3 commit, and the connection end before it can say so."""

    async def committed() -> bool:
        return bool(await sql.fetchval("""SELECT document->>'name' = 'new' FROM holdfast."User" WHERE id = 'b1'"""))

    with behind_proxy.proxy.hold("to_client"):
        committing = asyncio.ensure_future(commit())
        await until(committed)
        behind_proxy.proxy.reset()
    await committing


async def test_a_lost_commit_is_an_unknown_outcome_too(unsure: tuple[Flows, Behind], behind_proxy: Behind) -> None:
    """It never took effect: the server answers with what is, from memory again once the feed has come past it."""
    flows, _ = unsure
    store: Any = flows.store
    assert await held(store) == BEFORE
    with pytest.raises(OutcomeUnknown):
        await change_and_end(flows, lambda commit: lose_the_request(commit, behind_proxy))
    assert await held(store) == BEFORE

    async def in_memory() -> bool:
        assert await held(store) == BEFORE
        return flows.store.bots.peek("b1") == OLD

    await until(in_memory)


async def lose_the_request(commit: Commit, behind_proxy: Behind) -> None:
    """End the connection before COMMIT is through."""
    sent = behind_proxy.proxy.to_server.received
    with behind_proxy.proxy.hold("to_server"):
        committing = asyncio.ensure_future(commit())

        async def on_its_way() -> bool:
            return behind_proxy.proxy.to_server.received > sent

        await until(on_its_way)
        behind_proxy.proxy.reset()
    await committing


async def test_while_the_feed_is_held_a_commit_is_seen_at_once(unsure: tuple[Flows, Behind]) -> None:
    """S1: what the feed cannot confirm no cache answers for; reads go to L3 until the feed has come past the commit."""
    flows, feed_behind = unsure
    store: Any = flows.store
    assert await held(store) == BEFORE
    with feed_behind.proxy.hold():
        async with flows.store.transaction() as tx:
            await change_all(tx)
        assert await held(store) == AFTER
        entry = await flows.store.bots.entry("b2")
        assert entry is not None
        assert entry.tier is Tier.L3
    assert KEY in tx.written

    async def in_memory() -> bool:
        assert await held(store) == AFTER
        return flows.store.bots.peek("b2") == NEW

    await until(in_memory)
