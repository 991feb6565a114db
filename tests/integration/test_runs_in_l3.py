# ruff: noqa: S608 - names of tables, and constants
"""Runs and their snapshots in PostgreSQL: rights, locks, plans and the upgrade, beyond what the contract says."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from fix_feed import connected
from fix_run_index import SNAPSHOTS
from holdfast.adapters import connection_pool
from holdfast.errors import TierError
from holdfast.kinds import BUILT_IN, RUN
from holdfast.protocols import RunFilter
from holdfast.settings import Settings
from holdfast.testing.conformance.run_index import ago
from holdfast.tiers import l3_migrations
from holdfast.tiers.l3_run_statements import BASES, PRUNE, listing
from holdfast.tiers.l3_run_statements import SNAPSHOTS as SNAPSHOTS_OF
from holdfast.tiers.l3_runs import PostgresRuns
from holdfast.tiers.l3_self_test import untrusted
from holdfast.tiers.l3_statements import quote

Sql = Any  # asyncpg.Connection cannot be subscripted at run time
INSERT = f"INSERT INTO {SNAPSHOTS} (id, document) VALUES ($1, '{{}}')"
FILL = f"""INSERT INTO {SNAPSHOTS} (id, document)
SELECT format('%s/%s', $1::text, to_char(number, 'FM00000000')), '{{}}' FROM generate_series(1, $2::int) number"""
RUNS = """INSERT INTO holdfast."Run" (id, document) SELECT 'r' || number, format(
    '{"routineId": "x%s", "swarmId": "s%s", "parentRunId": "r%s", "status": "%s"}', number % 10, number % 100,
    number % 50, CASE WHEN number % 100 = 0 THEN 'running' ELSE 'completed' END)::json
FROM generate_series(1, 5000) number"""
AT_ONCE = "SET lock_timeout = '2s'"
PARTITION_OF = """CREATE OR REPLACE FUNCTION holdfast.ensure_month(parent text, moment timestamptz)
RETURNS void LANGUAGE plpgsql SET lock_timeout = '50ms' AS $$ BEGIN
    EXECUTE format('CREATE TABLE holdfast.new PARTITION OF holdfast.%I FOR VALUES FROM (%L) TO (%L)', parent,
        date_trunc('month', moment), date_trunc('month', moment) + interval '1 month'); END $$"""
LOCKING = f"LOCK TABLE {SNAPSHOTS} IN SHARE ROW EXCLUSIVE MODE"


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[Sql]:
    """A connection beside Holdfast's."""
    async with connected(settings.postgres_url) as connection:
        yield connection


@pytest.fixture
async def runs(settings: Settings) -> AsyncIterator[PostgresRuns]:
    """L3's side of run contexts."""
    pool = connection_pool(settings)
    yield PostgresRuns(pool)
    await pool.close()


@pytest.fixture
async def role(sql: Sql) -> AsyncIterator[str]:
    """A role without rights."""
    name = f"role_{uuid.uuid4().hex}"
    await sql.execute(f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA holdfast TO {name}")
    yield name
    await sql.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_database_of_before_is_brought_along(
    sql: Sql, runs: PostgresRuns, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows stay as they are, its snapshots can be pruned, and who could run a server still can."""
    six = l3_migrations.migrations()[:6]
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    with monkeypatch.context() as past:
        past.setattr(l3_migrations, "migrations", lambda: six)
        await l3_migrations.migrate(sql, [kind for kind in BUILT_IN if kind is not RUN])
    await sql.execute(FILL, "r1", 5)
    await sql.execute(INSERT, "r1/00000005.base")
    await sql.execute("""INSERT INTO holdfast."Chat" (id, document) VALUES ('s1', '{"name": "old"}')""")
    await sql.execute(
        f"""GRANT USAGE ON SCHEMA holdfast TO {role}; GRANT INSERT ON holdfast.generations TO {role};
        GRANT SELECT, INSERT, UPDATE ON holdfast."Chat" TO {role}"""
    )
    tables = [f"SELECT *, xmin FROM {name} ORDER BY id" for name in (SNAPSHOTS, 'holdfast."Chat"')]
    before = [await sql.fetch(table) for table in tables]
    assert (await l3_migrations.migrate(sql, BUILT_IN))[0] == "0007_runs.sql"
    assert [await sql.fetch(table) for table in tables] == before
    assert await untrusted(sql, BUILT_IN) == {}
    rights = "SELECT has_table_privilege($1, 'holdfast.\"Run\"', $2)"
    assert [await sql.fetchval(rights, role, right) for right in ("SELECT", "INSERT", "UPDATE", "DELETE")] == [
        True,
        True,
        True,
        False,
    ]
    await sql.execute(f"SET ROLE {role}")
    assert await sql.fetchval(PRUNE, "r1", 5, 3) == 3
    await sql.execute("RESET ROLE")
    assert [each.id for each in await runs.snapshots("r1", limit=10)] == [
        "r1/00000004",
        "r1/00000005",
        "r1/00000005.base",
    ]


@pytest.mark.parametrize(
    "call",
    [
        "holdfast.prune_snapshots('r1', 1, 10)",
        "holdfast.erase_history('RunContextSnapshot', ARRAY['r1/00000001'])",
        "holdfast.drop_snapshots('pg_class')",
    ],
)
async def test_history_is_erased_by_servers_only(sql: Sql, role: str, call: str) -> None:
    """These functions act for the owner of history, so a role needs the right to call them."""
    await sql.execute(f"SET ROLE {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for function"):
        await sql.execute(f"SELECT {call}")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("holdfast.erase_history('User', ARRAY['b1'])", "no kind keeps its history in table User"),
        ("holdfast.erase_history(NULL, ARRAY['b1'])", "no kind keeps its history"),
        (
            "holdfast.erase_history('RunContextSnapshot', ARRAY(SELECT n::text FROM generate_series(1, 5001) n))",
            "at most 5000",
        ),
        ("holdfast.drop_snapshots('holdfast.\"User\"')", "is no month of snapshots"),
        (
            "holdfast.drop_snapshots((SELECT max(part) FROM holdfast.history_months('RunContextSnapshot')))",
            "is no month of snapshots that is over",
        ),
    ],
)
async def test_what_acts_for_the_owner_does_no_more(sql: Sql, call: str, words: str) -> None:
    """Other tables, and months that are not over, are left alone."""
    with pytest.raises(asyncpg.PostgresError, match=words):
        await sql.execute(f"SELECT {call}")


async def test_only_an_erasure_deletes(sql: Sql) -> None:
    """In its own transaction too, and no setting lets an UPDATE through."""
    await sql.execute(FILL, "r1", 3)
    await sql.execute("BEGIN; SELECT holdfast.erase_history('RunContextSnapshot', ARRAY['r1/00000001'])")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="append-only"):
        await sql.execute(f"DELETE FROM {SNAPSHOTS}")
    await sql.execute("ROLLBACK; SET holdfast.erasing = 'RunContextSnapshot'")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="append-only"):
        await sql.execute(f"UPDATE {SNAPSHOTS} SET document = '[]'")
    assert await sql.fetchval(f"SELECT count(*) FROM {SNAPSHOTS}") == 3


@pytest.mark.parametrize("mutant", [None, LOCKING], ids=["as it is", "mutant: locks the table"])
async def test_nobody_waits_for_a_pruning(settings: Settings, sql: Sql, mutant: str | None) -> None:
    """While one is open, snapshots of the same run and of others are written, and who prunes the same goes on."""
    await sql.execute(FILL, "r1", 20)
    await sql.execute(INSERT, "r1/00000020.base")
    async with connected(settings.postgres_url) as pruning, connected(settings.postgres_url) as other:
        await pruning.execute(f"BEGIN; {mutant or 'SELECT'}")
        assert await pruning.fetchval(PRUNE, "r1", 20, 15) == 15
        await other.execute(AT_ONCE if mutant is None else "SET lock_timeout = '50ms'")
        try:
            await other.execute(INSERT, "r1/00000021")
            await other.execute(FILL, "r2", 2)
            assert await other.fetchval(PRUNE, "r1", 20, 15) == 4
            assert await other.fetchval(f"SELECT count(*) FROM {SNAPSHOTS} WHERE id < 'r2'") == 18
        except asyncpg.LockNotAvailableError:
            assert mutant is not None
        else:
            assert mutant is None


@pytest.mark.parametrize("mutant", [None, PARTITION_OF], ids=["as it is", "mutant: CREATE TABLE PARTITION OF"])
async def test_months_are_made_beside_writers(
    settings: Settings, sql: Sql, runs: PostgresRuns, mutant: str | None
) -> None:
    """A transaction that wrote to the table and stays open is not waited for."""
    if mutant:
        await sql.execute(mutant)
    async with connected(settings.postgres_url) as writer:
        await writer.execute(f"BEGIN; INSERT INTO {SNAPSHOTS} (id, document) VALUES ('r1/00000001', '{{}}')")
        if mutant:
            with pytest.raises(TierError, match="lock timeout"):
                await runs.make_ahead(3)
            return
        assert await runs.make_ahead(5) == 3
        await writer.execute("COMMIT")
    assert await untrusted(sql, BUILT_IN) == {}


async def old_month(sql: Sql, months: int = 3) -> str:
    """A month long past, with a snapshot of an unknown run; returns its partition."""
    await sql.execute("SELECT holdfast.ensure_month('RunContextSnapshot', $1::date)", ago(months))
    await sql.execute(
        f"INSERT INTO {SNAPSHOTS} (id, document, created_at) VALUES ($1, '{{}}', $2::date)",
        f"old/{months:08}",
        ago(months),
    )
    return str(await sql.fetchval("SELECT part::text FROM holdfast.old_snapshots(0)"))


@pytest.mark.parametrize(
    "use", [f"SELECT * FROM {SNAPSHOTS}", "SELECT * FROM {part}", "LOCK TABLE {part} IN ROW EXCLUSIVE MODE"]
)
async def test_a_month_in_use_is_left_for_the_next_time(
    settings: Settings, sql: Sql, runs: PostgresRuns, use: str
) -> None:
    """Whoever reads or writes it is not waited for, and the next attempt drops it; its partition is gone."""
    part = await old_month(sql)
    async with connected(settings.postgres_url) as user:
        await user.execute(f"BEGIN; {use.format(part=part)}")
        assert (await runs.retain(0)).kept == {ago(3): "it is in use"}
        await sql.execute(INSERT, "r1/00000001")
    assert (await runs.retain(0)).dropped == (ago(3),)
    assert await sql.fetchval("SELECT to_regclass($1)", part) is None
    assert await untrusted(sql, BUILT_IN) == {}


async def test_a_month_that_is_looked_at_takes_no_rows(settings: Settings, sql: Sql) -> None:
    """Otherwise what comes between the look and the drop would be lost; writers of this month go on."""
    part = await old_month(sql)
    await sql.execute("""INSERT INTO holdfast."Run" (id, document) VALUES ('old', '{"status": "paused"}')""")
    async with connected(settings.postgres_url) as dropping:
        await dropping.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        assert (
            await dropping.fetchval("SELECT holdfast.drop_snapshots($1::text::regclass)", part)
            == "run old is not ended"
        )
        await sql.execute("SET lock_timeout = '50ms'")
        await sql.execute(INSERT, "r1/00000001")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await sql.execute(
                f"INSERT INTO {SNAPSHOTS} (id, document, created_at) VALUES ('r1/00000002', '{{}}', $1::date)", ago(3)
            )


async def test_a_month_of_somebody_elses_is_kept(sql: Sql, runs: PostgresRuns, role: str) -> None:
    """Who made a partition by hand may have given it to anybody: that stops neither the others nor the server."""
    part = await old_month(sql, 3)
    await old_month(sql, 2)
    keeper = await sql.fetchval("SELECT rolsuper FROM pg_roles WHERE oid = holdfast.keeper()")
    await sql.execute(f"ALTER TABLE {part} OWNER TO {role}")
    retained = await runs.retain(0)
    assert (ago(3) in retained.dropped) is bool(keeper)
    assert ago(2) in retained.dropped


@pytest.mark.parametrize(
    ("which", "index"),
    [
        (RunFilter(), "run_all"),
        (RunFilter(swarm_id="s7"), "run_swarm"),
        (RunFilter(parent_run_id="r7"), "run_parent"),
        (RunFilter(routine_id="x7"), "run_routine"),
        (RunFilter(status="completed"), "run_status"),
        (RunFilter(orphaned=True), "run_open"),
    ],
)
@pytest.mark.parametrize("after", [None, 1_000_000])
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_runs_are_found_by_an_index(sql: Sql, which: RunFilter, index: str, after: int | None, mode: str) -> None:
    """None of it reads the table, nor sorts it."""
    await sql.execute(RUNS)
    await sql.execute('ANALYZE holdfast."Run"')
    statement, arguments = listing(which, after=after, limit=10, dead_after_seconds=10.0)
    await sql.execute(f"SET plan_cache_mode = {mode}; PREPARE listing AS {statement}")
    given = ", ".join(f"'{argument}'" for argument in arguments)
    plan = "\n".join(line for (line,) in await sql.fetch(f"EXPLAIN EXECUTE listing ({given})"))
    assert index in plan
    assert "Sort" not in plan
    assert 'Seq Scan on "Run"' not in plan


async def test_a_run_that_goes_on_leaves_its_indexes_alone(sql: Sql) -> None:
    """Each flush of a run writes its row: only what it is looked up by touches an index."""
    hot = """SELECT pg_stat_get_xact_tuples_hot_updated('holdfast."Run"'::regclass)"""
    update = """UPDATE holdfast."Run" SET document = $1::json WHERE id = 'r1'"""
    await sql.execute("BEGIN")
    await sql.execute("""INSERT INTO holdfast."Run" (id, document) VALUES ('r1', '{"status": "running"}')""")
    counts = [await sql.fetchval(hot)]
    for document in ('{"status": "running", "steps": 1}', '{"status": "running", "steps": 2}', '{"status": "paused"}'):
        await sql.execute(update, document)
        counts.append(await sql.fetchval(hot))
    assert [count - counts[0] for count in counts] == [0, 1, 2, 2]


async def test_a_pruning_reads_no_more_than_it_removes(sql: Sql) -> None:
    """However many snapshots there are, of the run and of others."""
    for run in ("r0", "r1", "r2"):
        await sql.execute(FILL, run, 5000)
    await sql.execute(INSERT, "r1/00005000.base")
    months = await sql.fetchval("SELECT count(*) FROM holdfast.history_months('RunContextSnapshot')")
    read = """SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int
        FROM pg_stat_xact_user_tables WHERE relname ~ '^RunContextSnapshot_20'"""
    for _ in range(8):  # from the sixth call on PostgreSQL may choose a plan for any arguments
        async with sql.transaction():
            before = await sql.fetchval(read)
            assert await sql.fetchval(PRUNE, "r1", 5000, 100) == 100
            assert await sql.fetchval(read) - before <= 100 * (months + 2)


@pytest.mark.parametrize("mutant", [False, True], ids=["as it is", "mutant: by a list of all with their sizes"])
async def test_a_list_of_bases_reads_no_snapshot(sql: Sql, *, mutant: bool) -> None:
    """However large they are: only their ids."""
    large = "SELECT to_json(string_agg(md5(random()::text), '')) FROM generate_series(1, 3000)"
    for number in (1, 2, 3):
        await sql.execute(FILL.replace("'{}'", f"({large})"), f"r{number}", 60)
        await sql.execute(f"INSERT INTO {SNAPSHOTS} (id, document) VALUES ($1, ({large}))", f"r{number}/00000060.base")
    await sql.execute(f"ANALYZE {SNAPSHOTS}")
    statement, arguments = (SNAPSHOTS_OF, ("r2", "", 1000)) if mutant else (BASES, ("r2", None, 1000))
    ((plan,),) = await sql.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
    read = json.loads(plan)[0]["Plan"]
    pages = read["Shared Hit Blocks"] + read["Shared Read Blocks"]
    assert (pages > 60) is mutant


async def test_what_runs_are_looked_up_by_is_what_the_document_has(sql: Sql) -> None:
    """Whatever JSON another tool writes: no object, other types, a field twice."""
    documents = {
        "a": '{"swarmId": "s1", "routineId": null, "status": "paused"}',
        "b": "[]",
        "c": '"text"',
        "d": '{"swarmId": 7, "parentRunId": {"a": [1]}, "swarmId": "s2"}',
        "e": '{"nested": {"swarmId": "s3"}, "x": "\\u0000", "routineId": "\\\\u0000"}',
        "f": '{"swarmId": "\\\\\\u0000\\u0000", "parentRunId": "\\u0000\\\\\\\\u0000", "status": "\\\\"}',
    }
    for name, document in documents.items():
        await sql.execute(f"INSERT INTO holdfast.{quote('Run')} (id, document) VALUES ($1, $2)", name, document)
    found = dict(await sql.fetch('SELECT id, fields FROM holdfast."Run"'))
    assert found == {
        "a": ["s1", None, None, "paused"],
        "b": None,
        "c": None,
        "d": ["s2", '{"a": [1]}', None, "running"],
        "e": [None, None, "\\u0000", "running"],
        "f": ["\\\u0001\u0001", "\u0001\\\\u0000", None, "\\"],
    }


async def test_a_nul_would_make_a_row_refused(sql: Sql) -> None:
    """Mutant: the document is looked into as it is."""
    made = await sql.fetchval("SELECT pg_get_functiondef('holdfast.run_fields(json)'::regprocedure)")
    await sql.execute(made.replace(r"'\u0000') OPERATOR", "'never') OPERATOR"))
    with pytest.raises(asyncpg.UntranslatableCharacterError):
        await sql.execute("""INSERT INTO holdfast."Run" (id, document) VALUES ('r1', '{"x": "\\u0000"}')""")
