"""A reader that is overtaken by a write leaves no old value behind, in L1 or L2, however late its fill arrives.

Each schedule runs on real tiers and returns whether an old value was left; each mutant switches one mechanism
off, and the same schedule must then find the old value. `docs/reference/proof.md` lists them by rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from fix_races import KEY, NoTickets, fences_lower, no_age_check, plain_set, until
from holdfast.clock import SystemClock
from holdfast.documents import Bot
from holdfast.flows import Flows
from holdfast.keys import redis_key
from holdfast.node import redis_connection
from holdfast.protocols import Cached
from holdfast.settings import Settings
from holdfast.testing import PausingCache, PausingStorage
from holdfast.testing.door import connect_flows
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_postgres import PostgresStorage

OLD, NEW = Bot(name="old"), Bot(name="new")
SHORT_FENCE_SECONDS = 0.5
Mutation = Callable[[RedisCache], None]


def healthy(_: RedisCache) -> None:
    """Not a mutant."""


class Pair:
    """A reader and a writer: two servers with L1s of their own over the same L2 and L3."""

    def __init__(self, reader: Flows, writer: Flows, l3: PausingStorage, l2: PausingCache) -> None:
        self.reader = reader
        self.writer = writer
        self.reader_l3 = l3
        self.reader_l2 = l2

    async def held_in_l2(self) -> str | None:
        """The name of the bot that L2 would answer with."""
        answer = (await self.writer.resolver._l2.read([KEY], self.writer.resolver.coherence))[KEY]
        return self.writer.resolver.decode(KEY, answer.row).name if isinstance(answer, Cached) else None


@asynccontextmanager
async def pair(settings: Settings, l3: PostgresStorage, mutation: Mutation = healthy) -> AsyncIterator[Pair]:
    connection = redis_connection(settings, SystemClock())
    cache = RedisCache(
        connection,
        Codec(),
        prefix=settings.key_prefix.encode(),
        fence_lifetime_seconds=settings.l2_fence_lifetime_seconds,
    )
    mutation(cache)
    reader_l3, reader_l2 = PausingStorage(l3), PausingCache(cache)
    async with (
        connect_flows(l2=reader_l2, l3=reader_l3, clock=SystemClock(), settings=settings) as reader,
        connect_flows(l2=cache, l3=l3, clock=SystemClock(), settings=settings) as writer,
    ):
        yield Pair(reader, writer, reader_l3, reader_l2)
    await connection.close()


async def overtaken_in_l1(servers: Pair) -> bool:
    """The reader stops between load and fill; its own process deletes the row meanwhile."""
    flows = servers.reader
    await servers.writer.store.bots.put(KEY.id, OLD)
    pause = servers.reader_l3.pause_next_load()
    reading = asyncio.ensure_future(flows.store.bots.get(KEY.id))
    await pause.reached.wait()
    await flows.store.bots.delete(KEY.id)
    pause.release()
    await reading
    await flows.resolver.drain()
    return flows.store.bots.peek(KEY.id) is not None


async def overtaken_in_l2(servers: Pair) -> bool:
    """The reader stops between load and fill; another server replaces the document meanwhile."""
    await servers.writer.store.bots.put(KEY.id, OLD)
    pause = servers.reader_l3.pause_next_load()
    reading = asyncio.ensure_future(servers.reader.store.bots.get(KEY.id))
    await pause.reached.wait()
    await servers.writer.store.bots.put(KEY.id, NEW)
    pause.release()
    await reading
    await servers.reader.resolver.drain()
    return await servers.held_in_l2() == "old"


async def overtaken_and_late(servers: Pair) -> bool:
    """The reader's fill is held up until the fence of the write that overtook it has gone."""
    await servers.writer.store.bots.put(KEY.id, OLD)
    await until_l2_is_empty(servers)
    pause = servers.reader_l2.pause_next_fill()
    await servers.reader.store.bots.get(KEY.id)
    await pause.reached.wait()
    await servers.writer.store.bots.put(KEY.id, NEW)
    await until_l2_is_empty(servers)
    pause.release()
    await servers.reader.resolver.drain()
    return await servers.held_in_l2() == "old"


async def fenced_out_of_order(servers: Pair) -> bool:
    """The fence of an older write arrives after the fence of a newer one, and then the older value's fill."""
    first = (await servers.writer.store.bots.put(KEY.id, OLD)).version
    pause = servers.reader_l2.pause_next_fill()
    await servers.reader.store.bots.get(KEY.id)
    await pause.reached.wait()
    newer = (await servers.writer.store.bots.put(KEY.id, NEW)).version
    assert newer > first
    await servers.writer.resolver._l2.fence({KEY: first}, servers.writer.resolver.coherence)
    pause.release()
    await servers.reader.resolver.drain()
    return await servers.held_in_l2() == "old"


async def until_l2_is_empty(servers: Pair) -> None:
    """Wait for the key to expire in L2, fences included."""
    cache = servers.writer.resolver._l2
    assert isinstance(cache, RedisCache)
    name = redis_key(cache._prefix, KEY)

    async def gone() -> bool:
        topology = await cache._connection.topology()
        node = topology.node_of(name)
        _, value = (await cache._connection.run(cache._read, {node: [name, name]}))[node]
        return value is None

    await until(gone)


async def test_l1_takes_no_overtaken_fill(settings: Settings, l3: PostgresStorage) -> None:
    """R1: a fill whose key was fenced after its ticket is refused."""
    async with pair(settings, l3) as servers:
        assert not await overtaken_in_l1(servers)


async def test_without_tickets_l1_takes_it(settings: Settings, l3: PostgresStorage) -> None:
    """The same schedule catches an L1 without tickets."""
    async with pair(settings, l3) as servers:
        cache = servers.reader.caches["bot"]
        cache.__class__ = NoTickets
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
