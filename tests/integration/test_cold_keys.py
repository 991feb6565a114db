"""A key that no cache holds is loaded from L3 by one server, and never waited for longer than its lease (rule R4)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

import holdfast
from cold_reader import Order, Result
from fix_feed import connected
from fix_races import until, until_l2_is_trusted, until_l2_was_told
from fix_tiers import flows_of, flows_over
from holdfast import Bot, Tier
from holdfast.keys import Key
from holdfast.settings import Settings
from holdfast.testing import PausingStorage
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_postgres import PostgresStorage

TESTS = Path(__file__).parents[1]
LEASE_SECONDS = 2.0
SLACK_SECONDS = 1.0
"""For a busy machine, whose processes wait for each other."""
BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


class Process:
    """A server in a process of its own; see `cold_reader`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._input, self._output = process, process.stdin, process.stdout

    def order(self, readers: int, identifier: str) -> None:
        """Have it read."""
        self._input.write(msgspec.json.encode(Order(readers, identifier)) + b"\n")

    async def line(self) -> bytes:
        """What it says next."""
        line = await self._output.readline()
        assert line, "the process ended"
        return line

    async def result(self) -> Result:
        """What came of its order."""
        return msgspec.json.decode(await self.line(), type=Result)

    async def kill(self) -> None:
        """Kill -9."""
        if self._process.returncode is None:
            self._process.kill()
        self._input.close()
        await self._process.wait()


@asynccontextmanager
async def processes(settings: Settings, count: int) -> AsyncIterator[list[Process]]:
    """So many servers, each in a process of its own, that believe L2."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = [sys.executable, str(TESTS / "cold_reader.py"), msgspec.json.encode(settings).decode()]
    async with AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            made = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
            started.append(Process(made))
            stack.push_async_callback(started[-1].kill)
        for process in started:
            assert await process.line() == b"ready\n"
        yield started


@pytest.fixture
def leased(settings: Settings) -> Settings:
    """Settings with a lease that outlasts whatever a busy machine does to a load, and a feed heard no less long.

    A server whose feed is silent for longer than the staleness bound asks L3 alone, as it must.
    """
    return msgspec.structs.replace(settings, l2_lease_seconds=LEASE_SECONDS, staleness_bound_seconds=60.0)


async def test_64_readers_in_4_processes_make_one_query(leased: Settings) -> None:
    """Whoever comes second waits for the first one's fill, on its own server or on another."""
    async with processes(leased, 4) as servers, holdfast.connect(leased) as writer:
        cache = flows_of(writer).resolver._l2
        assert isinstance(cache, RedisCache)
        for number in range(3):
            identifier, name = f"b{number}", f"bot {number}"
            receipt = await writer.bots.put(identifier, Bot(name=name))
            await until_l2_was_told(cache, receipt.version, Key("bot", identifier))  # a new fence would end the lease
            for server in servers:
                server.order(16, identifier)
            results = [await server.result() for server in servers]
            assert [result.names for result in results] == [[name] * 16] * 4
            assert sum(result.l3_keys for result in results) == 1
            assert max(result.seconds for result in results) < LEASE_SECONDS


async def test_readers_of_a_row_that_is_not_there_do_not_wait_for_the_lease(leased: Settings) -> None:
    """Nothing is filled then, so the one that found nothing gives the lease back for the next to find out."""
    async with processes(leased, 4) as servers:
        for server in servers:
            server.order(16, "nobody")
        results = [await server.result() for server in servers]
        assert [result.names for result in results] == [[None] * 16] * 4
        assert sum(result.l3_keys for result in results) <= 4
        assert max(result.seconds for result in results) < LEASE_SECONDS


async def test_a_killed_holder_is_waited_for_no_longer_than_its_lease(leased: Settings) -> None:
    """Kill -9 of the server that loads the key: the next one loads it when the lease is over."""
    clock = asyncio.get_running_loop().time
    async with (
        holdfast.connect(leased) as store,
        connected(leased.postgres_url) as sql,
        processes(leased, 1) as (holder,),
    ):
        flows = flows_of(store)
        cache = flows.resolver._l2
        assert isinstance(cache, RedisCache)
        await until_l2_is_trusted(flows)
        receipt = await store.bots.put("b1", Bot(name="Ada"))
        await until_l2_was_told(cache, receipt.version)
        flows.caches["bot"].flush()

        async def loading() -> bool:
            return bool(await sql.fetchval(BLOCKED))

        async with sql.transaction():
            await sql.execute("""LOCK TABLE holdfast."User" IN ACCESS EXCLUSIVE MODE""")
            holder.order(1, "b1")
            await until(loading)
            await holder.kill()
        began = clock()
        entry = await store.bots.entry("b1")
        assert entry is not None
        assert (entry.value.name, entry.tier) == ("Ada", Tier.L3)
        assert clock() - began < LEASE_SECONDS + SLACK_SECONDS
        assert flows.counters.l2.keys > 1, "the lease was not waited for"


async def test_a_holder_that_stands_still_is_waited_for_no_longer_than_its_lease(
    leased: Settings, l2: RedisCache, l2_fences: RedisFences, l3: PostgresStorage
) -> None:
    """And one that goes on later does no harm: its fill is of no older version than what the next one found."""
    short = msgspec.structs.replace(leased, l2_lease_seconds=0.2)
    storage = PausingStorage(l3)
    async with (
        flows_over(short, l2, storage, fences=l2_fences) as holder,
        flows_over(short, l2, l3) as other,
    ):
        await until_l2_is_trusted(holder, other)
        receipt = await other.store.bots.put("b1", Bot(name="old"))
        await until_l2_was_told(l2, receipt.version)
        pause = storage.pause_next_load()
        reading = asyncio.ensure_future(holder.store.bots.get("b1"))
        await pause.reached.wait()
        other.caches["bot"].flush()
        entry = await other.store.bots.entry("b1")
        assert entry is not None
        assert entry.tier is Tier.L3
        assert other.counters.l2.keys > 1, "the lease was not waited for"
        await other.store.bots.put("b1", Bot(name="new"))
        assert await holder.feed.refresh()
        pause.release()
        assert await reading == Bot(name="old"), "it began before the write"
        await holder.resolver.drain()
        assert await holder.store.bots.get("b1") == Bot(name="new")


async def test_a_key_written_all_the_time_starves_nobody(settings: Settings) -> None:
    """Each fence ends the lease that a reader waits for; it waits once, and then loads the key itself."""
    clock = asyncio.get_running_loop().time
    async with AsyncExitStack() as stack:
        writer, *readers = [await stack.enter_async_context(holdfast.connect(settings)) for _ in range(4)]
        await until_l2_is_trusted(*map(flows_of, (writer, *readers)))
        await writer.bots.put("b1", Bot(name="0"))
        number, waits, seen = 0, [0.0], {0}

        async def write_on() -> None:
            nonlocal number
            while True:
                number += 1
                await writer.bots.put("b1", Bot(name=str(number)))

        async def read(store: holdfast.StateStore) -> None:
            while number < 100:
                began = clock()
                bot = await store.bots.get("b1")
                waits.append(clock() - began)
                assert bot is not None
                seen.add(int(bot.name))
                await asyncio.sleep(0.001)

        writing = asyncio.ensure_future(write_on())
        try:
            await asyncio.gather(*(read(store) for store in readers for _ in range(4)))
        finally:
            writing.cancel()
            await asyncio.wait([writing])
        assert len(seen) > 10
        assert max(waits) < settings.l2_lease_seconds + SLACK_SECONDS
