"""A table that does not tell of its changes is found out, so that no cache answers for it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fix_feed import Reader, connected
from holdfast.errors import StorageNotReady
from holdfast.kinds import BUILT_IN
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_self_test import untrusted

HISTORY = 'holdfast."RunContextSnapshot"'
OLD_MONTH = f"""
CREATE TABLE holdfast.old (LIKE {HISTORY} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE {HISTORY} ATTACH PARTITION holdfast.old FOR VALUES FROM ('2001-01-01 00:00Z') TO ('2001-02-01 00:00Z')"""
pytestmark = pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


async def test_the_self_test_finds_nothing_and_leaves_nothing(sql: Sql, reader: Reader, database_url: str) -> None:
    """All kinds are trusted, no row stays, and writers are not kept waiting by an open one of theirs."""
    await sql.execute("BEGIN")
    await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('a', '{}')""")
    async with connected(database_url) as other:
        assert await untrusted(other, BUILT_IN) == {}
        assert await other.fetchval('SELECT count(*) FROM holdfast."User"') == 0
    await sql.execute("COMMIT")
    assert await reader.news() == [("bot", "a", False)]


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (
            'ALTER TABLE holdfast."User" DISABLE TRIGGER holdfast_note_update',
            "bot",
            "holdfast_note_update .* is disabled",
        ),
        ('ALTER TABLE holdfast."User" ENABLE TRIGGER holdfast_note_insert', "bot", "is not enabled always"),
        ('DROP TRIGGER holdfast_note_moved ON holdfast."User"', "bot", "holdfast_note_moved .* is missing"),
        ('DROP TRIGGER holdfast_note_truncate ON holdfast."User"', "bot", "holdfast_note_truncate .* is missing"),
        ('ALTER TABLE holdfast."User" DISABLE TRIGGER holdfast_stamp', "bot", "holdfast_stamp .* is disabled"),
        (
            """CREATE OR REPLACE TRIGGER holdfast_note_delete AFTER DELETE ON holdfast."User"
                REFERENCING OLD TABLE AS erased FOR EACH STATEMENT EXECUTE FUNCTION holdfast.note('team');
            ALTER TABLE holdfast."User" ENABLE ALWAYS TRIGGER holdfast_note_delete""",
            "bot",
            "is not Holdfast's",
        ),
        (OLD_MONTH, "run_snapshot", "holdfast_note_delete of holdfast.old is missing"),
        (
            """CREATE FUNCTION holdfast.skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER a BEFORE DELETE ON holdfast."Teams" FOR EACH ROW EXECUTE FUNCTION holdfast.skip()""",
            "team",
            "of the trials INSERT, UPDATE, DELETE in .* the outbox tells INSERT, UPDATE$",
        ),
        (
            """CREATE FUNCTION holdfast.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
            CREATE TRIGGER a BEFORE INSERT ON holdfast."Routine" FOR EACH ROW EXECUTE FUNCTION holdfast.refuse()""",
            "routine",
            "refuses a trial row: no",
        ),
        (
            """CREATE OR REPLACE FUNCTION holdfast.stamp() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.version := 10; NEW.birth := 10; RETURN NEW; END'""",
            "bot",
            "do not rise",
        ),
        ('DROP TABLE holdfast."Routine"', "routine", "takes no rows"),
        (
            f"""CREATE FUNCTION holdfast.skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER z BEFORE DELETE ON {HISTORY} FOR EACH ROW EXECUTE FUNCTION holdfast.skip()""",
            "run_snapshot",
            "of the trials INSERT, DELETE in .* the outbox tells INSERT$",
        ),
    ],
)
async def test_a_table_that_does_not_tell_is_found_out(sql: Sql, damage: str, kind: str, words: str) -> None:
    """By the catalog or by trial; kinds whose tables are in order stay trusted, and no transaction is left open."""
    await sql.execute(damage)
    reasons = await untrusted(sql, BUILT_IN)
    assert re.search(words, reasons[kind]), reasons
    if "stamp()" not in damage:
        assert set(reasons) == {kind}
    assert not sql.is_in_transaction()


async def test_the_check_refuses_a_table_that_was_never_watched(sql: Sql) -> None:
    """As a migration of an older version leaves it; migrating makes the triggers."""
    for operation in ("insert", "update", "delete", "truncate"):
        await sql.execute(f'DROP TRIGGER holdfast_note_{operation} ON holdfast."User"')
    with pytest.raises(StorageNotReady, match="kind bot is not watched"):
        await l3_migrations.check(sql, BUILT_IN)
    await l3_migrations.migrate(sql, BUILT_IN)
    await l3_migrations.check(sql, BUILT_IN)
    assert await untrusted(sql, BUILT_IN) == {}


async def test_migrating_mends_what_the_self_test_finds(sql: Sql) -> None:
    """Partitions attached by hand, triggers disabled; and where all is in order it takes no lock on a table."""
    await sql.execute(OLD_MONTH)
    await sql.execute('ALTER TABLE holdfast."User" DISABLE TRIGGER holdfast_note_insert')
    await sql.execute('ALTER TABLE holdfast."Teams" DISABLE TRIGGER ALL')
    await sql.execute('ALTER TABLE holdfast."Teams" ENABLE TRIGGER ALL')  # as pg_restore does
    await l3_migrations.check(sql, BUILT_IN)
    await sql.execute('DROP TRIGGER holdfast_stamp ON holdfast."Routine"')
    assert set(await untrusted(sql, BUILT_IN)) == {"bot", "routine", "run_snapshot", "team"}
    await l3_migrations.migrate(sql, BUILT_IN)
    assert await untrusted(sql, BUILT_IN) == {}
    async with sql.transaction():
        for kind in BUILT_IN:
            await sql.execute("SELECT holdfast.watch_table($1)", kind.name)
        assert (
            await sql.fetch("""SELECT relation::regclass FROM pg_locks JOIN pg_class ON pg_class.oid = relation
            WHERE pid = pg_backend_pid() AND relkind IN ('r', 'p') AND mode <> 'AccessShareLock'""")
            == []
        )


@pytest.mark.parametrize(
    "constraint",
    [
        "CHECK (id < 'a')",
        "CHECK (document ->> 'name' IS NOT NULL)",
        """ADD COLUMN team text, ADD FOREIGN KEY (id) REFERENCES holdfast."Teams" (id)""",
    ],
)
async def test_a_constraint_of_the_users_is_no_fault(sql: Sql, constraint: str) -> None:
    """No trial row can be made that every constraint takes; the triggers are there and enabled."""
    added = constraint if constraint.startswith("ADD") else f"ADD {constraint}"
    await sql.execute(f'ALTER TABLE holdfast."Routine" {added}')
    assert await untrusted(sql, BUILT_IN) == {}
