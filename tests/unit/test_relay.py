"""The relay: what changed reaches every node of L2, whichever of the servers or of the answers is lost."""

from __future__ import annotations

import asyncio

import pytest

from fix_clock import Ticking
from fix_loop import settle
from fix_races import until_l2_is_trusted
from fix_relay import KEYS, A, B, Bench, Line, begun
from holdfast.documents import Bot
from holdfast.entry import Tier
from holdfast.errors import TierUnavailable
from holdfast.flows import Flows
from holdfast.invalidation.relay import Relay
from holdfast.protocols import SHARED_SCOPE, Watermark
from holdfast.testing import MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows


@pytest.fixture
async def bench() -> Bench:
    """A relay that leads, over nodes that have begun."""
    return await begun()


async def test_every_node_is_told_what_changed(bench: Bench) -> None:
    """Each holds the fences of its own keys, and a watermark that sees the changes; what was told is not told again."""
    versions = await bench.put(*KEYS)
    await bench.round()
    assert {key: bench.fence(key) for key in KEYS} == versions
    now = bench.l3.log.snapshot()
    assert all(mark is not None and mark.snapshot.covers(now) for mark in bench.marks().values())
    await bench.round()
    assert [fenced for _, fenced in bench.line.sent] == [{}, {}, {}]


async def test_nodes_begin_with_a_generation_drawn_after_their_snapshot() -> None:
    """So an entry that counts was read after the snapshot."""
    bench = Bench()
    await bench.put(A)
    await bench.round()
    generation = bench.l3.coherence().generations[SHARED_SCOPE]
    for mark in bench.marks().values():
        assert mark is not None
        assert (mark.generation, mark.known_generation) == (generation, generation)
        assert not mark.snapshot.covers(bench.l3.log.snapshot())
    assert bench.relay.restarts == 3
    assert bench.fence(A) is None, "what lies before the beginning needs no fence: no entry of then counts"


async def test_readers_are_woken_to_learn_the_generation() -> None:
    """Until they know it they believe no node; the relay tells them before it writes watermarks."""
    bench, woken = Bench(), []
    reader = MemoryFeed(bench.l3)
    reader.on_hint(lambda: woken.append(len(bench.line.sent)))
    await bench.round()
    await settle()
    assert len(woken) == 1


async def test_a_change_that_comes_while_nodes_are_told_comes_with_the_next_round(bench: Bench) -> None:
    """The watermark says no more than what was fenced: a change after the poll is not taken for told."""
    first = await bench.put(A)
    bench.line.held_up = asyncio.Event()
    rounding = asyncio.get_running_loop().create_task(bench.relay._round())
    await settle()
    second = await bench.put(A)
    arrives, bench.line.held_up = bench.line.held_up, None
    arrives.set()
    await rounding
    assert bench.fence(A) == first[A]
    now = bench.l3.log.snapshot()
    assert not any(mark is not None and mark.snapshot.covers(now) for mark in bench.marks().values())
    await bench.round()
    assert bench.fence(A) == second[A]


async def test_an_advance_whose_answer_was_lost_is_found_done(bench: Bench) -> None:
    """The node is asked where it stands, and nothing is told twice."""
    versions = await bench.put(A)
    bench.line.faults = [TierUnavailable("the answer was lost") for _ in range(3)]
    await bench.round()
    assert bench.fence(A) == versions[A]
    await bench.round()
    assert [fenced for _, fenced in bench.line.sent] == [{}, {}, {}]
    await bench.put(B)
    await bench.round()
    assert {frozenset(fenced) for _, fenced in bench.line.sent} == {frozenset({B})}


async def test_an_advance_that_fails_in_a_way_nobody_foresaw_is_repeated(bench: Bench) -> None:
    """The round ends with it; the next one reads where the nodes stand, and tells what they lack."""
    bench.line.held_up = asyncio.Event()
    versions = await bench.put(*KEYS)
    bench.line.faults = [ZeroDivisionError()]
    bench.line.held_up.set()
    with pytest.raises(ZeroDivisionError):
        await bench.round()
    await settle()
    await bench.round()
    assert {key: bench.fence(key) for key in KEYS} == versions


async def test_a_relay_that_dies_in_the_middle_is_continued_by_a_stand_by(bench: Bench) -> None:
    """Nodes it told and nodes it did not are all told in the end, from where each stands."""
    versions = await bench.put(*KEYS)
    bench.line.held_up = asyncio.Event()
    dying = asyncio.get_running_loop().create_task(bench.relay._round())
    await settle()
    first = (await bench.l2.targets())[0]
    mark = bench.marks()[first.name]
    assert await bench.l2.advance(first, mark, mark_after(mark, bench), {})  # of one node it got through
    dying.cancel()
    await bench.feed.close()
    other = Relay(MemoryFeed(bench.l3), bench.l2, clock=bench.clock)
    await other._round()
    assert other.leading
    told = {key for key in KEYS if bench.owner(key) != first.name}
    assert {key: bench.fence(key) for key in told} == {key: versions[key] for key in told}
    assert other.restarts == 0


def mark_after(mark: Watermark | None, bench: Bench) -> Watermark:
    """A node's watermark, moved up to now."""
    assert mark is not None
    return Watermark(
        mark.incarnation,
        bench.l3.log.snapshot(),
        mark.generation,
        mark.known_generation,
        mark.slots,
        (bench.l3.started,),
    )


async def test_a_stand_by_does_nothing(bench: Bench) -> None:
    """Only one server of all tells L2, until its connection to L3 is gone."""
    feed = MemoryFeed(bench.l3)
    other, line = Relay(feed, bench.line, clock=bench.clock), bench.line
    await bench.put(A)
    line.sent.clear()
    assert not await leads_after_a_round(other)
    assert line.sent == []
    bench.feed.fail = True
    assert await leads_after_a_round(other)
    assert len(line.sent) == 3


async def leads_after_a_round(relay: Relay) -> bool:
    """Whether a relay leads when it has had its turn."""
    await relay._round()
    return relay.leading


async def test_an_old_relay_that_goes_on_does_no_harm(bench: Bench) -> None:
    """One that was stopped and thinks it still leads moves no node that another has told more."""
    stale = bench.relay._marks.copy()
    versions = await bench.put(*KEYS)
    await bench.round()
    before = bench.marks()
    bench.relay._marks = stale
    for target in await bench.l2.targets():
        await bench.relay._advance(target, mark_after(stale[target.name], bench), {})
    assert bench.marks() == before
    await bench.round()
    assert {key: bench.fence(key) for key in KEYS} == versions


@pytest.mark.parametrize("event", ["crash", "restore", "too far behind", "tidied away"])
async def test_a_past_that_cannot_be_continued_is_begun_anew(bench: Bench, event: str) -> None:
    """The nodes get a new generation, higher than all before, of the incarnation that runs now."""
    copy = bench.l3.copy()
    await bench.put(*KEYS)
    await bench.round()
    before = bench.marks()
    if event == "crash":
        bench.l3.crash()
    elif event == "restore":
        bench.l3.restore(copy)
    elif event == "too far behind":
        bench.feed._changes_max = 5
        await bench.put(*KEYS)
    else:
        await bench.put(*KEYS)
        bench.l3.tidy(bench.l3.log.snapshot())
    await bench.round()
    await bench.round()
    assert bench.relay.leading
    for name, mark in bench.marks().items():
        old = before[name]
        assert mark is not None
        assert old is not None
        assert mark.incarnation == bench.l3.coherence().incarnation.bytes
        assert mark.generation > old.generation
    assert bench.relay.restarts == 6


async def test_after_a_restart_of_l3_nodes_begin_anew(bench: Bench) -> None:
    """L2 may hold what was committed and read at the end of the last life and is not in these files."""
    await bench.put(*KEYS)
    await bench.round()
    before = bench.marks()
    bench.l3.restart()
    await bench.round()
    for name, mark in bench.marks().items():
        old = before[name]
        assert mark is not None
        assert old is not None
        assert mark.generation > old.generation


async def test_a_whole_kind_raises_its_generation_before_watermarks_move(bench: Bench) -> None:
    """The watermark that sees the TRUNCATE tells readers that there is a generation they must know first."""
    await bench.put(A)
    await bench.l3.truncate("bot")
    await bench.round()
    raised = bench.l3.coherence().shared_floor("bot")
    assert raised > 0
    assert {mark.known_generation for mark in bench.marks().values() if mark is not None} == {raised}


async def test_before_the_fence_arrives_nobody_believes_the_old_value() -> None:
    """While the relay is held up, servers go by what the feed, or their own write, told them of the key."""
    l3, l2 = MemoryStorage(), MemoryCache(clock := Ticking())
    line = Line(l2)
    async with (
        connect_flows(clock=clock, l2=l2, l3=l3, relay=(MemoryFeed(l3), line)) as writer,
        connect_flows(clock=clock, l2=l2, l3=l3, relay=(MemoryFeed(l3), line)) as reader,
    ):
        servers = (writer, reader)
        await until_l2_is_trusted(*servers)
        await writer.store.bots.put("b1", Bot(name="old"))
        assert [await tier_of(flows) for flows in (*servers, *servers)] == [Tier.L3, Tier.L2, Tier.L2, Tier.L2]
        line.held_up = asyncio.Event()
        await writer.store.bots.put("b1", Bot(name="new"))
        assert await reader.feed.refresh()
        assert await tier_of(reader) is Tier.L3
        await tier_of(writer)  # which the reader may have filled by now
        assert [flows.store.bots.peek("b1") for flows in servers] == [Bot(name="new")] * 2
        line.held_up.set()


async def test_before_the_fence_arrives_the_writer_does_not_believe_the_old_value() -> None:
    """Not even if its own feed says nothing: it knows what it wrote itself."""
    l3, l2 = MemoryStorage(), MemoryCache(clock := Ticking())
    line, feed = Line(l2), MemoryFeed(l3)
    async with connect_flows(clock=clock, l2=l2, l3=l3, feed=feed, relay=(MemoryFeed(l3), line)) as flows:
        await until_l2_is_trusted(flows)
        await flows.store.bots.put("b1", Bot(name="old"))
        assert [await tier_of(flows) for _ in range(2)] == [Tier.L3, Tier.L2]
        line.held_up = asyncio.Event()
        feed.hold()
        await flows.store.bots.put("b1", Bot(name="new"))
        assert await tier_of(flows) is Tier.L3
        assert flows.store.bots.peek("b1") == Bot(name="new")
        feed.release()
        line.held_up.set()


async def tier_of(flows: Flows) -> Tier:
    """Who answers if L1 does not."""
    flows.caches["bot"].flush()
    entry = await flows.store.bots.entry("b1")
    assert entry is not None
    await flows.resolver.drain()
    return entry.tier
