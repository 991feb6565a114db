"""L3 that is away, stands still, is not ready or holds what cannot be read: a typed error, never a missing document."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import msgspec
import pytest

import holdfast
from fix_bots import ADA
from fix_feed import connected
from fix_tiers import flows_of, flows_over
from holdfast import Consistency, Document, Kind, StorageNotReady, TierError, TierUnavailable
from holdfast.errors import CorruptDocument, SchemaTooNew
from holdfast.settings import Settings
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_migrations import migrations
from holdfast.tiers.l3_postgres import PostgresStorage


async def test_without_l3_a_read_is_an_error(settings: Settings, l3: PostgresStorage, l2: RedisCache) -> None:
    """A key that only L3 could answer raises; what L1 holds is served for as long as the feed shows it is current."""
    async with flows_over(settings, l2, l3) as flows:
        await flows.store.bots.put("held", ADA)
        await l3.close()
        assert await flows.store.bots.get("held") == ADA
        with pytest.raises(holdfast.HoldfastError):
            await flows.store.bots.get("asked")


async def test_no_server_at_the_address(settings: Settings) -> None:
    """Connecting to a PostgreSQL that is not there says so, without the password."""
    nowhere = msgspec.structs.replace(settings, postgres_url="postgresql://app:s3cret@127.0.0.1:1/holdfast")
    with pytest.raises(TierUnavailable) as refused:
        async with holdfast.connect(nowhere):
            pass
    assert "connecting" in str(refused.value)
    assert "s3cret" not in str(refused.value) + repr(nowhere)


async def test_a_database_without_the_schema(settings: Settings, servers: holdfast.Settings) -> None:
    """Without migration on connect, an unmigrated database is refused with the command that helps."""
    async with connected(settings.postgres_url) as connection:
        await connection.execute("DROP SCHEMA holdfast CASCADE")
    with pytest.raises(StorageNotReady, match="holdfast migrate"):
        async with holdfast.connect(msgspec.structs.replace(settings, migrate_on_connect=False)):
            pass


async def test_two_servers_migrate_once(settings: Settings) -> None:
    """Of servers that start at once on an empty database, one migrates and the others wait."""
    async with connected(settings.postgres_url) as connection:
        await connection.execute("DROP SCHEMA holdfast CASCADE")
    stores = await asyncio.gather(*(holdfast.connect(settings) for _ in range(4)))
    async with connected(settings.postgres_url) as connection:
        done = await connection.fetchval("SELECT array_agg(number ORDER BY number) FROM holdfast.migrations")
        assert done == [migration.number for migration in migrations()]
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_row_of_a_newer_schema(settings: Settings) -> None:
    """E1: a document written by a newer server is `SchemaTooNew`, in a read and in a scan."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await connection.execute(
            """INSERT INTO holdfast."User" (id, document, schema) VALUES ('b1', '{"__version": 99, "name": "x"}', 99)"""
        )
        with pytest.raises(SchemaTooNew, match="bot:b1"):
            await state.bots.get("b1")
        with pytest.raises(SchemaTooNew, match="bot:b1"):
            [pair async for pair in state.bots.scan()]


async def test_a_row_that_is_no_document(settings: Settings) -> None:
    """A row that cannot be decoded is an error that names it; the other rows are served."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await state.bots.put("b2", ADA)
        await connection.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b1', '[1, 2]')""")
        with pytest.raises(CorruptDocument, match="bot:b1"):
            await state.bots.get("b1")
        assert await state.bots.get("b2") == ADA


class Fragile(Document):
    """A document whose class cannot make it from what an older version stored."""

    SCHEMA = 2
    name: str = ""

    @classmethod
    def upgrade(cls, fields: dict[str, Any], schema: int) -> dict[str, Any]:
        """Fail as a user's code may."""
        raise AssertionError("nobody thought of schema 1")


async def test_a_class_that_cannot_make_its_document_fails_alone(settings: Settings) -> None:
    """Whatever a class raises while reading is that row's error; keys read with it are answered, then and later."""
    fragile = Kind("fragile", Fragile)
    async with holdfast.connect(settings, kinds=[fragile]) as state, connected(settings.postgres_url) as connection:
        documents = state.collection(fragile)
        await documents.put("good", Fragile(name="x"))
        flows_of(state).caches["fragile"].flush()
        await connection.execute("INSERT INTO holdfast.fragile (id, document) VALUES ('bad', '{\"__version\": 1}')")
        bad, good = await asyncio.gather(documents.get("bad"), documents.get("good"), return_exceptions=True)
        assert isinstance(bad, CorruptDocument)
        assert isinstance(bad.__cause__, AssertionError)
        assert good == Fragile(name="x")
        assert await documents.get_many(["good"]) == {"good": Fragile(name="x")}


async def test_a_server_that_stands_still_is_not_waited_for(settings: Settings) -> None:
    """A PostgreSQL that takes a statement and does nothing more is an error within the time of a statement."""
    short = msgspec.structs.replace(settings, l3_statement_timeout_seconds=0.5)
    async with holdfast.connect(short) as state, connected(settings.postgres_url) as connection:
        await state.bots.put("b1", ADA)
        pids = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'holdfast' AND datname = current_database()"
        )
        try:
            for row in pids:
                os.kill(row["pid"], signal.SIGSTOP)
            with pytest.raises(TierUnavailable):
                await state.bots.get("b1", consistency=Consistency.STRONG)
        finally:
            for row in pids:
                os.kill(row["pid"], signal.SIGCONT)


async def test_a_role_without_rights_is_told(settings: Settings) -> None:
    """What PostgreSQL refuses while migrating is Holdfast's error, with PostgreSQL's words."""
    taken = Kind("fragile", Fragile, "version_seq")
    with pytest.raises(TierError, match="migrating"):
        async with holdfast.connect(settings, kinds=[taken]):
            pass
