"""A tier that fails is a typed error or a fall to the next tier; it never looks like a missing document."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import KEY, until, until_l2_is_trusted, until_l2_was_told
from fix_single import Single
from fix_tiers import flows_of, flows_over, make_deaf
from holdfast import (
    Bot,
    Consistency,
    Document,
    InvalidDocument,
    InvalidKey,
    Kind,
    OutcomeUnknown,
    SettingsError,
    StorageNotReady,
    TierError,
    TierUnavailable,
    WrongEventLoop,
)
from holdfast.clock import SystemClock
from holdfast.errors import CorruptDocument, Overloaded, SchemaTooNew
from holdfast.keys import Key, redis_key
from holdfast.node import OpenStore, connection_pool
from holdfast.protocols import Cached, Write
from holdfast.settings import Settings
from holdfast.testing import MemoryCache, MemoryStorage, PausingStorage
from holdfast.testing.door import connect_flows
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_migrations import migrations
from holdfast.tiers.l3_postgres import PostgresStorage

ADA = Bot(name="Ada")


async def test_without_l2_everything_works_from_l3(settings: Settings) -> None:
    """An L2 that cannot be reached costs errors in the counters and nothing else."""
    nowhere = msgspec.structs.replace(
        settings,
        redis_urls=("redis://127.0.0.1:1",),
        l2_connect_timeout_seconds=0.2,
        l2_request_timeout_seconds=0.2,  # the client tries to connect for as long as this
    )
    async with holdfast.connect(nowhere) as state, holdfast.connect(nowhere) as other:
        await state.bots.put("b1", ADA)
        assert await other.bots.get("b1") == ADA
        counters = flows_of(other).counters
        assert (counters.l2.errors, counters.l2.misses, counters.l3.hits) == (1, 0, 1)


async def test_l2_that_dies_and_comes_back(settings: Settings, single: Single) -> None:
    """While L2 is away reads go to L3; when it is back, and empty, it is begun anew and serves."""
    alone = on_single(settings, single)
    async with holdfast.connect(alone) as state, holdfast.connect(alone) as other:
        await until_l2_is_trusted(flows_of(state), flows_of(other))
        await state.bots.put("b1", ADA)
        assert await other.bots.get("b1") == ADA
        single.kill()
        await state.bots.put("b1", Bot(name="Eve"))
        flows_of(state).caches["bot"].flush()
        assert await state.bots.get("b1") == Bot(name="Eve")
        single.start()
        await until_l2_is_trusted(flows_of(state), flows_of(other))
        assert sum(flows.relay.restarts for flows in map(flows_of, (state, other)) if flows.relay is not None) == 2
        assert await tiers_of_reads(state, other) == [holdfast.Tier.L3, holdfast.Tier.L2]
        assert await other.bots.get("b1", consistency=Consistency.STRONG) == Bot(name="Eve")


async def test_l2_that_stands_still_is_told_what_it_missed(settings: Settings, single: Single) -> None:
    """While it says nothing reads go to L3; the value it still holds is fenced when it goes on, and answers nobody."""
    alone = on_single(settings, single)
    async with holdfast.connect(alone) as state, holdfast.connect(alone) as other:
        flows = flows_of(state)
        cache = flows.resolver._l2
        assert isinstance(cache, RedisCache)
        await until_l2_is_trusted(flows, flows_of(other))
        first = await state.bots.put("b1", ADA)
        assert await tiers_of_reads(state, other) == [holdfast.Tier.L3, holdfast.Tier.L2]
        assert single.process is not None
        single.process.send_signal(signal.SIGSTOP)
        try:
            receipt = await state.bots.put("b1", Bot(name="Eve"))
            flows.caches["bot"].flush()
            assert await state.bots.get("b1") == Bot(name="Eve")
        finally:
            single.process.send_signal(signal.SIGCONT)
        assert first.version < receipt.version
        for store in (state, other):
            assert await flows_of(store).feed.refresh()
            flows_of(store).caches["bot"].flush()
            assert await store.bots.get("b1") == Bot(name="Eve")
        await until_l2_was_told(cache, receipt.version)
        await until_l2_is_trusted(flows, flows_of(other))
        _, tier = await tiers_of_reads(state, other)
        assert tier is holdfast.Tier.L2
        assert other.bots.peek("b1") == Bot(name="Eve")


def on_single(settings: Settings, single: Single) -> Settings:
    """Settings with that server as L2."""
    return msgspec.structs.replace(
        settings, redis_urls=single.urls, key_prefix="vrooli:", l2_request_timeout_seconds=0.2
    )


async def tiers_of_reads(*stores: OpenStore) -> list[holdfast.Tier]:
    """Which tier answers these servers one after the other, when none of them holds the key in L1."""
    tiers = []
    for store in stores:
        flows = flows_of(store)
        flows.caches["bot"].flush()
        entry = await store.bots.entry("b1")
        assert entry is not None
        tiers.append(entry.tier)
        await flows.resolver.drain()
    return tiers


async def test_a_single_server_with_an_acl_user(settings: Settings, single: Single) -> None:
    """A server that is no cluster works, under a user that may touch only our prefix."""
    alone = on_single(settings, single)
    async with holdfast.connect(alone) as state, holdfast.connect(alone) as other:
        await until_l2_is_trusted(flows_of(state), flows_of(other))
        await state.bots.put("b1", ADA)
        assert await tiers_of_reads(other, state) == [holdfast.Tier.L3, holdfast.Tier.L2]


async def test_without_l3_a_read_is_an_error(settings: Settings, l3: PostgresStorage, l2: RedisCache) -> None:
    """A key that only L3 could answer raises; what L1 holds is served for as long as the feed shows it is current."""
    async with flows_over(settings, l2, l3) as flows:
        await flows.store.bots.put("held", ADA)
        await l3.close()
        assert await flows.store.bots.get("held") == ADA
        with pytest.raises(holdfast.HoldfastError):
            await flows.store.bots.get("asked")


async def test_no_server_at_the_address(settings: Settings) -> None:
    """Connecting to a PostgreSQL that is not there says so, without the password."""
    nowhere = msgspec.structs.replace(settings, postgres_url="postgresql://app:s3cret@127.0.0.1:1/holdfast")
    with pytest.raises(TierUnavailable) as refused:
        async with holdfast.connect(nowhere):
            pass
    assert "connecting" in str(refused.value)
    assert "s3cret" not in str(refused.value) + repr(nowhere)


async def test_a_database_without_the_schema(settings: Settings, servers: holdfast.Settings) -> None:
    """Without migration on connect, an unmigrated database is refused with the command that helps."""
    async with connected(settings.postgres_url) as connection:
        await connection.execute("DROP SCHEMA holdfast CASCADE")
    with pytest.raises(StorageNotReady, match="holdfast migrate"):
        async with holdfast.connect(msgspec.structs.replace(settings, migrate_on_connect=False)):
            pass


async def test_two_servers_migrate_once(settings: Settings) -> None:
    """Of servers that start at once on an empty database, one migrates and the others wait."""
    async with connected(settings.postgres_url) as connection:
        await connection.execute("DROP SCHEMA holdfast CASCADE")
    stores = await asyncio.gather(*(holdfast.connect(settings) for _ in range(4)))
    async with connected(settings.postgres_url) as connection:
        done = await connection.fetchval("SELECT array_agg(number ORDER BY number) FROM holdfast.migrations")
        assert done == [migration.number for migration in migrations()]
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_lost_reply_is_an_unknown_outcome(settings: Settings) -> None:
    """A write whose connection dies is neither success nor failure, and its key is asked from L3 afterwards."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await state.bots.put("b1", ADA)
        async with connection.transaction():
            await connection.execute("""SELECT FROM holdfast."User" WHERE id = 'b1' FOR UPDATE""")
            writing = asyncio.ensure_future(state.bots.put("b1", Bot(name="Eve")))
            blocked = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

            async def waiting() -> bool:
                return bool(await connection.fetch(blocked))

            await until(waiting)
            await connection.execute(f"SELECT pg_terminate_backend(pid) FROM ({blocked}) AS b")  # noqa: S608
            with pytest.raises(OutcomeUnknown):
                await writing
        assert state.bots.peek("b1") is None
        assert await state.bots.get("b1") == ADA
        flows = flows_of(state)
        await flows.resolver.drain()
        await until_l2_is_trusted(flows)
        answer = (await flows.resolver._l2.read([KEY], flows.view))[KEY]
        assert not isinstance(answer, Cached), "L2 may not answer here while the outcome is unknown"


async def test_a_cancelled_put_still_tells_the_caches(
    settings: Settings, l3: PostgresStorage, l2: RedisCache, l2_fences: RedisFences
) -> None:
    """A caller cancelled between commit and fence leaves neither tier with the old document."""
    storage, slow = PausingStorage(l3), msgspec.structs.replace(settings, staleness_bound_seconds=60.0)
    async with flows_over(slow, l2, storage, fences=l2_fences) as flows:
        bots = flows.store.bots
        await until_l2_is_trusted(flows)
        make_deaf(flows)  # so it is the writer from whom L1 learns of this commit
        await bots.put("b1", ADA)
        assert await flows.feed.refresh()
        pause = storage.pause_next_save()
        writing = asyncio.ensure_future(bots.put("b1", Bot(name="Eve")))
        await pause.reached.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert bots.peek("b1") == ADA
        pause.release()
        await flows.writer.drain()
        assert bots.peek("b1") == Bot(name="Eve")
        assert not isinstance((await l2.read([KEY], flows.view))[KEY], Cached)
        entry = await bots.entry("b1")
        assert entry is not None
        await until_l2_was_told(l2, entry.version)


async def test_a_cancelled_reader_leaves_the_flight_to_the_others(
    settings: Settings, l3: PostgresStorage, l2: RedisCache
) -> None:
    """R4: of two callers in one flight, one is cancelled and the other is answered."""
    storage = PausingStorage(l3)
    async with flows_over(settings, l2, storage) as flows:
        await flows.store.bots.put("b1", ADA)
        flows.caches["bot"].flush()
        pause = storage.pause_next_load()
        first, second = (asyncio.ensure_future(flows.store.bots.get("b1")) for _ in range(2))
        await pause.reached.wait()
        first.cancel()
        pause.release()
        assert await second == ADA
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_another_incarnation_empties_l1(settings: Settings) -> None:
    """When L3 says it is another one, what was cached under the old one is gone from L1 and void in L2."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        flows = flows_of(state)
        await until_l2_is_trusted(flows)
        await state.bots.put("b1", ADA)
        assert await tiers_of_reads(state, state) == [holdfast.Tier.L3, holdfast.Tier.L2]
        await connection.execute("UPDATE holdfast.incarnation SET id = gen_random_uuid()")
        await state.bots.get("unknown")
        assert state.bots.peek("b1") is None
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert (entry.value, entry.tier) == (ADA, holdfast.Tier.L3)
        # Emptied when an answer or the feed first said so; and again if the feed came second, for what was read between
        # the two may be older than where the feed begins anew.
        assert await flows.feed.refresh()
        assert flows.counters.flushes in {1, 2}


async def test_a_raised_generation_voids_a_kind(settings: Settings) -> None:
    """A generation in L3 voids L2's entries of its kind as soon as a server learns of it."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await until_l2_is_trusted(flows_of(state))
        await state.bots.put("b1", ADA)
        assert await tiers_of_reads(state, state) == [holdfast.Tier.L3, holdfast.Tier.L2]
        await connection.execute("SELECT holdfast.raise_generation('kind:bot')")
        await state.bots.get("b2")
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert entry.tier is holdfast.Tier.L3


async def test_a_row_of_a_newer_schema(settings: Settings) -> None:
    """E1: a document written by a newer server is `SchemaTooNew`, in a read and in a scan."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await connection.execute(
            """INSERT INTO holdfast."User" (id, document, schema) VALUES ('b1', '{"__version": 99, "name": "x"}', 99)"""
        )
        with pytest.raises(SchemaTooNew, match="bot:b1"):
            await state.bots.get("b1")
        with pytest.raises(SchemaTooNew, match="bot:b1"):
            [pair async for pair in state.bots.scan()]


async def test_a_row_that_is_no_document(settings: Settings) -> None:
    """A row that cannot be decoded is an error that names it; the other rows are served."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        await state.bots.put("b2", ADA)
        await connection.execute("""INSERT INTO holdfast."User" (id, document) VALUES ('b1', '[1, 2]')""")
        with pytest.raises(CorruptDocument, match="bot:b1"):
            await state.bots.get("b1")
        assert await state.bots.get("b2") == ADA


async def test_a_corrupt_l2_entry_is_read_from_l3_and_replaced(settings: Settings) -> None:
    """A damaged entry counts as an error of L2, is never served, and gives way to a fresh one."""
    async with holdfast.connect(settings) as state:
        flows = flows_of(state)
        cache = flows.resolver._l2
        assert isinstance(cache, RedisCache)
        await until_l2_is_trusted(flows)
        await until_l2_was_told(cache, (await state.bots.put("b1", ADA)).version)
        name = redis_key(cache._prefix, KEY)
        await cache._connection._command(["SET", name, b"H\x01 damaged " + bytes(80)])
        flows.caches["bot"].flush()
        assert await state.bots.get("b1") == ADA
        assert (flows.counters.l2.errors, flows.counters.l2.hits) == (1, 0)
        await flows.resolver.drain()
        flows.caches["bot"].flush()
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert entry.tier is holdfast.Tier.L2


class Fragile(Document):
    """A document whose class cannot make it from what an older version stored."""

    SCHEMA = 2
    name: str = ""

    @classmethod
    def upgrade(cls, fields: dict[str, Any], schema: int) -> dict[str, Any]:
        """Fail as a user's code may."""
        raise AssertionError("nobody thought of schema 1")


async def test_a_class_that_cannot_make_its_document_fails_alone(settings: Settings) -> None:
    """Whatever a class raises while reading is that row's error; keys read with it are answered, then and later."""
    fragile = Kind("fragile", Fragile)
    async with holdfast.connect(settings, kinds=[fragile]) as state, connected(settings.postgres_url) as connection:
        documents = state.collection(fragile)
        await documents.put("good", Fragile(name="x"))
        flows_of(state).caches["fragile"].flush()
        await connection.execute("INSERT INTO holdfast.fragile (id, document) VALUES ('bad', '{\"__version\": 1}')")
        bad, good = await asyncio.gather(documents.get("bad"), documents.get("good"), return_exceptions=True)
        assert isinstance(bad, CorruptDocument)
        assert isinstance(bad.__cause__, AssertionError)
        assert good == Fragile(name="x")
        assert await documents.get_many(["good"]) == {"good": Fragile(name="x")}


async def test_a_key_of_another_type_disturbs_nobody(settings: Settings) -> None:
    """What another program left under our name in L2 costs a miss, and is written over."""
    async with holdfast.connect(settings) as state:
        flows = flows_of(state)
        cache = flows.resolver._l2
        assert isinstance(cache, RedisCache)
        await until_l2_is_trusted(flows)
        receipts = await state.bots.put_many({f"b{number}": ADA for number in range(60)})
        for identifier, receipt in receipts.items():
            await until_l2_was_told(cache, receipt.version, Key("bot", identifier))
        for number in (1, 2):
            name = redis_key(cache._prefix, Key("bot", f"b{number}"))
            await cache._connection._command(["DEL", name])
            await cache._connection._command(["LPUSH", name, b"x"])
        receipt = await state.bots.put("b2", Bot(name="Eve"))
        await until_l2_was_told(cache, receipt.version, Key("bot", "b2"))
        flows.caches["bot"].flush()
        found = await state.bots.get_many([f"b{number}" for number in range(60)])
        assert len(found) == 60
        assert found["b2"] == Bot(name="Eve")
        await flows.resolver.drain()
        flows.caches["bot"].flush()
        entry = await state.bots.entry("b1")
        assert entry is not None
        assert (entry.tier, flows.counters.l2.errors) == (holdfast.Tier.L2, 0)


async def test_another_event_loop_is_refused(settings: Settings) -> None:
    """A store used from another loop says so, and has written nothing."""
    async with holdfast.connect(settings) as state:
        await state.bots.put("b1", ADA)
        for work in (state.bots.put("b1", Bot(name="Eve")), state.bots.get("b2"), state.bots.delete("b1")):
            with pytest.raises(WrongEventLoop):
                await asyncio.to_thread(asyncio.run, work)
        assert await state.bots.get("b1", consistency=Consistency.STRONG) == ADA


async def test_a_server_that_stands_still_is_not_waited_for(settings: Settings) -> None:
    """A PostgreSQL that takes a statement and does nothing more is an error within the time of a statement."""
    short = msgspec.structs.replace(settings, l3_statement_timeout_seconds=0.5)
    async with holdfast.connect(short) as state, connected(settings.postgres_url) as connection:
        await state.bots.put("b1", ADA)
        pids = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'holdfast' AND datname = current_database()"
        )
        try:
            for row in pids:
                os.kill(row["pid"], signal.SIGSTOP)
            with pytest.raises(TierUnavailable):
                await state.bots.get("b1", consistency=Consistency.STRONG)
        finally:
            for row in pids:
                os.kill(row["pid"], signal.SIGCONT)


async def test_a_role_without_rights_is_told(settings: Settings) -> None:
    """What PostgreSQL refuses while migrating is Holdfast's error, with PostgreSQL's words."""
    taken = Kind("fragile", Fragile, "version_seq")
    with pytest.raises(TierError, match="migrating"):
        async with holdfast.connect(settings, kinds=[taken]):
            pass


@pytest.mark.parametrize(
    "url", ["postgresql://u:se/cret@h/x", "postgresql://h:badport/x", "postgresql://[::1", "mysql://h"]
)
async def test_a_bad_address_of_l3_is_told_without_its_password(settings: Settings, url: str) -> None:
    """A URL that cannot be read is one sentence, which holds no part of a password."""
    with pytest.raises(SettingsError, match="percent-encode") as refused:
        async with holdfast.connect(msgspec.structs.replace(settings, postgres_url=url)):
            pass
    assert "cret" not in str(refused.value)
    assert "'se'" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://app:se/cret@h:6379", "redis://app:se#cret@h", "redis://[::1", "http://h"])
async def test_a_bad_address_of_l2_is_told_without_its_password(settings: Settings, url: str) -> None:
    """The same for L2."""
    with pytest.raises(SettingsError, match="percent-encode") as refused:
        async with holdfast.connect(msgspec.structs.replace(settings, redis_urls=(url,))):
            pass
    assert "cret" not in str(refused.value)


class Breaking(MemoryStorage):
    """Commits, and then fails in a way that nobody foresaw."""

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all, and raise."""
        await super().save(writes)
        if self.breaks:
            raise ZeroDivisionError
        return {}

    breaks = False


async def test_an_unforeseen_fault_of_a_write_counts_as_unknown() -> None:
    """After it, no cache answers with what the write may have replaced."""
    l3 = MemoryStorage()
    async with connect_flows(l3=l3) as flows:
        await flows.store.bots.put("b1", ADA)
        l3.__class__ = Breaking
        l3.breaks = True  # type: ignore[attr-defined]
        with pytest.raises(ZeroDivisionError):
            await flows.store.bots.put("b1", Bot(name="Eve"))
        assert await flows.store.bots.get("b1") == Bot(name="Eve")


async def test_wrong_arguments_are_told_before_anything_is_sent(settings: Settings) -> None:
    """Versions, consistencies, durabilities, ids and classes that cannot be meant are refused."""

    class Sub(Bot):
        more: int = 1

    async with holdfast.connect(settings) as state:
        bots: Any = state.bots
        version = (await bots.put("b1", ADA)).version
        for wrong in (version + 0.5, str(version), True, -1, 2**63):
            with pytest.raises(InvalidDocument, match="is no version"):
                await bots.put("b1", ADA, expected_version=wrong)
            with pytest.raises(InvalidDocument, match="is no version"):
                await bots.delete("b1", expected_version=wrong)
        with pytest.raises(InvalidDocument, match="a Bot is wanted, not a Sub"):
            await bots.put("b1", Sub(name="x"))
        ids: list[Any] = [[], {}, 5, None, ""]
        for identifier in ids:
            with pytest.raises(InvalidKey):
                await bots.get(identifier)
            with pytest.raises(InvalidKey):
                await bots.entry(identifier)
            with pytest.raises(InvalidKey):
                await bots.get_many([identifier])
        with pytest.raises(InvalidKey):
            [pair async for pair in bots.scan(after="\0")]
        with pytest.raises(ValueError, match="later"):
            await bots.get("b9", consistency="later")
        with pytest.raises(ValueError, match="perhaps"):
            await bots.put("b1", ADA, durability="perhaps")
        other = await bots.entry("b1", consistency="strong")
        assert (other.version, other.tier) == (version, holdfast.Tier.L3)


async def test_too_many_waiting_calls_are_refused(settings: Settings) -> None:
    """A full queue for connections refuses at once; what was let in is done."""
    small = msgspec.structs.replace(settings, l3_connections_max=2, l3_queue_max=3)
    storage = PostgresStorage(connection_pool(small), {**holdfast.kinds.register([])})
    outcomes = await asyncio.gather(*(storage.load([KEY]) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == 5
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 5
    await storage.close()


async def test_closing_twice_and_using_it_afterwards(settings: Settings) -> None:
    """`close` may come twice; a closed store says that it is closed, also for what it held in memory."""
    state = await holdfast.connect(settings)
    await state.bots.put("b1", ADA)
    await state.close()
    await state.close()
    with pytest.raises(holdfast.Closed):
        await state.bots.get("b1")


async def test_raw_sql_cannot_choose_a_version(settings: Settings) -> None:
    """V1 and V3: whatever a statement says, version and birth are the trigger's, also under replication role."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        receipt = await state.bots.put("b1", ADA)
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("""UPDATE holdfast."User" SET version = 1, birth = 1 WHERE id = 'b1'""")
        row = await connection.fetchrow("""SELECT version, birth FROM holdfast."User" WHERE id = 'b1'""")
        assert row["version"] > receipt.version
        assert row["birth"] == receipt.version


async def test_a_month_without_partition_is_made(settings: Settings) -> None:
    """The first snapshot of a month nobody prepared makes its partition and is stored."""
    async with holdfast.connect(settings) as state, connected(settings.postgres_url) as connection:
        for (part,) in await connection.fetch(
            """SELECT inhrelid::regclass::text FROM pg_inherits
            WHERE inhparent = 'holdfast."RunContextSnapshot"'::regclass"""
        ):
            await connection.execute(f"DROP TABLE {part}")
        snapshot = holdfast.RunContextSnapshot(run_id="r1", routine_id="q1", sequence=1)
        await state.run_snapshots.put("r1/1", snapshot)
        assert await state.run_snapshots.get("r1/1", consistency=Consistency.STRONG) == snapshot


async def test_thousands_of_snapshots_in_one_call(settings: Settings) -> None:
    """One put_many takes as much history as it takes of any other kind, all or none."""
    snapshots = {
        f"r1/{number:04}": holdfast.RunContextSnapshot(run_id="r1", routine_id="q1", sequence=number)
        for number in range(5000)
    }
    async with holdfast.connect(settings) as state:
        receipts = await state.run_snapshots.put_many(snapshots)
        assert len({receipt.version for receipt in receipts.values()}) == 5000
        assert [pair async for pair in state.run_snapshots.scan()] == list(snapshots.items())
        more = {"r0/1": snapshots["r1/0001"], "r1/4999": snapshots["r1/4999"]}
        with pytest.raises(holdfast.AppendOnly, match="r1/4999"):
            await state.run_snapshots.put_many(more)
        assert await state.run_snapshots.get("r0/1", consistency=Consistency.STRONG) is None


async def test_memory_and_real_tiers_mix() -> None:
    """Over tiers in memory too, an L2 that was away is told what it missed."""
    l2 = MemoryCache(SystemClock())
    async with connect_flows(l2=l2, clock=SystemClock()) as flows:
        relay = flows.relay
        assert relay is not None
        await until_l2_is_trusted(flows)
        l2.away = True
        await flows.store.bots.put("b1", ADA)

        async def failed() -> bool:
            return isinstance(relay.fault, TierUnavailable)

        async def told() -> bool:
            return relay.fenced == 1

        await until(failed)
        l2.away = False
        await until(told)
