"""The audit log in PostgreSQL: append-only for its owner too, numbered without gaps, chained by L3 itself."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_commands import name_servers, run_command
from fix_reviews import PostgresTiers
from holdfast import Settings
from holdfast.audit.chain import AuditNote
from holdfast.audit.log import AuditLog
from holdfast.kinds import BUILT_IN
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_audit import PostgresAudit

Sql = Any  # asyncpg.Connection cannot be subscripted at run time
NOTE = AuditNote(action="resolved", subject="review:a/b/c", actor="ada", reason="because")
FORGE = """INSERT INTO holdfast.audit (number, at, action, subject, actor, reason, detail, previous, hash)
    VALUES (7, '2001-01-01', 'revealed', 's', 'eve', 'r', '{}', '\\x00', '\\x00')"""
WITHOUT_LOCK = """
CREATE OR REPLACE FUNCTION holdfast.chain_audit() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT coalesce(max(number), 0) + 1 INTO NEW.number FROM holdfast.audit;
    SELECT coalesce((SELECT hash FROM holdfast.audit WHERE number = NEW.number - 1), decode(repeat('00', 32), 'hex'))
    INTO NEW.previous;
    PERFORM pg_sleep(0.001);
    NEW.at := clock_timestamp();
    NEW.hash := holdfast.audit_hash(NEW);
    RETURN NEW;
END $$"""


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[Sql]:
    """A connection beside Holdfast's, as the owner of the schema."""
    connection = await asyncpg.connect(settings.postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
def printed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """What commands, which use this test's servers, have printed since."""
    name_servers(settings, monkeypatch)
    return lambda: capsys.readouterr().out


@pytest.fixture
def rows(postgres_tiers: PostgresTiers) -> PostgresAudit:
    """The log."""
    return postgres_tiers.rows()


@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE holdfast.audit SET actor = 'eve'",
        "UPDATE holdfast.audit SET actor = 'eve' WHERE false",
        "DELETE FROM holdfast.audit",
        "TRUNCATE holdfast.audit",
        "UPDATE holdfast.audit_head SET number = 2",
        "UPDATE holdfast.audit_head SET hash = '\\x00'",
        "DELETE FROM holdfast.audit_head",
        "TRUNCATE holdfast.audit_head",
        "INSERT INTO holdfast.audit_head VALUES (false, 5, '\\x00')",
        "MERGE INTO holdfast.audit AS t USING (SELECT 1) AS s ON true WHEN MATCHED THEN DELETE",
    ],
)
async def test_nothing_is_changed_or_removed(rows: PostgresAudit, sql: Sql, statement: str, role: str) -> None:
    """Not by the owner of the tables either, nor where other triggers are off."""
    await rows.append(NOTE)
    before = await sql.fetch("SELECT * FROM holdfast.audit"), await sql.fetch("SELECT * FROM holdfast.audit_head")
    await sql.execute(f"SET session_replication_role = {role}")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=r"append-only|follows the audit log"):
        await sql.execute(statement)
    await sql.execute("RESET session_replication_role")
    assert before == (
        await sql.fetch("SELECT * FROM holdfast.audit"),
        await sql.fetch("SELECT * FROM holdfast.audit_head"),
    )


@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_whoever_inserts_is_chained(rows: PostgresAudit, sql: Sql, role: str) -> None:
    """By raw SQL too, whatever that says of number, time and hashes; several rows at once are."""
    await rows.append(NOTE)
    await sql.execute(f"SET session_replication_role = {role}; {FORGE}")
    await sql.execute(
        "INSERT INTO holdfast.audit (action, subject, actor, reason, detail) SELECT 'a', 's', 'x', 'r', '{}' "
        "FROM generate_series(1, 3)"
    )
    report = await AuditLog(rows, server="a test").verify()
    assert (report.entries, report.broken) == (5, None)
    forged = (await rows.list(after=1, limit=1))[0]
    assert (forged.number, forged.at.year > 2001) == (2, True)


@pytest.mark.parametrize("mutant", [None, WITHOUT_LOCK], ids=["as it is", "mutant: no lock"])
async def test_many_who_append_at_once_leave_no_gap(settings: Settings, sql: Sql, mutant: str | None) -> None:
    """Eight connections, a hundred entries each; some of them roll others back."""
    if mutant is not None:
        await sql.execute(mutant)
    connections = [await asyncpg.connect(settings.postgres_url) for _ in range(8)]
    insert = "INSERT INTO holdfast.audit (action, subject, actor, reason, detail) VALUES ('a', 's', $1, 'r', '{}')"

    async def append(place: int, connection: Sql) -> None:
        for number in range(100):
            await connection.execute(insert, f"writer {place}")
            if number % 25 == 0:
                await connection.execute("BEGIN")
                await connection.execute(insert, f"nobody {place}")
                await connection.execute("ROLLBACK")

    try:
        appended = asyncio.gather(*(append(place, connection) for place, connection in enumerate(connections)))
        if mutant is not None:
            with pytest.raises(asyncpg.UniqueViolationError):
                await appended
            return
        await appended
    finally:
        await asyncio.gather(*(connection.close() for connection in connections), return_exceptions=True)
    tiers = PostgresTiers(settings)
    report = await AuditLog(tiers.rows(), server="a test").verify()
    assert (report.entries, report.broken) == (800, None)
    assert await sql.fetchval("SELECT count(*) FROM holdfast.audit WHERE actor LIKE 'nobody%'") == 0
    await tiers.pool.close()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE holdfast.audit SET actor = 'eve' WHERE number = 3", "broken at entry 3: it does not say what it said"),
        ("UPDATE holdfast.audit SET detail = '{\"a\": 1}' WHERE number = 3", "broken at entry 3: it does not say"),
        ("DELETE FROM holdfast.audit WHERE number = 3", "broken at entry 3: entry 4 is in its place"),
        ("DELETE FROM holdfast.audit WHERE number > 3", "broken at entry 4: it is missing, with all behind it"),
        (
            """UPDATE holdfast.audit SET number = CASE number WHEN 3 THEN -4 ELSE -3 END WHERE number IN (3, 4);
            UPDATE holdfast.audit SET number = -number WHERE number < 0""",
            "broken at entry 3: it was not chained",
        ),
    ],
)
async def test_what_was_done_past_the_triggers_is_found(
    rows: PostgresAudit, sql: Sql, damage: str, words: str, printed: Callable[[], str]
) -> None:
    """`holdfast audit verify` says where, and its status is 1."""
    for _ in range(5):
        await rows.append(NOTE)
    assert await run_command("audit", "verify") == 0
    told = printed()
    assert told.startswith("5 entries hold; the newest is 5:")
    anchor = told.strip().rpartition(" ")[2]
    await sql.execute("ALTER TABLE holdfast.audit DISABLE TRIGGER holdfast_refuse")
    await sql.execute(damage)
    await sql.execute("ALTER TABLE holdfast.audit ENABLE ALWAYS TRIGGER holdfast_refuse")
    assert await run_command("audit", "verify") == 1
    assert printed().startswith(words)
    await sql.execute(
        "ALTER TABLE holdfast.audit DISABLE TRIGGER ALL; ALTER TABLE holdfast.audit_head DISABLE TRIGGER ALL;"
        "DELETE FROM holdfast.audit WHERE number > 2;"
        "UPDATE holdfast.audit_head SET (number, hash) = (SELECT 2, hash FROM holdfast.audit WHERE number = 2)"
    )
    assert await run_command("audit", "verify") == 0
    printed()
    assert await run_command("audit", "verify", "--anchor", anchor) == 1
    assert printed().startswith("broken at entry 5: it was there once")
    with pytest.raises(holdfast.SettingsError, match="NUMBER:HASH"):
        await run_command("audit", "verify", "--anchor", "5")


async def test_entries_are_shown(
    rows: PostgresAudit, monkeypatch: pytest.MonkeyPatch, printed: Callable[[], str]
) -> None:
    """The newest by default, or those behind a number; for programs with detail and hash."""
    for number in range(4):
        await rows.append(msgspec.structs.replace(NOTE, subject=f"s{number}", detail='{"a":1}'))

    async def listed(*words: str) -> list[dict[str, Any]]:
        assert await run_command("audit", "list", *words) == 0
        return [json.loads(each) for each in printed().splitlines()]

    newest = await listed("--limit", "2")
    assert [each["subject"] for each in newest] == ["s2", "s3"]
    assert (newest[0]["detail"], len(newest[0]["hash"])) == ({"a": 1}, 64)
    assert [each["number"] for each in await listed("--after", "1", "--limit", "2")] == [2, 3]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    await run_command("audit", "list")
    assert "because" in printed()


@pytest.mark.usefixtures("printed")
async def test_what_is_made_void_by_hand_is_recorded(settings: Settings) -> None:
    """By a server and by the command, in the transaction that does it."""
    async with holdfast.connect(settings) as state:
        await state.invalidate(tag="bot:b1", reason="a test", actor="ada")
        await state.bots.invalidate("b1", reason="a test", actor="ada")
        await run_command("invalidate", "kind:bot", "--reason", "by command", "--actor", "bob")
        notes = [entry.note for entry in await state.audit.list()]
        assert [(each.action, each.subject, each.actor, each.reason) for each in notes] == [
            ("invalidated", "tag:bot:b1", "ada", "a test"),
            ("invalidated", "bot:b1", "ada", "a test"),
            ("invalidated", "kind:bot", "bob", "by command"),
        ]
        assert (await state.audit.verify()).broken is None


async def test_an_upgrade_lets_servers_append_and_nothing_else(
    sql: Sql, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that could run a server before appends; it cannot write the head, nor change what is there."""
    role = f"role_{uuid.uuid4().hex}"
    every = l3_migrations.migrations()
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    with monkeypatch.context() as past:
        past.setattr(l3_migrations, "migrations", lambda: [each for each in every if each.number < 10])
        await l3_migrations.migrate(sql, [kind for kind in BUILT_IN if kind.name != "review"])
    await sql.execute(
        f"""CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA holdfast TO {role};
        GRANT SELECT, INSERT, UPDATE ON holdfast.generations TO {role};
        GRANT USAGE ON SEQUENCE holdfast.version_seq TO {role};
        GRANT SELECT, INSERT, UPDATE ON holdfast."Chat" TO {role}"""
    )
    try:
        await l3_migrations.migrate(sql, BUILT_IN)
        await sql.execute(f"SET ROLE {role}")
        await sql.execute(
            "INSERT INTO holdfast.audit (action, subject, actor, reason, detail) VALUES ('a', 's', 'x', 'r', '{}')"
        )
        assert await sql.fetchval("SELECT number FROM holdfast.audit_head") == 1
        assert await sql.fetchval("SELECT count(*) FROM holdfast.audit") == 1
        for statement in ("UPDATE holdfast.audit SET actor = 'y'", "UPDATE holdfast.audit_head SET number = 9"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute(statement)
        await sql.execute("""INSERT INTO holdfast."Review" (id, document) VALUES ('v', '{"deadline": "x"}')""")
    finally:
        await sql.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
