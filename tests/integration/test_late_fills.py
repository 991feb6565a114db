"""A reader that is overtaken by a write leaves no old value behind, in L1 or L2, however late its fill arrives.

Each schedule runs on real tiers and returns whether an old value was left; each mutant switches one mechanism
off, and the same schedule must then find the old value. `docs/reference/proof.md` lists them by rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from fix_races import (
    KEY,
    NoTickets,
    fences_lower,
    healthy,
    no_age_check,
    plain_set,
    stored,
    until,
    until_l2_is_trusted,
)
from fix_tiers import flows_over
from holdfast.adapters import redis_connection
from holdfast.clock import SystemClock
from holdfast.documents import Bot
from holdfast.flows import Flows
from holdfast.settings import Settings
from holdfast.testing import PausingCache, PausingStorage
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_postgres import PostgresStorage

OLD, NEW = Bot(name="old"), Bot(name="new")
SHORT_FENCE_SECONDS = 0.5
Mutation = Callable[[RedisCache, RedisFences], None]


@dataclass
class Pair:
    """A reader and a writer: two servers with L1s of their own over the same L2 and L3. The writer's relay leads.

    Attributes:
        reader_l3, reader_l2: the reader's tiers, which can be stopped.
        cache: L2 itself.
        fences: L2 as one more relay sees it.
    """

    reader: Flows
    writer: Flows
    reader_l3: PausingStorage
    reader_l2: PausingCache
    cache: RedisCache
    fences: RedisFences

    async def put(self, bot: Bot) -> int:
        """Let the writer write, and wait until each node of L2 was told of it; its fence may be gone by then."""
        relay = self.writer.relay
        assert relay is not None
        wanted = relay.fenced + 1
        version = (await self.writer.store.bots.put(KEY.id, bot)).version

        async def told() -> bool:
            return relay.fenced >= wanted

        await until(told)
        return version

    async def held_in_l2(self) -> str | None:
        """The name of the bot that L2 holds, whoever would believe it."""
        entry = await stored(self.cache)
        return self.writer.resolver.decode(KEY, entry.row).name if entry is not None and entry.row else None


@asynccontextmanager
async def pair(settings: Settings, l3: PostgresStorage, mutation: Mutation = healthy) -> AsyncIterator[Pair]:
    connection = redis_connection(settings, SystemClock())
    prefix, lifetime = settings.key_prefix.encode(), settings.l2_fence_lifetime_seconds
    cache = RedisCache(
        connection,
        Codec(),
        prefix=prefix,
        fence_lifetime_seconds=lifetime,
        lease_seconds=settings.l2_lease_seconds,
    )
    fences, told = (RedisFences(connection, Codec(), prefix=prefix, fence_lifetime_seconds=lifetime) for _ in range(2))
    mutation(cache, fences)
    told._advance = fences._advance
    reader_l3, reader_l2 = PausingStorage(l3), PausingCache(cache)
    async with (
        flows_over(settings, reader_l2, reader_l3) as reader,
        flows_over(settings, cache, l3, fences=fences) as writer,
    ):
        await until_l2_is_trusted(writer, reader)
        yield Pair(reader, writer, reader_l3, reader_l2, cache, told)
    await connection.close()


async def overtaken_in_l1(servers: Pair) -> bool:
    """The reader stops between load and fill; its own process deletes the row meanwhile, and hears of it."""
    flows = servers.reader
    await servers.put(OLD)
    pause = servers.reader_l3.pause_next_load()
    reading = asyncio.ensure_future(flows.store.bots.get(KEY.id))
    await pause.reached.wait()
    await flows.store.bots.delete(KEY.id)
    assert await flows.feed.refresh()
    pause.release()
    await reading
    await flows.resolver.drain()
    return flows.store.bots.peek(KEY.id) is not None


async def overtaken_in_l2(servers: Pair) -> bool:
    """The reader stops between load and fill; another server replaces the document meanwhile."""
    await servers.put(OLD)
    pause = servers.reader_l3.pause_next_load()
    reading = asyncio.ensure_future(servers.reader.store.bots.get(KEY.id))
    await pause.reached.wait()
    await servers.put(NEW)
    pause.release()
    await reading
    await servers.reader.resolver.drain()
    return await servers.held_in_l2() == "old"


async def overtaken_and_late(servers: Pair) -> bool:
    """The reader's fill is held up until the fence of the write that overtook it has gone."""
    await servers.put(OLD)
    await until_l2_is_empty(servers)
    pause = servers.reader_l2.pause_next_fill()
    await servers.reader.store.bots.get(KEY.id)
    await pause.reached.wait()
    await servers.put(NEW)
    await until_l2_is_empty(servers)
    pause.release()
    await servers.reader.resolver.drain()
    return await servers.held_in_l2() == "old"


async def fenced_out_of_order(servers: Pair) -> bool:
    """The fence of an older write arrives after the fence of a newer one, and then the older value's fill."""
    first = await servers.put(OLD)
    pause = servers.reader_l2.pause_next_fill()
    await servers.reader.store.bots.get(KEY.id)
    await pause.reached.wait()
    newer = await servers.put(NEW)
    assert newer > first
    await until(lambda: fenced_again(servers, first))
    pause.release()
    await servers.reader.resolver.drain()
    return await servers.held_in_l2() == "old"


async def fenced_again(servers: Pair, version: int) -> bool:
    """Tell every node once more of a version, as a relay does that goes on from an older watermark."""
    moved = []
    for target in await servers.fences.targets():
        mark = await servers.fences.watermark(target)
        assert mark is not None
        moved.append(await servers.fences.advance(target, mark, mark, {KEY: version}))
    return all(moved)


async def until_l2_is_empty(servers: Pair) -> None:
    """Wait for the key to expire in L2, fences included."""

    async def gone() -> bool:
        return await stored(servers.cache) is None

    await until(gone)


async def test_l1_takes_no_overtaken_fill(settings: Settings, l3: PostgresStorage) -> None:
    """R1: a fill whose key was fenced after its ticket is refused."""
    async with pair(settings, l3) as servers:
        assert not await overtaken_in_l1(servers)


async def test_without_tickets_l1_takes_it(settings: Settings, l3: PostgresStorage) -> None:
    """The same schedule catches an L1 without tickets."""
    async with pair(settings, l3) as servers:
        servers.reader.caches["bot"].__class__ = NoTickets
        assert await overtaken_in_l1(servers)


@pytest.mark.parametrize(("mutation", "left"), [(healthy, False), (plain_set, True)])
async def test_l2_takes_no_overtaken_fill(
    settings: Settings, l3: PostgresStorage, mutation: Mutation, *, left: bool
) -> None:
    """C1: a fill below a fence is refused; a plain SET is caught."""
    async with pair(settings, l3, mutation) as servers:
        assert await overtaken_in_l2(servers) is left


@pytest.mark.parametrize(("mutation", "left"), [(healthy, False), (no_age_check, True)])
async def test_l2_takes_no_late_fill(
    settings: Settings, l3: PostgresStorage, mutation: Mutation, *, left: bool
) -> None:
    """C2: a fill that outlived its fence is refused by its age; a script without the age check is caught."""
    short = msgspec.structs.replace(settings, l2_fence_lifetime_seconds=SHORT_FENCE_SECONDS)
    async with pair(short, l3, mutation) as servers:
        assert await overtaken_and_late(servers) is left


@pytest.mark.parametrize(("mutation", "left"), [(healthy, False), (fences_lower, True)])
async def test_fences_arrive_in_any_order(
    settings: Settings, l3: PostgresStorage, mutation: Mutation, *, left: bool
) -> None:
    """C1: a late fence of an older version lowers nothing; a script that lets it is caught."""
    async with pair(settings, l3, mutation) as servers:
        assert await fenced_out_of_order(servers) is left
