"""What PostgreSQL keeps of journals against servers that stand still, lost answers, constraints and rights."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest

from fix_feed import connected
from fix_races import until
from fix_tiers import Behind
from holdfast.adapters import connection_pool
from holdfast.errors import (
    Conflict,
    NotOwner,
    OutcomeUnknown,
    RowRefused,
    SerializationFailure,
    StorageFull,
    StorageNotReady,
    TierError,
    TierUnavailable,
)
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN, register
from holdfast.protocols import FlushTransaction, Letter, Write
from holdfast.seq_set import SeqSet
from holdfast.settings import Settings
from holdfast.tiers import l3_journal_statements, l3_migrations
from holdfast.tiers.l3_flush import PostgresFlush
from holdfast.tiers.l3_journals import PostgresJournals
from holdfast.tiers.l3_postgres import PostgresStorage

KEY = Key("bot", "b1")
POISON = Key("bot", "poison")
NONE, ONE = SeqSet(), SeqSet.of([1])
Sql = Any  # asyncpg.Connection cannot be subscripted at run time
PARTITIONS = """SELECT inhrelid::regclass::text FROM pg_inherits
    WHERE inhparent = 'holdfast."RunContextSnapshot"'::regclass"""
BLOCKED = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def write(key: Key = KEY, body: bytes = b"{}", expected: int | None = None) -> Write:
    return Write(key, 1, body, expected)


@asynccontextmanager
async def journals_of(settings: Settings, **limits: Any) -> AsyncIterator[PostgresJournals]:
    """What a server of these settings knows of journals; it has registered one."""
    pool = connection_pool(settings)
    journals = PostgresJournals(pool, register([]), **limits)
    try:
        await journals.register("j", "server")
        yield journals
    finally:
        await pool.close()


@pytest.fixture
async def journals(settings: Settings) -> AsyncIterator[PostgresJournals]:
    async with journals_of(settings) as made:
        yield made


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[Sql]:
    """A connection beside Holdfast's."""
    async with connected(settings.postgres_url) as connection:
        yield connection


async def decided(journals: PostgresJournals) -> SeqSet:
    return (await journals.rows_and_marks([], ["j"]))[1]["j"]


async def is_decided(journals: PostgresJournals) -> bool:
    return await decided(journals) == ONE


async def is_blocked(sql: Sql) -> bool:
    return bool(await sql.fetch(BLOCKED))


async def save_and_commit(flush: FlushTransaction, *writes: Write) -> None:
    await flush.save(writes)
    await flush.commit()


async def is_flushed(journals: PostgresJournals) -> bool:
    try:
        flush = await journals.open_flush("j", 1)
        await flush.commit()
    except TierError:
        return False
    return True


async def until_taken(journals: PostgresJournals) -> None:
    async def taken() -> bool:
        try:
            return await journals.take("j", 1, "other")
        except TierUnavailable:
            return False

    await until(taken)


@asynccontextmanager
async def stopped_inside(
    settings: Settings, behind: Behind, l3: PostgresStorage, *, is_prepared: bool
) -> AsyncIterator[PostgresFlush]:
    """A flush whose server stops while L3 tells it rows, or waits to be told to look for them."""
    keys = [Key("bot", f"b{number}") for number in range(40)]
    await l3.save([write(key, b'"%s"' % (b"x" * 500_000)) for key in keys])
    async with journals_of(msgspec.structs.replace(settings, postgres_url=behind.url)) as stopped:
        flush = await stopped.open_flush("j", 1)
        if is_prepared:
            await flush.load([KEY])
        with behind.proxy.hold("to_client"):
            loading = asyncio.ensure_future(flush.load(keys))
            try:
                yield flush
            except BaseException:
                loading.cancel()
                raise
        with pytest.raises(TierError):
            await loading
        with pytest.raises(TierError):
            await flush.commit()
        await flush.rollback()


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_a_server_that_stops_inside_a_statement_keeps_no_journal(
    settings: Settings, behind_proxy: Behind, l3: PostgresStorage, *, is_prepared: bool
) -> None:
    """For L3 it is not idle; a taker ends its session."""
    async with (
        journals_of(settings, idle_ms=200, lock_ms=50) as other,
        stopped_inside(settings, behind_proxy, l3, is_prepared=is_prepared),
    ):
        await until_taken(other)
        with pytest.raises(NotOwner):
            await other.open_flush("j", 1)


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_a_lost_connection_keeps_no_server_from_its_own_journal(
    settings: Settings, behind_proxy: Behind, l3: PostgresStorage, *, is_prepared: bool
) -> None:
    """Nobody takes over from a server that beats: its next flush ends the session that L3 cannot know to be lost."""
    async with (
        journals_of(settings, idle_ms=200) as again,
        stopped_inside(settings, behind_proxy, l3, is_prepared=is_prepared),
    ):
        await until(lambda: is_flushed(again))


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_no_timeout_of_the_servers_would_do(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, behind_proxy: Behind, l3: PostgresStorage, *, is_prepared: bool
) -> None:
    """Mutant: a taker that only waits takes nothing."""
    monkeypatch.setattr(l3_journal_statements, "END_STUCK", "SELECT $1::text, $2::int8")
    async with journals_of(settings, idle_ms=200, lock_ms=50) as other:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0), stopped_inside(settings, behind_proxy, l3, is_prepared=is_prepared):
                await until_taken(other)


async def test_a_session_that_works_is_not_ended(settings: Settings, sql: Sql) -> None:
    """A taker that is refused leaves a flush alone that waits for a row, and it commits."""
    async with journals_of(settings) as owner, journals_of(settings, idle_ms=1, lock_ms=50) as other:
        flush = await owner.open_flush("j", 1)
        async with sql.transaction():
            await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b1', '{}')""")
            saving = asyncio.ensure_future(flush.save([write()]))
            await until(lambda: is_blocked(sql))
            with pytest.raises(TierUnavailable, match="flush of journal j does not end"):
                await other.take("j", 1, "other")
        await saving
        await flush.decide(ONE, NONE, [])
        await flush.commit()
        assert await decided(other) == ONE


async def test_a_locked_row_is_not_waited_for_long(settings: Settings, sql: Sql) -> None:
    """A flush that meets one which somebody keeps gives way: others go first, and its journal can be taken."""
    async with journals_of(settings, idle_ms=1000) as journals, sql.transaction():
        await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b1', '{}')""")
        flush = await journals.open_flush("j", 1)
        with pytest.raises(SerializationFailure, match="writing 1 documents"):
            await flush.save([write()])
        with pytest.raises(TierError):
            await flush.commit()
        await flush.rollback()
        assert await journals.take("j", 1, "other")


async def test_a_commit_that_the_server_answers_with_a_rollback_is_none(settings: Settings) -> None:
    """PostgreSQL ends a transaction that failed so, and without an error."""
    async with journals_of(settings) as journals:
        flush = await journals.open_flush("j", 1)
        await flush.save([write()])
        await flush.decide(ONE, NONE, [])
        with pytest.raises(asyncpg.DivisionByZeroError):
            await flush._connection.execute("SELECT 1 / 0")
        with pytest.raises(TierError, match="rolled back"):
            await flush.commit()
        await flush.rollback()
        assert await journals.rows_and_marks([], ["j"]) == ({}, {"j": NONE})


async def test_a_lost_reply_to_commit_is_an_unknown_outcome(behind_proxy: Behind, settings: Settings) -> None:
    """The next flush waits for the end of that one, and tells what became of it."""
    through = msgspec.structs.replace(settings, postgres_url=behind_proxy.url)
    async with journals_of(through) as journals, journals_of(settings) as other:
        flush = await journals.open_flush("j", 1)
        await flush.save([write()])
        await flush.decide(ONE, NONE, [])
        with behind_proxy.proxy.hold("to_client"):
            committing = asyncio.ensure_future(flush.commit())
            await until(lambda: is_decided(other))
            behind_proxy.proxy.reset()
            with pytest.raises(OutcomeUnknown):
                await committing
        await flush.rollback()
        again = await journals.open_flush("j", 1)
        assert again.decided == ONE
        await again.rollback()


async def test_a_cancelled_flush_leaves_nothing(journals: PostgresJournals, sql: Sql) -> None:
    """A task that is cancelled while L3 works rolls back, and the next flush of the journal begins at once."""

    async def flush_once() -> None:
        flush = await journals.open_flush("j", 1)
        try:
            await flush.save([write()])
            await flush.commit()
        finally:
            await flush.rollback()

    async with sql.transaction():
        await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b1', '{}')""")
        task = asyncio.ensure_future(flush_once())
        await until(lambda: is_blocked(sql))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = await journals.open_flush("j", 1)
        await again.decide(ONE, NONE, [])
        await again.commit()
    assert await decided(journals) == ONE


CHECK = """ALTER TABLE holdfast."User" ADD CHECK (id <> 'poison')"""
UNIQUE = """CREATE UNIQUE INDEX ON holdfast."User" ((document::text))"""
INDEX = """CREATE INDEX ON holdfast."User" ((document::text))"""
DEFERRED = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN IF NEW.id = 'poison' THEN RAISE 'no'; END IF; RETURN NEW; END$$;
    CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON holdfast."User" DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse()"""


def trigger(raises: str) -> str:
    return f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF NEW.id = 'poison' THEN {raises}; END IF; RETURN NEW; END$$;
        CREATE TRIGGER refuse BEFORE INSERT ON holdfast."User" FOR EACH ROW EXECUTE FUNCTION refuse()"""


@pytest.mark.parametrize("expected", [None, 0])
@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (CHECK, b"{}"),
        (UNIQUE, b'{"same": 1}'),
        (INDEX, b'"%s"' % b"".join(b"%d" % (number * number) for number in range(20_000))),
        (DEFERRED, b"{}"),
        (trigger("RAISE 'no'"), b"{}"),
        (trigger("RAISE 'no' USING ERRCODE = 'U0001'"), b"{}"),
        (trigger("PERFORM 1 / 0"), b"{}"),
        (trigger("PERFORM NEW.nothing"), b"{}"),
        (trigger("PERFORM 'x'::int"), b"{}"),
    ],
    ids=["check", "unique", "index_row_size", "deferred", "raise", "own_sqlstate", "division", "column", "cast"],
)
async def test_a_row_that_the_users_own_rules_refuse(
    journals: PostgresJournals, sql: Sql, rule: str, body: bytes, expected: int | None
) -> None:
    """The error says that a row is at fault, at the latest at COMMIT; nothing took effect."""
    await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('old', '{"same": 1}')""")
    await sql.execute(rule)
    flush = await journals.open_flush("j", 1)
    await flush.decide(ONE, NONE, [])
    with pytest.raises(RowRefused, match="SQLSTATE"):
        await save_and_commit(flush, write(expected=expected, body=b'{"good": 1}'), write(POISON, body, expected))
    await flush.rollback()
    assert (await journals.rows_and_marks([KEY, POISON], ["j"])) == ({}, {"j": NONE})


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (trigger("RAISE 'no' USING ERRCODE = 'insufficient_privilege'"), TierError),
        ("""ALTER TABLE holdfast."User" DROP COLUMN schema""", TierError),
        (trigger("PERFORM count(*) FROM nowhere"), StorageNotReady),
        (trigger("RAISE 'no' USING ERRCODE = 'disk_full'"), StorageFull),
        (trigger("RAISE 'no' USING ERRCODE = 'serialization_failure'"), SerializationFailure),
    ],
    ids=["right", "column", "table", "disk", "in_the_way"],
)
async def test_what_is_no_fault_of_a_row(
    journals: PostgresJournals, sql: Sql, rule: str, error: type[TierError]
) -> None:
    """What may be so of all rows, or of none a moment later, gives up no row."""
    await sql.execute(rule)
    flush = await journals.open_flush("j", 1)
    with pytest.raises(error) as raised:
        await flush.save([write(POISON)])
    assert not isinstance(raised.value, RowRefused)
    await flush.rollback()


async def test_after_many_conflicts_the_flush_goes_on(journals: PostgresJournals, l3: PostgresStorage) -> None:
    """Whatever a refused save began is taken back, however often, and the rest commits."""
    await l3.save([write(Key("bot", f"b{number:02}")) for number in range(1, 20)])
    flush = await journals.open_flush("j", 1)
    for number in range(1, 20):
        with pytest.raises(Conflict):
            await flush.save([write(Key("bot", "b00"), b"1", 0), write(Key("bot", f"b{number:02}"), b"1", 0)])
    await flush.save([write(Key("bot", "b00"), b"2", 0)])
    await flush.commit()
    rows = (await l3.load([Key("bot", f"b{number:02}") for number in range(20)])).rows
    assert [row.body for _, row in sorted(rows.items())] == [b"2", *[b"{}"] * 19]


async def test_a_month_without_partition(journals: PostgresJournals, sql: Sql) -> None:
    """The flush fails, having made the partition, and the next one succeeds."""
    for (part,) in await sql.fetch(PARTITIONS):
        await sql.execute(f"DROP TABLE {part}")
    history = Key("run_snapshot", "r1/1")
    flush = await journals.open_flush("j", 1)
    await flush.save([write()])
    with pytest.raises(SerializationFailure, match="partition"):
        await flush.save([write(history)])
    with pytest.raises(TierError):
        await flush.commit()
    await flush.rollback()
    assert (await journals.rows_and_marks([KEY], []))[0] == {}
    again = await journals.open_flush("j", 1)
    await again.save([write(), write(history)])
    await again.commit()
    assert len((await journals.rows_and_marks([KEY, history], []))[0]) == 2


async def test_marks_touch_no_index(journals: PostgresJournals, sql: Sql) -> None:
    """Flushes and beats update their rows in place: neither index nor table grows with them."""
    for number in range(1, 601):
        flush = await journals.open_flush("j", 1)
        await flush.decide(SeqSet.of([number]), NONE, [])
        await flush.commit()
        assert await journals.beat("j", 1)
    pages = "SELECT max(pg_relation_size(oid) / 8192) FROM pg_class WHERE relname ~ '^journal(s|_beats)(_pkey)?$'"
    assert await sql.fetchval(pages) <= 10  # of what is written anew each time there would be over 11


async def test_letters_that_are_dropped_are_told(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the bound the log says how many were lost."""
    async with journals_of(settings, letters_max=2) as journals:
        for first in (1, 4):
            flush = await journals.open_flush("j", 1)
            seqs = range(first, first + 3)
            letters = [Letter(KEY, seq, b"entry", "poison") for seq in seqs]
            with caplog.at_level(logging.WARNING, "holdfast"):
                await flush.decide(SeqSet.of(seqs), SeqSet.of(seqs), letters)
            await flush.commit()
    assert [record.getMessage() for record in caplog.records] == [
        "of the writes that were given up, the newest 2 are kept: 3 older ones were dropped"
    ]


async def test_an_upgrade_gives_servers_their_rights(
    sql: Sql, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that could run a server before can write behind after the migration; others cannot."""
    role, other = f"role_{uuid.uuid4().hex}", f"role_{uuid.uuid4().hex}"
    first = l3_migrations.migrations()[:5]
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    with monkeypatch.context() as past:
        past.setattr(l3_migrations, "migrations", lambda: first)
        await l3_migrations.migrate(sql, BUILT_IN)
    for name in (role, other):
        await sql.execute(f"""CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA holdfast TO {name};
            GRANT SELECT ON ALL TABLES IN SCHEMA holdfast TO {name}""")
    await sql.execute(f"GRANT INSERT ON holdfast.generations TO {role}")
    try:
        assert (await l3_migrations.migrate(sql, BUILT_IN))[0] == "0006_write_behind.sql"
        user, _, rest = settings.postgres_url.partition("://")[2].partition("@")
        as_role = msgspec.structs.replace(settings, postgres_url=f"postgresql://{role}@{rest}")
        assert user
        async with journals_of(as_role) as journals:
            flush = await journals.open_flush("j", 1)
            await flush.decide(ONE, ONE, [Letter(KEY, 1, b"entry", "poison")])
            await flush.commit()
            (letter,) = await journals.letters(limit=1)
            assert await journals.discard(letter.id)
            assert await journals.beat("j", 1)
            assert await journals.forget("j", 1)
        for table in ("journals", "journal_beats", "dead_writes"):
            may = "SELECT has_table_privilege($1, $2, 'SELECT, INSERT, UPDATE, DELETE')"
            assert not await sql.fetchval(may, other, f"holdfast.{table}")
    finally:
        for name in (role, other):
            await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
