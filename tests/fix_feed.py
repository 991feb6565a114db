"""The change feed over real servers: PostgreSQL 18, the session's, and 16, started for those tests that ask.

* ``database_url``: the URL of a migrated database of its own, on each version in turn.
* ``feeds``: `Feeds` over it, for the suite of `ChangeSource`.
* ``sql``: a connection beside Holdfast's, as a person with psql has it.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import pytest

from holdfast.embedded import EmbeddedOptions, ensure_running, stop
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN, register
from holdfast.protocols import Cursor, Poll
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_connect import PostgresConnector
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_feed import PostgresFeed
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.tiers.l3_statements import quote

Answer = TypeVar("Answer")
HOME_16 = "servers_16"
PARTITIONED_BY_HAND = """ALTER TABLE holdfast."User" RENAME TO plain;
    CREATE TABLE holdfast."User" (LIKE holdfast.plain INCLUDING ALL) PARTITION BY HASH (id);
    CREATE TABLE holdfast.half PARTITION OF holdfast."User" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE holdfast.other_half PARTITION OF holdfast."User" FOR VALUES WITH (MODULUS 2, REMAINDER 1)"""
"""The table of bots, with partitions that no migration made; without triggers, until it is migrated."""
TIMEOUT_SECONDS = 10.0
TABLES = {kind.name: f"holdfast.{quote(kind.table)}" for kind in BUILT_IN}


def connector(url: str) -> PostgresConnector:
    """How connections are opened here."""
    return PostgresConnector(url, connect_timeout_seconds=TIMEOUT_SECONDS, statement_timeout_seconds=TIMEOUT_SECONDS)


def feed_of(url: str, *, poll_timeout_seconds: float = TIMEOUT_SECONDS) -> PostgresFeed:
    """A reader of the change feed."""
    return PostgresFeed(connector(url), poll_timeout_seconds=poll_timeout_seconds)


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection with these settings of the server."""
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


class Reader:
    """A reader that goes on from its last cursor."""

    def __init__(self, source: PostgresFeed) -> None:
        self.source = source
        self.cursor: Cursor | None = None

    async def poll(self) -> Poll:
        """Go on."""
        poll = await self.source.poll(self.cursor)
        self.cursor = poll.cursor
        return poll

    async def news(self) -> list[tuple[str, str, bool]]:
        """What came since, as kind, id, deleted."""
        poll = await self.poll()
        assert poll.reset is None, poll.reset
        return [(change.key.kind, change.key.id, change.deleted) for change in poll.changes]


class OpenTransaction:
    """A transaction on a connection of its own."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def put(self, key: Key, body: bytes) -> None:
        """Insert or update a row."""
        await self._connection.execute(
            f"""INSERT INTO {TABLES[key.kind]} (id, document) VALUES ($1, $2)
            ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document""",  # noqa: S608 - a table's name
            key.id,
            body.decode(),
        )

    async def delete(self, key: Key) -> None:
        """Delete a row."""
        table = TABLES[key.kind]
        await self._connection.execute(f"DELETE FROM {table} WHERE id = $1", key.id)  # noqa: S608 - its name

    async def commit(self) -> None:
        """Let it take effect."""
        await self._end("COMMIT")

    async def rollback(self) -> None:
        """Let nothing of it take effect."""
        await self._end("ROLLBACK")

    async def _end(self, how: str) -> None:
        await self._connection.execute(how)
        await self._connection.close()


class PostgresFeeds:
    """`Feeds` over one database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pool = ConnectionPool(connector(url).open, size_max=4, queue_max=100, timeout_seconds=TIMEOUT_SECONDS)
        self.storage = PostgresStorage(self.pool, register([]))
        self.sources: list[PostgresFeed] = []

    def source(self) -> PostgresFeed:
        """One more reader."""
        self.sources.append(feed_of(self.url))
        return self.sources[-1]

    async def begin(self) -> OpenTransaction:
        """Open a transaction."""
        connection = await asyncpg.connect(self.url)
        await connection.execute("BEGIN")
        return OpenTransaction(connection)

    async def truncate(self, kind: str) -> None:
        """Empty a kind's table."""
        async with connected(self.url) as connection:
            await connection.execute(f"TRUNCATE {TABLES[kind]}")

    async def become_another(self) -> None:
        """Do to the database what a crash does: UNLOGGED tables are emptied, all connections end."""
        async with connected(self.url) as connection:
            await connection.execute("TRUNCATE holdfast.incarnation, holdfast.outbox_marks")
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    async def close(self) -> None:
        """Disconnect everything."""
        for source in self.sources:
            await source.close()
        await self.pool.close()


@pytest.fixture(scope="session")
def postgres_16(server_options: EmbeddedOptions) -> str:
    """A PostgreSQL 16, shared by the workers; its database is migrated and serves as template."""
    options = EmbeddedOptions(server_options.home.with_name(HOME_16), postgres_version=16)

    async def start() -> str:
        url = (await ensure_running(options)).postgres_url
        async with connected(url) as connection:
            await l3_migrations.migrate(connection, BUILT_IN)  # one worker after the other, and the first one does it
        return url

    return run(start())


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Stop it when all workers are done."""
    yield
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    if not hasattr(session.config, "workerinput") and factory._basetemp is not None:
        home = factory.getbasetemp() / HOME_16
        run(stop(EmbeddedOptions(home, postgres_version=16)))
        shutil.rmtree(home, ignore_errors=True)


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine in a thread of its own: a session fixture may be set up while a test's loop runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@pytest.fixture
async def postgres_16_url(postgres_16: str) -> AsyncIterator[str]:
    """The URL of a migrated database of PostgreSQL 16, dropped after the test."""
    name, admin = f"test_{uuid.uuid4().hex}", postgres_16.replace("/holdfast?", "/postgres?")
    async with connected(admin) as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE holdfast")
        yield postgres_16.replace("/holdfast?", f"/{name}?")
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["postgres_url", "postgres_16_url"], ids=["18", "16"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database, on each version of PostgreSQL."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
async def feeds(database_url: str) -> AsyncIterator[PostgresFeeds]:
    """Readers and writers over one database."""
    made = PostgresFeeds(database_url)
    yield made
    await made.close()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection beside Holdfast's."""
    async with connected(database_url) as connection:
        yield connection


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[Reader]:
    """A reader that has begun."""
    source = feed_of(database_url)
    made = Reader(source)
    await made.poll()
    yield made
    await source.close()
