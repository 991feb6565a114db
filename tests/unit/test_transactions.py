"""Transactions, over tiers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from fix_loop import settle
from holdfast import Bot, Conflict, Isolation, NotFound, OutcomeUnknown, SerializationFailure, SettingsError, Team
from holdfast.errors import Closed
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.testing import MemoryStorage
from holdfast.testing.door import connect_flows

ADA, EVE = Bot(name="Ada"), Bot(name="Eve")


class Stop(Exception):
    """Something of the user's own."""


class Losing:
    """A transaction whose commit is another one."""

    def __init__(self, inner: object, commit: Callable[[], Awaitable[None]]) -> None:
        self.inner = inner
        self.commit = commit

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def flows(l3: MemoryStorage) -> AsyncIterator[Flows]:
    async with connect_flows(l3=l3) as opened:
        yield opened


def renamed(bot: Bot) -> Bot:
    return msgspec.structs.replace(bot, name="Eve")


async def test_nothing_is_seen_before_the_commit_and_all_of_it_after(flows: Flows) -> None:
    """Other readers see neither of two documents, then both; the transaction sees its own."""
    state = flows.store
    await state.bots.put("b1", ADA)
    async with state.transaction() as tx:
        await tx.bots.put("b1", EVE)
        await tx.teams.put("t1", Team(name="x"))
        assert await tx.bots.get("b1") == EVE
        assert await state.bots.get("b1") == ADA
        assert await state.teams.get("t1") is None
    assert await state.bots.get("b1") == EVE
    assert await state.teams.get("t1") == Team(name="x")
    assert tx.affected_tables == {"User", "Teams"}


async def test_a_block_that_raises_leaves_nothing(flows: Flows) -> None:
    """The error comes out as it was raised, and nothing was written."""
    with pytest.raises(Stop):  # noqa: PT012 - the end of the block is part of it
        async with flows.store.transaction() as tx:
            await tx.bots.put("b1", ADA)
            raise Stop
    assert await flows.store.bots.get("b1") is None
    assert tx.affected_tables == frozenset()


async def test_what_others_wrote_inside_it_is_known_when_it_returns(flows: Flows) -> None:
    """Changes that the transaction made without the door (raw SQL, cascades) are no older in L1 than its end."""
    state = flows.store
    await state.bots.put("b1", ADA)
    assert await state.bots.get("b1") == ADA
    flows.feed._source.hold()  # type: ignore[attr-defined]

    async def change() -> None:
        async with state.transaction() as tx:
            await tx.connection.put(Key("bot", "b1"), b'{"name":"raw"}')

    changing = asyncio.ensure_future(change())
    await settle()
    assert not changing.done()
    flows.feed._source.release()  # type: ignore[attr-defined]
    await changing
    assert await state.bots.get("b1") == Bot(name="raw")


async def test_a_feed_that_cannot_be_read_costs_the_cache_not_the_truth(l3: MemoryStorage) -> None:
    """Until the feed has come past the transaction, no cached answer of this server counts."""
    async with connect_flows(l3=l3) as flows:
        state = flows.store
        await state.bots.put("b1", ADA)
        assert await state.bots.get("b1") == ADA
        source = flows.feed._source
        source.fail = True  # type: ignore[attr-defined]
        async with state.transaction() as tx:
            await tx.connection.put(Key("bot", "b1"), b'{"name":"raw"}')
        assert state.bots.peek("b1") is None
        assert await state.bots.get("b1") == Bot(name="raw")


async def test_a_lost_reply_to_commit_is_an_unknown_outcome(l3: MemoryStorage) -> None:
    """Whatever it changed, nothing older is answered once it took effect, though nobody said that it did (S1)."""
    async with connect_flows(l3=l3) as flows:
        state = flows.store
        await state.bots.put_many({"b1": ADA, "b2": ADA})
        flows.feed._source.hold()  # type: ignore[attr-defined]
        with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the end of the block raises
            async with state.transaction() as tx:
                await tx.bots.put("b1", EVE)
                await tx.connection.put(Key("bot", "b2"), b'{"name":"Eve"}')
                commit = tx.storage.commit

                async def lose_the_reply() -> None:
                    await commit()
                    raise OutcomeUnknown("the reply was lost")

                tx.storage = Losing(tx.storage, lose_the_reply)  # type: ignore[assignment]
        assert state.bots.peek("b1") is None
        assert state.bots.peek("b2") is None
        assert await state.bots.get_many(["b1", "b2"]) == {"b1": EVE, "b2": EVE}
        flows.feed._source.release()  # type: ignore[attr-defined]


async def test_a_conflict_inside_goes_on(flows: Flows) -> None:
    """A refused write takes nothing back but itself."""
    async with flows.store.transaction() as tx:
        await tx.bots.put("b1", ADA)
        with pytest.raises(Conflict):
            await tx.bots.put("b1", EVE, expected_version=0)
        await tx.bots.put("b2", EVE)
    assert await flows.store.bots.get_many(["b1", "b2"]) == {"b1": ADA, "b2": EVE}


async def test_update_and_delete_inside(flows: Flows) -> None:
    """They work like the door's, and a row that is missing is said to be."""
    await flows.store.bots.put_many({"b1": ADA, "b2": ADA})
    async with flows.store.transaction() as tx:
        assert await tx.bots.update("b1", renamed) == EVE
        assert (await tx.bots.delete("b2")).existed
        with pytest.raises(NotFound):
            await tx.bots.update("b3", renamed)
        assert await tx.bots.update("b4", renamed, default=ADA) == EVE
    assert await flows.store.bots.get_many(["b1", "b2", "b3", "b4"]) == {"b1": EVE, "b4": EVE}


async def test_transact_runs_again_when_others_were_in_the_way(flows: Flows) -> None:
    """Two counters moved by many tasks at once end at exactly the sum."""
    state = flows.store
    await state.bots.put_many({"a": Bot(max_tokens=0), "b": Bot(max_tokens=100)})

    async def move(tx) -> None:  # type: ignore[no-untyped-def]
        found = await tx.bots.get_many(["a", "b"])
        await asyncio.sleep(0)
        await tx.bots.put("a", msgspec.structs.replace(found["a"], max_tokens=found["a"].max_tokens + 1))
        await tx.bots.put("b", msgspec.structs.replace(found["b"], max_tokens=found["b"].max_tokens - 1))

    await asyncio.gather(*(state.transact(move, attempts=100) for _ in range(10)))
    found = await state.bots.get_many(["a", "b"])
    assert (found["a"].max_tokens, found["b"].max_tokens) == (10, 90)


async def test_transact_gives_up_after_its_attempts(flows: Flows) -> None:
    """An operation that always meets others fails with what it met; other errors are not repeated."""
    runs = 0

    async def refused(tx) -> None:  # type: ignore[no-untyped-def]
        nonlocal runs
        runs += 1
        raise SerializationFailure("in the way")

    with pytest.raises(SerializationFailure):
        await flows.store.transact(refused, attempts=3)
    assert runs == 3
    with pytest.raises(SettingsError, match="attempts"):
        await flows.store.transact(refused, attempts=0)


async def test_a_cancelled_block_is_rolled_back(flows: Flows) -> None:
    """Whoever waits for its rows goes on."""
    inside = asyncio.Event()

    async def hold() -> None:
        async with flows.store.transaction() as tx:
            await tx.bots.put("b1", ADA)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(hold())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    await flows.store.bots.put("b1", EVE)
    assert await flows.store.bots.get("b1") == EVE


async def test_a_block_that_outlives_its_store_is_rolled_back(l3: MemoryStorage) -> None:
    """Nobody waits for its rows afterwards, and the end of the block says why nothing took effect."""
    inside, closed = asyncio.Event(), asyncio.Event()

    async def hold(flows: Flows) -> None:
        async with flows.store.transaction() as tx:
            await tx.bots.put("b1", ADA)
            inside.set()
            await closed.wait()

    async with connect_flows(l3=l3) as flows:
        task = asyncio.get_running_loop().create_task(hold(flows))
        await inside.wait()
    closed.set()
    with pytest.raises(Closed):
        await task
    async with connect_flows(l3=l3) as flows, asyncio.timeout(5):
        await flows.store.bots.put("b1", EVE)
        assert await flows.store.bots.get("b1") == EVE


async def test_a_transaction_that_only_reads_waits_for_no_feed(flows: Flows) -> None:
    """It changed nothing, so there is nothing to come past."""
    await flows.store.bots.put("b1", ADA)
    source = flows.feed._source
    source.fail = True  # type: ignore[attr-defined]
    async with flows.store.transaction(Isolation.REPEATABLE_READ) as tx:
        assert await tx.bots.get("b1") == ADA
    assert flows.lease._held == set()
