"""V1, V3: a statement may draw the version of a row itself, and cannot choose it."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import pytest

from fix_feed import PARTITIONED_BY_HAND
from holdfast.kinds import BUILT_IN
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_statements import Statements

Sql = Any  # asyncpg.Connection cannot be subscripted at run time
ROWS = 'SELECT version, birth, updated_at FROM holdfast."User" WHERE id = $1'
STATEMENTS: Final = Statements.of("User", append_only=False)
TAGGED: Final = Statements.of("User", append_only=False, tagged=True)
NO_CALLS = """CREATE OR REPLACE FUNCTION holdfast.stamp() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE ''the trigger draws''; END'"""
DEFINITIONS = """SELECT pg_get_triggerdef(oid) FROM pg_trigger
    WHERE tgfoid = 'holdfast.stamp'::regproc AND tgrelid = 'holdfast."User"'::regclass"""
DRAW = "nextval('holdfast.version_seq')"
LAST = "currval('holdfast.version_seq')"
AHEAD = "clock_timestamp() + interval '1 hour'"
INSERT = """INSERT INTO holdfast."User" (id, document, version, birth, updated_at)
    VALUES ('a', '{{}}', {}, {}, {})"""
UPDATE = """UPDATE holdfast."User" SET document = '[1]', version = {}, birth = {}, updated_at = {} WHERE id = 'a'"""


async def put(sql: Sql, identifier: str = "a") -> asyncpg.Record:
    """Insert by a tool that knows of no versions."""
    await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ($1, '{}')""", identifier)
    return await sql.fetchrow(ROWS, identifier)


async def written(sql: Sql, statement: str, *parameters: Any) -> dict[str, int]:
    """What a statement of ours returns."""
    return dict(await sql.fetch(statement, *parameters))


@pytest.mark.parametrize("statements", [STATEMENTS, TAGGED], ids=["plain", "tagged"])
async def test_rows_of_ours_spare_the_call_of_the_trigger(sql: Sql, statements: Statements) -> None:
    """Inserted, overwritten and replaced alike, one or many; a new row is born at its version and the birth stays."""
    ids = [f"b{number}" for number in range(100)]
    many: list[Any] = [["{}"] * 100, 1]
    tags: list[Any] = [["{}"] * 100] if statements is TAGGED else []
    one_tags: list[Any] = [["t"]] if statements is TAGGED else []
    await sql.execute(NO_CALLS)
    with pytest.raises(asyncpg.RaiseError, match="the trigger draws"):
        await put(sql)
    births = await written(sql, statements.insert, ids, *many, *tags)
    births |= await written(sql, statements.upsert, [f"c{number}" for number in range(100)], *many, *tags)
    births |= await written(sql, statements.upsert_one, "one", "{}", 1, *one_tags)
    assert dict(await sql.fetch('SELECT id, birth FROM holdfast."User"')) == births
    versions = await written(sql, statements.upsert, ids, *many, *tags)
    versions |= await written(sql, statements.upsert_one, "one", "{}", 1, *one_tags)
    versions |= await written(sql, statements.replace, ids, *many, [versions[each] for each in ids], *tags)
    rows = await sql.fetch('SELECT id, version, birth, updated_at > created_at FROM holdfast."User"')
    assert {identifier: version for identifier, version, _, _ in rows} == births | versions
    assert {identifier: birth for identifier, _, birth, _ in rows} == births
    assert all(later for *_, later in rows)
    assert min(versions.values()) > max(births.values())
    assert len(set(versions.values())) == len(versions)


@pytest.mark.parametrize("birth", ["0", DRAW, "version"])
@pytest.mark.parametrize("moment", ["now()", AHEAD, "'2000-01-01'"])
@pytest.mark.parametrize("version", ["0", "version", "version - 1", "version + 1000000"])
async def test_an_update_cannot_choose(sql: Sql, version: str, moment: str, birth: str) -> None:
    """Neither the version nor the birth, in a session that has drawn."""
    first = await put(sql)
    await sql.execute(UPDATE.format(version, birth, moment))
    now = await sql.fetchrow(ROWS, "a")
    assert first["version"] < now["version"] < first["version"] + 100
    assert now["birth"] == first["birth"]
    assert first["updated_at"] < now["updated_at"] < await sql.fetchval("SELECT clock_timestamp()")


@pytest.mark.parametrize("moment", ["now()", AHEAD, "'2000-01-01'"])
@pytest.mark.parametrize(
    ("version", "birth"), [("0", "0"), ("NULL", "NULL"), ("7", "7"), (DRAW, "7"), ("9000000", "9000000"), ("7", DRAW)]
)
async def test_an_insert_cannot_choose(sql: Sql, version: str, birth: str, moment: str) -> None:
    """Nor here."""
    other = await put(sql, "other")
    await sql.execute(INSERT.format(version, birth, moment))
    now = await sql.fetchrow(ROWS, "a")
    assert other["version"] < now["version"] == now["birth"] < other["version"] + 100
    assert now["updated_at"] < await sql.fetchval("SELECT clock_timestamp()")


async def test_a_row_brought_back_whole(sql: Sql, database_url: str) -> None:
    """By a restore into a session that has drawn nothing, where the last number cannot even be asked."""
    await put(sql)
    rows = await sql.fetch('SELECT * FROM holdfast."User"')
    await sql.execute('DELETE FROM holdfast."User"')
    drawn = await sql.fetchval(f"SELECT {LAST}")
    fresh = await asyncpg.connect(database_url)
    try:
        await fresh.copy_records_to_table("User", schema_name="holdfast", records=rows, columns=list(rows[0].keys()))
        brought = await fresh.fetchrow(ROWS, "a")
        assert drawn < brought["version"] == brought["birth"]
        fresh_too = await asyncpg.connect(database_url)
        await fresh_too.execute(UPDATE.format("version", "birth", AHEAD))  # by a client whose clock is ahead
        await fresh_too.close()
        assert (await fresh.fetchval("""SELECT version FROM holdfast."User" """)) > brought["version"]
    finally:
        await fresh.close()


async def test_who_counts_in_the_version_is_refused(sql: Sql, database_url: str) -> None:
    """In a session that has drawn nothing, if the moment is to come too: an error, and nothing is stored."""
    before = await put(sql)
    fresh = await asyncpg.connect(database_url)
    try:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="currval"):
            await fresh.execute(UPDATE.format("version + 1", "birth", AHEAD))
        await fresh.execute(UPDATE.format("version + 1", "birth", "now()"))
    finally:
        await fresh.close()
    assert (await sql.fetchrow(ROWS, "a"))["version"] > before["version"]


async def test_partitions_made_by_hand_keep_their_triggers(sql: Sql) -> None:
    """Those of rows come from the parent: made anew there, they are enabled always here."""
    (migration,) = [each for each in l3_migrations.migrations() if each.name.startswith("0017")]
    await sql.execute(PARTITIONED_BY_HAND)
    await l3_migrations.migrate(sql, BUILT_IN)
    await sql.execute(migration.sql)
    assert await sql.fetch("SELECT * FROM holdfast.unwatched('bot')") == []


@pytest.mark.parametrize(
    ("line", "instead", "version"),
    [
        ("new.version <> currval", "new.version < currval", "9000000"),
        ("(new.birth = old.birth)", "true", DRAW),
        ("(new.birth = new.version)", "true", DRAW),
    ],
)
async def test_a_trigger_that_believes_more_is_caught(sql: Sql, line: str, instead: str, version: str) -> None:
    """With one of its conditions changed, what a statement chooses is stored."""
    await put(sql, "b" if "birth = new" in line else "a")
    changed = [text.replace(line, instead) for (text,) in await sql.fetch(DEFINITIONS) if line in text]
    assert changed
    for text in changed:
        await sql.execute(text.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER"))
    statement = INSERT if "birth = new" in line else UPDATE
    await sql.execute(statement.format(version, 3 if "birth" in line else "birth", "clock_timestamp()"))
    row = await sql.fetchrow(ROWS, "a")
    assert row["birth"] == 3 or row["version"] == 9_000_000
