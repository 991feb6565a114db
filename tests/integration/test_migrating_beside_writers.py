"""A migration waits for those who use the tables, and nobody else waits for them behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fix_feed import connected
from fix_races import until
from holdfast.errors import StorageNotReady
from holdfast.kinds import BUILT_IN
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_self_test import untrusted

pytestmark = pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
INSERT = """INSERT INTO holdfast."{}" (id, document) VALUES ($1, '{{}}')"""
NEWEST = [migration.name for migration in l3_migrations.migrations()[3:]]
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


async def at_migration_3(sql: Sql, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the schema as it was when there were three; returns what is to be applied."""
    first = l3_migrations.migrations()[:3]
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    with monkeypatch.context() as past:
        past.setattr(l3_migrations, "migrations", lambda: first)
        await l3_migrations.migrate(sql, BUILT_IN)
    return NEWEST


async def with_a_trigger_missing(sql: Sql, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make a table that has to be watched again."""
    await sql.execute('DROP TRIGGER holdfast_note_delete ON holdfast."Teams"')
    return []


@asynccontextmanager
async def in_use(url: str, table: str) -> AsyncIterator[Sql]:
    """A transaction that wrote this table, open until it is committed, or until the end."""
    async with connected(url) as sql:
        await sql.execute("BEGIN")
        await sql.execute(INSERT.format(table), "open")
        yield sql


async def until_it_waits(sql: Sql) -> None:
    """Until the migration waits for a table."""

    async def waits() -> bool:
        return bool(
            await sql.fetchval("""SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database d ON d.oid = database
                WHERE NOT granted AND datname = current_database())""")
        )

    await until(waits)


Before = Callable[[Sql, pytest.MonkeyPatch], Awaitable[list[str]]]


class Pauses:
    """What stands for sleep: a pause lasts until it is told to end.

    Attributes:
        lengths: of the pauses begun.
    """

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.lengths.append(seconds)
        await self.over.wait()


@pytest.mark.parametrize("before", [at_migration_3, with_a_trigger_missing])
async def test_writers_go_on_while_a_migration_waits(
    sql: Sql, database_url: str, monkeypatch: pytest.MonkeyPatch, before: Before
) -> None:
    """On other tables, and on the one that is waited for; when its open transaction ends, the migration is done."""
    applied = await before(sql, monkeypatch)
    pauses, told = Pauses(), list[str]()
    async with connected(database_url) as other, in_use(database_url, "Teams") as using:
        migrating = asyncio.ensure_future(l3_migrations.migrate(sql, BUILT_IN, progress=told.append, sleep=pauses))
        await until_it_waits(other)
        async with asyncio.timeout(5):
            await other.execute(INSERT.format("Chat"), "other")
            await other.execute(INSERT.format("Teams"), "other")
        assert not migrating.done()
        await using.execute("COMMIT")
        pauses.over.set()
        assert await migrating == applied
    assert pauses.lengths == [0.5]
    assert told == ["waiting for transactions that use Holdfast's tables", *(f"migration {name}" for name in applied)]
    assert await untrusted(sql, BUILT_IN) == {}


async def test_a_writer_of_two_kinds_is_not_aborted(
    sql: Sql, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes to a table that the migration has locked, while that waits for the writer's: the migration gives way."""
    await at_migration_3(sql, monkeypatch)
    pauses = Pauses()
    async with connected(database_url) as other, in_use(database_url, "Teams") as using:
        migrating = asyncio.ensure_future(l3_migrations.migrate(sql, BUILT_IN, sleep=pauses))
        await until_it_waits(other)
        await using.execute(INSERT.format("Chat"), "open")
        await using.execute("COMMIT")
        pauses.over.set()
        assert await migrating == NEWEST


async def test_a_migration_gives_up_after_a_minute(
    sql: Sql, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to do, and leaves everything as it was."""
    await at_migration_3(sql, monkeypatch)
    waits = [*l3_migrations.PAUSES_SECONDS, *[l3_migrations.LOCK_MILLISECONDS / 1000] * 11]
    assert sum(waits) == pytest.approx(60, abs=2)
    monkeypatch.setattr(l3_migrations, "LOCK_MILLISECONDS", 10)
    pauses = Pauses()
    pauses.over.set()
    async with in_use(database_url, "Teams"):
        with pytest.raises(StorageNotReady, match=r"pg_stat_activity .* run `holdfast migrate` again"):
            await l3_migrations.migrate(sql, BUILT_IN, sleep=pauses)
    assert pauses.lengths == list(l3_migrations.PAUSES_SECONDS)
    assert not sql.is_in_transaction()
    assert await sql.fetchval("SELECT max(number) FROM holdfast.migrations") == 3


async def test_where_there_is_nothing_to_do_nobody_is_waited_for(sql: Sql, database_url: str) -> None:
    """No table is locked, whoever uses it."""
    async with in_use(database_url, "Teams"), in_use(database_url, "User"):
        assert await l3_migrations.migrate(sql, BUILT_IN, sleep=Pauses()) == []
