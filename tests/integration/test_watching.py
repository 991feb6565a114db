"""Watches and topics on real servers: whatever changes L3, with whatever tool, each change once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_tiers import flows_of
from holdfast import Bot, ChangeOperation, Document, Kind, Watch, Watched
from holdfast.documents import Limits, encode
from holdfast.node import OpenStore
from holdfast.settings import Settings
from integration.test_incarnation import become_another

Sql: TypeAlias = "asyncpg.Connection[Any]"
Step = Callable[[Sql], Awaitable[object]]
Told = tuple[str | None, ChangeOperation]

DEADLINE_SECONDS = 30.0
INSERT, UPDATE, DELETE = ChangeOperation.INSERT, ChangeOperation.UPDATE, ChangeOperation.DELETE
TRUNCATE, MANY, RESET = ChangeOperation.TRUNCATE, ChangeOperation.MANY, ChangeOperation.RESET


class Note(Document, frozen=True, kw_only=True):
    """What goes with a bot, and is deleted with it."""

    text: str = ""


NOTES = Kind("note", Note, configuration=True)
OLD, NEW = Bot(name="old"), Bot(name="new")


def text(document: Document) -> str:
    return encode(document, Limits(1_000_000, 64)).decode()


@pytest.fixture
async def pair(settings: Settings) -> AsyncIterator[tuple[OpenStore, OpenStore]]:
    """Two servers, of which the second has a bot and its note in memory."""
    # Rules would make void what these tests count.
    alone = partial(holdfast.connect, settings, kinds=[NOTES], rules=())
    async with alone() as one, alone() as two:
        await one.bots.put("b1", OLD)
        await one.collection(NOTES).put("b1", Note(text="old"))
        assert await flows_of(two).feed.refresh()
        await two.bots.get("b1")
        yield one, two


@pytest.fixture
async def sql(settings: Settings, pair: object) -> AsyncIterator[Sql]:
    """A connection beside Holdfast's, as a person with psql has it."""
    async with connected(settings.postgres_url) as connection:
        await connection.execute(
            """ALTER TABLE holdfast.note ADD FOREIGN KEY (id) REFERENCES holdfast."User" (id) ON DELETE CASCADE"""
        )
        yield connection


async def following(watch: Watch[Any], count: int) -> list[Watched[Any]]:
    """The next so many changes."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [await anext(watch) for _ in range(count)]


def shown(changes: list[Watched[Any]]) -> list[Told]:
    return [(change.id, change.operation) for change in changes]


async def update(sql: Sql) -> None:
    await sql.execute("""UPDATE holdfast."User" SET document = $1::text::json WHERE id = 'b1'""", text(NEW))


async def rename(sql: Sql) -> None:
    await sql.execute("DELETE FROM holdfast.note")
    await sql.execute("""UPDATE holdfast."User" SET id = 'b2' WHERE id = 'b1'""")


async def delete(sql: Sql) -> None:
    await sql.execute("""DELETE FROM holdfast."User" WHERE id = 'b1'""")


async def copy(sql: Sql) -> None:
    records = [("b2", text(NEW)), ("b3", text(NEW))]
    await sql.copy_records_to_table("User", schema_name="holdfast", columns=["id", "document"], records=records)


async def upsert(sql: Sql) -> None:
    await sql.execute(
        """INSERT INTO holdfast."User" (id, document) VALUES ('b1', $1::text::json), ('b2', $1::text::json)
        ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document""",
        text(NEW),
    )


async def all_in_one_transaction(sql: Sql) -> None:
    async with sql.transaction():
        await update(sql)
        await delete(sql)
        await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b1', $1::text::json)""", text(NEW))


async def truncate(sql: Sql) -> None:
    await sql.execute("""TRUNCATE holdfast."User" CASCADE""")


async def update_of_many(sql: Sql) -> None:
    await sql.execute(
        """INSERT INTO holdfast."User" (id, document)
        SELECT 'm' || n, $1::text::json FROM generate_series(1, 5001) n""",
        text(NEW),
    )


class Case(NamedTuple):
    """What is done, and what is told of other bots, of the bot b1 and of its note, each in this order."""

    step: Step
    others: set[Told]
    of_b1: list[Told]
    of_note: list[Told]


CASES = [
    Case(update, set(), [("b1", UPDATE)], []),
    Case(rename, {("b2", UPDATE)}, [("b1", DELETE)], [("b1", DELETE)]),
    Case(delete, set(), [("b1", DELETE)], [("b1", DELETE)]),
    Case(copy, {("b2", INSERT), ("b3", INSERT)}, [], []),
    Case(all_in_one_transaction, set(), [("b1", UPDATE), ("b1", DELETE), ("b1", INSERT)], [("b1", DELETE)]),
    Case(truncate, set(), [(None, TRUNCATE)], [(None, TRUNCATE)]),
    Case(update_of_many, set(), [(None, MANY)], []),
]


@pytest.mark.parametrize("case", CASES, ids=[case.step.__name__ for case in CASES])
async def test_a_change_with_any_tool_is_told(pair: tuple[OpenStore, OpenStore], sql: Sql, case: Case) -> None:
    """To watchers of the kind, of the key, and of what went with it; with documents that are of then or later."""
    here, there = pair
    notes = there.collection(NOTES)
    bots, bot, note = there.bots.watch(), there.bots.watch("b1"), notes.watch("b1")
    await case.step(sql)
    await here.bots.put("b1", Bot(name="last"))  # behind all of it
    await here.collection(NOTES).put("b1", Note(text="last"))
    *of_bots, last_of_bots = await following(bots, len(case.of_b1) + len(case.others) + 1)
    *of_b1, last_of_b1 = await following(bot, len(case.of_b1) + 1)
    *of_note, last_of_note = await following(note, len(case.of_note) + 1)
    assert [each for each in shown(of_bots) if each not in case.others] == shown(of_b1) == case.of_b1
    assert {each for each in shown(of_bots) if each in case.others} == case.others
    assert shown(of_note) == case.of_note
    assert last_of_bots.document == last_of_b1.document == Bot(name="last")
    assert last_of_note.document == Note(text="last")
    assert len({change.version for change in of_bots}) == len(of_bots)


async def test_an_upsert_is_told_key_by_key(pair: tuple[OpenStore, OpenStore], sql: Sql) -> None:
    """Which of its rows were there before, each says."""
    watch = pair[1].bots.watch()
    await upsert(sql)
    changes = await following(watch, 2)
    assert set(shown(changes)) == {("b1", UPDATE), ("b2", INSERT)}
    assert [change.document for change in changes] == [NEW, NEW]


async def test_a_transaction_that_commits_late_is_told_then(pair: tuple[OpenStore, OpenStore], sql: Sql) -> None:
    """With lower numbers than what was told before it; and a watch that comes back in between tells it too, once."""
    here, there = pair
    watch = there.bots.watch()
    transaction = sql.transaction()
    await transaction.start()
    await update(sql)
    later = await here.bots.put("b2", NEW)
    (change,) = await following(watch, 1)
    assert (change.id, change.version) == ("b2", later.version)
    resumed = here.bots.watch(after=change.token)
    await transaction.commit()
    for each in (watch, resumed):
        (late,) = await following(each, 1)
        assert (late.id, late.operation, late.document) == ("b1", UPDATE, NEW)
        assert late.version < change.version


async def test_a_token_resumes_on_a_server_that_was_opened_anew(settings: Settings, sql: Sql) -> None:
    """What was committed while none ran is told, in order, once; and then what comes."""
    async with holdfast.connect(settings) as state:
        watch = state.bots.watch()
        await state.bots.put_many({f"c{number}": OLD for number in range(10)})
        changes = await following(watch, 4)
    rest = {f"c{number}" for number in range(10)} - {change.id for change in changes}
    await update(sql)
    await delete(sql)
    async with holdfast.connect(settings) as state:
        resumed = state.bots.watch(after=changes[-1].token)
        found = await following(resumed, 8)
        assert {change.id for change in found[:6]} == rest
        assert shown(found[6:]) == [("b1", UPDATE), ("b1", DELETE)]
        await state.bots.put("b1", NEW)
        assert shown(await following(resumed, 1)) == [("b1", INSERT)]
        idle = resumed.token
    async with holdfast.connect(settings) as state:
        resumed = state.bots.watch(after=idle)
        await state.bots.put("b1", OLD)
        assert shown(await following(resumed, 1)) == [("b1", UPDATE)]


async def test_a_token_that_is_too_old_begins_with_a_reset(pair: tuple[OpenStore, OpenStore], sql: Sql) -> None:
    """The outbox may have forgotten; L3 keeps its identity, and no cache is emptied."""
    here, there = pair
    old = here.bots.watch().token
    await update(sql)
    mark = await sql.fetchval("SELECT pg_current_snapshot()::text")
    await update(sql)
    assert await flows_of(there).feed.refresh()  # so that the feed itself is young enough
    await sql.execute("INSERT INTO holdfast.outbox_marks VALUES (now() - interval '10 minutes', $1)", mark)
    incarnation = flows_of(there).applier.incarnation
    resumed = there.bots.watch(after=old)
    (reset,) = await following(resumed, 1)
    assert (reset.operation, reset.id, "older" in reset.reason) == (RESET, None, True)
    await here.bots.put("b1", OLD)
    assert shown(await following(resumed, 1)) == [("b1", UPDATE)]
    assert flows_of(there).applier.incarnation == incarnation
    assert flows_of(there).counters.flushes == 0


async def test_another_incarnation_resets_watchers_and_subscribers(
    settings: Settings, pair: tuple[OpenStore, OpenStore]
) -> None:
    """Those that are open, and those that come back with a token of before; what is committed then follows."""
    here, there = pair
    topics: list[str] = []
    flows_of(there).announcer.on_topic(lambda topic, _: topics.append(topic))
    watch = there.bots.watch()
    token = watch.token
    await become_another(settings)
    resumed = there.bots.watch(after=token)
    for each in (watch, resumed):
        (reset,) = await following(each, 1)
        assert (reset.operation, "another incarnation" in reset.reason) == (RESET, True)
    assert topics == ["state/reset"]
    await here.bots.put("b1", NEW)
    for each in (watch, resumed):
        assert shown(await following(each, 1)) == [("b1", UPDATE)]


async def test_one_that_is_too_slow_is_told_so(pair: tuple[OpenStore, OpenStore], sql: Sql) -> None:
    """More than may wait was committed, in several polls: a reset, and the watcher goes on from there."""
    here, there = pair
    flows = flows_of(there)
    watch = there.bots.watch()
    for round_ in range(4):
        await sql.execute(
            """INSERT INTO holdfast."User" (id, document) SELECT 's' || n, '{}' FROM generate_series(1, 700) n
            ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document"""
        )
        assert await flows.feed.refresh(), round_
    (reset,) = await following(watch, 1)
    assert (reset.operation, "too slow" in reset.reason) == (RESET, True)
    await here.bots.put("b1", NEW)
    assert shown(await following(watch, 1)) == [("b1", UPDATE)]


async def test_the_seeds_topics_ride_on_the_feed(pair: tuple[OpenStore, OpenStore], sql: Sql) -> None:
    """On a server that did nothing itself, for statements of another tool."""
    here, there = pair
    topics: asyncio.Queue[tuple[str, Mapping[str, Any]]] = asyncio.Queue()
    asked = {"kind:routine", "kind:bot", "tag:x", "bot:b1"}

    def hear(topic: str, data: Mapping[str, Any]) -> None:
        if data.get("pattern", "tag:x") in asked:  # others are of the rules, which act on what this test changes
            topics.put_nowait((topic, data))

    flows_of(there).announcer.on_topic(hear)

    async def told(count: int) -> list[tuple[str, dict[str, Any]]]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return [(topic, dict(data)) for topic, data in [await topics.get() for _ in range(count)]]

    await update(sql)
    (updated, data), (changed, same) = await told(2)
    assert (updated, changed) == ("state/updated", "config/changed")
    assert data == same
    stamp = data.pop("timestamp")
    assert stamp > 1_700_000_000_000
    assert data == {"operation": "update", "tables": ["User"], "kinds": ["bot"], "keys": [["bot", "b1"]], "more": 0}
    await here.routines.put("q1", holdfast.documents.Routine())
    assert [topic for topic, _ in await told(2)] == ["state/updated", "routine/modified"]
    await here.collection(NOTES).put("b1", Note(text="new"))
    assert [topic for topic, _ in await told(2)] == ["state/updated", "config/changed"]
    await sql.execute('TRUNCATE holdfast."Routine"')
    *_, (topic, data) = await told(3)
    assert (topic, data["pattern"], data["reason"]) == ("cache/invalidate_l1", "kind:routine", "truncate")
    await here.invalidate(kind="bot", reason="a test")
    await here.invalidate(tag="x", reason="a test")
    await here.bots.invalidate("b1", reason="a test")
    assert {(topic, data["pattern"], data["reason"]) for topic, data in await told(3)} == {
        ("cache/invalidate_l1", pattern, "void") for pattern in ("kind:bot", "tag:x", "bot:b1")
    }


async def test_a_void_is_told_to_watchers_of_its_key(pair: tuple[OpenStore, OpenStore]) -> None:
    """No row changed, and what was kept of it may be wrong: the document is read anew."""
    here, there = pair
    watch = there.bots.watch()
    record = await here.bots.invalidate("b1", reason="a test")
    (change,) = await following(watch, 1)
    assert (change.id, change.operation, change.version) == ("b1", ChangeOperation.VOID, record.number)
    assert change.document == OLD


async def test_a_table_whose_triggers_are_gone_is_not_watched(settings: Settings, sql: Sql) -> None:
    """A watch that would miss changes is refused."""
    await sql.execute("""ALTER TABLE holdfast."User" DISABLE TRIGGER holdfast_note_update""")
    async with holdfast.connect(msgspec.structs.replace(settings, migrate_on_connect=False)) as state:
        with pytest.raises(holdfast.StorageNotReady, match="cannot be watched"):
            state.bots.watch()
