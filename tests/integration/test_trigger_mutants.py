"""What the triggers do is what keeps a cache right: with one line of theirs changed, an old value stays."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pytest

from fix_feed import Reader
from holdfast.keys import Key
from holdfast.testing import ManualClock
from holdfast.tiers.l1_local import LocalCache

pytestmark = pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
KEYS = 6000
"""One statement tells 5000 keys apart at most."""
INSERT = f"""INSERT INTO holdfast."User" (id, document)
    SELECT 'b' || lpad(number::text, 4, '0'), '{{}}' FROM generate_series(1, {KEYS}) number"""  # noqa: S608 - constants
UPDATE_OF_ONE = """UPDATE holdfast."User" SET document = '[]' WHERE id = 'b0001'"""
DELETE_OF_ONE = """DELETE FROM holdfast."User" WHERE id = 'b0001'"""
RENAME = """UPDATE holdfast."User" SET id = 'c' WHERE id = 'b0001'"""
UPDATE = """UPDATE holdfast."User" SET document = '[]'"""
DELETE = """DELETE FROM holdfast."User" """
MOVES = """BEGIN; UPDATE holdfast."User" SET id = 'c' || id WHERE id <= 'b3000';
    UPDATE holdfast."User" SET id = 'c' || id WHERE id BETWEEN 'b3001' AND 'b6000'; COMMIT"""
DRAW = "NEW.version := pg_catalog.nextval('holdfast.version_seq'::pg_catalog.regclass);"
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


class Mutant(NamedTuple):
    """A change of a trigger function.

    Attributes:
        line, instead: what is replaced, and by what.
        statement: after which an old value is left.
    """

    function: str
    line: str
    instead: str
    statement: str


MUTANTS: Final = {
    "V1-an_update_draws_no_version": Mutant(
        "stamp",
        DRAW,
        f"IF TG_OP = 'INSERT' THEN {DRAW} END IF;",
        UPDATE_OF_ONE,
    ),
    "V2-a_delete_draws_no_version": Mutant(
        "note", "nextval('holdfast.version_seq') AS version FROM erased", "version FROM erased", DELETE_OF_ONE
    ),
    "V2-an_id_left_draws_no_version": Mutant("note_moved", "OLD.version + 1", "OLD.version", RENAME),
    "F1-an_id_left_is_not_told": Mutant("note_moved", "ARRAY[OLD.id]", "ARRAY[NEW.id]", RENAME),
    "F1-an_update_is_not_told": Mutant("note", "FROM written", "FROM written WHERE false", UPDATE_OF_ONE),
    "F1-an_upsert_is_told_by_its_insert_only": Mutant(
        "note",
        "FROM written",
        "FROM written WHERE TG_OP = 'INSERT'",
        """INSERT INTO holdfast."User" (id, document) VALUES ('b0001', '[]'), ('new', '[]')
        ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document""",
    ),
    "F4-only_so_many_keys_are_told": Mutant("note", "LIMIT keys_max + 1", "LIMIT keys_max", UPDATE),
    "F4-only_so_many_deleted_keys_are_told": Mutant("note", "LIMIT keys_max + 1", "LIMIT keys_max", DELETE),
    "F4-only_so_many_moved_keys_are_told": Mutant("note_moved", "moved > keys_max + 1", "moved > keys_max", MOVES),
}


async def changed(sql: Sql, mutant: Mutant) -> None:
    """Put the mutant in place of the healthy function."""
    definition = await sql.fetchval("SELECT pg_get_functiondef($1::text::regproc)", f"holdfast.{mutant.function}")
    assert mutant.line in definition, f"{mutant.function} has no such line any more"
    await sql.execute(definition.replace(mutant.line, mutant.instead))


async def left_behind(sql: Sql, reader: Reader, statement: str) -> list[str]:
    """The ids that a cache still holds, at versions that are not there, once it knows all that the feed tells."""
    cache = LocalCache(entries_max=KEYS, ttl_seconds=60.0, clock=ManualClock().monotonic)
    await sql.execute(INSERT)
    await reader.poll()
    for identifier, version in await sql.fetch('SELECT id, version FROM holdfast."User"'):
        cache.fill(Key("bot", identifier), version, version, ticket=cache.ticket(), read_at=0.0, ttl_seconds=60.0)
    before = dict(await sql.fetch('SELECT id, document::text FROM holdfast."User"'))
    await sql.execute(statement)
    for change in (await reader.poll()).changes:
        if change.whole_kind:
            cache.flush_kind("bot")
        else:
            cache.fence(change.key, change.version)
    now = dict(await sql.fetch('SELECT id, document::text FROM holdfast."User"'))
    return [name for name in before if cache.shelf("bot").entry(name) is not None and now.get(name) != before[name]]


@pytest.mark.parametrize("statement", sorted({mutant.statement for mutant in MUTANTS.values()}))
async def test_nothing_is_left_behind(sql: Sql, reader: Reader, statement: str) -> None:
    """By no statement."""
    assert await left_behind(sql, reader, statement) == []


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_leaves_something_behind(sql: Sql, reader: Reader, name: str) -> None:
    """V1, V2, F1 and F4, line by line."""
    await changed(sql, MUTANTS[name])
    assert await left_behind(sql, reader, MUTANTS[name].statement) != []
