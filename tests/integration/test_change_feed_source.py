"""`PostgresFeed`: the contract, and what PostgreSQL alone can do to it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fix_feed import PostgresFeeds, Reader, connected, feed_of
from fix_races import until
from fix_servers import stopped_after
from holdfast.embedded import EmbeddedOptions, ensure_running, status, stop
from holdfast.embedded.binaries import postgres_tree
from holdfast.embedded.privileges import DATA
from holdfast.errors import Closed, TierUnavailable
from holdfast.kinds import BUILT_IN
from holdfast.protocols import Coherence, Cursor, Snapshot
from holdfast.testing.conformance import ChangeSourceSuite, checks
from holdfast.tiers import l3_feed, l3_feed_statements, l3_migrations
from holdfast.tiers.l3_connect import FEED_SESSION
from holdfast.tiers.l3_self_test import untrusted

ALL = pytest.mark.parametrize("check", checks(ChangeSourceSuite), ids=lambda check: check.__name__)
ON_18 = pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
INSERT = """INSERT INTO holdfast."User" (id, document) SELECT id, '{}' FROM unnest($1::text[]) id"""
FEEDS = """SELECT pid, query FROM pg_stat_activity
    WHERE application_name = 'holdfast feed' AND datname = current_database()"""
RECOVERY_SECONDS = 30.0
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


async def insert(sql: Sql, *ids: str) -> None:
    await sql.execute(INSERT, list(ids))


@ALL
async def test_the_contract(feeds: PostgresFeeds, check: Callable[[Any], Any]) -> None:
    """The change feed of PostgreSQL keeps it."""
    await check(ChangeSourceSuite(feeds))


@ON_18
async def test_where_nothing_was_committed_a_probe_suffices(sql: Sql, reader: Reader) -> None:
    """It is asked before the outbox is, tells the generations all the same, and never hides a commit."""

    async def probed() -> bool:  # commits in any database of the server let the probe tell nothing
        first = (await reader.poll()).cursor
        bare = Cursor(Coherence(first.coherence.incarnation), first.snapshot, first.anchor)
        again = (await reader.source.poll(bare)).cursor
        asked = [row["query"] for row in await sql.fetch(FEEDS)]
        return again == first and asked == [l3_feed_statements.PROBE]

    await until(probed)
    await insert(sql, "a")
    assert await reader.news() == [("bot", "a", False)]
    ((_, asked),) = await sql.fetch(FEEDS)
    assert l3_feed_statements.POLL.startswith(asked)  # of which the server shows the beginning


@ON_18
async def test_a_reader_that_is_too_far_behind_begins_anew(sql: Sql, reader: Reader) -> None:
    """Changes are counted before they are fetched; the next poll goes on from where the count was taken."""
    for number in range(11):
        await insert(sql, *(f"{number}-{each}" for each in range(5000)))
    poll = await reader.poll()
    assert poll.reset is not None
    assert "too far behind" in poll.reset
    assert not poll.changes
    await insert(sql, "a")
    assert await reader.news() == [("bot", "a", False)]


@ON_18
async def test_another_default_of_isolation_changes_nothing(sql: Sql, database_url: str) -> None:
    """Each poll sees what was committed before it, and generations are raised side by side."""
    await sql.execute(
        f'ALTER DATABASE "{await sql.fetchval("SELECT current_database()")}"'
        " SET default_transaction_isolation = 'serializable'"
    )
    reader, other = Reader(feed_of(database_url)), feed_of(database_url)
    await reader.poll()
    await insert(sql, "a")
    assert await reader.news() == [("bot", "a", False)]
    await asyncio.gather(*(source.raise_generation("all") for source in (reader.source, other) for _ in range(10)))
    await reader.source.tidy()
    for source in (reader.source, other):
        await source.close()


@ON_18
async def test_generations_are_committed_in_their_order(sql: Sql, reader: Reader, database_url: str) -> None:
    """One that is drawn but not committed keeps the next one waiting."""
    async with connected(database_url) as slow, slow.transaction():
        first = await slow.fetchval("SELECT holdfast.raise_generation('kind:bot')")
        raising = asyncio.ensure_future(reader.source.raise_generation("all"))
        await until(
            lambda: sql.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory')")
        )
    raised = await raising
    assert raised.generations["all"] > raised.generations["kind:bot"] == first


async def pid_of(sql: Sql) -> int:
    ((pid, _),) = await sql.fetch(FEEDS)
    return int(pid)


@ON_18
async def test_a_connection_that_stands_still_is_ended(sql: Sql, database_url: str) -> None:
    """The poll fails within its timeout, and the next one connects anew and goes on from the same cursor."""
    reader = Reader(feed_of(database_url, poll_timeout_seconds=1.0))
    await reader.poll()
    await insert(sql, "a")
    pid = await pid_of(sql)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = asyncio.get_running_loop().time()
        with pytest.raises(TierUnavailable):
            await reader.poll()
        assert asyncio.get_running_loop().time() - began < 5.0
        assert await reader.news() == [("bot", "a", False)]
    finally:
        os.kill(pid, signal.SIGCONT)
    await reader.source.close()


@ON_18
async def test_an_answer_that_takes_too_long_gets_more_time(
    sql: Sql, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one would never come otherwise: each try would be cut at the same place. Later time is short again."""
    reader = Reader(feed_of(database_url, poll_timeout_seconds=0.2))
    await reader.poll()
    await insert(sql, "a")
    async with connected(database_url) as slow:
        await slow.execute("BEGIN; LOCK TABLE holdfast.outbox IN ACCESS EXCLUSIVE MODE")
        for tries in (1, 2):
            with pytest.raises(TierUnavailable):
                await reader.poll()
            assert reader.source._timeout_seconds == 0.2 * 2**tries
    assert await reader.news() == [("bot", "a", False)]
    assert reader.source._timeout_seconds == 0.8, "other nodes of L2 may need answers as large"
    monkeypatch.setattr(l3_feed, "GROWN_SECONDS", 0.0)
    await reader.poll()
    assert reader.source._timeout_seconds == 0.2
    await reader.source.close()


@ON_18
async def test_a_connection_that_was_ended_is_replaced(sql: Sql, reader: Reader) -> None:
    """A hint is heard on the new one too."""
    hinted = asyncio.Event()
    reader.source.on_hint(hinted.set)
    await sql.execute("SELECT pg_terminate_backend($1)", await pid_of(sql))
    await insert(sql, "a")

    async def told() -> bool:
        try:
            return await reader.news() == [("bot", "a", False)]
        except TierUnavailable:
            return False

    await until(told)
    await sql.execute(f"NOTIFY {l3_feed_statements.CHANNEL}")
    async with asyncio.timeout(RECOVERY_SECONDS):
        await hinted.wait()


async def leads(source: l3_feed.PostgresFeed) -> bool:
    """Whether it believes to; a connection that was lost meanwhile may be noticed now."""
    try:
        return await source.lead()
    except TierUnavailable:
        return False


@ON_18
async def test_the_lead_goes_with_the_connection(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is cut off, or stands still, loses it to the next who asks, and does not believe to have it still."""
    second = feed_of(database_url)
    monkeypatch.setattr(l3_feed, "FEED_SESSION", {**FEED_SESSION, "idle_session_timeout": "200ms"})
    first = feed_of(database_url)
    assert await first.lead()
    await until(second.lead)  # while nothing is asked of the first
    assert not await leads(first)
    assert not await leads(first)
    assert await second.lead()
    for source in (first, second):
        await source.close()
    with pytest.raises(Closed):
        await first.poll(None)


@ON_18
async def test_nobody_there_is_an_error_and_not_a_hang(database_url: str) -> None:
    """Each poll tries anew."""
    source = feed_of(database_url.replace("%2Fpostgres", "%2Fnowhere"), poll_timeout_seconds=1.0)
    for _ in range(2):
        with pytest.raises(TierUnavailable):
            await source.poll(None)
    await source.close()


def restarted(cursor: Cursor) -> Cursor:
    """As if the server had been started anew since."""
    return msgspec.structs.replace(cursor, anchor=("0", *cursor.anchor[1:]))


@ON_18
async def test_after_a_restart_the_last_row_proves_the_past(sql: Sql, reader: Reader) -> None:
    """If it is there the cursor is continued, and its anchor is of the new start; if not, it is not."""
    await insert(sql, "a")
    cursor = (await reader.poll()).cursor
    await insert(sql, "b")
    poll = await reader.source.poll(restarted(cursor))
    assert poll.reset is None
    assert [change.key.id for change in poll.changes] == ["b"]
    assert poll.cursor.anchor[0] == cursor.anchor[0]
    assert (await reader.source.poll(restarted(poll.cursor))).reset is None
    await sql.execute("UPDATE holdfast.outbox SET at = at + interval '1 microsecond'")  # the same numbers, drawn again
    poll = await reader.source.poll(restarted(poll.cursor))
    assert poll.reset is not None
    assert "started anew" in poll.reset
    assert not poll.changes


@ON_18
async def test_without_a_row_a_restart_cannot_be_told_from_a_restore(sql: Sql, reader: Reader) -> None:
    """A cursor that began with an empty outbox is not continued; one without an anchor is, and gets one."""
    cursor = (await reader.poll()).cursor
    assert len(cursor.anchor) == 1
    await insert(sql, "a")
    poll = await reader.source.poll(msgspec.structs.replace(cursor, anchor=()))
    assert [change.key.id for change in poll.changes] == ["a"]
    assert len(poll.cursor.anchor) == 4
    assert (await reader.source.poll(restarted(cursor))).reset is not None


@ON_18
async def test_xids_drawn_again_on_an_older_copy_are_told(sql: Sql, reader: Reader) -> None:
    """The cursor sees them, but never saw what they stand for now: what was numbered after the anchor is news."""
    await insert(sql, "a")
    cursor = (await reader.poll()).cursor
    await insert(sql, "b")
    seen = Snapshot.parse(await sql.fetchval("SELECT pg_current_snapshot()::text"))
    ahead = msgspec.structs.replace(cursor, snapshot=seen)
    assert not (await reader.source.poll(ahead)).changes
    poll = await reader.source.poll(restarted(ahead))
    assert [change.key.id for change in poll.changes] == ["b"]
    assert poll.reset is None


@ON_18
async def test_lower_generations_than_known_are_a_past(reader: Reader) -> None:
    """An older copy of L3 has them."""
    cursor = (await reader.poll()).cursor
    higher = Coherence(cursor.coherence.incarnation, {"all": cursor.coherence.highest + 1})
    earlier = Snapshot(cursor.snapshot.xmax - 1, cursor.snapshot.xmax - 1)
    poll = await reader.source.poll(msgspec.structs.replace(cursor, coherence=higher, snapshot=earlier))
    assert poll.reset == "the cursor is ahead of L3, which went back in time"


async def run(program: str, *arguments: str | Path) -> None:
    """Run one of PostgreSQL's programs."""
    command = [postgres_tree(18).program(program), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


@ON_18
async def test_a_dump_restored_in_place_is_another_incarnation(
    sql: Sql, reader: Reader, database_url: str, tmp_path: Path
) -> None:
    """Though the identity's row came with it; the readers connected notice, and the triggers work on."""
    await insert(sql, "a")
    await reader.source.tidy()
    await reader.poll()
    file = tmp_path / "dump"
    await run("pg_dump", "-Fc", "-f", file, database_url)
    await insert(sql, "b")
    await reader.poll()
    await sql.execute("DROP SCHEMA holdfast CASCADE")
    await run("pg_restore", "--exit-on-error", "--single-transaction", "-d", database_url, file)
    assert (await reader.poll()).reset == "L3 is another incarnation: it crashed, failed over or was restored"
    assert await untrusted(sql, BUILT_IN) == {}
    assert await sql.fetchval("SELECT count(*) FROM holdfast.outbox_marks") == 1
    assert await sql.fetchval("SELECT count(*) FROM holdfast.outbox_mark_ages") == 0
    await reader.source.tidy()
    assert await sql.fetchval("SELECT count(*) FROM holdfast.outbox_marks") == 1
    await insert(sql, "c")
    assert await reader.news() == [("bot", "c", False)]


@pytest.fixture
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedOptions]:
    # The folder of a test's name is too long for a socket, which would be elsewhere after each start.
    async with stopped_after(EmbeddedOptions(tmp_path_factory.mktemp("own") / "servers")) as options:
        yield options


async def start(options: EmbeddedOptions) -> str:
    return (await ensure_running(options)).postgres_url


async def told(reader: Reader) -> Any:
    """A poll, when the server is back."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            try:
                return await reader.poll()
            except TierUnavailable:
                await asyncio.sleep(0)


async def test_restarts_crashes_and_a_standby(own: EmbeddedOptions) -> None:
    """A clean restart goes on; after a kill of a backend, or all, the cursor is refused; a standby is not read."""
    url = await start(own)
    reader = Reader(feed_of(url))
    async with connected(url) as sql:
        await l3_migrations.migrate(sql, BUILT_IN)
        await insert(sql, "a")
        await reader.poll()
        await insert(sql, "b")
        await reader.poll()
    await stop(own)
    await start(own)
    async with connected(url) as sql:
        await insert(sql, "c")
        poll = await told(reader)
        assert (poll.reset, [change.key.id for change in poll.changes]) == (None, ["c"])
        os.kill(await pid_of(sql), signal.SIGKILL)  # the server ends all sessions and recovers
    assert (await told(reader)).reset
    async with connected(url) as sql:
        await insert(sql, "d")
        assert await reader.news() == [("bot", "d", False)]
    (postgres,) = (each for each in await status(own) if each.name == "postgres")
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGKILL)
    await start(own)
    assert (await told(reader)).reset
    await stop(own)
    (data,) = own.home.rglob(f"{DATA}/PG_VERSION")
    (data.parent / "standby.signal").touch()
    await start(own)
    with pytest.raises(TierUnavailable, match="standby"):
        await reader.poll()
    await reader.source.close()
