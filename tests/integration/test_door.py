"""The door over the real tiers: what two servers on one PostgreSQL and one Valkey cluster see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import until_l2_is_trusted, until_new
from fix_tiers import flows_of, make_deaf
from holdfast import Bot, Conflict, Consistency, Document, InvalidDocument, Kind, NotFound, Swarm, Tier
from holdfast.node import OpenStore
from holdfast.settings import Settings


@pytest.fixture
async def state(settings: Settings) -> AsyncIterator[OpenStore]:
    async with holdfast.connect(settings) as store:
        yield store


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[OpenStore]:
    async with holdfast.connect(settings) as store:
        yield store


@pytest.fixture
async def laggard(settings: Settings) -> AsyncIterator[OpenStore]:
    """A server that reads the feed every 5 s only, as its bound allows: its L1 goes on answering with the past."""
    async with holdfast.connect(msgspec.structs.replace(settings, staleness_bound_seconds=60.0)) as store:
        make_deaf(flows_of(store))
        assert await flows_of(store).feed.refresh()  # which brings nothing, so the next poll is not soon
        yield store


async def test_the_tiers_answer_in_order(state: OpenStore, other: OpenStore) -> None:
    """A document is read from L3 once, then from L2 by another server, then from L1."""
    receipt = await state.bots.put("b1", Bot(name="Ada"))
    tiers = []
    for server in (other, other, state):
        entry = await server.bots.entry("b1")
        assert entry is not None
        assert (entry.value.name, entry.version) == ("Ada", receipt.version)
        tiers.append(entry.tier)
    assert tiers == [Tier.L3, Tier.L1, Tier.L1]


async def test_a_third_server_finds_what_the_second_filled(
    settings: Settings, state: OpenStore, other: OpenStore
) -> None:
    """The fill of one server is the L2 hit of the next."""
    await until_l2_is_trusted(flows_of(state), flows_of(other))
    await state.bots.put("b1", Bot(name="Ada"))
    await other.bots.get("b1")
    await other.close()
    async with holdfast.connect(settings) as third:
        await until_l2_is_trusted(flows_of(third))
        entry = await third.bots.entry("b1")
    assert entry is not None
    assert entry.tier is Tier.L2


async def test_missing_is_none_and_remembered(state: OpenStore) -> None:
    """A row that does not exist is None everywhere, and the second answer comes from L1."""
    assert await state.bots.get("nobody") is None
    assert await state.bots.entry("nobody") is None
    assert state.bots.peek("nobody") is None
    assert await state.bots.get_many(["nobody", "no one"]) == {}


async def test_peek_sees_only_l1(state: OpenStore, other: OpenStore) -> None:
    """`peek` answers at once with what this server holds, and never asks."""
    await state.bots.put("b1", Bot(name="Ada"))
    assert state.bots.peek("b1") == Bot(name="Ada")
    assert other.bots.peek("b1") is None


async def test_another_servers_write_is_seen_within_the_bound(state: OpenStore, other: OpenStore) -> None:
    """An L1 that holds the old document gives the new one to whoever asks a quarter of a second after the write."""
    await state.bots.put("b1", Bot(name="old"))
    await other.bots.get("b1")
    await state.bots.put("b1", Bot(name="new"))
    written = asyncio.get_running_loop().time()

    async def is_new() -> bool:
        return await other.bots.get("b1") == Bot(name="new")

    await until_new(is_new, written)


async def test_strong_reads_see_another_server_at_once(state: OpenStore, laggard: OpenStore) -> None:
    """A strong read goes past an L1 that still holds the old document, and replaces what it holds."""
    await state.bots.put("b1", Bot(name="old"))
    await laggard.bots.get("b1")
    await state.bots.put("b1", Bot(name="new"))
    assert laggard.bots.peek("b1") == Bot(name="old")
    entry = await laggard.bots.entry("b1", consistency=Consistency.STRONG)
    assert entry is not None
    assert (entry.value.name, entry.tier) == ("new", Tier.L3)
    assert laggard.bots.peek("b1") == Bot(name="new")


async def test_get_many_returns_what_exists(state: OpenStore, other: OpenStore) -> None:
    """Held, cached and stored documents come back together; what does not exist is left out."""
    receipts = await state.bots.put_many({f"b{number}": Bot(name=str(number)) for number in range(500)})
    await other.bots.get("b7")
    found = await other.bots.get_many([f"b{number}" for number in range(510)])
    assert {identifier: bot.name for identifier, bot in found.items()} == {f"b{n}": str(n) for n in range(500)}
    assert len({receipt.version for receipt in receipts.values()}) == 500


async def test_expected_version(state: OpenStore, other: OpenStore) -> None:
    """A put at the version read succeeds; one at an older version is a Conflict and changes nothing."""
    first = await state.swarms.put("s1", Swarm(goal="one"), expected_version=0)
    second = await other.swarms.put("s1", Swarm(goal="two"), expected_version=first.version)
    for expected in (0, first.version):
        with pytest.raises(Conflict) as refused:
            await state.swarms.put("s1", Swarm(goal="three"), expected_version=expected)
        assert (refused.value.expected, refused.value.actual) == (expected, second.version)
    read = await state.swarms.get("s1", consistency=Consistency.STRONG)
    assert read is not None
    assert read.goal == "two"


async def test_after_a_conflict_the_next_read_is_fresh(state: OpenStore, laggard: OpenStore) -> None:
    """A server that acted on a stale copy does not read the same copy again."""
    first = await state.bots.put("b1", Bot(name="old"))
    assert await laggard.bots.get("b1") == Bot(name="old")
    await state.bots.put("b1", Bot(name="new"))
    with pytest.raises(Conflict):
        await laggard.bots.put("b1", Bot(name="mine"), expected_version=first.version)
    assert await laggard.bots.get("b1") == Bot(name="new")
    await state.bots.delete("b1")
    assert laggard.bots.peek("b1") == Bot(name="new")
    with pytest.raises(Conflict):
        await laggard.bots.delete("b1", expected_version=first.version)
    assert await laggard.bots.get("b1") is None


async def test_deleting_what_another_server_deleted(state: OpenStore, laggard: OpenStore) -> None:
    """A delete that finds no row still takes the old copy out of this server's memory."""
    await state.bots.put("b1", Bot(name="Ada"))
    assert await laggard.bots.get("b1") == Bot(name="Ada")
    await state.bots.delete("b1")
    assert laggard.bots.peek("b1") == Bot(name="Ada")
    assert not (await laggard.bots.delete("b1")).existed
    assert laggard.bots.peek("b1") is None
    assert await laggard.bots.get("b1") is None


async def test_updates_of_two_servers_lose_nothing(state: OpenStore, other: OpenStore) -> None:
    """Eighty concurrent additions by two servers end at eighty, starting from a missing row."""

    def add(swarm: Swarm) -> Swarm:
        return msgspec.structs.replace(swarm, metadata={"count": swarm.metadata.get("count", 0) + 1})

    await asyncio.gather(
        *(server.swarms.update("s1", add, default=Swarm(goal="count")) for _ in range(40) for server in (state, other))
    )
    swarm = await state.swarms.get("s1", consistency=Consistency.STRONG)
    assert swarm is not None
    assert swarm.metadata["count"] == 80


async def test_update_without_a_row(state: OpenStore) -> None:
    """`update` without default on a missing row is NotFound, and creates nothing."""
    with pytest.raises(NotFound, match="swarm:s9"):
        await state.swarms.update("s9", lambda swarm: swarm)
    assert await state.swarms.get("s9", consistency=Consistency.STRONG) is None


async def test_a_change_that_raises_changes_nothing(state: OpenStore) -> None:
    """What the function raises reaches the caller, and the row stays as it was."""
    await state.swarms.put("s1", Swarm(goal="kept"))

    def fail(swarm: Swarm) -> Swarm:
        raise ZeroDivisionError(swarm.goal)

    with pytest.raises(ZeroDivisionError, match="kept"):
        await state.swarms.update("s1", fail)
    assert await state.swarms.get("s1", consistency=Consistency.STRONG) == Swarm(goal="kept")


async def test_delete(state: OpenStore, other: OpenStore) -> None:
    """A deleted document is gone for the writer at once and for strong readers everywhere; deleting twice says so."""
    await state.bots.put("b1", Bot(name="Ada"))
    await other.bots.get("b1")
    receipt = await state.bots.delete("b1")
    assert receipt.existed
    assert await state.bots.get("b1") is None
    assert await other.bots.get("b1", consistency=Consistency.STRONG) is None
    assert not (await state.bots.delete("b1")).existed


async def test_scan_goes_through_everything_in_order(state: OpenStore) -> None:
    """A scan of several pages yields each document once, in the order of ids, and can go on behind any of them."""
    await state.bots.put_many({f"b{number:03}": Bot(name=str(number)) for number in range(450)})
    seen = [identifier async for identifier, _ in state.bots.scan()]
    assert seen == [f"b{number:03}" for number in range(450)]
    assert [identifier async for identifier, _ in state.bots.scan(after="b447")] == ["b448", "b449"]


async def test_refusals_write_nothing(state: OpenStore) -> None:
    """A document of another kind, or one of a batch that is too large, is refused before anything is written."""
    with pytest.raises(InvalidDocument, match="a Bot is wanted, not a Swarm"):
        await state.bots.put("b1", Swarm(goal="x"))  # type: ignore[arg-type]
    with pytest.raises(InvalidDocument):
        await state.bots.put_many({"b1": Bot(name="ok"), "b2": Bot(name="x" * 2_000_000)})
    assert await state.bots.get("b1", consistency=Consistency.STRONG) is None


async def test_a_large_put_many_is_all_or_nothing(state: OpenStore) -> None:
    """Of many documents the first are sent while the last are checked; one that is refused takes them all back."""
    documents = {f"b{number:03}": Bot(name=str(number)) for number in range(400)}
    with pytest.raises(InvalidDocument):
        await state.bots.put_many(documents | {"b399": Bot(name="x" * 2_000_000)})
    assert [identifier async for identifier, _ in state.bots.scan()] == []
    receipts = await state.bots.put_many(documents)
    assert len(set(receipts.values())) == len(documents)
    assert await state.bots.get("b399", consistency=Consistency.STRONG) == documents["b399"]


class Plan(Document, frozen=True, kw_only=True):
    """A user's own document."""

    title: str
    steps: tuple[str, ...] = ()


PLANS = Kind("plan", Plan)


async def test_own_kinds_are_like_the_built_in_ones(settings: Settings) -> None:
    """An own kind has a table, a collection and all three tiers, and servers that share it see each other."""
    async with (
        holdfast.connect(settings, kinds=[PLANS]) as state,
        holdfast.connect(settings, kinds=[PLANS]) as other,
    ):
        plans = state.collection(PLANS)
        await plans.put("p1", Plan(title="first", steps=("a", "b")))
        read = await other.collection(PLANS).get("p1")
        assert read == Plan(title="first", steps=("a", "b"))
        await plans.update("p1", lambda plan: msgspec.structs.replace(plan, title="second"))
        strong = await other.collection(PLANS).get("p1", consistency=Consistency.STRONG)
        assert strong is not None
        assert strong.title == "second"


async def test_the_document_is_json_for_psql(settings: Settings, state: OpenStore) -> None:
    """A person with psql reads documents as JSON, in the seed's tables."""
    await state.swarms.put("s1", Swarm(goal="be read"))
    async with connected(settings.postgres_url) as connection:
        goal = await connection.fetchval("""SELECT document->>'goal' FROM holdfast."Chat" WHERE id = 's1'""")
    assert goal == "be read"


@dataclass(eq=False)
class Queries:
    """The SQL that reached the server."""

    texts: list[str]

    def __call__(self, record: asyncpg.connection.LoggedQuery) -> None:
        self.texts.append(record.query)

    def reads(self) -> int:
        return sum("unnest" not in text and 'FROM holdfast."User"' in text for text in self.texts)


@pytest.fixture
async def queries(state: OpenStore, monkeypatch: pytest.MonkeyPatch) -> Queries:
    """Every statement of the server's connections; counted by the driver, not by us."""
    log = Queries([])
    pool = flows_of(state).writer._l3.pool  # type: ignore[attr-defined]
    opener = pool._opener

    async def opened() -> asyncpg.Connection:
        connection = await opener()
        connection.add_query_logger(log)
        return connection

    monkeypatch.setattr(pool, "_opener", opened)
    for connection in pool._idle:
        connection.add_query_logger(log)
    return log


async def test_a_thousand_callers_make_one_query(state: OpenStore, other: OpenStore, queries: Queries) -> None:
    """1,000 concurrent gets of one cold key are one flight."""
    await other.bots.put("b1", Bot(name="Ada"))
    answers = await asyncio.gather(*(state.bots.get("b1") for _ in range(1000)))
    assert answers == [Bot(name="Ada")] * 1000
    assert queries.reads() == 1


async def test_a_thousand_cold_keys_make_few_queries(state: OpenStore, other: OpenStore, queries: Queries) -> None:
    """1,000 concurrent gets of as many cold keys share at most ten queries."""
    await other.bots.put_many({f"b{number}": Bot(name=str(number)) for number in range(1000)})
    answers = await asyncio.gather(*(state.bots.get(f"b{number}") for number in range(1000)))
    assert [bot.name for bot in answers if bot] == [str(number) for number in range(1000)]
    assert 1 <= queries.reads() <= 10
