"""The feed, or all of L3, says nothing while its connections stay open: no answer is older than it may be."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import until, until_l2_is_trusted
from fix_tiers import Behind, flows_of, flows_over
from holdfast import Bot, Caching, Document, Kind, StaleUnavailable, Tier, TierError, TierUnavailable
from holdfast.adapters import change_source
from holdfast.flows import Flows
from holdfast.node import OpenStore
from holdfast.settings import Settings
from holdfast.testing.faults import Direction
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l3_postgres import PostgresStorage

BOUND_SECONDS = 0.25
HELD_SECONDS = 1.5
FRESH_SECONDS = 1.0
IDS = tuple(f"b{number}" for number in range(5))


Sql: TypeAlias = "asyncpg.Connection[Any]"


class Counting:
    """One raw writer that counts up in all rows, and readers that check what a server answers.

    Attributes:
        reads: answered.
        worst_seconds: the oldest answer: how long before its read began was a newer number committed.
    """

    def __init__(self, flows: Flows, sql: Sql) -> None:
        self.reads = 0
        self.worst_seconds = 0.0
        self._flows = flows
        self._sql = sql
        self._committed: list[float] = []  # when each number surely was, by the loop's clock
        self._clock = asyncio.get_running_loop().time

    async def write(self) -> None:
        """Count up by one."""
        await self._sql.execute(
            """INSERT INTO holdfast."User" (id, document)
            SELECT id, json_build_object('__version', 1, 'name', $2::int8::text) FROM unnest($1::text[]) AS id
            ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document""",
            IDS,
            len(self._committed),
        )
        self._committed.append(self._clock())

    async def write_on(self) -> None:
        """For ever, a little slower than the feed."""
        while True:
            await self.write()
            await asyncio.sleep(0.01)

    async def read_on(self, identifier: str) -> None:
        """Read for ever."""
        while True:
            await self.read(identifier)
            await asyncio.sleep(0.001)

    async def read(self, identifier: str) -> None:
        """Read once, and note how old the answer was."""
        began = self._clock()
        bot = await self._flows.store.bots.get(identifier)
        assert bot is not None
        self.reads += 1
        if (newer := int(bot.name) + 1) < bisect_right(self._committed, began):
            self.worst_seconds = max(self.worst_seconds, began - self._committed[newer])

    @asynccontextmanager
    async def all_the_time(self) -> AsyncIterator[None]:
        """Write, and read every row, meanwhile."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.write_on())]
            tasks += [group.create_task(self.read_on(identifier)) for identifier in IDS]
            yield
            for task in tasks:
                task.cancel()


@pytest.fixture
async def flows(
    settings: Settings, behind_proxy: Behind, l2: RedisCache, l2_fences: RedisFences, l3: PostgresStorage
) -> AsyncIterator[Flows]:
    """A server whose feed alone goes through the proxy."""
    feed = change_source(msgspec.structs.replace(settings, postgres_url=behind_proxy.url))
    async with flows_over(settings, l2, l3, fences=l2_fences, feed=feed) as flows:
        await until_l2_is_trusted(flows)
        yield flows


@pytest.mark.parametrize("direction", ["both", "to_server", "to_client"])
async def test_while_the_feed_is_held_no_answer_is_older_than_the_bound(
    direction: Direction, settings: Settings, behind_proxy: Behind, flows: Flows
) -> None:
    """Reads go to L3 once the bound is over; a second after the release memory answers again, and no older either."""
    clock = asyncio.get_running_loop().time
    async with connected(settings.postgres_url) as sql:
        counting = Counting(flows, sql)
        await counting.write()
        async with counting.all_the_time():
            with behind_proxy.proxy.hold(direction):
                held_at, asked = clock(), flows.counters.l3.keys

                async def over() -> bool:
                    return clock() > held_at + HELD_SECONDS

                async def to_l3() -> bool:
                    return not flows.lease.valid("bot", clock()) and flows.counters.l3.keys > asked + len(IDS)

                await until(to_l3)
                entry = await flows.store.bots.entry("b1")
                assert entry is not None
                assert (entry.tier, entry.stale) == (Tier.L3, False)
                assert flows.store.bots.peek("b1") is None
                await until(over)
                assert not flows.lease.valid("bot", clock())
            released_at = clock()

            async def trusted() -> bool:
                return flows.lease.valid("bot", clock())

            await until(trusted)
            assert clock() - released_at < FRESH_SECONDS
            for identifier in IDS:
                await counting.read(identifier)
        assert counting.reads > 100
        assert counting.worst_seconds <= BOUND_SECONDS
        await counting.write()
        assert await flows.feed.refresh()
        await flows.store.bots.get("b1")
        assert flows.store.bots.peek("b1") is not None


async def test_a_trusting_reader_is_caught(settings: Settings, behind_proxy: Behind, flows: Flows) -> None:
    """Mutant: a server that does not mind when its feed was last read gives older answers while it is held."""
    clock = asyncio.get_running_loop().time
    async with connected(settings.postgres_url) as sql:
        counting = Counting(flows, sql)
        await counting.write()
        flows.caches["bot"].shelf("bot").trust_until(math.inf)
        flows.lease._tell["bot"] = lambda _until: None
        async with counting.all_the_time():
            with behind_proxy.proxy.hold():
                held_at = clock()

                async def over() -> bool:
                    return clock() > held_at + HELD_SECONDS

                await until(over)
        assert counting.worst_seconds > BOUND_SECONDS


async def test_a_distant_l3_is_followed(
    settings: Settings, behind_proxy: Behind, l2: RedisCache, l3: PostgresStorage
) -> None:
    """To connect takes longer there than a poll may; a server starts all the same, and follows."""
    feed = change_source(msgspec.structs.replace(settings, postgres_url=behind_proxy.url))
    behind_proxy.proxy.delay(0.08)
    began = asyncio.get_running_loop().time()
    async with flows_over(settings, l2, l3, feed=feed) as flows:
        assert asyncio.get_running_loop().time() - began > 0.5, "it was no longer than a poll: the test shows nothing"

        async def followed() -> bool:
            return flows.feed.polls >= 5

        await until(followed)
        assert flows.feed.fault is None


class Plan(Document, frozen=True, kw_only=True):
    """A document that may be read stale."""

    title: str = ""


PLANS = Kind("plan", Plan, caching=Caching(max_stale_seconds=60.0))


@pytest.fixture
async def cut_off(settings: Settings, behind_proxy: Behind) -> AsyncIterator[OpenStore]:
    """A server that holds a bot and a plan, and reaches L3 only through the proxy."""
    through = msgspec.structs.replace(
        settings,
        postgres_url=behind_proxy.url,
        l3_statement_timeout_seconds=0.2,
        l3_connect_timeout_seconds=0.5,
    )
    async with holdfast.connect(through, kinds=[PLANS]) as store:
        await store.bots.put("b1", Bot(name="Ada"))
        await store.collection(PLANS).put("p1", Plan(title="first"))
        yield store
        behind_proxy.proxy.heal()


async def test_without_l3_only_who_allows_it_gets_what_memory_holds(cut_off: OpenStore, behind_proxy: Behind) -> None:
    """R5: nobody else is answered from memory, and what is given says that it may be stale; afterwards nothing is."""
    bots, plans = cut_off.bots, cut_off.collection(PLANS)
    flows = flows_of(cut_off)
    with behind_proxy.proxy.hold():

        async def expired() -> bool:
            return not flows.lease.valid("bot", asyncio.get_running_loop().time())

        await until(expired)
        assert bots.peek("b1") is None
        outcomes = await asyncio.gather(
            bots.get("b1"),
            bots.get("b1", max_stale=0.01),
            bots.get("b1", max_stale=60),
            bots.get_many(["b1"], max_stale=60),
            bots.get_many(["b1", "b2"], max_stale=60),
            bots.get("b2", max_stale=60),
            bots.get("b1", max_stale=60, consistency=holdfast.Consistency.STRONG),
            plans.get("p1"),
            plans.get("p1", max_stale=0),
            return_exceptions=True,
        )
        refused, older, allowed, many, some, unknown, strong, by_kind, not_by_call = outcomes
        assert isinstance(refused, StaleUnavailable)
        assert isinstance(older, StaleUnavailable)
        assert "max_stale" in str(older)
        assert (allowed, many) == (Bot(name="Ada"), {"b1": Bot(name="Ada")})
        assert by_kind == Plan(title="first")
        assert isinstance(not_by_call, StaleUnavailable)
        for each in (some, unknown, strong):
            assert isinstance(each, TierUnavailable)
            assert not isinstance(each, StaleUnavailable)
        entry = await bots.entry("b1", max_stale=60)
        assert entry is not None
        assert (entry.value.name, entry.tier, entry.stale) == ("Ada", Tier.L1, True)
        with pytest.raises(TierError):
            await bots.put("b1", Bot(name="Eve"))
    await until(lambda: fresh(cut_off))
    entry = await bots.entry("b1")
    assert entry is not None
    assert not entry.stale


async def fresh(store: OpenStore) -> bool:
    """Whether a server answers without leave to be stale, and from memory."""
    try:
        await store.bots.get("b1")
    except TierError:
        return False
    return store.bots.peek("b1") is not None
