"""The ring of the outbox: a leaf is emptied of what every reader has seen, and nothing else; no writer waits or fails.

Time is driven by the marks' times, and a row is made old by moving it to another leaf.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from fix_feed import Reader, connected
from fix_races import until

pytestmark = pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
INSERT = """INSERT INTO holdfast."User" (id, document) SELECT id, '{}' FROM unnest($1::text[]) id"""
AGE = "UPDATE holdfast.outbox_marks SET at = at - make_interval(secs => $1)"
TO_AN_IDLE_LEAF = """UPDATE holdfast.outbox SET leaf = (holdfast.outbox_leaf(clock_timestamp()) + 3) % 6
    WHERE tableoid NOT IN (SELECT holdfast.idle_leaves())"""
EMPTY = "SELECT holdfast.empty_leaf($1::text::regclass)"
AWAITED = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass)"
IDLE_LEAF = "SELECT 'holdfast.outbox_' || (holdfast.outbox_leaf(clock_timestamp()) + 3) % 6"
STEP_SECONDS, MARK_SECONDS = 300.0, 60.0
Sql = Any  # asyncpg.Connection cannot be subscripted at run time


async def write(sql: Sql, *ids: str) -> None:
    """Change rows, which the outbox then tells in a leaf that is idle."""
    await sql.execute(INSERT, list(ids))
    await sql.execute(TO_AN_IDLE_LEAF)


async def held(sql: Sql) -> list[str]:
    """The ids that the outbox holds."""
    return [id_ for (id_,) in await sql.fetch("SELECT unnest(ids) FROM holdfast.outbox ORDER BY seq")]


async def test_a_leaf_is_emptied_of_what_an_old_mark_sees(sql: Sql, reader: Reader) -> None:
    """Not before the mark is one step of the ring old; what came after the mark stays, with all else in its leaf."""
    await write(sql, "a")
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS - 5)
    await reader.source.tidy()
    assert await held(sql) == ["a"]
    await sql.execute(AGE, 5)
    await write(sql, "b")
    await reader.source.tidy()
    assert await held(sql) == ["a", "b"]
    await sql.execute(AGE, MARK_SECONDS)
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS)
    await reader.source.tidy()
    assert await held(sql) == []


async def test_the_leaves_in_use_are_left_alone(sql: Sql, reader: Reader) -> None:
    """The one that is written now, however old what is in it, and the one before."""
    await sql.execute(INSERT, ["a"])
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS)
    await reader.source.tidy()
    assert await held(sql) == ["a"]
    idle = {leaf for (leaf,) in await sql.fetch("SELECT leaf::text FROM holdfast.idle_leaves() leaf")}
    assert len(idle) == 5  # four of the ring, and the one for leaves that are missing


async def test_a_row_of_an_open_transaction_keeps_its_leaf(sql: Sql, reader: Reader, database_url: str) -> None:
    """The leaf is left at once; what was committed meanwhile is told, and stays until a later mark sees it."""
    await write(sql, "a")
    async with connected(database_url) as other:
        await other.execute("BEGIN")
        await other.execute(INSERT, ["b"])
        await other.execute(TO_AN_IDLE_LEAF)
        await reader.source.tidy()
        await reader.poll()
        await sql.execute(AGE, STEP_SECONDS)
        began = asyncio.get_running_loop().time()
        await reader.source.tidy()
        assert asyncio.get_running_loop().time() - began < 5.0
        assert await held(sql) == ["a"]
        await other.execute("COMMIT")
    await reader.source.tidy()
    assert await held(sql) == ["a", "b"]
    assert await reader.news() == [("bot", "b", False)]


@pytest.mark.parametrize(("asked_again", "left"), [(True, ["a", "b"]), (False, [])])
async def test_a_commit_as_the_lock_is_granted(
    sql: Sql, reader: Reader, database_url: str, *, asked_again: bool, left: list[str]
) -> None:
    """F3: what counts is asked again behind the lock; a function that trusts its first answer loses the change."""
    source = await sql.fetchval("SELECT pg_get_functiondef('holdfast.empty_leaf'::regproc)")
    assert source.count("EXECUTE is_past INTO past USING mark;") == 2
    if not asked_again:
        first, second, rest = source.split("EXECUTE is_past INTO past USING mark;")
        source = first + "EXECUTE is_past INTO past USING mark;" + second + rest
    await sql.execute(source.replace("'20ms'", "'60s'"))
    await write(sql, "a")
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS)
    leaf = await sql.fetchval(IDLE_LEAF)
    async with connected(database_url) as writer, connected(database_url) as janitor:
        await writer.execute("BEGIN")
        await writer.execute(INSERT, ["b"])
        await writer.execute(TO_AN_IDLE_LEAF)
        emptying = asyncio.ensure_future(janitor.fetchval(EMPTY, leaf))
        await until(lambda: sql.fetchval(AWAITED, leaf))
        await writer.execute("COMMIT")
        assert await emptying is not asked_again
    assert await held(sql) == left


async def test_a_missing_leaf_fails_no_write(sql: Sql, reader: Reader) -> None:
    """Its rows are told from the rest, which is emptied like a leaf."""
    for number in range(6):
        await sql.execute(f"DROP TABLE holdfast.outbox_{number}")
    await sql.execute(INSERT, ["a"])
    assert await reader.news() == [("bot", "a", False)]
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS)
    await reader.source.tidy()
    assert await held(sql) == []


async def test_the_feed_is_right_without_its_indexes(sql: Sql, reader: Reader) -> None:
    """Slower, and no less exact."""
    await sql.execute("DROP INDEX holdfast.outbox_xid_seq")
    await write(sql, "a")
    assert await reader.news() == [("bot", "a", False)]
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS)
    await write(sql, "b")
    await reader.source.tidy()
    assert await held(sql) == ["a", "b"]


async def test_rows_of_another_server_are_not_told_and_not_kept(sql: Sql, reader: Reader) -> None:
    """A dump brings rows with xids that this one has not drawn yet; told at every poll they would end in a reset."""
    await write(sql, "a")
    await sql.execute("UPDATE holdfast.outbox SET xid = '1099511627776'::xid8")
    assert await reader.news() == []
    beginning = (await reader.source.poll(None)).cursor
    assert len(beginning.anchor) == 1
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS)
    await reader.source.tidy()
    assert await held(sql) == []


async def test_a_cursor_behind_the_horizon_is_not_continued(sql: Sql, reader: Reader) -> None:
    """A little before a leaf may have been emptied of what it lacks; one that has seen the mark goes on."""
    behind = (await reader.poll()).cursor
    await write(sql, "a")
    await reader.source.tidy()
    ahead = (await reader.poll()).cursor
    await sql.execute(AGE, 0.89 * STEP_SECONDS)
    assert (await reader.source.poll(behind)).reset is None
    await sql.execute(AGE, 0.03 * STEP_SECONDS)
    poll = await reader.source.poll(behind)
    assert poll.reset == "the cursor is older than what the outbox is sure to hold still"
    assert (await reader.source.poll(ahead)).reset is None
    await sql.execute(AGE, STEP_SECONDS)
    await reader.source.tidy()
    assert await held(sql) == []
    assert (await reader.source.poll(behind)).reset is not None
    assert (await reader.source.poll(ahead)).reset is None


async def test_marks_are_few_and_the_one_that_counts_stays(sql: Sql, reader: Reader) -> None:
    """One a minute, for an hour; of the older ones the youngest stays, as the horizon of what it had emptied."""
    count = "SELECT count(*) FROM holdfast.outbox_marks"
    for _ in range(3):
        await reader.source.tidy()
    assert await sql.fetchval(count) == 1
    for _ in range(70):
        await sql.execute(AGE, 61)
        await reader.source.tidy()
    assert 58 <= await sql.fetchval(count) <= 61
    await sql.execute(AGE, 7200)
    await reader.source.tidy()
    assert await sql.fetchval(count) == 2
    ages = [row[0].total_seconds() for row in await sql.fetch("SELECT age FROM holdfast.outbox_mark_ages ORDER BY age")]
    assert ages[0] < MARK_SECONDS
    assert ages[1] >= 7200


async def test_a_clock_that_is_set_back_makes_nothing_young_again(sql: Sql, reader: Reader) -> None:
    """By marks from the future it is known; what was emptied by an old mark keeps its horizon."""
    behind = (await reader.poll()).cursor
    await write(sql, "a")
    await reader.source.tidy()
    await sql.execute(AGE, STEP_SECONDS)
    await reader.source.tidy()
    assert await held(sql) == []
    await sql.execute(AGE, -7200)  # the clock goes back by two hours
    await reader.source.tidy()
    assert (await reader.source.poll(behind)).reset is not None


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("""SELECT holdfast.empty_leaf('holdfast."User"')""", "is no leaf of the outbox"),
        (
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT holdfast.empty_leaf('holdfast.outbox_0')",
            "at READ COMMITTED only",
        ),
    ],
)
async def test_what_could_lose_changes_is_refused(sql: Sql, statement: str, words: str) -> None:
    """Other tables, and isolation levels where a later statement sees no more than an earlier one."""
    with pytest.raises(asyncpg.PostgresError, match=words):
        await sql.execute(statement)
