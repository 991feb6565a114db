"""The real tiers, each test with a database and a key prefix of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from fix_l2 import RedisHarness
from holdfast.adapters import change_source, connection_pool, redis_connection
from holdfast.clock import SystemClock
from holdfast.embedded import Running
from holdfast.embedded.layout import SOCKET_NAME
from holdfast.flows import Flows
from holdfast.kinds import BUILT_IN, Kind, register
from holdfast.node import OpenStore
from holdfast.protocols import ChangeSource, FenceSink, SharedCache, Storage
from holdfast.settings import Settings
from holdfast.testing.door import connect_flows
from holdfast.testing.fault_proxy import FaultProxy
from holdfast.tiers import l3_migrations
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_feed import PostgresFeed
from holdfast.tiers.l3_postgres import PostgresStorage

TEMPLATE = "migrated"


def flows_of(store: OpenStore) -> Flows:
    """The inside of an open store."""
    assert store._node.flows is not None
    return store._node.flows


def flows_over(
    settings: Settings,
    l2: SharedCache,
    l3: Storage,
    *,
    fences: FenceSink | None = None,
    feed: ChangeSource | None = None,
    kinds: Iterable[Kind[Any]] = (),
) -> AbstractAsyncContextManager[Flows]:
    """A server over given tiers, which follows the feed of the settings' database.

    Args:
        fences: L2 as the relay sees it; None: this server never leads.
        feed: another way to read the feed.
    """
    relay = (change_source(settings), fences) if fences is not None else None
    feed = feed or change_source(settings)
    return connect_flows(l2=l2, l3=l3, feed=feed, relay=relay, kinds=kinds, clock=SystemClock(), settings=settings)


def make_deaf(flows: Flows) -> None:
    """Let no hint arrive at a server: it reads the feed when its own time comes, or after a commit of its own."""
    source = flows.feed._source
    assert isinstance(source, PostgresFeed)
    source._wakes.clear()


class Behind(NamedTuple):
    """L3 behind a fault proxy.

    Attributes:
        url: of this test's database, through the proxy.
    """

    proxy: FaultProxy
    url: str


def behind(proxy: FaultProxy, url: str) -> Behind:
    """The database of a URL, through a proxy in front of its server, which is reached by its socket."""
    parts = urlsplit(url)
    return Behind(proxy, f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}")


@pytest.fixture
async def behind_proxy(settings: Settings) -> AsyncIterator[Behind]:
    """L3 behind a fault proxy."""
    async with proxy_of(settings) as proxy:
        yield behind(proxy, settings.postgres_url)


def proxy_of(settings: Settings) -> FaultProxy:
    """A proxy in front of L3, not yet started."""
    (directory,) = parse_qs(urlsplit(settings.postgres_url).query)["host"]
    return FaultProxy(Path(directory) / SOCKET_NAME)


@pytest.fixture(scope="session")
def postgres_template(servers: Running) -> str:
    """A migrated database that each test's is copied from; the first worker makes it, the others wait."""

    async def prepare() -> None:
        connection = await asyncpg.connect(servers.postgres_url)
        try:
            await connection.execute("SELECT pg_advisory_lock(4711)")
            if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", TEMPLATE):
                await connection.execute(f"CREATE DATABASE {TEMPLATE}_new")
                fresh = await asyncpg.connect(servers.postgres_url.replace("/holdfast?", f"/{TEMPLATE}_new?"))
                try:
                    await l3_migrations.migrate(fresh, BUILT_IN)
                finally:
                    await fresh.close()
                await connection.execute(f"ALTER DATABASE {TEMPLATE}_new RENAME TO {TEMPLATE}")
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as pool:  # a session fixture may be set up while a test's loop runs
        pool.submit(asyncio.run, prepare()).result()
    return TEMPLATE


@pytest.fixture
def settings(servers: Running, postgres_url: str, redis_prefix: str) -> Settings:
    """Settings of a server on this test's database and key prefix."""
    return Settings(
        postgres_url=postgres_url,
        redis_urls=servers.redis_urls,
        key_prefix=redis_prefix,
        l2_request_timeout_seconds=10.0,
    )


@pytest.fixture
async def l3(settings: Settings) -> AsyncIterator[PostgresStorage]:
    """PostgreSQL as L3."""
    storage = PostgresStorage(connection_pool(settings), register([]))
    yield storage
    await storage.close()


@pytest.fixture
async def l2_connection(settings: Settings) -> AsyncIterator[RedisConnection]:
    """A connection to the Valkey cluster."""
    connection = redis_connection(settings, SystemClock())
    yield connection
    await connection.close()


@pytest.fixture
def l2_harness(l2_connection: RedisConnection, settings: Settings) -> RedisHarness:
    """The Valkey cluster as L2, for the suites of the contract."""
    return RedisHarness(l2_connection, settings.key_prefix.encode())


@pytest.fixture
def l2(l2_harness: RedisHarness, settings: Settings) -> RedisCache:
    """The Valkey cluster as L2."""
    return l2_harness.open(lease_seconds=settings.l2_lease_seconds).cache


@pytest.fixture
def l2_fences(l2_harness: RedisHarness) -> RedisFences:
    """The same as the relay sees it."""
    return l2_harness.open().sink
