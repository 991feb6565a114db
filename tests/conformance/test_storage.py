"""`Storage`: the same suite on PostgreSQL and in memory; and what PostgreSQL keeps against raw SQL and roles."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_races import until
from holdfast import AppendOnly, Kind, RunContextSnapshot, SerializationFailure
from holdfast.adapters import connection_pool
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN, register
from holdfast.protocols import Write
from holdfast.settings import Settings
from holdfast.testing import MemoryStorage
from holdfast.testing.conformance import StorageSuite, checks
from holdfast.tiers import l3_migrations, l3_rows
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.tiers.l3_statements import quote

ALL = pytest.mark.parametrize("check", checks(StorageSuite), ids=lambda check: check.__name__)
AUDIT = Kind("audit", RunContextSnapshot, 'Audit "log"', append_only=True)
HISTORY = 'holdfast."RunContextSnapshot"'
INSERT = """INSERT INTO holdfast."RunContextSnapshot" (id, document, created_at)
    VALUES ($1, '{}', now() + $2 * interval '1 month')"""
COUNT = 'SELECT count(*) FROM holdfast."RunContextSnapshot"'
PARTITIONS = """SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'holdfast."RunContextSnapshot"'::regclass ORDER BY 1"""
TAKEN = r"\(id\)=\(r1/1\)"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection beside Holdfast's, as the owner of the schema."""
    async with connected(settings.postgres_url) as connection:
        yield connection


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(StorageSuite(MemoryStorage()))


@ALL
async def test_postgres(check: Callable[[Any], Any], l3: PostgresStorage) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(StorageSuite(l3))


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
@pytest.mark.parametrize("waits", [True, False], ids=["open", "committed"])
async def test_of_two_transactions_one_writes_an_id(
    settings: Settings, sql: asyncpg.Connection[Any], isolation: str, *, waits: bool
) -> None:
    """Raw SQL at any isolation level is refused an id that was written after its snapshot, or is being written."""
    async with connected(settings.postgres_url) as late:
        transaction = late.transaction(isolation=isolation)
        await transaction.start()
        assert await late.fetchval(COUNT) == 0
        first = sql.transaction()
        await first.start()
        await sql.execute(INSERT, "r1/1", 0)
        if not waits:
            await first.commit()
        second = asyncio.ensure_future(late.execute(INSERT, "r1/1", 1))
        if waits:
            await until_waiting(settings.postgres_url, second)
            await first.commit()
        with pytest.raises(asyncpg.UniqueViolationError):
            await second
        await transaction.rollback()
    assert await sql.fetchval(COUNT) == 1


async def test_an_id_whose_writer_gave_up_is_free(settings: Settings, sql: asyncpg.Connection[Any]) -> None:
    """A transaction that waited for another one's id gets it when that one is rolled back."""
    async with connected(settings.postgres_url) as other:
        first = sql.transaction()
        await first.start()
        await sql.execute(INSERT, "r1/1", 0)
        second = asyncio.ensure_future(other.execute(INSERT, "r1/1", 0))
        await until_waiting(settings.postgres_url, second)
        await first.rollback()
        assert await second == "INSERT 0 1"


async def test_an_id_is_taken_in_every_month(l3: PostgresStorage, sql: asyncpg.Connection[Any]) -> None:
    """The same id in another month is refused, through the table, by COPY and straight on a partition."""
    await l3.save([Write(Key("run_snapshot", "r1/1"), 1, b"{}")])
    partitions = [part for (part,) in await sql.fetch(PARTITIONS)]
    assert len(partitions) == 3
    with pytest.raises(asyncpg.UniqueViolationError, match=TAKEN):
        await sql.execute(INSERT, "r1/1", 1)
    month = await sql.fetchval("SELECT now() + interval '1 month'")
    for name in ("RunContextSnapshot", partitions[1]):
        with pytest.raises(asyncpg.UniqueViolationError, match=TAKEN):
            await sql.copy_records_to_table(
                name, schema_name="holdfast", columns=["id", "document", "created_at"], records=[("r1/1", "{}", month)]
            )
    with pytest.raises(AppendOnly, match=TAKEN):
        await l3.save([Write(Key("run_snapshot", "r1/1"), 1, b"{}")])


async def test_a_partition_made_by_hand_is_guarded(sql: asyncpg.Connection[Any]) -> None:
    """DML straight on a partition that somebody attached enters its ids too, under replication role as well."""
    await sql.execute(
        f"CREATE TABLE holdfast.old PARTITION OF {HISTORY} FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')"
    )
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("INSERT INTO holdfast.old (id, document, created_at) VALUES ('r1/1', '{}', '2001-01-05')")
    with pytest.raises(asyncpg.UniqueViolationError, match=TAKEN):
        await sql.execute(INSERT, "r1/1", 0)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="append-only"):
        await sql.execute("DELETE FROM holdfast.old")


async def test_an_id_outlives_its_month(l3: PostgresStorage, sql: asyncpg.Connection[Any]) -> None:
    """Retention drops a month's partition; its ids cannot be written again."""
    await l3.save([Write(Key("run_snapshot", "r1/1"), 1, b"{}")])
    part = f"holdfast.{quote(await sql.fetchval(PARTITIONS))}"
    await sql.execute(f"ALTER TABLE {HISTORY} DETACH PARTITION {part}")
    await sql.execute(f"DROP TABLE {part}")
    assert (await l3.load([Key("run_snapshot", "r1/1")])).rows == {}
    with pytest.raises(AppendOnly, match=TAKEN):
        await l3.save([Write(Key("run_snapshot", "r1/1"), 1, b"{}")])


async def test_a_database_of_migration_1_is_brought_along(
    settings: Settings, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of history that was there, built-in and own, are taken after the upgrade; its rows are unchanged."""
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    await migrate_to_first(sql, [*BUILT_IN, AUDIT], monkeypatch)
    for table in (HISTORY, f"holdfast.{quote(AUDIT.table)}"):
        for month in range(3):
            await sql.execute(INSERT.replace(HISTORY, table), f"r1/{month}", month)
    before = await sql.fetch("""SELECT *, '{}'::text[] AS tags FROM holdfast."RunContextSnapshot" ORDER BY id""")
    async with holdfast.connect(settings, kinds=[AUDIT]) as state:
        for collection in (state.run_snapshots, state.collection(AUDIT)):
            for month in range(3):
                with pytest.raises(AppendOnly):
                    await collection.put(f"r1/{month}", snapshot(month))
            await collection.put("r1/3", snapshot(3))
    after = await sql.fetch("""SELECT * FROM holdfast."RunContextSnapshot" ORDER BY id""")
    assert [row["id"] for row in after] == ["r1/0", "r1/1", "r1/2", "r1/3"]
    assert after[:3] == before


async def test_an_upgrade_takes_an_id_that_stands_twice(
    sql: asyncpg.Connection[Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under migration 1 raw SQL could write an id twice; both rows stay, and the upgrade is not stopped by them."""
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    await migrate_to_first(sql, BUILT_IN, monkeypatch)
    async with connected(settings.postgres_url) as late, late.transaction(isolation="repeatable_read"):
        await late.fetch(COUNT)
        await sql.execute(INSERT, "r1/1", 0)
        await late.execute(INSERT, "r1/1", 1)
    assert await l3_migrations.migrate(sql, BUILT_IN) == [each.name for each in l3_migrations.migrations()[1:]]
    assert await sql.fetchval(COUNT) == 2
    with pytest.raises(asyncpg.UniqueViolationError, match=TAKEN):
        await sql.execute(INSERT, "r1/1", 2)


@pytest.fixture
async def role(sql: asyncpg.Connection[Any]) -> AsyncIterator[str]:
    """An ordinary role, which may do nothing yet."""
    name = f"role_{uuid.uuid4().hex}"
    await sql.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    await sql.execute(f"DROP OWNED BY {name} CASCADE")
    await sql.execute(f"DROP ROLE {name}")


@pytest.fixture
async def application(settings: Settings, sql: asyncpg.Connection[Any], role: str) -> Settings:
    """Settings of a role that may use the tables of documents, and create nothing."""
    await sql.execute(f"GRANT USAGE ON SCHEMA holdfast TO {role}")
    await sql.execute(f"GRANT USAGE ON SEQUENCE holdfast.version_seq TO {role}")
    own = ["migrations", "kinds", "generations", "incarnation", "outbox", "outbox_mark_ages", "tag_generations"]
    tables = ", ".join(f"holdfast.{quote(name)}" for name in [*own, *(kind.table for kind in BUILT_IN)])
    await sql.execute(f"GRANT SELECT, INSERT ON {tables} TO {role}")
    return msgspec.structs.replace(settings, postgres_url=as_role(settings, role), migrate_on_connect=False)


async def test_a_role_that_may_only_insert_writes_history(application: Settings, sql: asyncpg.Connection[Any]) -> None:
    """It needs no right on the ids and none to create, even for a month that nobody prepared."""
    for (part,) in await sql.fetch(PARTITIONS):
        await sql.execute(f"DROP TABLE holdfast.{quote(part)}")
    storage = PostgresStorage(connection_pool(application), register([]))  # a server would make months by itself
    written = [Write(Key("run_snapshot", "r1/1"), 1, b"{}")]
    await storage.save(written)
    with pytest.raises(AppendOnly, match=TAKEN):
        await storage.save(written)
    await storage.close()
    assert len(await sql.fetch(PARTITIONS)) == 1


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT holdfast.ensure_month('User', now())", "no kind keeps its history in table User"),
        ("SELECT holdfast.ensure_month('pg_class', now())", "no kind keeps its history in table pg_class"),
        ("SELECT holdfast.ensure_month(NULL, now())", "no kind keeps its history"),
        ("SELECT holdfast.ensure_month('RunContextSnapshot', now() + interval '13 months')", "1 year ahead"),
        ("SELECT holdfast.ensure_month('RunContextSnapshot', now() - interval '11 years')", "10 years back"),
        ("SELECT holdfast.ensure_month('RunContextSnapshot', 'infinity')", "not at infinity"),
        ("SELECT holdfast.ensure_month('RunContextSnapshot', NULL)", "not at"),
        ('SELECT id FROM holdfast."RunContextSnapshot_ids"', "permission denied for table"),
        ("INSERT INTO holdfast.\"RunContextSnapshot_ids\" VALUES ('r1/1')", "permission denied for table"),
        (
            """CREATE TEMP TABLE mine (id text);
            CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW
            EXECUTE FUNCTION holdfast.stamp_once('RunContextSnapshot')""",
            "permission denied for function .*stamp_once",
        ),
    ],
)
async def test_what_acts_for_the_owner_does_no_more(application: Settings, statement: str, words: str) -> None:
    """A role without rights cannot use the functions of history for other tables, far months or ids of its choice."""
    async with connected(application.postgres_url) as connection:
        with pytest.raises(asyncpg.PostgresError, match=words):
            await connection.execute(statement)


async def test_history_belongs_to_one_role_whoever_migrates(
    settings: Settings, sql: asyncpg.Connection[Any], role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema's owner goes on writing all history, and making its months, after a superuser migrated."""
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    await sql.execute(f"GRANT CREATE ON DATABASE {await sql.fetchval('SELECT current_database()')} TO {role}")
    async with connected(as_role(settings, role)) as owner:
        await migrate_to_first(owner, BUILT_IN, monkeypatch)
    await l3_migrations.migrate(sql, [*BUILT_IN, AUDIT])
    owned = msgspec.structs.replace(settings, postgres_url=as_role(settings, role))
    async with holdfast.connect(owned, kinds=[AUDIT]) as state:
        for collection in (state.run_snapshots, state.collection(AUDIT)):
            await collection.put("r1/1", snapshot(1))
            async with connected(owned.postgres_url) as owner:
                ahead = "SELECT holdfast.ensure_month($1, now() + interval '6 months')"
                await owner.execute(ahead, collection.kind.table)


async def test_history_of_another_role_is_not_taken_over(
    sql: asyncpg.Connection[Any], role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that would leave a table without working functions, or its owner without rights, is refused."""
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    await migrate_to_first(sql, BUILT_IN, monkeypatch)
    await sql.execute(f"ALTER TABLE {HISTORY} OWNER TO {role}")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=rf"RunContextSnapshot belongs to {role}"):
        await l3_migrations.migrate(sql, BUILT_IN)


async def test_a_month_is_the_same_in_every_session(sql: asyncpg.Connection[Any]) -> None:
    """A month begins and ends in UTC, whatever time zone and date style its maker works in."""
    begin, end = await sql.fetchrow(
        """SELECT this + interval '6 months', this + interval '7 months'
        FROM date_trunc('month', now() AT TIME ZONE 'UTC') this"""
    )
    await sql.execute("SET timezone = 'America/New_York'; SET datestyle = 'German'")
    await sql.execute("SELECT holdfast.ensure_month('RunContextSnapshot', $1)", begin.replace(tzinfo=UTC))
    await sql.execute("SET timezone = 'UTC'; SET datestyle = 'ISO'")
    bounds = await sql.fetchval(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = $1", f"RunContextSnapshot_{begin:%Y_%m}"
    )
    assert bounds == f"FOR VALUES FROM ('{begin}+00') TO ('{end}+00')"


@pytest.fixture
async def impatient(sql: asyncpg.Connection[Any], settings: Settings) -> AsyncIterator[PostgresStorage]:
    """PostgreSQL as L3, which looks for deadlocks at once."""
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'")
    storage = PostgresStorage(connection_pool(settings), register([]))
    yield storage
    await storage.close()


async def save_crosswise(storage: PostgresStorage, sql: asyncpg.Connection[Any], url: str) -> list[Any]:
    """Save the rows a, m, z and z, m, a while m is locked, then unlock it.

    In the order given each writer holds the row that the other one wants after m; in key order one waits for the other
    at a.
    """
    keys = [Key("bot", name) for name in "amz"]
    await storage.save([Write(key, 1, b"{}") for key in keys])
    lock = sql.transaction()
    await lock.start()
    await sql.execute("""SELECT FROM holdfast."User" WHERE id = 'm' FOR UPDATE""")
    saves = []
    for order in (keys, keys[::-1]):
        saves.append(asyncio.ensure_future(storage.save([Write(key, 1, b"{}") for key in order])))
        await until_waiting(url, *saves)
    await lock.rollback()
    return await asyncio.gather(*saves, return_exceptions=True)


async def test_writers_of_overlapping_sets_do_not_deadlock(
    impatient: PostgresStorage, sql: asyncpg.Connection[Any], settings: Settings
) -> None:
    """Rows are locked in key order, whatever order they are given in."""
    first, second = await save_crosswise(impatient, sql, settings.postgres_url)
    assert max(first.values()) < min(second.values())


async def test_writers_in_the_order_given_deadlock(
    impatient: PostgresStorage, sql: asyncpg.Connection[Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant of the test above: without the sort one of the two writers is killed."""

    def unsorted(writes: Sequence[Write], *, key: Callable[[Write], Key]) -> list[Write]:
        return list(writes)

    monkeypatch.setattr(l3_rows, "sorted", unsorted, raising=False)
    outcomes = await save_crosswise(impatient, sql, settings.postgres_url)
    (fault,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert isinstance(fault, SerializationFailure)
    assert "DeadlockDetected" in str(fault)


async def until_waiting(url: str, *writers: asyncio.Future[Any]) -> None:
    """Wait until all of these wait for a lock, the only ones in this database."""
    async with connected(url) as connection:

        async def waiting() -> bool:
            waiters: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            assert not any(writer.done() for writer in writers), "a writer did not wait"
            return waiters == len(writers)

        await until(waiting)


async def migrate_to_first(
    connection: asyncpg.Connection[Any], kinds: Iterable[Kind[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make the schema as it was when there was one migration."""
    first = l3_migrations.migrations()[:1]
    with monkeypatch.context() as past:
        past.setattr(l3_migrations, "migrations", lambda: first)
        await l3_migrations.migrate(connection, kinds)


def as_role(settings: Settings, role: str) -> str:
    """This test's database under another role."""
    return settings.postgres_url.replace("//holdfast@", f"//{role}@")


def snapshot(sequence: int) -> RunContextSnapshot:
    return RunContextSnapshot(run_id="r1", routine_id="q1", sequence=sequence)
