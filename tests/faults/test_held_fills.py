"""A fill is held up on its way to L2 until the fence that forbids it has gone: its age refuses it (rule C2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

import holdfast
from fix_races import KEY, healthy, no_age_check, stored, until, until_l2_is_trusted, until_l2_was_told
from fix_single import Single
from fix_tiers import flows_of
from holdfast import Bot, Settings
from holdfast.embedded import postgres
from holdfast.embedded.layout import SOCKET_NAME
from holdfast.invalidation.relay import Relay
from holdfast.node import OpenStore
from holdfast.testing.fault_proxy import FaultProxy, StartProxy
from holdfast.testing.faults import Connection, Fault
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache

pytestmark = [pytest.mark.xdist_group("faults_l2"), pytest.mark.timeout(120)]

LIFETIME_SECONDS = 1.0
OTHER = "other"
OLD, NEW = Bot(name="1"), Bot(name="2")
Mutation = Callable[[RedisCache, RedisFences], None]


def is_no_feed(connection: Connection) -> bool:
    """Of connections to L3: those that load and write."""
    return b"holdfast feed" not in connection.first_bytes


def cache_of(store: OpenStore) -> RedisCache:
    """L2 as a server sees it."""
    cache = flows_of(store).resolver._l2
    assert isinstance(cache, RedisCache)
    return cache


def relay_of(store: OpenStore) -> Relay:
    """The relay of a server."""
    relay = flows_of(store).relay
    assert relay is not None
    return relay


class Through:
    """A reader's way to L3 and L2, through proxies.

    Attributes:
        settings: of the reader.
    """

    def __init__(self, settings: Settings, l3: FaultProxy, l2: FaultProxy) -> None:
        self.l3 = l3
        self.l2 = l2
        database = urlsplit(settings.postgres_url).path
        self.settings = msgspec.structs.replace(
            settings,
            postgres_url=f"postgresql://{postgres.USER}@127.0.0.1:{l3.port}{database}",
            redis_urls=tuple(f"{url.rpartition(':')[0]}:{l2.port}" for url in settings.redis_urls),
        )


@asynccontextmanager
async def reader_and_writer(
    settings: Settings, single: Single, fault_proxy: StartProxy, mutation: Mutation
) -> AsyncIterator[tuple[Through, OpenStore, OpenStore]]:
    """Two servers, of which the reader goes through proxies, and the writer fences L2."""
    direct = msgspec.structs.replace(settings, redis_urls=single.urls, key_prefix="vrooli:")
    (sockets,) = parse_qs(urlsplit(settings.postgres_url).query)["host"]
    through = Through(
        direct, await fault_proxy(Path(sockets) / SOCKET_NAME), await fault_proxy("127.0.0.1", single.port)
    )
    async with holdfast.connect(direct) as writer, holdfast.connect(through.settings) as reader:
        await relay_of(reader).stop()
        mutation(cache_of(reader), cast("RedisFences", relay_of(reader)._sink))
        await until_l2_is_trusted(flows_of(writer), flows_of(reader))
        yield through, reader, writer


async def begin_a_fill(through: Through, reader: OpenStore, held: Callable[[], Fault]) -> Fault:
    """Read a document, with a hold of L2 switched on between the miss and the fill."""
    counters, sent = flows_of(reader).counters.l2, 0
    misses = counters.misses

    async def has_missed() -> bool:
        return counters.misses > misses

    async def has_filled() -> bool:
        return through.l2.to_server.received > sent

    with through.l3.hold("to_client", where=is_no_feed):
        reading = asyncio.ensure_future(reader.bots.get(KEY.id))
        await until(has_missed)
        fault, sent = held(), through.l2.to_server.received
    assert await reading == OLD
    await until(has_filled)
    return fault


async def is_gone(store: OpenStore) -> bool:
    """Whether L2 holds nothing of the document, fences included."""
    return await stored(cache_of(store)) is None


async def late_fill(
    settings: Settings,
    single: Single,
    fault_proxy: StartProxy,
    *,
    seconds: float,
    mutation: Mutation = healthy,
) -> tuple[Bot | None, Bot | None]:
    """Read a document, hold its fill up so long, and replace it meanwhile.

    Returns what L2 holds at the end, and what a server answers that comes new to it.

    Args:
        seconds: longer than the lifetime of a fence.
    """
    async with holdfast.connect(settings) as before:  # with another L2, so that no fence stands in the way
        await before.bots.put_many({KEY.id: OLD, OTHER: OLD})
    async with reader_and_writer(settings, single, fault_proxy, mutation) as (through, reader, writer):
        await reader.bots.get(OTHER)  # then the node knows the script of a fill
        await flows_of(reader).resolver.drain()
        held = await begin_a_fill(through, reader, lambda: through.l2.hold("to_server"))
        version = (await writer.bots.put(KEY.id, NEW)).version
        await until_l2_was_told(cache_of(writer), version)
        await asyncio.sleep(seconds)  # it is time itself that is to do harm here
        await until(partial(is_gone, writer))
        held.end()
        assert await reader.bots.get("nobody") is None  # on the same connection: the fill has arrived before
        entry = await stored(cache_of(writer))
        in_l2 = None if entry is None or entry.row is None else flows_of(writer).resolver.decode(KEY, entry.row)
        async with holdfast.connect(writer._node.settings) as fresh:
            await until_l2_is_trusted(flows_of(fresh))
            answer = await fresh.bots.get(KEY.id)
        assert await reader.bots.get(KEY.id) == NEW
        return in_l2, answer


@pytest.mark.parametrize(("mutation", "left"), [(healthy, (None, NEW)), (no_age_check, (OLD, OLD))])
async def test_a_fill_held_on_its_way_is_refused(
    settings: Settings, single: Single, fault_proxy: StartProxy, mutation: Mutation, left: tuple[Bot | None, Bot]
) -> None:
    """C2: a fill that the network held up until its fence had gone is refused; without the age check it is found."""
    short = msgspec.structs.replace(settings, l2_fence_lifetime_seconds=LIFETIME_SECONDS)
    outcome = await late_fill(short, single, fault_proxy, seconds=2 * LIFETIME_SECONDS, mutation=mutation)
    assert outcome == left


@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_prove_failovers_outlived_by_a_fill_of_two_minutes(
    settings: Settings, single: Single, fault_proxy: StartProxy
) -> None:
    """C2: with the lifetimes that servers have, a fill held for two minutes is refused."""
    assert await late_fill(settings, single, fault_proxy, seconds=120.0) == (None, NEW)
