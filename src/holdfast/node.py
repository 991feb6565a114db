"""One server: built from `Settings`, started and stopped in order. The only module that knows the adapters.

Start: embedded servers if none are named, L3 (migrated, its identity read), L2 (lazily), the flows. Stop is the
reverse, may come after a start that failed half-way, and may be repeated.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import random
import socket
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import msgspec

from holdfast.arguments import SettingArguments
from holdfast.clock import Clock, SystemClock
from holdfast.errors import Closed, HoldfastError, SettingsError, StorageNotReady
from holdfast.flows import Flows, Given
from holdfast.invalidation.rules import RULES, Rule
from holdfast.invalidation.rules import check as check_rules
from holdfast.kinds import Kind, register
from holdfast.protocols import Coherence
from holdfast.settings import Settings, load_settings
from holdfast.store import StateStore
from holdfast.tiers import l3_migrations, l3_self_test
from holdfast.tiers.codec import Codec
from holdfast.tiers.l1_caches import build_caches
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import RedisConnector
from holdfast.tiers.l2_events import RedisEvents
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_journal import RedisJournals
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l2_secured import SecuredCalls
from holdfast.tiers.l3_connect import PostgresConnector
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_feed import PostgresFeed
from holdfast.tiers.l3_journals import PostgresJournals
from holdfast.tiers.l3_postgres import PostgresStorage

POLL_SECONDS_MAX = 5.0
JOURNAL_CONNECTIONS = 3
"""For a flush, a takeover's, and what is asked beside them."""

logger = logging.getLogger("holdfast")


class Node:
    """One server's life.

    Attributes:
        flows: there once `start` has returned.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Iterable[Kind[Any]],
        *,
        progress: Callable[[str], None],
        rules: Iterable[Rule] = RULES,
    ) -> None:
        self.settings = settings
        self.kinds = register(kinds)
        self.rules = check_rules(rules, self.kinds)
        self._clock = SystemClock()
        build_caches(settings, self.kinds, self._clock)  # what cannot work is refused before anything connects
        self.flows: Flows | None = None
        self._progress = progress
        self._stack = AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> StateStore:
        """Connect the tiers and open the door. What was started is stopped again if a later step fails."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in reverse order; may be called twice, by several at once, and by a handler of an event.

        Whoever is cancelled here ceases to wait; the server stops all the same.
        """
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name="holdfast stopping")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self.flows = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()

    async def _start(self) -> StateStore:
        settings = await with_servers(self.settings, self._progress)
        tiers = await open_tiers(settings, self.kinds, self._clock, self._stack, self._progress)
        flows = Flows(
            Given(
                settings=settings,
                kinds=self.kinds,
                l2=tiers.l2,
                l3=tiers.l3,
                feed=tiers.feed,
                relay=(tiers.relay_feed, tiers.fences),
                past=tiers.past_feed,
                events=tiers.events,
                journals=tiers.journals,
                streams=tiers.streams,
                new_id=lambda: uuid.uuid4().hex,
                wall=self._clock.wall,
                coherence=tiers.coherence,
                untrusted=tiers.untrusted,
                clock=self._clock,
                sleep=asyncio.sleep,
                random_=random.Random(),  # noqa: S311 - jitter, nothing secret
                server=process_name(),
                rules=self.rules,
                rules_l3=tiers.rules_l3,
            )
        )
        self._stack.push_async_callback(flows.stop)
        await flows.start()
        self.flows = flows
        return flows.store


@dataclass(frozen=True, slots=True)
class Tiers:
    """The adapters of one server.

    Attributes:
        feed, relay_feed: the change feed for L1, and the one by which L2 is fenced if this server is elected.
        past_feed: for watchers that come back; it connects when there is one.
        rules_l3: L3 for the invalidation rules, by a connection of its own: it connects when they act first.
        fences: L2 as the relay sees it.
        events: what carries events between servers.
        journals: what L3 knows of write-behind's journals, and `streams`: these in L2.
        coherence: what L3 said when it was asked first.
        untrusted: kinds whose tables do not tell of their changes, with the reason; no cache may answer for them.
    """

    l2: RedisCache
    l3: PostgresStorage
    feed: PostgresFeed
    relay_feed: PostgresFeed
    past_feed: PostgresFeed
    rules_l3: PostgresStorage
    fences: RedisFences
    events: RedisEvents
    journals: PostgresJournals
    streams: RedisJournals
    coherence: Coherence
    untrusted: Mapping[str, str]


async def open_tiers(
    settings: Settings,
    kinds: Mapping[str, Kind[Any]],
    clock: Clock,
    stack: AsyncExitStack,
    progress: Callable[[str], None],
) -> Tiers:
    """Connect L3, migrated and tested, and get L2 ready, which is connected when first needed.

    Args:
        settings: with both servers named.
        stack: closes what was opened.
    """
    pool = connection_pool(settings)
    stack.push_async_callback(pool.close)
    await prepare(pool, kinds.values(), migrate=settings.migrate_on_connect, progress=progress)
    async with pool.connection() as lent:
        with mapped("testing the triggers"):
            untrusted = await l3_self_test.untrusted(lent, kinds.values())
    for kind, reason in untrusted.items():
        logger.warning("kind %s is served uncached: %s", kind, reason)
    l3 = PostgresStorage(pool, kinds)
    apart = connection_pool(settings, size_max=1)
    stack.push_async_callback(apart.close)
    coherence = (await l3.load([])).coherence
    connection = redis_connection(settings, clock)
    stack.push_async_callback(connection.close)
    codec = Codec(compress_above_bytes=settings.l2_compress_above_bytes, inflated_bytes_max=settings.inflated_bytes_max)
    prefix, lifetime = settings.key_prefix.encode(), settings.l2_fence_lifetime_seconds
    return Tiers(
        l2=RedisCache(
            connection,
            codec,
            prefix=prefix,
            fence_lifetime_seconds=lifetime,
            lease_seconds=settings.l2_lease_seconds,
        ),
        l3=l3,
        feed=change_source(settings),
        relay_feed=change_source(settings, tags=False),
        past_feed=change_source(settings, tags=False),
        rules_l3=PostgresStorage(apart, kinds),
        fences=RedisFences(connection, codec, prefix=prefix, fence_lifetime_seconds=lifetime),
        events=event_transport(settings, clock, stack),
        journals=journal_base(settings, kinds, stack),
        streams=journal_streams(settings, clock, stack),
        coherence=coherence,
        untrusted=untrusted,
    )


def event_transport(settings: Settings, clock: Clock, stack: AsyncExitStack) -> RedisEvents:
    """What carries events, with connections of its own: what waits for a replica holds up all that comes behind it."""
    ordinary, secured = redis_connection(settings, clock), redis_connection(settings, clock)
    stack.push_async_callback(ordinary.close)
    stack.push_async_callback(secured.close)
    return RedisEvents(
        ordinary,
        SecuredCalls(secured, sleep=asyncio.sleep),
        redis_connector(settings),
        prefix=settings.key_prefix.encode(),
        backlog_max=settings.event_backlog_max,
        sleep=asyncio.sleep,
    )


def journal_streams(settings: Settings, clock: Clock, stack: AsyncExitStack) -> RedisJournals:
    """Journals in L2, with connections of their own, for the same reason."""
    ordinary, secured = redis_connection(settings, clock), redis_connection(settings, clock)
    stack.push_async_callback(ordinary.close)
    stack.push_async_callback(secured.close)
    streams = RedisJournals(
        ordinary,
        SecuredCalls(secured, sleep=asyncio.sleep, replicas=max(1, settings.journal_replicas or 1), attempts=10),
        prefix=settings.key_prefix.encode(),
        sleep=asyncio.sleep,
    )
    stack.push_async_callback(streams.close)
    return streams


def journal_base(settings: Settings, kinds: Mapping[str, Kind[Any]], stack: AsyncExitStack) -> PostgresJournals:
    """What L3 knows of journals, by connections of its own: writers who keep all others busy must not look dead.

    A flush that stands still ends before its server is taken for dead.
    """
    pool = connection_pool(settings, size_max=JOURNAL_CONNECTIONS)
    stack.push_async_callback(pool.close)
    return PostgresJournals(pool, kinds, idle_ms=round(settings.write_behind_takeover_seconds * 1000 / 2))


async def with_servers(settings: Settings, progress: Callable[[str], None]) -> Settings:
    """The settings with both servers named, the embedded ones started if none were."""
    if not settings.embedded:
        return settings
    # Imported only here: with servers of your own, nothing embedded is even loaded.
    from holdfast.embedded import EmbeddedOptions, default_home, ensure_running  # noqa: PLC0415

    running = await ensure_running(
        EmbeddedOptions(
            home=Path(settings.home) if settings.home else default_home(),
            replicas=settings.embedded_replicas,
            postgres_version=settings.embedded_postgres_version,
        ),
        progress=progress,
    )
    replicas = settings.embedded_replicas if settings.journal_replicas is None else settings.journal_replicas
    return msgspec.structs.replace(
        settings, postgres_url=running.postgres_url, redis_urls=running.redis_urls, journal_replicas=replicas
    )


def connector(settings: Settings) -> PostgresConnector:
    """How connections to L3 are opened."""
    return PostgresConnector(
        settings.postgres_url,
        connect_timeout_seconds=settings.l3_connect_timeout_seconds,
        statement_timeout_seconds=settings.l3_statement_timeout_seconds,
        ca_file=settings.postgres_ca_file or None,
    )


def process_name() -> str:
    """This process, for records: ``user@host:pid``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # nobody of that number is known here
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def change_source(settings: Settings, *, tags: bool = True) -> PostgresFeed:
    """A reader of L3's change feed, with a connection of its own; nothing is opened yet.

    A connection that stands still is given up before long, however long the bound: a new one may do better.
    """
    return PostgresFeed(
        connector(settings),
        poll_timeout_seconds=min(max(0.5, 2 * settings.staleness_bound_seconds), POLL_SECONDS_MAX),
        tags=tags,
    )


def connection_pool(settings: Settings, *, size_max: int | None = None) -> ConnectionPool:
    """The held connections to L3, by default as many as is set; nothing is opened yet."""
    return ConnectionPool(
        connector(settings).open,
        size_max=size_max or settings.l3_connections_max,
        queue_max=settings.l3_queue_max,
        timeout_seconds=settings.l3_connect_timeout_seconds,
    )


def redis_connection(settings: Settings, clock: Clock) -> RedisConnection:
    """A connection to L2; it is made when first needed."""
    return RedisConnection(redis_connector(settings), monotonic=clock.monotonic)


def redis_connector(settings: Settings) -> RedisConnector:
    """How clients of L2 are opened."""
    return RedisConnector(
        settings.redis_urls,
        request_timeout_seconds=settings.l2_request_timeout_seconds,
        connect_timeout_seconds=settings.l2_connect_timeout_seconds,
        ca_pem=redis_ca(settings),
    )


def redis_ca(settings: Settings) -> bytes | None:
    """The certificates to trust for L2; None: the system's."""
    if not settings.redis_ca_file:
        return None
    try:
        return Path(settings.redis_ca_file).read_bytes()
    except OSError as fault:
        raise SettingsError(f"redis_ca_file: {settings.redis_ca_file}: {fault.strerror}") from fault


async def prepare(
    pool: ConnectionPool, kinds: Iterable[Kind[Any]], *, migrate: bool, progress: Callable[[str], None]
) -> list[str]:
    """Bring the database's schema up to date, or check that it is; returns what was applied."""
    kinds = list(kinds)
    async with pool.connection() as connection:
        with mapped("migrating" if migrate else "checking the schema"):
            try:
                await l3_migrations.check(connection, kinds)  # needs no right to create, as migrating does
            except StorageNotReady:
                if not migrate:
                    raise
                return await l3_migrations.migrate(connection, kinds, progress=progress)
        return []


class Connecting:
    """What `connect()` returns: await it for an open store that you close, or enter it with `async with`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __await__(self) -> Generator[Any, None, OpenStore]:
        return self._open().__await__()

    async def __aenter__(self) -> OpenStore:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._node.stop()

    async def _open(self) -> OpenStore:
        if self._node.flows is not None:
            raise HoldfastError("this connection is open already; call connect() again for another server")
        await self._node.start()
        return OpenStore(self._node)


class OpenStore(StateStore):
    """An open door; `close()` shuts it and may be called twice."""

    def __init__(self, node: Node) -> None:
        if node.flows is None:
            raise Closed("the server is not started")
        super().__init__(node.flows.parts)
        self._node = node

    async def close(self) -> None:
        """End what is under way, then disconnect."""
        await self._node.stop()


def connect(
    settings: Settings | None = None,
    *,
    kinds: Iterable[Kind[Any]] = (),
    rules: Iterable[Rule] = RULES,
    config: Path | str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **arguments: Unpack[SettingArguments],
) -> Connecting:
    """Connect one server: ``async with holdfast.connect() as state:``, or ``state = await holdfast.connect()``.

    With no settings the embedded PostgreSQL and Valkey cluster are started, or reused if they run.

    Args:
        settings: all settings; then neither environment nor file is read.
        kinds: own kinds, beside the built-in ones.
        rules: which change of a document makes what else void: the seed's by default, ``(*RULES, ...)`` for more. All
            servers need the same rules and kinds: those of the one that fences L2 decide.
        config: a TOML file with settings.
        progress: told in words what is being waited for.
        arguments: single settings by name; they win over the environment and the file.

    Raises:
        SettingsError: at once, for a setting that cannot work.
    """
    if settings is not None and (arguments or config is not None):
        raise SettingsError("connect: give either settings, or single settings and config, not both")
    chosen = settings or load_settings(
        environment=os.environ, file=Path(config) if config is not None else None, arguments=arguments
    )
    return Connecting(Node(chosen, kinds, progress=progress, rules=rules))
