"""Reads while the lease holds, when it has run out, and while L3 is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from fix_loop import settle
from fix_races import until
from holdfast import Bot, Consistency, StaleUnavailable, Swarm, Tier, TierUnavailable, reading
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Loaded
from holdfast.testing import ManualClock, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.pauses import PausingStorage

ADA, EVE = Bot(name="Ada"), Bot(name="Eve")
PAST_THE_BOUND = 0.3


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def source(l3: MemoryStorage) -> MemoryFeed:
    return MemoryFeed(l3)


@pytest.fixture
async def flows(l3: MemoryStorage, clock: ManualClock, source: MemoryFeed) -> AsyncIterator[Flows]:
    async with connect_flows(l3=l3, feed=source, clock=clock) as opened:
        await opened.store.bots.put("b1", ADA)
        yield opened


async def test_past_the_bound_peek_does_not_answer(flows: Flows, source: MemoryFeed, clock: ManualClock) -> None:
    """What was last known to be current longer ago than the bound is not given away without a look."""
    source.fail = True
    assert flows.store.bots.peek("b1") == ADA
    clock.advance(PAST_THE_BOUND)
    assert flows.store.bots.peek("b1") is None


async def test_one_poll_brings_the_cache_back(flows: Flows, l3: MemoryStorage, clock: ManualClock) -> None:
    """All readers wait for one poll; nothing is asked of L3 for what did not change (R3)."""
    loads = len(l3.loads)
    clock.advance(PAST_THE_BOUND)
    assert await asyncio.gather(*(flows.store.bots.get("b1") for _ in range(50))) == [ADA] * 50
    assert len(l3.loads) == loads


async def test_the_poll_brings_what_changed(flows: Flows, l3: MemoryStorage, clock: ManualClock) -> None:
    """A change by another tool, of which nobody gave a hint, is seen by the first read past the bound."""
    await l3.raw_put(Key("bot", "b1"), b'{"name":"Eve"}')
    clock.advance(PAST_THE_BOUND)
    assert await flows.store.bots.get("b1") == EVE


async def test_without_the_feed_each_key_is_asked_of_l3(
    flows: Flows, l3: MemoryStorage, source: MemoryFeed, clock: ManualClock
) -> None:
    """No answer is older than the bound though no poll succeeds; L2 is not asked either."""
    source.fail = True
    await flows.feed.refresh()
    clock.advance(PAST_THE_BOUND)
    asked = flows.counters.l2.round_trips
    await l3.raw_put(Key("bot", "b1"), b'{"name":"Eve"}')
    assert await flows.store.bots.get("b1") == EVE
    assert await flows.store.bots.get_many(["b1", "b2"]) == {"b1": EVE}
    assert flows.counters.l2.round_trips == asked


async def test_a_held_feed_keeps_a_reader_at_most_for_the_bound(
    flows: Flows, source: MemoryFeed, clock: ManualClock
) -> None:
    """A poll that never comes back must not hold up what L3 can answer."""
    source.hold()
    clock.advance(PAST_THE_BOUND)
    async with asyncio.timeout(5):
        assert await flows.store.bots.get("b1") == ADA
    source.release()


async def test_without_l3_a_read_is_an_error_unless_the_caller_allows_its_age(
    flows: Flows, l3: MemoryStorage, clock: ManualClock
) -> None:
    """`max_stale` says how long ago the value may last have been known to be current; the answer says so (R5)."""
    l3.away = True
    await flows.feed.refresh()
    clock.advance(10.0)
    bots = flows.store.bots
    with pytest.raises(StaleUnavailable, match=r"10 s ago; at most 0 s"):
        await bots.get("b1")
    with pytest.raises(StaleUnavailable, match="at most 9 s"):
        await bots.get("b1", max_stale=9.0)
    with pytest.raises(TierUnavailable):
        await bots.get("b2", max_stale=60.0)
    with pytest.raises(TierUnavailable):
        await bots.get("b1", consistency=Consistency.STRONG, max_stale=60.0)
    assert await bots.get("b1", max_stale=60.0) == ADA
    assert await bots.get_many(["b1"], max_stale=60.0) == {"b1": ADA}
    entry = await bots.entry("b1", max_stale=60.0)
    assert entry is not None
    assert (entry.stale, entry.tier, entry.value) == (True, Tier.L1, ADA)
    l3.away = False
    assert (entry := await bots.entry("b1")) is not None
    assert not entry.stale


async def test_an_untrusted_kind_is_read_from_l3_each_time(l3: MemoryStorage) -> None:
    """A table whose triggers do not work is served uncached; the others are cached as ever."""
    async with connect_flows(l3=l3, untrusted={"bot": "its trigger is disabled"}) as flows:
        await flows.store.bots.put("b1", ADA)
        await flows.store.swarms.put("s1", Swarm(goal="x"))
        loads = len(l3.loads)
        assert await flows.store.bots.get("b1") == ADA
        assert await flows.store.bots.get("b1") == ADA
        assert len(l3.loads) == loads + 2
        assert flows.store.bots.peek("b1") is None
        assert flows.store.swarms.peek("s1") == Swarm(goal="x")
        assert flows.counters.l2.round_trips == 0


@pytest.mark.parametrize("untrusted", [True, False])
async def test_no_reader_joins_a_load_older_than_the_bound(
    l3: MemoryStorage, clock: ManualClock, source: MemoryFeed, *, untrusted: bool
) -> None:
    """While the feed does not speak for a kind, no change detaches its flights; within the bound they are shared."""
    pausing = PausingStorage(l3)
    reasons = {"bot": "its trigger is disabled"} if untrusted else {}
    async with connect_flows(l3=pausing, feed=source, clock=clock, untrusted=reasons) as flows:
        await l3.raw_put(Key("bot", "b1"), b'{"name":"Ada"}')
        source.fail = True
        await flows.feed.refresh()
        clock.advance(PAST_THE_BOUND)
        pause = pausing.pause_next_load()
        first, second = (asyncio.ensure_future(flows.store.bots.get("b1")) for _ in range(2))
        await pause.reached.wait()
        await l3.raw_put(Key("bot", "b1"), b'{"name":"Eve"}')
        clock.advance(PAST_THE_BOUND)
        third = asyncio.ensure_future(flows.store.bots.get("b1"))
        await settle()
        pause.release()
        assert [await each for each in (first, second, third)] == [ADA, ADA, EVE]
        assert len([keys for keys in l3.loads if keys]) == 2


async def test_the_age_of_an_untrusted_kind_is_that_of_its_read(l3: MemoryStorage, clock: ManualClock) -> None:
    """A feed that is well says nothing of it."""
    async with connect_flows(l3=l3, clock=clock, untrusted={"bot": "its trigger is disabled"}) as flows:
        await flows.store.bots.put("b1", ADA)
        clock.advance(100.0)
        assert await flows.feed.refresh()
        l3.away = True
        with pytest.raises(StaleUnavailable, match="100 s ago"):
            await flows.store.bots.get("b1", max_stale=1.0)
        assert await flows.store.bots.get("b1", max_stale=101.0) == ADA


async def test_what_was_read_after_the_feed_fell_silent_is_as_young_as_its_read(
    flows: Flows, l3: MemoryStorage, clock: ManualClock, source: MemoryFeed
) -> None:
    """`max_stale` counts from when the value was last known to be current, however that was known."""
    source.fail = True
    await flows.feed.refresh()
    clock.advance(50.0)
    assert await flows.store.bots.get("b1") == ADA
    clock.advance(1.0)
    l3.away = True
    assert await flows.store.bots.get("b1", max_stale=2.0) == ADA


@pytest.mark.parametrize("many", [False, True])
async def test_an_l3_that_hangs_is_not_waited_for_where_a_stale_answer_will_do(
    l3: MemoryStorage, clock: ManualClock, source: MemoryFeed, monkeypatch: pytest.MonkeyPatch, *, many: bool
) -> None:
    """When the wait ended by itself, the value could be too old even for this caller."""
    monkeypatch.setattr(reading, "PATIENCE_SECONDS", 0.01)
    pausing = PausingStorage(l3)
    async with connect_flows(l3=pausing, feed=source, clock=clock) as flows:
        bots = flows.store.bots
        await bots.put("b1", ADA)
        source.fail = True
        await flows.feed.refresh()
        clock.advance(10.0)
        pause = pausing.pause_next_load()
        async with asyncio.timeout(5):
            if many:
                assert await bots.get_many(["b1"], max_stale=60.0) == {"b1": ADA}
            else:
                assert await bots.get("b1", max_stale=60.0) == ADA
        for max_stale in (5.0, 10.05):
            waiting = asyncio.ensure_future(bots.get("b1", max_stale=max_stale))
            await settle()
            assert not waiting.done(), "what is too old, or nearly, is no reason to hurry"
            waiting.cancel()
        late = asyncio.ensure_future(bots.get("b1", max_stale=60.0))
        await settle()
        clock.advance(100.0)
        assert await late == ADA, "its age was judged when the call came"
        pause.release()


async def test_a_strong_read_of_what_l1_has_moves_no_document(flows: Flows, l3: MemoryStorage) -> None:
    """L3 confirms the version; the answer is the very object that L1 holds."""
    held = flows.store.bots.peek("b1")
    assert await flows.store.bots.get("b1", consistency=Consistency.STRONG) is held
    await l3.raw_put(Key("bot", "b1"), b'{"name":"Eve"}')
    assert await flows.store.bots.get("b1", consistency=Consistency.STRONG) == EVE


async def test_versions_of_another_incarnation_are_not_confirmed(flows: Flows, l3: MemoryStorage) -> None:
    """After a crash that lost a commit, its number stands for something else."""
    await flows.store.bots.put("b1", EVE)
    l3.crash(lose=1)
    await l3.raw_put(Key("bot", "b1"), b'{"name":"Ada"}')
    assert await flows.store.bots.get("b1", consistency=Consistency.STRONG) == ADA


async def test_what_is_read_of_a_former_incarnation_is_kept_by_no_cache(
    flows: Flows, l3: MemoryStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection may lead to a primary that was replaced: its answer is one, and nothing more."""
    bots, key = flows.store.bots, Key("bot", "b1")
    past = await l3.load([key])
    l3.crash()
    await l3.raw_put(key, b'{"name":"Eve"}')
    clock.advance(0.01)
    assert await flows.feed.refresh()
    clock.advance(0.01)

    async def of_the_past(*_: object) -> Loaded:
        return past

    with monkeypatch.context() as patch:
        patch.setattr(l3, "load", of_the_past)
        assert await bots.get("b1") == ADA
    clock.advance(0.01)
    assert await flows.feed.refresh()
    assert await bots.get("b1") == EVE


async def test_the_feed_may_go_back_to_an_incarnation(flows: Flows, l3: MemoryStorage, clock: ManualClock) -> None:
    """L3 was switched back to a server that it was on before: what is asked last is right."""
    files = l3.copy()
    former = l3.coherence()
    for begin in (l3.crash, partial(l3.restore, files), l3.crash):
        begin()
        clock.advance(0.01)
        assert await flows.feed.refresh()
        assert flows.applier.incarnation == l3.coherence().incarnation
    assert flows.applier.incarnation != former.incarnation


@pytest.mark.parametrize("many", [False, True])
async def test_who_was_refused_before_a_new_life_of_l3_emptied_l1_asks_it(
    flows: Flows,
    l3: MemoryStorage,
    source: MemoryFeed,
    clock: ManualClock,
    *,
    many: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had been answered from L1 a moment before: it is not to be the one that L3's return costs an error."""
    source.fail = True
    clock.advance(PAST_THE_BOUND)
    healthy, asked = l3.load, asyncio.Event()

    async def refuse_once(*_: object) -> Loaded:
        monkeypatch.setattr(l3, "load", healthy)
        asked.set()
        await settle()
        raise TierUnavailable("L3: it is cut off")

    monkeypatch.setattr(l3, "load", refuse_once)
    bots = flows.store.bots
    read = bots.get_many(["b1"], max_stale=60.0) if many else bots.get("b1", max_stale=60.0)
    reading = asyncio.ensure_future(read)
    await asked.wait()
    flows.caches["bot"].flush()
    assert await reading == ({"b1": ADA} if many else ADA)


async def test_what_was_read_after_the_last_poll_is_doubted_when_l3_was_started_anew(
    flows: Flows, l3: MemoryStorage, source: MemoryFeed, clock: ManualClock
) -> None:
    """All that the feed delivered is in the older files, so it goes on; what was committed after it is not (F1)."""
    bots = flows.store.bots
    assert await flows.feed.refresh()
    files = l3.copy()
    source.fail = True
    clock.advance(0.01)
    await l3.raw_put(Key("bot", "b1"), b'{"name":"Eve"}')
    assert await bots.get("b1", consistency=Consistency.STRONG) == EVE
    l3.restore(files)
    source.fail = False
    await until(flows.feed.refresh)
    assert flows.feed.resets == 0
    assert await bots.get("b1") == ADA


async def test_a_reader_after_a_change_joins_no_load_begun_before_it(
    l3: MemoryStorage, source: MemoryFeed, clock: ManualClock
) -> None:
    """What that one brings may be from before the change (R4)."""
    pausing = PausingStorage(l3)
    async with connect_flows(l3=pausing, feed=source, clock=clock) as flows:
        await l3.raw_put(Key("bot", "b1"), b'{"name":"Ada"}')
        pause = pausing.pause_next_load()
        first = asyncio.ensure_future(flows.store.bots.get("b1"))
        await pause.reached.wait()
        await l3.raw_put(Key("bot", "b1"), b'{"name":"Eve"}')
        assert await flows.feed.refresh()
        second = asyncio.ensure_future(flows.store.bots.get("b1"))
        await settle()
        pause.release()
        assert await first == ADA
        assert await second == EVE
