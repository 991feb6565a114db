"""The relay: what changed reaches every node of L2, whichever of them, of the servers or of the answers is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fix_loop import settle
from fix_races import until, until_l2_is_trusted
from holdfast.documents import Bot
from holdfast.entry import Tier
from holdfast.errors import TierUnavailable
from holdfast.flows import Flows
from holdfast.invalidation.relay import IDLE_SECONDS, MARK_SECONDS, NODE_SCOPE, SILENT_SECONDS, Relay
from holdfast.keys import Key, redis_key
from holdfast.protocols import FenceTarget, Watermark
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.tiers.l2_topology import Node, Topology, slot_of

KEYS = [Key("bot", f"b{number}") for number in range(12)]
A, B, *_ = KEYS


class Line:
    """`FenceSink` around L2 in memory.

    Attributes:
        sent: each advance: the node's name and what was fenced.
        faults: raised by the next advances, after they took effect, one each.
        held_up: while set, advances stop before they take effect.
    """

    def __init__(self, inner: MemoryCache) -> None:
        self.sent: list[tuple[str, dict[Key, int]]] = []
        self.faults: list[BaseException] = []
        self.held_up: asyncio.Event | None = None
        self._inner = inner

    async def targets(self) -> Sequence[FenceTarget]:
        """The nodes."""
        return await self._inner.targets()

    async def watermark(self, target: FenceTarget) -> Watermark | None:
        """A node's watermark."""
        return await self._inner.watermark(target)

    async def advance(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        """Fence and move."""
        self.sent.append((target.name, dict(versions)))
        if self.held_up is not None:
            await self.held_up.wait()
        moved = await self._inner.advance(target, before, after, versions)
        if self.faults:
            raise self.faults.pop(0)
        return moved


class Bench:
    """A relay of a server, over L2 of three nodes, with its rounds made by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.l3 = MemoryStorage()
        self.l2 = MemoryCache(self.clock, nodes=3)
        self.line = Line(self.l2)
        self.feed = MemoryFeed(self.l3)
        self.relay = Relay(self.feed, self.line, clock=self.clock)

    async def round(self) -> None:
        """One round; nodes that were left alone are tried again."""
        self.clock.advance(SILENT_SECONDS)
        self.line.sent.clear()
        await self.relay._round()

    async def put(self, *keys: Key) -> dict[Key, int]:
        """Write rows, with whatever tool."""
        return {key: await self.l3.raw_put(key, b"{}") for key in keys}

    def owner(self, key: Key) -> str:
        """The name of the node that serves a key."""
        return self.l2._node(key).name

    def fence(self, key: Key) -> int | None:
        """The version of a key's fence; None: there is none."""
        held = self.l2._live(key)
        return None if held is None or held.entry.row is not None else held.entry.version

    def marks(self) -> dict[str, Watermark | None]:
        """The nodes' watermarks."""
        return {name: contents.mark for name, contents in self.l2.dump().items()}


async def begun() -> Bench:
    """A relay that leads, over nodes that have begun."""
    bench = Bench()
    await bench.round()
    assert bench.relay.leading
    assert None not in bench.marks().values()
    return bench


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
    generation = bench.l3.coherence().generations[NODE_SCOPE]
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


async def test_a_node_that_is_away_is_told_when_it_is_back(bench: Bench) -> None:
    """It goes on from its own watermark, and with it come all the changes it missed, each once at its highest."""
    away = bench.owner(A)
    bench.l2.silent = {away}
    first = await bench.put(A, B)
    await bench.round()
    last = await bench.put(A)
    await bench.round()
    assert isinstance(bench.relay.fault, TierUnavailable)
    bench.l2.silent = set()
    await bench.round()
    assert (away, first | last) in bench.line.sent
    assert bench.fence(A) == last[A]
    assert bench.relay.restarts == 3
    assert bench.relay.fault is None


async def test_a_node_that_stays_away_does_not_hold_up_the_others(bench: Bench) -> None:
    """However long: they are told in the same round, and are not told again what it missed."""
    bench.l2.silent = {bench.owner(A)}
    for _ in range(5):
        versions = await bench.put(*KEYS)
        await bench.round()
        there = {key: version for key, version in versions.items() if bench.owner(key) not in bench.l2.silent}
        assert {key: bench.fence(key) for key in there} == there
        assert all(fenced == versions for name, fenced in bench.line.sent if name not in bench.l2.silent)


async def test_a_node_that_failed_is_left_alone_for_a_while(bench: Bench) -> None:
    """Rounds within a second do not wait for it again."""
    away = bench.owner(A)
    bench.l2.silent = {away}
    await bench.put(A)
    await bench.round()
    await bench.put(A)
    bench.line.sent.clear()
    await bench.relay._round()
    assert away not in dict(bench.line.sent)
    assert len(bench.line.sent) == 2


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


async def test_a_node_that_lost_everything_begins_anew_alone(bench: Bench) -> None:
    """The others go on where they were."""
    lost = bench.owner(A)
    await bench.put(A)
    await bench.round()
    bench.l2.forget(lost)
    before = bench.marks()
    await bench.put(A)
    await bench.round()
    await bench.round()
    after = bench.marks()
    generations = {name: mark.generation for name, mark in after.items() if mark is not None}
    assert bench.relay.restarts == 4
    assert all(before[name] is None or before[name].generation == generations[name] for name in generations)  # type: ignore[union-attr]
    assert max(generations, key=lambda name: generations[name]) == lost


async def test_a_node_that_lost_everything_is_found_out_though_nothing_changes(bench: Bench) -> None:
    """Within the time a watermark may be old: otherwise L2 would be of no use until somebody writes."""
    await bench.round()
    bench.l2.forget()
    bench.clock.advance(MARK_SECONDS)
    await bench.round()
    await bench.round()
    assert None not in bench.marks().values()
    assert bench.relay.restarts == 6


async def test_a_node_that_went_back_is_told_again_what_it_lost(bench: Bench) -> None:
    """A replica that was behind, or an old dump, shows itself by its watermark."""
    old = bench.l2.dump()
    versions = await bench.put(A)
    await bench.round()
    bench.l2.restore(old, bench.owner(A))
    assert bench.fence(A) is None
    await bench.put(B)
    await bench.round()
    await bench.round()
    assert bench.fence(A) == versions[A]
    assert bench.relay.restarts == 3


async def test_a_whole_kind_raises_its_generation_before_watermarks_move(bench: Bench) -> None:
    """The watermark that sees the TRUNCATE tells readers that there is a generation they must know first."""
    await bench.put(A)
    await bench.l3.truncate("bot")
    await bench.round()
    raised = bench.l3.coherence().floor("bot")
    assert raised > 0
    assert {mark.known_generation for mark in bench.marks().values() if mark is not None} == {raised}


def give(bench: Bench, key: Key) -> tuple[Node, Node]:
    """Move a key's slot, with all that is in it, to the next node; returns the giver and the receiver."""
    giver, slot = bench.l2._node(key), slot_of(redis_key(b"", key))
    others = [node for node in bench.l2._topology.nodes if node != giver]
    left = tuple(
        part
        for first, last in giver.slots
        for part in ((first, min(slot - 1, last)), (max(slot + 1, first), last))
        if part[0] <= part[1]
    )
    poorer = Node(giver.name, left)
    richer = Node(others[0].name, tuple(sorted([*others[0].slots, (slot, slot)])))
    bench.l2._topology = Topology([poorer, richer, others[1]])
    held = bench.l2._contents
    for each in [each for each in held[giver.name].held if slot_of(redis_key(b"", each)) == slot]:
        held[richer.name].held[each] = held[giver.name].held.pop(each)
    return poorer, richer


@pytest.mark.parametrize("owner_is", ["up to date", "behind", "away", "of the past"])
async def test_a_node_that_was_given_slots_begins_anew(bench: Bench, owner_is: str) -> None:
    """Nobody can tell for sure what the former owner was told last, so nothing counts that came with the slots."""
    old = bench.l2.dump()
    if owner_is in {"behind", "away"}:
        bench.l2.silent = {bench.owner(A)}
    await bench.put(A)
    await bench.round()
    if owner_is == "of the past":
        bench.l2.restore(old, bench.owner(A))
    if owner_is != "away":
        bench.l2.silent = set()
    _, receiver = give(bench, A)
    before = bench.marks()[receiver.name]
    await bench.round()
    after = bench.marks()[receiver.name]
    assert before is not None
    assert after is not None
    assert after.slots == receiver.slots
    assert after.generation > before.generation
    assert bench.relay.restarts == 4


async def test_a_node_that_lost_slots_goes_on(bench: Bench) -> None:
    """It was told all of what it still serves: its watermark is moved, and nothing is told again."""
    await bench.put(A)
    await bench.round()
    giver, _ = give(bench, A)
    before = bench.marks()[giver.name]
    await bench.round()
    after = bench.marks()[giver.name]
    assert (giver.name, {}) in bench.line.sent
    assert before is not None
    assert after is not None
    assert after.slots == giver.slots
    assert after.generation == before.generation


async def test_before_the_fence_arrives_nobody_believes_the_old_value() -> None:
    """While the relay is held up, servers go by what the feed, or their own write, told them of the key."""
    l3, l2 = MemoryStorage(), MemoryCache(ManualClock())
    line = Line(l2)
    async with (
        connect_flows(l2=l2, l3=l3, relay=(MemoryFeed(l3), line)) as writer,
        connect_flows(l2=l2, l3=l3, relay=(MemoryFeed(l3), line)) as reader,
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
    l3, l2 = MemoryStorage(), MemoryCache(ManualClock())
    line, feed = Line(l2), MemoryFeed(l3)
    async with connect_flows(l2=l2, l3=l3, feed=feed, relay=(MemoryFeed(l3), line)) as flows:
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


async def test_the_loop_outlives_a_fault_and_shows_it(bench: Bench) -> None:
    """A tier that breaks its contract stops nothing: the fault reaches the loop's exception handler, the fence L2."""
    shown: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
    fault = RuntimeError("a bug")
    bench.line.faults = [fault]
    versions = await bench.put(A)

    async def told() -> bool:
        bench.relay.wake()
        return bench.relay.fault is None and bool(shown)

    bench.relay.start()
    await until(told)
    await bench.relay.stop()
    assert [context["exception"] for context in shown] == [fault]
    assert bench.fence(A) == versions[A]


async def test_a_change_wakes_the_loop(bench: Bench) -> None:
    """It does not wait for its next turn; one that stands by is not woken."""
    other = Relay(MemoryFeed(bench.l3), bench.line, clock=bench.clock)
    other.wake()
    assert not other._wake.is_set()
    bench.relay.start()
    versions = await bench.put(A)
    bench.relay.wake()

    async def told() -> bool:
        return bench.fence(A) == versions[A]

    began = asyncio.get_running_loop().time()
    await until(told)
    assert asyncio.get_running_loop().time() - began < IDLE_SECONDS
    await bench.relay.stop()


async def test_stopping_ends_it_and_lets_another_lead(bench: Bench) -> None:
    """Nothing runs afterwards; stopping twice, or what never ran, is harmless."""
    bench.relay.start()
    bench.relay.start()
    assert len(asyncio.all_tasks()) == 2
    await bench.relay.stop()
    await bench.relay.stop()
    assert len(asyncio.all_tasks()) == 1
    assert not bench.relay.leading
    other = Relay(MemoryFeed(bench.l3), bench.line, clock=bench.clock)
    await other._round()
    assert other.leading
    await other.stop()


async def test_stopping_in_the_middle_of_an_advance_ends_it(bench: Bench) -> None:
    """A node that does not answer cannot hold up the end of a server."""
    await bench.put(A)
    bench.line.held_up = asyncio.Event()
    bench.line.sent.clear()
    bench.relay.start()

    async def under_way() -> bool:
        return bool(bench.line.sent)

    await until(under_way)
    async with asyncio.timeout(10):
        await bench.relay.stop()
    assert len(asyncio.all_tasks()) == 1


def test_a_relay_is_made_without_a_loop() -> None:
    """The constructor starts nothing."""
    l3, clock = MemoryStorage(), ManualClock()
    relay = Relay(MemoryFeed(l3), MemoryCache(clock), clock=clock)
    assert (relay.leading, relay.fenced, l3.leader) == (False, 0, None)
