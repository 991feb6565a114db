"""Whatever tool changes a managed table, the outbox tells of it, once, in the order of each row."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from fix_feed import PARTITIONED_BY_HAND, Reader
from holdfast.documents import Bot
from holdfast.kinds import BUILT_IN, Kind
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_self_test import untrusted
from holdfast.tiers.l3_statements import quote

INSERT = """INSERT INTO holdfast."User" (id, document) SELECT id, '{}' FROM unnest($1::text[]) id"""
HISTORY = 'holdfast."RunContextSnapshot"'
PARTITIONS = """SELECT inhrelid::regclass::text FROM pg_inherits
    WHERE inhparent = 'holdfast."RunContextSnapshot"'::regclass ORDER BY 1"""
IN_MONTHS = "INSERT INTO {} (id, document, created_at) VALUES ($1, '{{}}', now() + $2 * interval '1 month')"
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


async def insert(sql: Sql, *ids: str) -> None:
    await sql.execute(INSERT, list(ids))


async def test_an_insert_tells_each_row_with_its_version(sql: Sql, reader: Reader) -> None:
    """One statement, several rows."""
    await insert(sql, "a", "b")
    rows = await sql.fetch('SELECT id, version FROM holdfast."User"')
    changes = (await reader.poll()).changes
    assert {(change.key.id, change.version) for change in changes} == {tuple(row) for row in rows}


async def test_a_raw_update(sql: Sql, reader: Reader) -> None:
    """As psql sends it; rows that it does not touch are not told."""
    await insert(sql, "a", "b")
    await reader.poll()
    await sql.execute("""UPDATE holdfast."User" SET document = '{"x": 1}' WHERE id = 'a'""")
    (change,) = (await reader.poll()).changes
    assert (change.key, change.deleted) == (("bot", "a"), False)
    assert change.version == await sql.fetchval("""SELECT version FROM holdfast."User" WHERE id = 'a'""")
    await sql.execute("""UPDATE holdfast."User" SET document = '{}' WHERE id = 'nobody'""")
    assert await reader.news() == []


async def test_copy(sql: Sql, reader: Reader) -> None:
    """Bulk loading."""
    await sql.copy_records_to_table(
        "User", schema_name="holdfast", columns=["id", "document"], records=[("a", "{}"), ("b", "{}")]
    )
    assert sorted(await reader.news()) == [("bot", "a", False), ("bot", "b", False)]


async def test_a_cascade(sql: Sql, reader: Reader) -> None:
    """A foreign key that deletes here what was deleted, or renamed, there."""
    await sql.execute("""ALTER TABLE holdfast."Teams" ADD owner text
        REFERENCES holdfast."User" (id) ON DELETE CASCADE ON UPDATE CASCADE""")
    await insert(sql, "a", "b")
    await sql.execute(
        """INSERT INTO holdfast."Teams" (id, document, owner) VALUES ('t', '{}', 'a'), ('s', '{}', 'b')"""
    )
    await reader.poll()
    await sql.execute("""DELETE FROM holdfast."User" WHERE id = 'a'""")
    assert sorted(await reader.news()) == [("bot", "a", True), ("team", "t", True)]
    await sql.execute("""UPDATE holdfast."User" SET id = 'c' WHERE id = 'b'""")
    assert sorted(await reader.news()) == [("bot", "b", True), ("bot", "c", False), ("team", "s", False)]


@pytest.mark.parametrize(
    "statement", ['TRUNCATE holdfast."User"', 'TRUNCATE holdfast."Teams", holdfast."User" CASCADE']
)
async def test_a_truncate_tells_the_whole_kind(sql: Sql, reader: Reader, statement: str) -> None:
    """Named or reached through another table."""
    await insert(sql, "a")
    await reader.poll()
    await sql.execute(statement)
    changes = (await reader.poll()).changes
    assert "bot" in {change.key.kind for change in changes if change.whole_kind}


async def test_a_delete_and_a_new_insert(sql: Sql, reader: Reader) -> None:
    """In one transaction and in two; the order is the one of the row."""
    await insert(sql, "a")
    await reader.poll()
    await sql.execute("""BEGIN; DELETE FROM holdfast."User";
        INSERT INTO holdfast."User" (id, document) VALUES ('a', '{}'); COMMIT;
        DELETE FROM holdfast."User" """)
    changes = (await reader.poll()).changes
    assert [change.deleted for change in changes] == [True, False, True]
    assert [change.version for change in changes] == sorted({change.version for change in changes})


async def test_a_changed_primary_key(sql: Sql, reader: Reader) -> None:
    """The id left behind is gone."""
    await insert(sql, "a", "b")
    await reader.poll()
    await sql.execute("""UPDATE holdfast."User" SET id = 'd' WHERE id = 'a'""")
    assert sorted(await reader.news()) == [("bot", "a", True), ("bot", "d", False)]


async def test_primary_keys_that_change_places(sql: Sql, reader: Reader) -> None:
    """What is told last is that they are there, and no fence is above a row: nobody could cache it then."""
    await insert(sql, "b", "c")
    await reader.poll()
    await sql.execute("""ALTER TABLE holdfast."User" DROP CONSTRAINT "User_pkey", ADD PRIMARY KEY (id) DEFERRABLE""")
    await sql.execute("""UPDATE holdfast."User" SET id = CASE id WHEN 'b' THEN 'c' ELSE 'b' END""")
    changes = (await reader.poll()).changes
    assert [(change.key.id, change.deleted) for change in changes[:2]] == [("b", True), ("c", True)]
    rows = dict(await sql.fetch('SELECT id, version FROM holdfast."User"'))
    assert {change.key.id: change.version for change in changes[2:]} == rows
    assert all(change.version <= rows[change.key.id] for change in changes)


async def test_a_primary_key_left_and_taken_in_one_statement(sql: Sql, reader: Reader) -> None:
    """It is told as deleted first."""
    await insert(sql, "k3", "k2", "k1")
    await reader.poll()
    await sql.execute("""UPDATE holdfast."User" SET id = 'k' || (right(id, 1)::int + 1)""")
    news = await reader.news()
    assert news[:3] == [("bot", "k3", True), ("bot", "k2", True), ("bot", "k1", True)]
    assert sorted(news[3:]) == [("bot", "k2", False), ("bot", "k3", False), ("bot", "k4", False)]


def move(first: int, last: int, table: str = '"User"') -> str:
    """A statement that changes the primary keys with these numbers."""
    return f"UPDATE holdfast.{table} SET id = 'x' || id WHERE substr(id, 1, 5) BETWEEN 'k{first:04}' AND 'k{last:04}'; "  # noqa: S608


@pytest.mark.parametrize(
    ("statements", "left", "whole"),
    [
        ([move(1, 5000)], {"bot": 5000}, 0),
        ([move(1, 5001)], {"bot": 5000}, 2),  # once for the keys left, once by the statement for the keys taken
        (["BEGIN;", move(1, 3000), move(3001, 6000), move(6001, 9000), "COMMIT"], {"bot": 5000}, 1),
        (["BEGIN;", move(1, 4000), "COMMIT;", move(4001, 8000)], {"bot": 8000}, 0),
        (["BEGIN;", move(1, 4000), move(1, 4000, '"Teams"'), "COMMIT"], {"bot": 4000, "team": 4000}, 0),
        (
            ["BEGIN;", move(1, 3000), "SAVEPOINT s;", move(3001, 6000), "ROLLBACK TO s;", move(4001, 6000), "COMMIT"],
            {"bot": 5000},
            0,
        ),
    ],
)
async def test_too_many_changed_primary_keys_tell_the_whole_kind(
    sql: Sql, reader: Reader, statements: list[str], left: dict[str, int], whole: int
) -> None:
    """Once a transaction and kind; what a savepoint undid, and what was moved before, does not count."""
    for table in ("User", "Teams"):
        await sql.execute(f"""INSERT INTO holdfast."{table}" (id, document)
            SELECT 'k' || lpad(number::text, 4, '0'), '{{}}' FROM generate_series(1, 9000) number""")  # noqa: S608
    await reader.poll()
    await sql.execute("".join(statements))
    changes = (await reader.poll()).changes
    assert Counter(change.key.kind for change in changes if change.deleted) == left
    assert [change.key.kind for change in changes if change.whole_kind] == ["bot"] * whole


async def test_an_upsert(sql: Sql, reader: Reader) -> None:
    """ON CONFLICT fires the triggers of both commands; each row is told by one."""
    await insert(sql, "a")
    await reader.poll()
    upsert = INSERT + " ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document"
    await sql.execute(upsert, ["a", "b"])
    assert sorted(await reader.news()) == [("bot", "a", False), ("bot", "b", False)]
    await sql.execute(INSERT + " ON CONFLICT DO NOTHING", ["a", "b"])
    assert await reader.news() == []


async def test_a_merge(sql: Sql, reader: Reader) -> None:
    """Inserts, updates and deletes of one command."""
    await insert(sql, "a", "b")
    await reader.poll()
    await sql.execute("""MERGE INTO holdfast."User" t USING (VALUES ('a'), ('b'), ('c')) s (id) ON t.id = s.id
        WHEN MATCHED AND s.id = 'a' THEN DELETE WHEN MATCHED THEN UPDATE SET document = '{"x": 1}'
        WHEN NOT MATCHED THEN INSERT (id, document) VALUES (s.id, '{}')""")
    assert sorted(await reader.news()) == [("bot", "a", True), ("bot", "b", False), ("bot", "c", False)]


async def test_a_writable_common_table_expression(sql: Sql, reader: Reader) -> None:
    """Several commands in one statement."""
    await insert(sql, "a")
    await reader.poll()
    await sql.execute("""WITH gone AS (DELETE FROM holdfast."User" RETURNING id)
        INSERT INTO holdfast."Teams" (id, document) SELECT id, '{}' FROM gone""")
    assert sorted(await reader.news()) == [("bot", "a", True), ("team", "a", False)]


async def test_a_rolled_back_savepoint(sql: Sql, reader: Reader) -> None:
    """What was undone inside a transaction that committed is not told."""
    await sql.execute("""BEGIN; INSERT INTO holdfast."User" (id, document) VALUES ('a', '{}');
        SAVEPOINT s; INSERT INTO holdfast."User" (id, document) VALUES ('b', '{}'); ROLLBACK TO SAVEPOINT s;
        SAVEPOINT t; INSERT INTO holdfast."User" (id, document) VALUES ('c', '{}'); RELEASE SAVEPOINT t; COMMIT""")
    assert await reader.news() == [("bot", "a", False), ("bot", "c", False)]


async def test_the_replication_role_silences_nothing(sql: Sql, reader: Reader) -> None:
    """The triggers are enabled always, the one that stamps versions too."""
    await sql.execute("SET session_replication_role = replica")
    await insert(sql, "a")
    await sql.execute('UPDATE holdfast."User" SET version = 0')
    await sql.execute('DELETE FROM holdfast."User"')
    await sql.execute('TRUNCATE holdfast."User"')
    changes = (await reader.poll()).changes
    assert [change.key.id for change in changes] == ["a", "a", "a", ""]
    assert all(change.version > 0 for change in changes)


async def test_history_by_its_table_and_by_its_partition(sql: Sql, reader: Reader) -> None:
    """A row is told once, whichever of both the statement names; so is one in a month made later."""
    first = await sql.fetchval(PARTITIONS)
    await sql.execute(IN_MONTHS.format(HISTORY), "a", 0)
    await sql.execute(IN_MONTHS.format(first), "b", 0)
    await sql.execute("SELECT holdfast.ensure_month('RunContextSnapshot', now() + interval '8 months')")
    later = (await sql.fetch(PARTITIONS))[-1][0]
    await sql.execute(IN_MONTHS.format(later), "c", 8)
    assert await reader.news() == [("run_snapshot", each, False) for each in "abc"]
    await sql.execute(f"TRUNCATE {later}")
    assert await reader.news() == [("run_snapshot", "", False)]


@pytest.mark.parametrize(("count", "told"), [(5000, 5000), (5001, 1)])
async def test_a_statement_of_too_many_keys_tells_the_whole_kind(
    sql: Sql, reader: Reader, count: int, told: int
) -> None:
    """Insert, update and delete alike, in one change with an empty id."""
    await insert(sql, *(f"k{number}" for number in range(count)))
    await sql.execute("""UPDATE holdfast."User" SET document = '{"x": 1}'""")
    await sql.execute("""DELETE FROM holdfast."User" """)
    changes = (await reader.poll()).changes
    assert len(changes) == 3 * told
    assert all(change.whole_kind == (told == 1) for change in changes)
    versions = [change.version for change in changes]
    assert versions == sorted(set(versions))


async def test_an_own_kind_is_watched(sql: Sql, reader: Reader) -> None:
    """Its table is made later, by a server that declares it."""
    plan = Kind("plan", Bot, 'Plan "x"')
    table = f"holdfast.{quote(plan.table)}"
    assert await l3_migrations.migrate(sql, [*BUILT_IN, plan]) == ["kind plan"]
    await sql.execute(IN_MONTHS.format(table), "a", 0)
    assert await reader.news() == [("plan", "a", False)]
    assert await untrusted(sql, [*BUILT_IN, plan]) == {}


async def test_a_table_partitioned_by_hand_is_watched(sql: Sql, reader: Reader) -> None:
    """Its partitions have the triggers of rows from their parent, where they cannot be made again."""
    await sql.execute(PARTITIONED_BY_HAND)
    await l3_migrations.migrate(sql, BUILT_IN)
    assert await sql.fetch("SELECT * FROM holdfast.unwatched('bot')") == []
    await insert(sql, "a")
    await sql.execute("""UPDATE holdfast."User" SET id = 'b'""")
    assert sorted(set(await reader.news())) == [("bot", "a", False), ("bot", "a", True), ("bot", "b", False)]


@pytest.fixture
async def role(sql: Sql) -> AsyncIterator[str]:
    name = f"role_{uuid.uuid4().hex}"
    await sql.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    await sql.execute(f"DROP OWNED BY {name} CASCADE")
    await sql.execute(f"DROP ROLE {name}")


async def test_a_writer_needs_no_right_on_the_outbox(sql: Sql, reader: Reader, role: str) -> None:
    """DML on the table is enough; and it gives none: the outbox cannot be read or forged by it."""
    await sql.execute(f"""GRANT USAGE ON SCHEMA holdfast TO {role};
        GRANT USAGE ON SEQUENCE holdfast.version_seq TO {role};
        GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON holdfast."User" TO {role}; SET ROLE {role}""")
    await insert(sql, "a")
    await sql.execute("""UPDATE holdfast."User" SET document = '{"x": 1}'""")
    await sql.execute('DELETE FROM holdfast."User"')
    await sql.execute('TRUNCATE holdfast."User"')
    for forbidden in (
        "SELECT FROM holdfast.outbox",
        "INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions) VALUES (0, 'bot', 'u', 1, '{a}', '{9}')",
        """CREATE TEMP TABLE mine (id text, version bigint); CREATE TRIGGER t AFTER TRUNCATE ON mine
            FOR EACH STATEMENT EXECUTE FUNCTION holdfast.note('bot')""",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sql.execute(forbidden)
    await sql.execute("RESET ROLE")
    assert [identifier for _, identifier, _ in await reader.news()] == ["a", "a", "a", ""]


async def test_a_schema_in_front_changes_nothing(sql: Sql, reader: Reader) -> None:
    """Objects of the writer with the names that the triggers use are not taken for them."""
    await sql.execute("""CREATE SCHEMA evil; CREATE TABLE evil.outbox (x int);
        CREATE FUNCTION evil.nextval(text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
        CREATE FUNCTION evil.cardinality(text[]) RETURNS int LANGUAGE sql AS 'SELECT 0';
        CREATE TEMP TABLE written (id text); CREATE TEMP TABLE outbox (x int);
        SET search_path = evil, pg_temp, pg_catalog""")
    await insert(sql, "a")
    assert await reader.news() == [("bot", "a", False)]
