"""Transactions over real servers: all or nothing, seen at once where it was committed, never what was rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import stored, until, until_l2_is_trusted, until_l2_was_told
from fix_tiers import flows_of
from fix_transactions import AFTER, BEFORE, NEW, NOTE, NOTES, OLD, RENAME, Note, change_all, held, prepare
from holdfast import Bot, Conflict, Kind, Swarm
from holdfast.errors import AppendOnly, NotFound, RowRefused, SerializationFailure, SettingsError, StorageNotReady
from holdfast.node import OpenStore
from holdfast.protocols import Isolation
from holdfast.settings import Settings
from holdfast.tiers.l2_redis import RedisCache
from holdfast.transactions import Transaction


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


CHECK = """ALTER TABLE holdfast."User" ADD CHECK (id <> 'poison')"""
DEFERRED = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN IF NEW.id = 'poison' THEN RAISE 'no'; END IF; RETURN NEW; END$$;
    CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON holdfast."User" DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse()"""


@pytest.mark.parametrize("rule", [CHECK, DEFERRED], ids=["check", "deferred"])
async def test_the_error_says_that_a_row_is_refused(state: OpenStore, settings: Settings, rule: str) -> None:
    """Not only that L3 failed, at the latest at COMMIT: later it would refuse it again."""
    async with connected(settings.postgres_url) as database:
        await database.execute(rule)

    async def poison(transaction: Transaction) -> None:
        await transaction.bots.put("poison", Bot(name="Eve"))

    with pytest.raises(RowRefused):
        await state.transact(poison)
