"""Whatever changes L3, with whatever tool: a quarter of a second later every server answers with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import until_l2_is_trusted, until_new
from fix_tiers import flows_of, make_deaf
from holdfast import Bot, Caching, Document, Kind, RunContextSnapshot
from holdfast.documents import Limits, encode
from holdfast.node import OpenStore
from holdfast.settings import Settings

Sql: TypeAlias = "asyncpg.Connection[Any]"
Change = Callable[[Sql], Awaitable[object]]
Read = Callable[[OpenStore], Awaitable[object]]


class Note(Document, frozen=True, kw_only=True):
    """What goes with a bot, and is deleted with it."""

    text: str = ""


NOTES = Kind("note", Note)
OLD, NEW = Bot(name="old"), Bot(name="new")
SNAPSHOT = RunContextSnapshot(run_id="r1", routine_id="q1", sequence=1)


def text(document: Document) -> str:
    """A document as JSON."""
    return encode(document, Limits(1_000_000, 64)).decode()


async def update(sql: Sql) -> None:
    await sql.execute("""UPDATE holdfast."User" SET document = $1::text::json WHERE id = 'b1'""", text(NEW))


async def update_of_many(sql: Sql) -> None:
    """More keys than a statement tells apart: it tells of the kind."""
    await sql.execute(
        """INSERT INTO holdfast."User" (id, document) SELECT 'b' || n, $1::text::json FROM generate_series(1, 6000) n
        ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document""",
        text(NEW),
    )


async def update_in_a_prepared_transaction(sql: Sql) -> None:
    await sql.execute("BEGIN")
    await update(sql)
    await sql.execute("PREPARE TRANSACTION 'holdfast test of bounded staleness'")
    await sql.execute("COMMIT PREPARED 'holdfast test of bounded staleness'")


async def update_under_replication_role(sql: Sql) -> None:
    await sql.execute("SET session_replication_role = replica")
    await update(sql)


async def rename(sql: Sql) -> None:
    """Of the primary key; the note stays behind and must go."""
    await sql.execute("DELETE FROM holdfast.note")
    await sql.execute("""UPDATE holdfast."User" SET id = 'b2' WHERE id = 'b1'""")


async def delete(sql: Sql) -> None:
    await sql.execute("""DELETE FROM holdfast."User" WHERE id = 'b1'""")


async def delete_and_insert(sql: Sql) -> None:
    async with sql.transaction():
        await delete(sql)
        await sql.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b1', $1::text::json)""", text(NEW))


async def truncate(sql: Sql) -> None:
    await sql.execute("""TRUNCATE holdfast."User" CASCADE""")


async def copy(sql: Sql) -> None:
    records = [("b2", text(NEW))]
    await sql.copy_records_to_table("User", schema_name="holdfast", columns=["id", "document"], records=records)


async def insert_into_a_partition(sql: Sql) -> None:
    partition = await sql.fetchval(
        """SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON oid = inhrelid
        WHERE inhparent = 'holdfast."RunContextSnapshot"'::regclass
        AND relname = 'RunContextSnapshot_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')"""
    )
    await sql.execute(f"INSERT INTO {partition} (id, document) VALUES ('r1/2', $1::text::json)", text(SNAPSHOT))  # noqa: S608


async def truncate_partitions(sql: Sql) -> None:
    await sql.execute("""DO $$ DECLARE part regclass; BEGIN
        FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'holdfast."RunContextSnapshot"'::regclass LOOP
            EXECUTE format('TRUNCATE %s', part);
        END LOOP;
    END $$""")


async def bot(store: OpenStore) -> Bot | None:
    return await store.bots.get("b1")


async def new_bot(store: OpenStore) -> Bot | None:
    return await store.bots.get("b2")


async def note(store: OpenStore) -> Note | None:
    return await store.collection(NOTES).get("b1")


async def snapshot(store: OpenStore) -> RunContextSnapshot | None:
    return await store.run_snapshots.get("r1/1")


async def new_snapshot(store: OpenStore) -> RunContextSnapshot | None:
    return await store.run_snapshots.get("r1/2")


BEFORE: dict[Read, object] = {
    bot: OLD,
    new_bot: None,
    note: Note(text="old"),
    snapshot: SNAPSHOT,
    new_snapshot: None,
}
CASES: list[tuple[Change, dict[Read, object]]] = [
    (update, {bot: NEW}),
    (update_of_many, {bot: NEW, new_bot: NEW}),
    (update_in_a_prepared_transaction, {bot: NEW}),
    (update_under_replication_role, {bot: NEW}),
    (rename, {bot: None, new_bot: OLD, note: None}),
    (delete, {bot: None, note: None}),
    (delete_and_insert, {bot: NEW, note: None}),
    (truncate, {bot: None, note: None}),
    (copy, {new_bot: NEW}),
    (insert_into_a_partition, {new_snapshot: SNAPSHOT}),
    (truncate_partitions, {snapshot: None}),
]


@pytest.fixture
async def pair(settings: Settings) -> AsyncIterator[tuple[OpenStore, OpenStore]]:
    """Two servers that hold, in L1 and in L2, the rows there are, and in L1 that there are no others."""
    async with holdfast.connect(settings, kinds=[NOTES]) as one, holdfast.connect(settings, kinds=[NOTES]) as two:
        await until_l2_is_trusted(flows_of(one), flows_of(two))
        await one.bots.put("b1", OLD)
        await one.collection(NOTES).put("b1", Note(text="old"))
        await one.run_snapshots.put("r1/1", SNAPSHOT)
        for store in (one, two, one):
            assert await flows_of(store).feed.refresh()
            for cache in flows_of(store).caches.values():
                cache.flush()
            for read, expected in BEFORE.items():
                assert await read(store) == expected
            await flows_of(store).resolver.drain()
        assert flows_of(one).counters.l2.hits == 3
        yield one, two


async def until_seen(
    stores: Sequence[OpenStore], committed_at: float, after: Mapping[Read, object], bound_seconds: float = 0.25
) -> None:
    """Have all servers read all the time until all is new; nothing old may be asked for later than the bound."""

    def seen(store: OpenStore, read: Read, expected: object) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            return await read(store) == expected

        return look

    await asyncio.gather(
        *(
            until_new(seen(store, read, expected), committed_at, bound_seconds)
            for store in stores
            for read, expected in after.items()
        )
    )


@pytest.mark.parametrize(("change", "after"), CASES, ids=[change.__name__ for change, _ in CASES])
async def test_a_change_with_any_tool_is_seen_within_the_bound(
    settings: Settings, pair: tuple[OpenStore, OpenStore], change: Change, after: Mapping[Read, object]
) -> None:
    """Each read of either server that begins a quarter of a second after the commit, or later, is of what is now."""
    async with connected(settings.postgres_url) as sql:
        await sql.execute(
            """ALTER TABLE holdfast.note ADD FOREIGN KEY (id) REFERENCES holdfast."User" (id) ON DELETE CASCADE"""
        )
        await change(sql)
        await until_seen(pair, asyncio.get_running_loop().time(), after)


async def test_without_hints_a_servers_writes_are_seen_within_the_bound(pair: tuple[OpenStore, OpenStore]) -> None:
    """When every announcement is lost, the feed is read soon enough all the same; the writer itself knows at once."""
    one, _ = pair
    clock = asyncio.get_running_loop().time
    for store in pair:
        make_deaf(flows_of(store))
    for round_ in range(5):
        written = Bot(name=str(round_))
        await one.bots.put("b1", written)
        assert await bot(one) == written
        await until_seen(pair, clock(), {bot: written})
        async with one.transaction() as tx:
            await tx.bots.put("b2", written)
            await tx.connection.execute("""DELETE FROM holdfast."User" WHERE id = 'b1'""")
        assert [await bot(one), await new_bot(one)] == [None, written]
        await until_seen(pair, clock(), {bot: None, new_bot: written})
        await one.bots.delete("b2")
        assert await new_bot(one) is None
        await until_seen(pair, clock(), {new_bot: None})


async def test_a_kind_may_have_a_bound_of_its_own(settings: Settings) -> None:
    """The shortest one sets the pace of the feed, and each kind answers from memory for its own time."""
    quick = Kind("quick", Note, caching=Caching(staleness_bound_seconds=0.05))
    slow = msgspec.structs.replace(settings, staleness_bound_seconds=60.0)
    async with holdfast.connect(slow, kinds=[quick]) as store, connected(settings.postgres_url) as sql:
        flows, notes = flows_of(store), store.collection(quick)
        await notes.put("n1", Note(text="old"))
        await store.bots.put("b1", OLD)
        await sql.execute("""UPDATE holdfast.quick SET document = $1::text::json""", text(Note(text="new")))
        committed_at = asyncio.get_running_loop().time()

        async def is_new() -> bool:
            return await notes.get("n1") == Note(text="new")

        await until_new(is_new, committed_at, 0.05)
        await flows.feed.stop()
        later = flows.lease.renewed_at + 0.05
        assert not flows.lease.valid("quick", later)
        assert flows.lease.valid("bot", later + 50)
