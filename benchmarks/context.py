"""What the benchmarks run on: the embedded servers of a home, with a database and a key prefix of their own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from glide import (
    ClusterScanCursor,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    Logger,
    LogLevel,
    NodeAddress,
    RandomNode,
    ServerCredentials,
)

from holdfast.adapters import open_tiers
from holdfast.clock import SystemClock
from holdfast.embedded import EmbeddedOptions, default_home, ensure_running, stop
from holdfast.errors import HoldfastError
from holdfast.flows import Flows
from holdfast.kinds import register
from holdfast.settings import Settings
from holdfast.testing.door import connect_flows
from holdfast.tiers.l2_connect import RedisAddress
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l2_topology import Topology
from holdfast.tiers.l3_postgres import PostgresStorage

DATABASE = "benchmarks"
PREFIX = "benchmarks:"
REMOVAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Context:
    """A running server of Holdfast, and the bare clients it is compared with.

    Attributes:
        settings: of `flows`.
        flows: with `flows.store`, the door.
        l2, l3, fences: the tiers below `flows`.
        glide: a client of the Valkey cluster of its own.
        postgres: a connection of its own to the same database, as `asyncpg.connect` gives it.
        prefix: of every key in L2.
    """

    settings: Settings
    flows: Flows
    l2: RedisCache
    l3: PostgresStorage
    fences: RedisFences
    glide: GlideClusterClient
    postgres: asyncpg.Connection[Any]
    prefix: bytes

    async def valkey_version(self) -> str:
        """As a node tells it."""
        info = await self.glide.custom_command(["INFO", "server"], route=RandomNode())
        found = re.search(rb"valkey_version:(\S+)", info) if isinstance(info, bytes) else None
        return found[1].decode() if found else "unknown"

    async def primaries(self) -> int:
        """How many nodes share the keys."""
        reply = await self.glide.custom_command(["CLUSTER", "SLOTS"])
        return len(Topology.from_slots(reply).nodes) if isinstance(reply, list) else 1


@asynccontextmanager
async def open_context(*, replicas: int = 0) -> AsyncIterator[Context]:
    """Start the servers if need be, and leave neither the database nor keys behind.

    Args:
        replicas: of each node of L2, 0 or 1; with replicas it is another set of servers, which is stopped at the end.
    """
    home = default_home()
    if replicas:
        home = home.with_name(f"{home.name}-replicated")
    running = await ensure_running(EmbeddedOptions(home, replicas=replicas), progress=print)
    async with AsyncExitStack() as stack:
        if replicas:
            stack.push_async_callback(stop, EmbeddedOptions(home, replicas=replicas))
        url = await stack.enter_async_context(_database(running.postgres_url))
        settings = Settings(
            postgres_url=url, redis_urls=running.redis_urls, key_prefix=PREFIX, journal_replicas=replicas
        )
        kinds, clock = register([]), SystemClock()
        glide = await _glide(settings)
        stack.push_async_callback(glide.close)
        stack.push_async_callback(_remove_keys, glide)
        tiers = await open_tiers(settings, kinds, clock, stack, lambda _: None)
        postgres = await asyncpg.connect(url)
        stack.push_async_callback(postgres.close)
        flows = await stack.enter_async_context(
            connect_flows(
                l2=tiers.l2,
                l3=tiers.l3,
                feed=tiers.feed,
                relay=(tiers.relay_feed, tiers.fences),
                journals=tiers.journals,
                streams=tiers.streams,
                clock=clock,
                settings=settings,
            )
        )
        yield Context(settings, flows, tiers.l2, tiers.l3, tiers.fences, glide, postgres, PREFIX.encode())


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[str]:
    """The URL of a new database on the server; what an interrupted run left is replaced."""
    admin = await asyncpg.connect(url)
    try:
        try:
            await admin.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        except asyncpg.ObjectInUseError as fault:
            raise HoldfastError("another benchmark runs on these servers: one at a time, please") from fault
        await admin.execute(f"CREATE DATABASE {DATABASE}")
        yield urlsplit(url)._replace(path=f"/{DATABASE}").geturl()
        await admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    finally:
        await admin.close()


async def _glide(settings: Settings) -> GlideClusterClient:
    Logger.init(LogLevel.OFF)  # it would write each script that a node does not know yet to stderr
    addresses = [RedisAddress.parse(url) for url in settings.redis_urls]
    first = addresses[0]
    return await GlideClusterClient.create(
        GlideClusterClientConfiguration(
            [NodeAddress(each.host, each.port) for each in addresses],
            credentials=ServerCredentials(first.password, first.user) if first.password else None,
            request_timeout=10_000,  # ms; its own 250 would end a comparison at the first pause of the machine
        )
    )


async def _remove_keys(glide: GlideClusterClient) -> None:
    cursor: Any = ClusterScanCursor()  # type: ignore[no-untyped-call]
    async with asyncio.timeout(REMOVAL_SECONDS):  # the client scans a cluster that is gone for ever
        while not cursor.is_finished():
            cursor, names = await glide.scan(cursor, match=PREFIX + "*", count=1000)
            if isinstance(names, list) and names:
                await glide.unlink(names)
