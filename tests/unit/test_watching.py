"""Watches over tiers in memory: what is told, when it ends, and what it costs nobody."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fix_loop import settle
from holdfast import (
    Bot,
    ChangeOperation,
    Closed,
    Collection,
    CorruptDocument,
    InvalidKey,
    InvalidToken,
    Overloaded,
    StorageNotReady,
    Watch,
    Watched,
)
from holdfast.clock import SystemClock
from holdfast.flows import Flows
from holdfast.invalidation.watchers import Line, Watchers
from holdfast.keys import Key
from holdfast.protocols import Cursor
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage, connect
from holdfast.testing.door import connect_flows

INSERT, UPDATE, DELETE = ChangeOperation.INSERT, ChangeOperation.UPDATE, ChangeOperation.DELETE
RESET = ChangeOperation.RESET
KEY = Key("bot", "b1")
DEADLINE_SECONDS = 10.0
Mutation = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def flows(l3: MemoryStorage) -> AsyncIterator[Flows]:
    async with connect_flows(l3=l3) as found:
        yield found


@pytest.fixture
def bots(flows: Flows) -> Collection[Bot]:
    return flows.store.bots


async def following(watch: Watch[Any], count: int) -> list[Watched[Any]]:
    """The next so many changes."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [await anext(watch) for _ in range(count)]


async def nothing_more(flows: Flows, watch: Watch[Any]) -> bool:
    """Whether nothing waits once the feed has come past all there is."""
    assert await flows.feed.refresh()
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    done = waiting.done()
    waiting.cancel()
    return not done


async def test_each_change_comes_once_with_its_document(flows: Flows, bots: Collection[Bot]) -> None:
    """Insert, update, delete, from the call of `watch` on, though it is not iterated yet; others are not told."""
    await bots.put("b1", Bot(name="before"))
    await flows.feed.refresh()
    watch = bots.watch("b1")
    first = await bots.put("b1", Bot(name="x"))
    await bots.put("b2", Bot())
    await flows.store.teams.delete("t1")
    (change,) = await following(watch, 1)
    assert (change.id, change.operation, change.version) == ("b1", UPDATE, first.version)
    assert change.document == Bot(name="x")
    gone = await bots.delete("b1")
    (change,) = await following(watch, 1)
    assert (change.operation, change.version, change.document) == (DELETE, gone.version, None)
    assert await nothing_more(flows, watch)


async def test_a_kind_is_watched_with_all_its_keys(flows: Flows, bots: Collection[Bot]) -> None:
    """In the order of their commits, and each watcher gets all."""
    watches = [bots.watch(), bots.watch(), bots.watch("b2")]
    for identifier in ("b1", "b2", "b1"):
        await bots.put(identifier, Bot(name=identifier))
    for watch in watches[:2]:
        assert [change.id for change in await following(watch, 3)] == ["b1", "b2", "b1"]
    assert [change.id for change in await following(watches[2], 1)] == ["b2"]
    for watch in watches:
        assert await nothing_more(flows, watch)


async def test_a_whole_kind_is_told_to_every_watcher_of_it(l3: MemoryStorage, bots: Collection[Bot]) -> None:
    """A TRUNCATE, and a statement over too many keys, name no key and bring no document."""
    watches = [bots.watch(), bots.watch("b1")]
    version = await l3.truncate("bot")
    l3._rules = l3._rules._replace(statement_keys_max=1)
    await bots.put_many({"b1": Bot(), "b2": Bot()})
    for watch in watches:
        truncated, many = await following(watch, 2)
        assert (truncated.id, truncated.operation) == (None, ChangeOperation.TRUNCATE)
        assert (truncated.version, truncated.document) == (version, None)
        assert (many.id, many.operation, many.document) == (None, ChangeOperation.MANY, None)


async def test_changes_that_wait_may_share_one_read(l3: MemoryStorage, flows: Flows, bots: Collection[Bot]) -> None:
    """Each is told, with the newest document, or None if it is gone by now."""
    watch = bots.watch()
    for name in ("one", "two"):
        await l3.raw_put(KEY, b'{"name": "%s"}' % name.encode())
    await l3.raw_put(Key("bot", "b2"), b"{}")
    await l3.raw_delete(Key("bot", "b2"))
    await flows.feed.refresh()
    loads = len(l3.loads)
    changes = await following(watch, 4)
    assert [change.operation for change in changes] == [INSERT, UPDATE, INSERT, DELETE]
    assert [change.document for change in changes] == [Bot(name="two"), Bot(name="two"), None, None]
    assert len(l3.loads) == loads + 1


async def test_a_cancelled_wait_loses_nothing(l3: MemoryStorage, flows: Flows, bots: Collection[Bot]) -> None:
    """Neither one that waits for a change, nor one that reads a document, as a timeout around it does."""
    watch = bots.watch()
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    waiting.cancel()
    l3.away = True
    await l3.raw_put(KEY, b"{}")
    l3.away = False
    await flows.feed.refresh()
    l3.away = True
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    waiting.cancel()
    l3.away = False
    assert [change.operation for change in await following(watch, 1)] == [INSERT]
    assert await nothing_more(flows, watch)


async def test_while_l3_is_away_it_waits(l3: MemoryStorage, flows: Flows, bots: Collection[Bot]) -> None:
    """A change is told with its document or not at all."""
    watch = bots.watch()
    await l3.raw_put(KEY, b'{"name": "x"}')
    await flows.feed.refresh()
    l3.away = True
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    assert not waiting.done()
    l3.away = False
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await waiting).document == Bot(name="x")


async def test_a_document_that_cannot_be_read_is_an_error_of_its_own(l3: MemoryStorage) -> None:
    """It is named; the changes before and behind it are told, and it is not told again."""
    clock = SystemClock()  # which lets the lease end of whoever could not read it
    async with connect_flows(l3=l3, l2=MemoryCache(clock, lease_seconds=0.01), clock=clock) as flows:
        await one_that_cannot_be_read(l3, flows.store.bots)


async def one_that_cannot_be_read(l3: MemoryStorage, bots: Collection[Bot]) -> None:
    watch = bots.watch()
    async with l3.begin() as transaction:
        await transaction.put(Key("bot", "b1"), b"{}")
        await transaction.put(Key("bot", "b2"), b"no document")
        await transaction.put(Key("bot", "b3"), b"{}")
    assert [change.id for change in await following(watch, 1)] == ["b1"]
    with pytest.raises(CorruptDocument, match="b2"):
        await following(watch, 1)
    resumed = bots.watch(after=watch.token)
    for each in (watch, resumed):
        assert [change.id for change in await following(each, 1)] == ["b3"]


async def test_a_watch_ends_with_its_store(l3: MemoryStorage) -> None:
    """Those who wait are told so as by any iterator, and so is whoever asks again; a new one is refused."""
    async with connect_flows(l3=l3) as flows:
        watch, idle = flows.store.bots.watch(), flows.store.bots.watch()
        waiting = asyncio.ensure_future(anext(watch, None))
        await settle()
    assert await waiting is None
    assert [change async for change in idle] == []
    with pytest.raises(Closed):
        flows.store.bots.watch()
    assert not len(flows.watching.watchers)


async def test_a_watch_is_closed_by_hand(flows: Flows, bots: Collection[Bot]) -> None:
    """What it had not given comes to whoever resumes; closing twice is once."""
    async with bots.watch() as watch:
        await bots.put("b1", Bot())
        await flows.feed.refresh()
    await watch.aclose()
    assert [change async for change in watch] == []
    await bots.put("b2", Bot())
    await flows.feed.refresh()
    assert [change.id for change in await following(bots.watch(after=watch.token), 2)] == ["b1", "b2"]
    await settle()
    assert not len(flows.watching.watchers)


async def test_one_that_is_dropped_is_closed(flows: Flows, bots: Collection[Bot]) -> None:
    """A loop that is left by a break leaves nothing behind."""
    watch = bots.watch("b1")
    await bots.put("b1", Bot())
    async for _ in watch:
        break
    del watch
    gc.collect()
    await settle()
    watchers = flows.watching.watchers
    assert (len(watchers), watchers._following) == (0, {})


async def test_there_are_only_so_many(flows: Flows, bots: Collection[Bot], monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, and a place that is given up is free again."""
    monkeypatch.setattr(flows.watching.watchers, "_watchers_max", 2)
    held = [bots.watch(), bots.watch("b1")]
    with pytest.raises(Overloaded, match="2 watchers"):
        bots.watch()
    await held[0].aclose()
    bots.watch()


async def test_what_cannot_be_watched(bots: Collection[Bot]) -> None:
    """Ids and tokens are checked at once."""
    with pytest.raises(InvalidKey):
        bots.watch("")
    with pytest.raises(InvalidToken):
        bots.watch(after="no token")


async def test_a_table_that_does_not_tell_is_not_watched(l3: MemoryStorage) -> None:
    """Or changes would be missed without a word."""
    async with connect_flows(l3=l3, untrusted={"bot": "its trigger is disabled"}) as flows:
        with pytest.raises(StorageNotReady, match="trigger is disabled"):
            flows.store.bots.watch()
        flows.store.teams.watch()


async def test_the_door_in_memory_has_it_too() -> None:
    """Tests of code that watches need no servers."""
    l3 = MemoryStorage()
    async with connect(l3=l3) as here, connect(l3=l3) as there:
        watch = here.bots.watch("b1")
        await there.bots.put("b1", Bot(name="x"))
        assert [change.document for change in await following(watch, 1)] == [Bot(name="x")]


async def test_nobody_watching_costs_nothing(
    flows: Flows, bots: Collection[Bot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes of a poll are not even looked at."""
    looked: list[object] = []
    sort = Watchers._sorted

    def noted(self: Watchers, changes: Any) -> Any:
        looked.append(changes)
        return sort(self, changes)

    monkeypatch.setattr(Watchers, "_sorted", noted)
    bots = flows.store.bots
    await bots.put("b1", Bot())
    await flows.feed.refresh()
    assert not looked
    watch = bots.watch()
    await bots.put("b1", Bot())
    await following(watch, 1)
    assert looked


# Coming back.


async def test_a_token_resumes_behind_its_change(flows: Flows, bots: Collection[Bot]) -> None:
    """In the middle of a poll too, and with what is committed after it has come back."""
    watch = bots.watch()
    await bots.put_many({f"b{number}": Bot() for number in range(5)})
    changes = await following(watch, 5)
    await bots.put("b9", Bot())
    await flows.feed.refresh()
    for number, change in enumerate(changes):
        resumed = bots.watch(after=change.token)
        rest = [f"b{each}" for each in range(number + 1, 5)] + ["b9"]
        assert [each.id for each in await following(resumed, len(rest))] == rest


async def test_each_token_of_one_poll_resumes_behind_its_change(l3: MemoryStorage, flows: Flows) -> None:
    """Where a transaction that was open meanwhile commits later, with lower numbers, it is told too, once."""
    bots = flows.store.bots
    early = l3.begin()
    await early.put(Key("bot", "early"), b"{}")
    watch = bots.watch()
    await bots.put_many({f"b{number}": Bot() for number in range(4)})
    changes = await following(watch, 4)
    await early.commit()
    assert [each.id for each in await following(watch, 1)] == ["early"]
    for number, change in enumerate(changes):
        resumed = bots.watch(after=change.token)
        rest = [f"b{each}" for each in range(number + 1, 4)] + ["early"]
        found = [each.id for each in await following(resumed, len(rest))]
        assert found == rest
        assert await nothing_more(flows, resumed)


async def test_a_token_of_a_server_that_was_ahead(l3: MemoryStorage) -> None:
    """What another server's watch was told is not told again by one whose feed had not heard of it yet."""
    async with connect_flows(l3=l3) as ahead:
        feed = MemoryFeed(l3)
        async with connect_flows(l3=l3, feed=feed) as behind:
            watch = ahead.store.bots.watch()
            feed.hold()
            await l3.raw_put(KEY, b"{}")
            (change,) = await following(watch, 1)
            resumed = behind.store.bots.watch(after=change.token)
            waiting = asyncio.ensure_future(anext(resumed))
            await settle()
            feed.release()
            await l3.raw_put(KEY, b'{"name": "x"}')
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert (await waiting).document == Bot(name="x")


async def test_the_token_of_an_idle_watch_stays_young(l3: MemoryStorage, flows: Flows, bots: Collection[Bot]) -> None:
    """It stands where the feed is, or before the first change that waits; so the outbox may forget what came before."""
    watch = bots.watch("b1")
    for number in range(10):
        await bots.put("b2", Bot(name=str(number)))
        await flows.feed.refresh()
        l3.tidy()
    token = watch.token
    await bots.put("b1", Bot(name="x"))
    await flows.feed.refresh()
    for each in (token, watch.token):
        assert [change.operation for change in await following(bots.watch("b1", after=each), 1)] == [INSERT]
    assert [change.operation for change in await following(watch, 1)] == [INSERT]


async def test_a_token_that_cannot_be_resumed_begins_with_a_reset(flows: Flows, l3: MemoryStorage) -> None:
    """It is too old; what is committed from then on follows, and L3 stays what it is."""
    bots = flows.store.bots
    old = bots.watch().token
    for number in range(10):
        await bots.put("b1", Bot(name=str(number)))
        l3.tidy()
    incarnation = l3.coherence().incarnation
    resumed = bots.watch(after=old)
    (reset,) = await following(resumed, 1)
    change = await bots.put("b2", Bot())
    assert (reset.id, reset.operation, reset.version, reset.document) == (None, RESET, 0, None)
    assert "older than the outbox" in reset.reason
    assert [each.version for each in await following(resumed, 1)] == [change.version]
    assert l3.coherence().incarnation == incarnation


@pytest.mark.parametrize("happens", ["crash", "restart"])
async def test_when_l3_was_started_anew_watchers_are_told(l3: MemoryStorage, happens: str) -> None:
    """One that is open, and one that comes back, get one reset each and then what comes."""
    clock = ManualClock()
    async with connect_flows(l3=l3, clock=clock) as flows:
        bots = flows.store.bots
        watch = bots.watch("b1")
        await bots.put("b1", Bot(name="x"))
        (change,) = await following(watch, 1)
        clock.advance(0.1)
        getattr(l3, happens)()
        assert [each.operation for each in await following(watch, 1)] == [RESET]
        resumed = bots.watch("b1", after=change.token)
        assert [each.operation for each in await following(resumed, 1)] == [RESET]
        await bots.put("b1", Bot(name="y"))
        for each in (watch, resumed):
            assert [found.document for found in await following(each, 1)] == [Bot(name="y")]


async def test_a_watch_that_comes_back_waits_for_l3(l3: MemoryStorage, flows: Flows, bots: Collection[Bot]) -> None:
    """While it is away, and then all is told."""
    token = bots.watch().token
    await l3.raw_put(KEY, b"{}")
    l3.away = True
    waiting = asyncio.ensure_future(anext(bots.watch(after=token)))
    await settle()
    l3.away = False
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await waiting).id == "b1"


# Those that are too slow.


async def overwhelmed(l3: MemoryStorage, flows: Flows) -> tuple[Watch[Bot], int]:
    """A watch that was told more than it may leave waiting, and the version of the last change."""
    flows.watching.waiting_max = 10
    watch = flows.store.bots.watch()
    version = 0
    for number in range(20):
        version = await l3.raw_put(KEY, b'{"name": "%d"}' % number)
        assert await flows.feed.refresh()
    return watch, version


async def test_one_that_is_too_slow_is_told_so(l3: MemoryStorage, flows: Flows) -> None:
    """One reset for all that it was not given, and then what comes."""
    watch, _ = await overwhelmed(l3, flows)
    waiting = len(watch._line._live)
    reset, *behind = await following(watch, waiting)
    assert (reset.operation, "too slow" in reset.reason) == (RESET, True)
    assert {change.operation for change in behind} <= {UPDATE}
    newest = await l3.raw_put(KEY, b"{}")
    assert [change.version for change in await following(watch, 1)] == [newest]
    assert await nothing_more(flows, watch)


async def test_a_token_before_the_reset_brings_what_was_left_out(l3: MemoryStorage, flows: Flows) -> None:
    """A reset that waits is not passed over by the token of its watch."""
    watch, _ = await overwhelmed(l3, flows)
    resumed = flows.store.bots.watch(after=watch.token)
    assert len(await following(resumed, 20)) == 20


async def test_one_poll_is_never_too_much(flows: Flows, bots: Collection[Bot]) -> None:
    """However many changes it brought, a watcher that waits for nothing else is given them all."""
    flows.watching.waiting_max = 10
    watch, slow = bots.watch(), bots.watch()
    for _ in range(3):
        await bots.put_many({f"b{number}": Bot() for number in range(100)})
        assert {change.id for change in await following(watch, 100)} == {f"b{number}" for number in range(100)}
    await bots.put("b1", Bot())
    await flows.feed.refresh()
    assert [change.operation for change in await following(slow, 1)] == [RESET]


def drops_silently(patch: pytest.MonkeyPatch) -> None:
    """Mutant: what is too much is left out without a word."""
    patch.setattr(Line, "reset", lambda self, reason, cursor: self._clear())


def queues_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Mutant: nothing is ever too much."""
    healthy = Line.put

    def put(self: Line, batch: Any) -> None:
        self._behind = 0
        healthy(self, batch)

    patch.setattr(Line, "put", put)


@pytest.mark.parametrize("mutation", [drops_silently, queues_for_ever])
async def test_a_queue_without_its_bound_is_caught(
    l3: MemoryStorage, flows: Flows, monkeypatch: pytest.MonkeyPatch, mutation: Mutation
) -> None:
    """The test of the slow one fails."""
    mutation(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError)):
        async with asyncio.timeout(1):
            await test_one_that_is_too_slow_is_told_so(l3, flows)


def resets_nobody(patch: pytest.MonkeyPatch) -> None:
    """Mutant: a feed that could not be continued is no affair of watchers."""
    healthy = Watchers.tell

    def tell(self: Watchers, before: Cursor | None, poll: Any) -> None:
        healthy(self, None if poll.doubt(before) else before, poll)

    patch.setattr(Watchers, "tell", tell)


async def test_watchers_that_are_not_reset_are_caught(l3: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of a crash fails."""
    resets_nobody(monkeypatch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await test_when_l3_was_started_anew_watchers_are_told(l3, "crash")
