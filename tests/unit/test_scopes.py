"""Scopes over tiers in memory: reads that never go back, on the server and on others.

Two servers share L2 and L3, and each hears of changes by a feed of its own, which a test can hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest

from fix_clock import Ticking
from fix_loop import settle
from fix_races import until
from holdfast import Bot, Caching, Closed, Consistency, IncarnationChanged, InvalidToken, Kind, Scope, TierUnavailable
from holdfast.errors import OutcomeUnknown, SettingsError, StaleUnavailable
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN
from holdfast.protocols import StorageTransaction
from holdfast.scopes.tokens import TOKEN_CHARACTERS_MAX, UNSURE_MAX
from holdfast.settings import Settings
from holdfast.testing import MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows
from simulation.mutants import MUTANTS

OLD, NEW = Bot(name="old"), Bot(name="new")
KEY = Key("bot", "b1")
CAUGHT_HERE = ("V1-S1-higher_version_is_newer",)
SMALL = Kind("small", Bot, caching=Caching(l1_entries_max=1))


class Pair:
    """Two servers.

    Attributes:
        a, b: their insides.
        hearing: the feed of each.
    """

    def __init__(self) -> None:
        self.clock = Ticking()
        self.l3 = MemoryStorage([*BUILT_IN, SMALL])
        self.l2 = MemoryCache(self.clock)
        self.hearing = [MemoryFeed(self.l3), MemoryFeed(self.l3)]
        self.a: Flows
        self.b: Flows

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect both."""
        self.a, self.b = [
            await stack.enter_async_context(
                connect_flows(kinds=[SMALL], l2=self.l2, l3=self.l3, feed=feed, clock=self.clock, settings=Settings())
            )
            for feed in self.hearing
        ]

    async def hold(self, server: int) -> None:
        """Let a server hear nothing from now on; its lease holds."""
        await (self.a, self.b)[server].feed.refresh()
        self.hearing[server].hold()
        await settle()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        found = Pair()
        await found.start(stack)
        await found.a.store.bots.put("b1", OLD)
        assert await found.b.store.bots.get("b1") == OLD
        yield found
        for feed in found.hearing:
            feed.release()


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


async def test_another_l3_ends_the_scope_and_its_token(pair: Pair) -> None:
    """What was seen may be lost: a typed error, on every way in."""
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        token = scope.token
        pair.l3.crash(lose=1)
        await pair.a.feed.refresh()
        for call in (scope.bots.get("b1"), scope.bots.put("b1", NEW), scope.bots.delete("b1")):
            with pytest.raises(IncarnationChanged, match="begin a new scope"):
                await call
        with pytest.raises(IncarnationChanged):
            scope.bots.peek("b1")
        with pytest.raises(IncarnationChanged):
            _ = scope.token
        with pytest.raises(IncarnationChanged):
            async with scope.transaction():
                pass
    with pytest.raises(IncarnationChanged):
        async with pair.b.store.scope(token):
            pass


async def test_a_token_newer_than_what_is_known_here_makes_the_server_look(pair: Pair) -> None:
    """The other server heard of the new L3 first."""
    pair.hearing[1].fail = True
    pair.l3.crash()
    await pair.a.feed.refresh()
    async with pair.a.store.scope() as scope:
        token = scope.token
    with pytest.raises(TierUnavailable, match="cannot be asked"):
        async with pair.b.store.scope(token):
            pass
    pair.hearing[1].fail = False
    polls = pair.b.feed.polls

    async def has_polled() -> bool:
        return pair.b.feed.polls > polls

    await until(has_polled)
    async with pair.b.store.scope(token) as scope:
        assert await scope.bots.get("b1") == OLD


async def test_a_scope_that_is_over_refuses_everything(pair: Pair) -> None:
    """Its block has ended, and so its promises."""
    async with pair.a.store.scope() as scope:
        token = scope.token
    for call in (scope.bots.get("b1"), scope.bots.put("b1", NEW), scope.bots.update("b1", lambda bot: bot)):
        with pytest.raises(Closed):
            await call
    with pytest.raises(Closed):
        _ = scope.token
    with pytest.raises(Closed):
        scope.bots.peek("b1")
    with pytest.raises(InvalidToken):
        async with pair.a.store.scope(token + "x"):
            pass
    with pytest.raises(SettingsError, match="not known here"):
        scope.collection(Kind("other", Bot))


class Late:
    """A transaction whose COMMIT is lost on its way, and arrives when the test says so."""

    def __init__(self, inner: StorageTransaction) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def commit(self) -> None:
        """Nobody knows."""
        raise OutcomeUnknown("the connection was lost")

    async def rollback(self) -> int | None:
        """There is no connection any more."""
        return None


async def test_an_unknown_outcome_is_waited_for_on_every_server(pair: Pair) -> None:
    """The transaction commits later: until a feed has seen its end, each read asks L3 (rule S1)."""
    async with pair.a.store.scope() as scope:
        late = await lose_commit(scope)
        token = scope.token
    async with pair.b.store.scope(token) as scope:
        assert await scope.bots.get("b1") == OLD
        assert await pair.b.store.bots.get("b1") == OLD
        await pair.hold(1)
        await late.inner.commit()
        assert await pair.b.store.bots.get("b1") == OLD
        assert await scope.bots.get("b1") == NEW
        assert scope.token != token
        pair.hearing[1].release()
        await pair.b.feed.refresh()
        loads = len(pair.l3.loads)
        assert [await scope.bots.get("b1") for _ in range(3)] == [NEW] * 3
        assert len(pair.l3.loads) <= loads + 1


async def lose_commit(scope: Scope) -> Late:
    """Change b1 in a transaction of unknown outcome."""
    late: list[Late] = []

    async def change() -> None:
        async with scope.transaction() as tx:
            await tx.bots.put("b1", NEW)
            late.append(Late(tx.storage))
            tx.storage = late[0]  # type: ignore[assignment]

    with pytest.raises(OutcomeUnknown):
        await change()
    return late[0]


async def test_a_scope_has_a_bound_of_unknown_outcomes(pair: Pair) -> None:
    """A token could not tell of more; the scope says so and ends."""
    async with pair.a.store.scope() as scope:
        for number in range(UNSURE_MAX):
            scope._session.see_all(0.0, [10**9 + number])
        assert len(scope.token) <= TOKEN_CHARACTERS_MAX
        with pytest.raises(TierUnavailable, match="over 16 transactions of unknown outcome"):
            scope._session.see_all(0.0, [10**9 + UNSURE_MAX])
        with pytest.raises(Closed):
            await scope.bots.get("b1")


async def test_without_l3_a_scope_fails_rather_than_go_back(pair: Pair) -> None:
    """What the caller allows to be stale may be older, but not older than what the scope saw."""
    await pair.hold(1)
    async with pair.a.store.scope() as scope:
        await scope.bots.put("b1", NEW)
        token = scope.token
        await pair.hold(0)
        pair.l3.away = True
        assert await scope.bots.get("b1", max_stale=60.0) == NEW
    async with pair.b.store.scope(token) as scope:
        for max_stale in (None, 60.0):
            with pytest.raises(TierUnavailable) as caught:
                await scope.bots.get("b1", max_stale=max_stale)
            assert not isinstance(caught.value, StaleUnavailable)
    assert await pair.b.store.bots.get("b1") == OLD


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
