"""The adapters of one server, built from `Settings`. Beside `node`, the only module that knows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from holdfast.clock import Clock
from holdfast.errors import SettingsError, StorageNotReady
from holdfast.kinds import ESCALATION, REVIEW, Kind
from holdfast.protocols import Coherence
from holdfast.recovery.webhook import Webhook
from holdfast.recovery.webhook_address import read_address
from holdfast.settings import Settings
from holdfast.tiers import l3_migrations, l3_self_test
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import RedisConnector
from holdfast.tiers.l2_events import RedisEvents
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_guard import RedisGuard
from holdfast.tiers.l2_journal import RedisJournals
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l2_secured import SecuredCalls
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_connect import PostgresConnector
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_decisions import PostgresDecisions
from holdfast.tiers.l3_deliveries import PostgresDeliveries
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_feed import PostgresFeed
from holdfast.tiers.l3_guard import PostgresGuard
from holdfast.tiers.l3_journals import PostgresJournals
from holdfast.tiers.l3_keys import PostgresKeys
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.tiers.l3_recovery import PostgresQuarantine, PostgresRecoveryLog
from holdfast.tiers.l3_runs import PostgresRuns

POLL_SECONDS_MAX: Final = 5.0
JOURNAL_CONNECTIONS: Final = 3
"""For a flush, a takeover's, and what is asked beside them."""

logger = logging.getLogger("holdfast")


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
        runs: L3's side of run contexts; `key_rows`: its data keys; `reviews`: of reviews, `escalations`: of
            escalations; `audit`: the audit log there; `deliveries`: what is to leave runs; `recovery_log` and
            `quarantine`: recovery's records there.
        l2_guard, l3_guard: know whether L2 and L3 answer.
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
    runs: PostgresRuns
    key_rows: PostgresKeys
    reviews: PostgresDecisions
    escalations: PostgresDecisions
    audit: PostgresAudit
    deliveries: PostgresDeliveries
    l2_guard: RedisGuard
    l3_guard: PostgresGuard
    recovery_log: PostgresRecoveryLog
    quarantine: PostgresQuarantine
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
    guard = postgres_guard(settings, clock)
    stack.push_async_callback(guard.close)
    pool = connection_pool(settings, guard=guard)
    stack.push_async_callback(pool.close)
    await prepare(pool, kinds.values(), migrate=settings.migrate_on_connect, progress=progress)
    await guard.connect()
    untrusted = await _untrusted(pool, kinds.values())
    l3 = PostgresStorage(pool, kinds)
    apart = connection_pool(settings, size_max=1, guard=guard)
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
        journals=journal_base(settings, kinds, stack, guard),
        streams=journal_streams(settings, clock, stack),
        runs=PostgresRuns(pool, dead_after_seconds=settings.write_behind_takeover_seconds),
        key_rows=PostgresKeys(pool),
        reviews=PostgresDecisions(pool, REVIEW),
        escalations=PostgresDecisions(pool, ESCALATION),
        audit=PostgresAudit(pool),
        deliveries=PostgresDeliveries(pool),
        l2_guard=RedisGuard(connection),
        l3_guard=guard,
        recovery_log=PostgresRecoveryLog(pool),
        quarantine=PostgresQuarantine(pool),
        coherence=coherence,
        untrusted=untrusted,
    )


async def _untrusted(pool: ConnectionPool, kinds: Iterable[Kind[Any]]) -> Mapping[str, str]:
    async with pool.connection() as lent:
        with mapped("testing the triggers"):
            untrusted = await l3_self_test.untrusted(lent, kinds)
    for kind, reason in untrusted.items():
        logger.warning("kind %s is served uncached: %s", kind, reason)
    return untrusted


def webhook(settings: Settings) -> Webhook | None:
    """What posts escalations to the URL of the settings; None: there is none."""
    if not settings.escalation_webhook_url:
        return None
    address = read_address(settings.escalation_webhook_url, plain_allowed=settings.escalation_webhook_plain)
    return Webhook(address, settings.escalation_webhook_secret)


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


def journal_base(
    settings: Settings, kinds: Mapping[str, Kind[Any]], stack: AsyncExitStack, guard: PostgresGuard | None = None
) -> PostgresJournals:
    """What L3 knows of journals, by connections of its own: writers who keep all others busy must not look dead.

    A flush that stands still ends before its server is taken for dead.
    """
    pool = connection_pool(settings, size_max=JOURNAL_CONNECTIONS, guard=guard)
    stack.push_async_callback(pool.close)
    return PostgresJournals(pool, kinds, idle_ms=round(settings.write_behind_takeover_seconds * 1000 / 2))


def connector(settings: Settings) -> PostgresConnector:
    """How connections to L3 are opened."""
    return PostgresConnector(
        settings.postgres_url,
        connect_timeout_seconds=settings.l3_connect_timeout_seconds,
        statement_timeout_seconds=settings.l3_statement_timeout_seconds,
        ca_file=settings.postgres_ca_file or None,
    )


def change_source(settings: Settings, *, tags: bool = True) -> PostgresFeed:
    """A reader of L3's change feed, with a connection of its own; nothing is opened yet.

    A connection that stands still is given up before long, however long the bound: a new one may do better.
    """
    return PostgresFeed(
        connector(settings),
        poll_timeout_seconds=min(max(0.5, 2 * settings.staleness_bound_seconds), POLL_SECONDS_MAX),
        tags=tags,
    )


def connection_pool(
    settings: Settings, *, size_max: int | None = None, guard: PostgresGuard | None = None
) -> ConnectionPool:
    """The held connections to L3, by default as many as is set; nothing is opened yet."""
    return ConnectionPool(
        connector(settings).open,
        size_max=size_max or settings.l3_connections_max,
        queue_max=settings.l3_queue_max,
        timeout_seconds=settings.l3_connect_timeout_seconds,
        guard=guard,
    )


def postgres_guard(settings: Settings, clock: Clock) -> PostgresGuard:
    """What knows whether L3 answers, by a connection of its own; nothing is opened yet."""
    opener = partial(connector(settings).open, {"application_name": "holdfast guard"})
    return PostgresGuard(opener, monotonic=clock.monotonic, silence_seconds=settings.l3_silence_seconds)


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
