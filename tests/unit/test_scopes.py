"""Scopes over tiers in memory: reads that never go back, on the server and on others.

Two servers share L2 and L3, and each hears of changes by a feed of its own, which a test can hold.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fix_loop import settle
from fix_scopes import KEY, NEW, OLD, SMALL, Pair
from holdfast import Bot, Consistency, InvalidToken
from holdfast.keys import Key
from holdfast.testing import MemoryFeed
from holdfast.testing.door import connect_flows
from simulation.mutants import MUTANTS

CAUGHT_HERE = ("V1-S1-higher_version_is_newer",)


async def test_a_token_takes_a_write_along(pair: Pair) -> None:
    """A server that was not told yet asks L3 for what the scope saw, and answers others from memory meanwhile."""
    await pair.hold(1)
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        assert await pair.b.store.bots.get("b1") == OLD
        assert await scope.bots.get("b1") == NEW
        assert await scope.bots.get_many(["b1", "b2"]) == {"b1": NEW}


async def test_where_the_feed_has_come_as_far_memory_answers(pair: Pair) -> None:
    """No query is made for what the caches surely know."""
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        token = scope.token
    await pair.b.feed.refresh()
    assert await pair.b.store.bots.get("b1") == NEW
    loads = len(pair.l3.loads)
    async with pair.b.store.scope(token) as scope:
        for _ in range(10):
            assert await scope.bots.get("b1") == NEW
        assert scope.bots.peek("b1") == NEW
    assert len(pair.l3.loads) == loads


async def test_a_token_that_is_ahead_costs_one_poll(pair: Pair) -> None:
    """After it, memory answers: nothing is asked of L3 for what did not change."""
    await pair.b.store.bots.put("b2", OLD)
    await pair.hold(1)
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        await pair.a.feed.refresh()
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        polls, loads = pair.b.feed.polls, len(pair.l3.loads)
        pair.hearing[1].release()
        assert await scope.bots.get("b2") == OLD
        assert (pair.b.feed.polls > polls, len(pair.l3.loads)) == (True, loads)


async def test_a_deletion_travels_too(pair: Pair) -> None:
    """What was seen to be missing does not come back."""
    await pair.hold(1)
    async with pair.a.store.scope() as scope:
        await scope.bots.delete("b1")
        assert await scope.bots.get("b1") is None
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        assert await pair.b.store.bots.get("b1") == OLD
        assert scope.bots.peek("b1") is None
        assert await scope.bots.get("b1") is None


async def test_what_was_only_read_travels_too(pair: Pair) -> None:
    """Monotonic reads: a strong read on one server binds the next read on another."""
    await pair.hold(0)
    await pair.hold(1)
    await pair.l3.raw_put(KEY, b'{"name":"new"}')
    async with pair.a.store.scope() as scope:
        assert await scope.bots.get("b1") == OLD
        assert await scope.bots.get("b1", consistency=Consistency.STRONG) == NEW
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        assert await scope.bots.get("b1") == NEW


async def test_sql_of_a_transaction_travels_too(pair: Pair) -> None:
    """Keys that the scope never named."""
    await pair.hold(1)
    async with pair.a.store.scope() as scope:
        async with scope.transaction() as tx:
            await tx.connection.put(KEY, b'{"name":"new"}')
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        assert await scope.bots.get("b1") == NEW


async def test_a_transaction_that_was_rolled_back_was_read_in(pair: Pair) -> None:
    """What its reads showed may be ahead of the caches."""
    await pair.hold(0)
    await pair.l3.raw_put(KEY, b'{"name":"new"}')
    async with pair.a.store.scope() as scope:

        async def read_and_fail() -> None:
            async with scope.transaction() as tx:
                assert await tx.bots.get("b1") == NEW
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await read_and_fail()
        assert await scope.bots.get("b1") == NEW
        assert await pair.a.store.bots.get("b1") == NEW  # L1 has it from the scope's read


async def test_a_scan_was_read_too(pair: Pair) -> None:
    """It asks L3, which may be ahead of the caches."""
    await pair.hold(0)
    await pair.l3.raw_put(KEY, b'{"name":"new"}')
    async with pair.a.store.scope() as scope:
        assert [bot async for _, bot in scope.bots.scan()] == [NEW]
        assert await scope.bots.get("b1") == NEW


async def test_eviction_does_not_bring_the_past_back(pair: Pair) -> None:
    """L2 may hold what is older than an answer of L3 that the feed has not told of yet."""
    small = pair.a.store.collection(SMALL)
    await small.put("x", OLD)
    await pair.b.store.collection(SMALL).get("x")
    await pair.a.resolver.drain()
    await pair.hold(0)
    await pair.l3.raw_put(Key("small", "x"), b'{"name":"new"}')
    async with pair.a.store.scope() as scope:
        own = scope.collection(SMALL)
        assert await own.get("x", consistency=Consistency.STRONG) == NEW
        await small.put("y", OLD)  # pushes it out of L1
        assert small.peek("x") is None
        assert await own.get("x") == NEW


async def test_an_answer_of_a_flight_begun_earlier_is_asked_for_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L1 held the very version when it was asked, and lost it before it answered."""
    await pair.hold(0)
    await pair.l3.raw_put(KEY, b'{"name":"new"}')
    async with pair.a.store.scope() as scope:
        assert await scope.bots.get("b1", consistency=Consistency.STRONG) == NEW
        reader, old = pair.a.reader, (await pair.a.store.bots.entry("b1"))
        assert old is not None
        read_many = reader.read_many

        async def late(keys, consistency, max_stale=None):  # type: ignore[no-untyped-def]
            found = await read_many(keys, consistency, max_stale)
            if consistency is Consistency.BOUNDED:
                for each in found.values():
                    each.version, each.value = 1, OLD
            return found

        monkeypatch.setattr(reader, "read_many", late)
        pair.a.caches["bot"].shelf("bot").trust_until(0.0)  # so that peek does not answer
        assert await scope.bots.get("b1") == NEW


async def test_updates_of_all_scopes_take_turns(pair: Pair) -> None:
    """A counter that many scopes of a server add to loses nothing, and nobody is refused."""
    await pair.a.store.bots.put("n", Bot(name="0"))

    def add(bot: Bot) -> Bot:
        return msgspec.structs.replace(bot, name=str(int(bot.name or 0) + 1))

    async def one() -> None:
        async with pair.a.store.scope() as scope:
            await scope.bots.update("n", add)

    await asyncio.gather(*(one() for _ in range(100)))
    assert await pair.a.store.bots.get("n") == Bot(name="100")


async def test_kinds_that_no_feed_speaks_for_are_read_from_l3(pair: Pair) -> None:
    """No older flight is joined either."""
    feed = MemoryFeed(pair.l3)
    async with (
        connect_flows(
            l2=pair.l2, l3=pair.l3, feed=feed, clock=pair.clock, untrusted={"bot": "a trigger is missing"}
        ) as flows,
        flows.store.scope() as scope,
    ):
        await pair.l3.raw_put(KEY, b'{"name":"new"}')
        loads = len(pair.l3.loads)
        assert await scope.bots.get("b1") == NEW
        assert await scope.bots.get("b1") == NEW
        assert len(pair.l3.loads) == loads + 2


@pytest.mark.parametrize("text", [None, ""])
async def test_no_token_is_a_new_scope_and_an_empty_one_an_error(pair: Pair, text: str | None) -> None:
    """A header that is there and empty was lost by somebody."""
    if text is None:
        async with pair.a.store.scope(text) as scope:
            assert await scope.bots.get("b1") == OLD
        return
    with pytest.raises(InvalidToken):
        async with pair.a.store.scope(text):
            pass


async def test_a_higher_version_may_be_the_older_one(pair: Pair) -> None:
    """After a delete and a new insert a key goes on with a number that was drawn before (rule V1)."""
    await be_reborn(pair)
    async with pair.a.store.scope() as scope:
        assert await scope.bots.get("b1", consistency=Consistency.STRONG) == NEW
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        assert await scope.bots.get("b1") == NEW


async def be_reborn(pair: Pair) -> None:
    """Leave b1 with a lower number than b has in memory; nobody hears anything any more."""
    last, gone = pair.l3.begin(), pair.l3.begin()
    await last.put(KEY, b'{"name":"last but one"}')
    deleting = asyncio.ensure_future(gone.delete(KEY))
    await settle()
    inserting = asyncio.ensure_future(pair.l3.raw_put(KEY, b'{"name":"new"}'))  # draws its number, and waits
    await settle()
    await last.put(KEY, b'{"name":"last"}')
    await last.commit()
    await pair.hold(1)
    before = await pair.b.store.bots.entry("b1", consistency=Consistency.STRONG)
    await deleting
    await gone.commit()
    await pair.hold(0)
    version = await inserting
    assert before is not None
    assert before.version > version


@pytest.mark.parametrize("name", CAUGHT_HERE)
async def test_its_mutant_is_caught(name: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds need thousands of seeds for it."""
    MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError):
        await test_a_higher_version_may_be_the_older_one(pair)
