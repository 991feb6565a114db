"""Transactions over real servers: all or nothing, seen at once where it was committed, never what was rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import KEY, stored, until, until_l2_is_trusted, until_l2_was_told
from fix_tiers import Behind, behind, flows_of, flows_over, proxy_of
from holdfast import Bot, Conflict, Document, Kind, OutcomeUnknown, Swarm, Tier
from holdfast.errors import AppendOnly, NotFound, SerializationFailure, SettingsError, StorageNotReady
from holdfast.flows import Flows
from holdfast.kinds import register
from holdfast.node import OpenStore, change_source, connection_pool
from holdfast.protocols import Isolation
from holdfast.settings import Settings
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.transactions import Transaction

OLD, NEW = Bot(name="old"), Bot(name="new")
RENAME = """UPDATE holdfast."User" SET document = '{"__version": 1, "name": "new"}' WHERE id = 'b2'"""


class Note(Document, frozen=True, kw_only=True):
    """What goes with a bot, and is deleted with it."""

    text: str = ""


NOTES = Kind("note", Note)
NOTE = Note(text="of b3")


async def prepare(store: OpenStore, settings: Settings) -> None:
    """Rows that a server holds in memory: three bots, and a note that is deleted with the third."""
    async with connected(settings.postgres_url) as sql:
        await sql.execute(
            """ALTER TABLE holdfast.note ADD FOREIGN KEY (id) REFERENCES holdfast."User" (id) ON DELETE CASCADE"""
        )
    await store.bots.put_many({"b1": OLD, "b2": OLD, "b3": OLD})
    await store.collection(NOTES).put("b3", NOTE)


async def held(store: OpenStore) -> list[object]:
    """What a server answers for them."""
    notes = store.collection(NOTES)
    return [*[await store.bots.get(each) for each in ("b1", "b2", "b3")], await notes.get("b3")]


BEFORE: list[object] = [OLD, OLD, OLD, NOTE]
AFTER: list[object] = [NEW, NEW, None, None]


async def change_all(tx: Transaction) -> None:
    """Through the door, by raw SQL, and by a cascade."""
    await tx.bots.put("b1", NEW)
    await tx.connection.execute(RENAME)
    await tx.connection.execute("""DELETE FROM holdfast."User" WHERE id = 'b3'""")


@pytest.fixture
async def state(settings: Settings) -> AsyncIterator[OpenStore]:
    async with holdfast.connect(settings, kinds=[NOTES]) as store:
        await prepare(store, settings)
        yield store


@pytest.fixture
async def other(settings: Settings, state: OpenStore) -> AsyncIterator[OpenStore]:
    async with holdfast.connect(settings, kinds=[NOTES]) as store:
        yield store


async def test_a_commit_is_seen_at_once_where_it_was_made(state: OpenStore, other: OpenStore) -> None:
    """Raw SQL and cascades too; the other server follows within its bound."""
    assert [await held(store) for store in (state, other)] == [BEFORE, BEFORE]
    async with state.transaction() as tx:
        await change_all(tx)
        assert await tx.bots.get_many(["b1", "b2", "b3"]) == {"b1": NEW, "b2": NEW}
    assert await held(state) == AFTER
    committed_at = asyncio.get_running_loop().time()

    async def bound_is_over() -> bool:
        return asyncio.get_running_loop().time() > committed_at + 0.25

    await until(bound_is_over)
    assert await held(other) == AFTER


async def test_nothing_is_seen_before_the_commit(state: OpenStore, other: OpenStore) -> None:
    """Not in the memory of the server that has the transaction, nor in L2, nor by its strong reads."""
    flows = flows_of(state)
    cache = flows.resolver._l2
    assert isinstance(cache, RedisCache)
    await until_l2_is_trusted(flows)
    receipt = await state.bots.put("b1", OLD)
    await until_l2_was_told(cache, receipt.version)
    async with state.transaction() as tx:
        await change_all(tx)
        assert [await held(store) for store in (state, other)] == [BEFORE, BEFORE]
        assert state.bots.peek("b1") == OLD
        assert await state.bots.get("b1", consistency=holdfast.Consistency.STRONG) == OLD
        entry = await stored(cache)
        assert entry is not None
        assert entry.version == receipt.version


@pytest.mark.parametrize("how", ["error", "cancelled"])
async def test_a_rollback_leaves_nothing(state: OpenStore, other: OpenStore, settings: Settings, how: str) -> None:
    """What L1 and L2 hold stays as it was, nothing is told, and the connection serves the next transaction."""
    flows = flows_of(state)
    cache = flows.resolver._l2
    assert isinstance(cache, RedisCache)
    await until_l2_is_trusted(flows, flows_of(other))
    flows.caches["bot"].flush()
    assert [await held(store) for store in (state, other)] == [BEFORE, BEFORE]
    await flows.resolver.drain()
    before = await stored(cache)
    assert before is not None
    assert before.row is not None
    count = "SELECT count(*) FROM holdfast.outbox"
    async with connected(settings.postgres_url) as sql:
        told = await sql.fetchval(count)
        running = asyncio.ensure_future(changes_and(state, how))
        await asyncio.wait([running])
        assert running.cancelled() if how == "cancelled" else isinstance(running.exception(), ZeroDivisionError)
        assert [store.bots.peek("b1") for store in (state, other)] == [OLD, OLD]
        assert await stored(cache) == before
        assert await sql.fetchval(count) == told
    assert await held(state) == BEFORE
    async with state.transaction() as tx:
        assert await tx.bots.get("b1") == OLD


async def changes_and(store: OpenStore, how: str) -> None:
    """A transaction that changes all and comes to no good end."""
    async with store.transaction() as tx:
        await change_all(tx)
        if how == "cancelled":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        raise ZeroDivisionError


async def test_affected_tables(state: OpenStore) -> None:
    """After the commit they name each table of a managed kind that changed, whatever changed it; before, none."""
    async with state.transaction() as tx:
        await tx.connection.execute("""CREATE TABLE mine (id int)""")
        await tx.connection.execute("""DELETE FROM holdfast."User" WHERE id = 'b3'""")
        assert tx.affected_tables == frozenset()
    assert tx.affected_tables == {"User", "note"}
    async with state.transaction() as tx:
        await tx.connection.execute("""INSERT INTO mine VALUES (1)""")
        await tx.swarms.get("s1")
        await tx.connection.execute(RENAME.replace("'b2'", "'nobody'"))
    assert tx.affected_tables == frozenset()


async def test_a_transaction_that_only_read_disturbs_nobody(state: OpenStore) -> None:
    """Nothing is fenced, announced or waited for: memory answers straight on."""
    flows = flows_of(state)
    assert await held(state) == BEFORE
    async with state.transaction(Isolation.REPEATABLE_READ) as tx:
        assert await tx.bots.get("b1") == OLD
        assert await tx.connection.fetchval("SELECT count(*) FROM holdfast.note") == 1
        polls = flows.feed.polls
    assert not flows.feed._announce
    assert flows.feed.polls - polls <= 1, "the end waited for the feed"
    assert state.bots.peek("b1") == OLD


async def test_after_a_conflict_the_transaction_goes_on(state: OpenStore) -> None:
    """What the refused write had begun is taken back, and what came before and after it is committed."""
    async with state.transaction() as tx:
        receipt = await tx.bots.put("b1", NEW)
        with pytest.raises(Conflict):
            await tx.bots.put("b2", NEW, expected_version=receipt.version)
        with pytest.raises(Conflict):
            await tx.bots.delete("b2", expected_version=receipt.version)
        with pytest.raises(Conflict):
            await tx.bots.put("b3", NEW, expected_version=0)
        with pytest.raises(NotFound):
            await tx.bots.update("nobody", lambda bot: bot)
        await tx.bots.put("b4", NEW, expected_version=0)
    assert await held(state) == [NEW, OLD, OLD, NOTE]
    entry = await state.bots.entry("b1", consistency=holdfast.Consistency.STRONG)
    assert entry is not None
    assert entry.version == receipt.version
    assert await state.bots.get("b4") == NEW


async def test_history_and_unknown_kinds(state: OpenStore) -> None:
    """A transaction keeps the rules of the door: history takes new ids only, and kinds must be known."""
    snapshot = holdfast.RunContextSnapshot(run_id="r1", routine_id="q1", sequence=1)
    await state.run_snapshots.put("r1/1", snapshot)
    async with state.transaction() as tx:
        with pytest.raises(AppendOnly):
            await tx.run_snapshots.put("r1/1", snapshot)
        with pytest.raises(SettingsError, match="unknown"):
            tx.collection(Kind("unknown", Note))
        await tx.run_snapshots.put("r1/2", snapshot)
    assert await state.run_snapshots.get("r1/2") == snapshot


async def test_an_error_of_ones_own_sql_is_holdfasts_outside(state: OpenStore) -> None:
    """What the driver raised comes out of the block as a typed error, with the driver's as its cause."""
    with pytest.raises(StorageNotReady) as raised:
        async with state.transaction() as tx:
            await tx.connection.execute("SELECT FROM holdfast.nowhere")
    assert isinstance(raised.value.__cause__, asyncpg.UndefinedTableError)


@pytest.mark.parametrize(
    ("isolation", "second"), [(Isolation.READ_COMMITTED, NEW), ("repeatable read", OLD), ("serializable", OLD)]
)
async def test_isolation_by_argument(state: OpenStore, isolation: Any, second: Bot) -> None:
    """A commit of another between two reads is seen at READ COMMITTED only."""
    async with state.transaction(isolation) as tx:
        assert await tx.bots.get("b1") == OLD
        await state.bots.put("b1", NEW)
        assert await tx.bots.get("b1") == second


async def test_a_locked_row_waits_for_the_end(state: OpenStore, other: OpenStore) -> None:
    """Two servers that read, lock and write lose nothing at READ COMMITTED."""

    async def add(store: OpenStore) -> None:
        async with store.transaction() as tx:
            bot = await tx.bots.get("b1", lock=True)
            assert bot is not None
            count = bot.metadata.get("count", 0)
            await tx.bots.put("b1", msgspec.structs.replace(bot, metadata={"count": count + 1}))

    await asyncio.gather(*(add(store) for _ in range(15) for store in (state, other)))
    for store in (state, other):
        bot = await store.bots.get("b1", consistency=holdfast.Consistency.STRONG)
        assert bot is not None
        assert bot.metadata == {"count": 30}


async def test_transact_repeats_until_the_sum_is_right(state: OpenStore, other: OpenStore) -> None:
    """Many tasks of two servers read two counters and raise the lower one: no increment is lost, none is done twice."""
    tasks, steps = 10, 4
    await state.swarms.put_many({name: Swarm(goal="count", metadata={"count": 0}) for name in ("left", "right")})
    runs = 0

    async def raise_lower(tx: Transaction) -> int:
        nonlocal runs
        runs += 1
        swarms = await tx.swarms.get_many(["left", "right"])
        counts: dict[str, int] = {name: swarm.metadata["count"] for name, swarm in swarms.items()}
        lower = min(counts, key=lambda name: counts[name])
        await tx.swarms.put(lower, Swarm(goal="count", metadata={"count": counts[lower] + 1}))
        return sum(counts.values()) + 1

    async def work(store: OpenStore) -> list[int]:
        return [await store.transact(raise_lower, attempts=1000) for _ in range(steps)]

    sums = await asyncio.gather(*(work(store) for _ in range(tasks // 2) for store in (state, other)))
    total = tasks * steps
    assert sorted(each for some in sums for each in some) == list(range(1, total + 1))
    assert runs > total, "nobody was in the way: the test shows nothing"
    for store in (state, other):
        swarms = await store.swarms.get_many(["left", "right"], consistency=holdfast.Consistency.STRONG)
        assert sorted(swarm.metadata["count"] for swarm in swarms.values()) == [total // 2, total // 2]


async def test_transact_gives_up_after_its_attempts(state: OpenStore) -> None:
    """The last failure is raised; other errors are not repeated."""
    runs = 0

    async def overtaken(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await tx.bots.get("b1")
        await state.bots.put("b1", Bot(name=str(runs)))
        await tx.bots.put("b1", NEW)

    with pytest.raises(SerializationFailure):
        await state.transact(overtaken, attempts=3)
    assert runs == 3
    assert await state.bots.get("b1") == Bot(name="3")

    async def wrong(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await state.transact(wrong)
    assert runs == 4


@pytest.fixture
async def unsure(settings: Settings, behind_proxy: Behind, l2: RedisCache) -> AsyncIterator[tuple[Flows, Behind]]:
    """A server whose connections to L3 go through a proxy, and whose feed goes through another one."""
    async with holdfast.connect(settings, kinds=[NOTES]) as store:
        await prepare(store, settings)
    async with proxy_of(settings) as feed_proxy:
        feed_behind = behind(feed_proxy, settings.postgres_url)
        through = msgspec.structs.replace(settings, postgres_url=behind_proxy.url)
        fed = msgspec.structs.replace(settings, postgres_url=feed_behind.url)
        l3 = PostgresStorage(connection_pool(through), register([NOTES]))
        async with flows_over(settings, l2, l3, feed=change_source(fed), kinds=[NOTES]) as flows:
            yield flows, feed_behind
            feed_proxy.heal()
        await l3.close()


Commit = Callable[[], Awaitable[None]]


async def change_and_end(flows: Flows, how: Callable[[Commit], Awaitable[None]]) -> None:
    """A transaction that changes all, and whose COMMIT goes as it is told."""
    async with flows.store.transaction() as tx:
        await change_all(tx)
        commit = tx.storage.commit
        tx.storage.commit = lambda: how(commit)  # type: ignore[assignment, method-assign, return-value]


@pytest.mark.parametrize("feed_is", ["there", "held"])
async def test_a_lost_reply_to_commit_is_an_unknown_outcome(
    settings: Settings, unsure: tuple[Flows, Behind], behind_proxy: Behind, feed_is: str
) -> None:
    """S1: it took effect, and from then on no cache of this server answers with the past, cascades included."""
    flows, feed_behind = unsure
    store: Any = flows.store
    assert await held(store) == BEFORE
    async with connected(settings.postgres_url) as sql:
        if feed_is == "held":
            feed_behind.proxy.hold()
        with pytest.raises(OutcomeUnknown):
            await change_and_end(flows, lambda commit: lose_the_reply(commit, sql, behind_proxy))
        assert await held(store) == AFTER
        if feed_is == "held":
            assert flows.store.bots.peek("b1") is None
            feed_behind.proxy.heal()

    async def in_memory() -> bool:
        assert await held(store) == AFTER
        return flows.store.bots.peek("b1") is not None

    await until(in_memory)


async def lose_the_reply(commit: Commit, sql: asyncpg.Connection, behind_proxy: Behind) -> None:
    """Let L3 commit, and the connection end before it can say so."""

    async def committed() -> bool:
        return bool(await sql.fetchval("""SELECT document->>'name' = 'new' FROM holdfast."User" WHERE id = 'b1'"""))

    with behind_proxy.proxy.hold("to_client"):
        committing = asyncio.ensure_future(commit())
        await until(committed)
        behind_proxy.proxy.reset()
    await committing


async def test_a_lost_commit_is_an_unknown_outcome_too(unsure: tuple[Flows, Behind], behind_proxy: Behind) -> None:
    """It never took effect: the server answers with what is, from memory again once the feed has come past it."""
    flows, _ = unsure
    store: Any = flows.store
    assert await held(store) == BEFORE
    with pytest.raises(OutcomeUnknown):
        await change_and_end(flows, lambda commit: lose_the_request(commit, behind_proxy))
    assert await held(store) == BEFORE

    async def in_memory() -> bool:
        assert await held(store) == BEFORE
        return flows.store.bots.peek("b1") == OLD

    await until(in_memory)


async def lose_the_request(commit: Commit, behind_proxy: Behind) -> None:
    """End the connection before COMMIT is through."""
    sent = behind_proxy.proxy.to_server.received
    with behind_proxy.proxy.hold("to_server"):
        committing = asyncio.ensure_future(commit())

        async def on_its_way() -> bool:
            return behind_proxy.proxy.to_server.received > sent

        await until(on_its_way)
        behind_proxy.proxy.reset()
    await committing


async def test_while_the_feed_is_held_a_commit_is_seen_at_once(unsure: tuple[Flows, Behind]) -> None:
    """S1: what the feed cannot confirm no cache answers for; reads go to L3 until the feed has come past the commit."""
    flows, feed_behind = unsure
    store: Any = flows.store
    assert await held(store) == BEFORE
    with feed_behind.proxy.hold():
        async with flows.store.transaction() as tx:
            await change_all(tx)
        assert await held(store) == AFTER
        entry = await flows.store.bots.entry("b2")
        assert entry is not None
        assert entry.tier is Tier.L3
    assert KEY in tx.written

    async def in_memory() -> bool:
        assert await held(store) == AFTER
        return flows.store.bots.peek("b2") == NEW

    await until(in_memory)
