"""Numbered SQL migrations, applied once by whichever server comes first."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any, Final

import asyncpg
import msgspec

from holdfast.errors import StorageNotReady
from holdfast.kinds import Kind
from holdfast.tiers.l3_statements import quote

LOCK: Final = 0x486F6C64  # "Hold": the advisory lock that one migrating server holds
MIGRATION_SECONDS_MAX: Final = 3600.0
LOCK_MILLISECONDS: Final = 500
"""How long a table's lock is waited for, and others wait behind: less than the second after which PostgreSQL looks for
deadlocks, so that a migration gives way and no writer is aborted."""
PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, *[8.0] * 6)
"""Between attempts to lock the tables: a minute in all."""
_IN_USE: Final = (
    "migrating waited a minute for transactions that use Holdfast's tables and do not end: find them in"
    " pg_stat_activity (idle in transaction) and pg_prepared_xacts, end them, and run `holdfast migrate` again"
)
# Whatever a migration may change that others use: the tables of the kinds, and the identity.
_MANAGED: Final = """
SELECT name FROM (SELECT table_name FROM holdfast.kinds UNION ALL SELECT 'incarnation') AS managed (name)
WHERE to_regclass(format('holdfast.%I', name)) IS NOT NULL ORDER BY name"""
_TO_WATCH: Final = """
SELECT DISTINCT table_name FROM holdfast.kinds, holdfast.unwatched(name)
WHERE name = ANY ($1) ORDER BY table_name"""
# Partitions made by hand, and triggers that somebody disabled, are for the self-test: such a kind is served uncached.
_NEVER_WATCHED: Final = """
SELECT EXISTS (SELECT FROM holdfast.unwatched($1) AS faulty
               JOIN holdfast.kinds ON name = $1 AND relation = to_regclass(format('holdfast.%I', table_name))
               WHERE fault = 'is missing')"""
_FILE_NAME = re.compile(r"(\d{4})_\w+\.sql\Z")


class Migration(msgspec.Struct, frozen=True):
    """One file of `sql/migrations`."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text; an applied migration must never change."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations of this version, in order."""
    found = [
        Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in files("holdfast.tiers").joinpath("sql", "migrations").iterdir()
        if (match := _FILE_NAME.match(entry.name))
    ]
    return sorted(found, key=lambda migration: migration.number)


async def migrate(
    connection: asyncpg.Connection[Any],
    kinds: Iterable[Kind[Any]],
    *,
    progress: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[str]:
    """Bring the schema `holdfast` to this version and make the tables of the kinds; returns what was applied.

    One transaction under an advisory lock: several servers may start at once, and a failure leaves nothing. While
    others use the tables it is tried again after a pause, in which they can work.

    Raises:
        StorageNotReady: the database was migrated by a newer version, an applied migration was changed, or the tables
            are in use for too long.
    """
    kinds, pauses = list(kinds), iter(PAUSES_SECONDS)
    while True:
        try:
            return await _migrate(connection, kinds, progress)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as fault:
            pause = next(pauses, None)
            if pause is None:
                raise StorageNotReady(_IN_USE) from fault
        progress("waiting for transactions that use Holdfast's tables")
        await sleep(pause)


async def _migrate(
    connection: asyncpg.Connection[Any], kinds: Sequence[Kind[Any]], progress: Callable[[str], None]
) -> list[str]:
    # Each statement must see what was committed while it waited for a lock, whatever the database's default is.
    async with connection.transaction(isolation="read_committed"):
        await _take_turn(connection)
        done = {row["number"]: row for row in await connection.fetch("SELECT * FROM holdfast.migrations")}
        pending = _pending(migrations(), done)
        if done:
            await _lock_tables(connection, kinds, every=bool(pending))
        applied = [await _apply(connection, migration, progress) for migration in pending]
        return applied + await _manage_kinds(connection, kinds, progress)


async def _take_turn(connection: asyncpg.Connection[Any]) -> None:
    """Wait until no other server migrates, for as long as that takes; from then on no lock is waited for so long."""
    await connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK, timeout=MIGRATION_SECONDS_MAX)
    await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
    await connection.execute("CREATE SCHEMA IF NOT EXISTS holdfast")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS holdfast.migrations"
        " (number int PRIMARY KEY, name text NOT NULL, digest text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
    )


async def _lock_tables(connection: asyncpg.Connection[Any], kinds: Sequence[Kind[Any]], *, every: bool) -> None:
    """Lock the tables that will be changed, before any is.

    If each were locked when its turn comes, writers of the first would wait for whoever uses the last.
    """
    if every:
        names, mode = await connection.fetch(_MANAGED), "ACCESS EXCLUSIVE"
    else:  # triggers only, which readers need not wait for
        names, mode = await connection.fetch(_TO_WATCH, [kind.name for kind in kinds]), "SHARE ROW EXCLUSIVE"
    if names:
        tables = ", ".join(f"holdfast.{quote(name)}" for (name,) in names)
        await connection.execute(f"LOCK TABLE {tables} IN {mode} MODE", timeout=MIGRATION_SECONDS_MAX)


async def _apply(connection: asyncpg.Connection[Any], migration: Migration, progress: Callable[[str], None]) -> str:
    progress(f"migration {migration.name}")
    await connection.execute(migration.sql, timeout=MIGRATION_SECONDS_MAX)
    await connection.execute(
        "INSERT INTO holdfast.migrations (number, name, digest) VALUES ($1, $2, $3)",
        migration.number,
        migration.name,
        migration.digest,
    )
    return migration.name


async def check(connection: asyncpg.Connection[Any], kinds: Iterable[Kind[Any]]) -> None:
    """Refuse a database that this version cannot serve.

    Raises:
        StorageNotReady: what is missing, and the command that adds it.
    """
    try:
        done = {row["number"]: row for row in await connection.fetch("SELECT * FROM holdfast.migrations")}
        tables = {row["name"]: row for row in await connection.fetch("SELECT * FROM holdfast.kinds")}
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as fault:
        raise StorageNotReady("the database has no schema of Holdfast yet: run `holdfast migrate`") from fault
    if pending := _pending(migrations(), done):
        raise StorageNotReady(f"migration {pending[0].name} is not applied yet: run `holdfast migrate`")
    for kind in kinds:
        if kind.name not in tables:
            raise StorageNotReady(f"kind {kind.name} has no table yet: run `holdfast migrate --kinds MODULE:NAME`")
        if tables[kind.name]["table_name"] != kind.table or tables[kind.name]["append_only"] != kind.append_only:
            raise StorageNotReady(f"kind {kind.name} is kept in another sort of table than declared, or another one")
        if await connection.fetchval(_NEVER_WATCHED, kind.name):
            raise StorageNotReady(
                f"the table of kind {kind.name} is not watched for changes yet: run `holdfast migrate`"
            )


def _pending(known: list[Migration], done: dict[int, Any]) -> list[Migration]:
    if strangers := done.keys() - {migration.number for migration in known}:
        raise StorageNotReady(
            f"the database has migration {done[max(strangers)]['name']}, which this version does not know: "
            "update this server"
        )
    for migration in known:
        if migration.number in done and done[migration.number]["digest"] != migration.digest:
            raise StorageNotReady(f"migration {migration.name} was changed after it was applied to this database")
    return [migration for migration in known if migration.number not in done]


async def _manage_kinds(
    connection: asyncpg.Connection[Any], kinds: Iterable[Kind[Any]], progress: Callable[[str], None]
) -> list[str]:
    present = {row["name"] for row in await connection.fetch("SELECT name FROM holdfast.kinds")}
    made = []
    for kind in kinds:
        try:
            await connection.execute("SELECT holdfast.manage_kind($1, $2, $3)", kind.name, kind.table, kind.append_only)
        except asyncpg.ObjectNotInPrerequisiteStateError as fault:
            raise StorageNotReady(str(fault)) from fault
        if kind.name not in present:
            progress(f"table of kind {kind.name}")
            made.append(f"kind {kind.name}")
    return made
