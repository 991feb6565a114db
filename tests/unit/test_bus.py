"""The event bus over a transport in memory: who gets what, in which order, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fix_events import Notes, Stage, finish, until, until_letters, wake
from fix_loop import settle
from holdfast.errors import Closed, InvalidEvent, InvalidTopic, Overloaded, TierUnavailable, WrongEventLoop
from holdfast.events import Delivery, Event, Priority
from holdfast.invalidation.bus import EventBus
from holdfast.invalidation.event_queue import EventQueue
from holdfast.invalidation.event_reader import ROOM
from holdfast.invalidation.subscription import CLAIMABLE_SECONDS, Subscription
from holdfast.testing import EventHub, ManualClock, MemoryCache, MemoryStorage, connect
from holdfast.testing.memory_events import CLAIM_SECONDS
from holdfast.tiers import l2_events

RELIABLE = Delivery.RELIABLE


async def test_a_broadcast_reaches_every_server() -> None:
    """Reliable or not; the one that published it too."""
    stage = Stage()
    async with stage.server() as a, stage.server() as b:
        notes = [Notes(), Notes()]
        for bus, each in zip((a, b), notes, strict=True):
            await bus.subscribe("x/*", each).ready()
        await a.publish("x/1", "live")
        await a.publish("x/1", "kept", delivery=RELIABLE)
        await a.publish("y/1", "other", delivery=RELIABLE)
        for each in notes:
            await each.until(2)
            assert sorted(each.data) == ["kept", "live"]


async def test_of_a_group_one_server_handles_each_event() -> None:
    """Reliable or not; groups of another name, or pattern, are others."""
    stage = Stage()
    async with stage.server() as a, stage.server() as b:
        notes, other, wider = [Notes(), Notes()], Notes(), Notes()
        for bus, each in zip((a, b), notes, strict=True):
            await bus.subscribe("x/*", each, group="workers").ready()
        await b.subscribe("x/*", other, group="others").ready()
        await b.subscribe("x/**", wider, group="workers").ready()
        for number in range(40):
            await a.publish("x/1", number, delivery=RELIABLE if number % 2 else Delivery.FIRE_AND_FORGET)
        await other.until(40)
        await wider.until(40)

        async def handled() -> bool:
            wake(a)
            wake(b)
            return sum(len(each.events) for each in notes) >= 40

        await until(handled)
        await settle()
        assert sorted(notes[0].data + notes[1].data) == list(range(40))


async def test_a_group_shares_its_partitions_out() -> None:
    """A second member gets half of them, and what the first leaves comes to the second."""
    stage = Stage()
    async with stage.server() as a:
        first = a.subscribe("**", Notes(), group="g")
        await first.ready()
        assert owned(a, first) == 4
        async with stage.server() as b:
            second = b.subscribe("**", Notes(), group="g")

            async def shared() -> bool:
                wake(a)
                wake(b)
                return (owned(a, first), owned(b, second)) == (2, 2)

            await until(shared)

        async def back() -> bool:
            wake(a)
            return owned(a, first) == 4

        await until(back)


async def test_a_groups_position_outlives_its_members() -> None:
    """What is published while there is none waits for the next."""
    stage, notes = Stage(), Notes()
    async with stage.server() as a:
        async with stage.server() as b:
            await b.subscribe("**", notes, group="g").ready()
        await a.publish("x", 1, delivery=RELIABLE)
        async with stage.server() as b:
            b.subscribe("**", notes, group="g")
            await notes.until(1)
    assert notes.events[0].metadata.duplicate is False


async def test_events_of_a_key_keep_their_order_over_failures() -> None:
    """While one waits to be tried again, those behind it of its key wait too, and others go on."""
    stage, seen = Stage(attempts_max=3), list[tuple[str, int, int]]()

    async def handler(event: Event) -> None:
        name, number = event.data
        seen.append((name, number, event.metadata.attempt))
        if (name, number) == ("a", 0) and event.metadata.attempt < 3:
            raise ValueError("not yet")

    async with stage.server() as bus:
        await bus.subscribe("**", handler).ready()
        for number in range(3):
            for name in ("a", "b"):
                await bus.publish("x", [name, number], delivery=RELIABLE, key=name)

        async def others() -> bool:
            return len([each for each in seen if each[0] == "b"]) == 3 and len(seen) > 3

        await until(others)
        assert [each for each in seen if each[0] == "a"] == [("a", 0, 1)]
        await finish(stage, lambda: len(seen) == 8)
        assert [each for each in seen if each[0] == "a"] == [
            ("a", 0, 1),
            ("a", 0, 2),
            ("a", 0, 3),
            ("a", 1, 1),
            ("a", 2, 1),
        ]


async def test_the_order_of_a_key_is_lost_without_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a queue in which a failed event holds up nobody."""

    def hold(queue: EventQueue, item: Any) -> None:
        queue._held[item] = type(queue._kept[0])([item])

    def release(queue: EventQueue, item: Any) -> None:
        queue._kept[item.rank].extendleft(queue._held.pop(item))

    monkeypatch.setattr(EventQueue, "hold", hold)
    monkeypatch.setattr(EventQueue, "release", release)
    with pytest.raises(AssertionError):
        await test_events_of_a_key_keep_their_order_over_failures()


async def test_a_dead_letter_can_be_replayed() -> None:
    """It comes to the group that gave it up, flagged, and to no other."""
    stage, notes, other = Stage(attempts_max=1), Notes(), Notes()
    notes.failures = 1
    async with stage.server() as bus:
        await bus.subscribe("**", notes, group="g").ready()
        await bus.subscribe("**", other, group="h").ready()
        event = await bus.publish("x", 7, delivery=RELIABLE)
        await until_letters(stage, 1)
        (letter,) = await bus.dead_letters.list()
        assert (letter.event, letter.subscription, letter.reason) == (event, "g:**", "ValueError: no 7")
        assert await bus.dead_letters.replay(letter.id)
        assert await bus.dead_letters.list() == []
        await notes.until(2)
        assert notes.events[1].metadata.duplicate is True
        assert notes.events[1].id == event.id
        assert other.data == [7]
        for name in ("nonsense", "0-1", "4-1-0", f"0-{2**64}-0", f"0-0-{2**64}", f"0-{'1' * 21}-0", "0-1-٣"):
            with pytest.raises(InvalidEvent):
                await bus.dead_letters.replay(name)


async def test_what_is_done_to_a_dead_letter_is_recorded_first() -> None:
    """What could not be recorded, since L3 is away, is not done."""
    stage, notes = Stage(attempts_max=1), Notes()
    notes.failures = 2
    async with stage.server() as bus:
        await bus.subscribe("**", notes, group="g").ready()
        for number in range(2):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await until_letters(stage, 2)
        one, two = await bus.dead_letters.list()
        stage.l3.away = True
        for act in (bus.dead_letters.replay, bus.dead_letters.discard):
            with pytest.raises(TierUnavailable):
                await act(one.id)
        assert len(await bus.dead_letters.list()) == 2
        stage.l3.away = False
        await bus.dead_letters.replay(one.id, actor="ada", reason="it is wanted")
        await bus.dead_letters.discard(two.id)
        found = [entry.note for entry in stage.l3.log.marks.audit]
        assert [(each.action, each.subject, each.actor, each.reason) for each in found] == [
            ("replayed", f"dead_letter:{one.id}", "ada", "it is wanted"),
            ("discarded", f"dead_letter:{two.id}", "s1", "by hand"),
        ]


async def test_urgent_events_overtake_a_backlog() -> None:
    """More than is read ahead of the less urgent waits, and still the critical one is handled next."""
    stage, notes = Stage(), Notes()
    notes.gate.clear()
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()
        for number in range(3 * ROOM):
            await bus.publish("x", number, delivery=RELIABLE, priority=Priority.LOW, key="k")
        await notes.until(1)
        await bus.publish("x", "urgent", delivery=RELIABLE, priority=Priority.CRITICAL, key="k")

        async def read() -> bool:
            return bool(bus.subscriptions[0]._queue._kept[0])

        await until(read)
        notes.gate.set()
        await notes.until(3 * ROOM + 1)
        assert notes.data[1] == "urgent"
        assert [each for each in notes.data if each != "urgent"] == list(range(3 * ROOM))


async def test_a_full_queue_drops_and_counts() -> None:
    """Events without promise, the oldest of the least urgent; reliable ones wait where they are."""
    stage, notes = Stage(queue_max=3), Notes()
    notes.gate.clear()
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes)
        await subscription.ready()
        await bus.publish("x", "first")
        await notes.until(1)
        await bus.publish("x", "kept", delivery=RELIABLE)
        for number in range(10):
            await bus.publish("x", number, priority=Priority.HIGH if number == 0 else Priority.MEDIUM)
        assert subscription.counters.dropped == 7
        notes.gate.set()
        await notes.until(5)
        await settle()
        assert sorted(map(str, notes.data)) == ["0", "8", "9", "first", "kept"]


async def test_a_full_backlog_refuses_to_publish() -> None:
    """Until something was handled."""
    stage, notes = Stage(), Notes()
    stage.hub.backlog_max = 5
    notes.gate.clear()
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()
        for number in range(5):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        with pytest.raises(Overloaded):
            await bus.publish("x", 5, delivery=RELIABLE, key="k")
        notes.gate.set()
        await notes.until(5)

        async def taken() -> bool:
            try:
                await bus.publish("x", 6, delivery=RELIABLE, key="k")
            except Overloaded:
                return False
            return True

        await until(taken)
        await notes.until(6)
        assert notes.data == [0, 1, 2, 3, 4, 6]


async def test_refusals() -> None:
    """Before anything is sent."""
    stage = Stage()
    async with stage.server() as bus:
        with pytest.raises(InvalidTopic):
            await bus.publish("x/*", 1)
        with pytest.raises(InvalidTopic):
            bus.subscribe("x/**/y", print)
        with pytest.raises(InvalidTopic):
            bus.subscribe("x", print, group="a:b")
        with pytest.raises(InvalidTopic, match="without a group"):
            bus.subscribe("state/reset", print, group="g")
        with pytest.raises(InvalidEvent, match="handler"):
            bus.subscribe("x", 5)  # type: ignore[arg-type]
        assert bus.subscriptions == []
        for topic in ("state/reset", "state/updated", "cache/inconsistent"):
            with pytest.raises(InvalidTopic, match="store itself"):
                await bus.publish(topic, {"reason": "a joke"})
        for name in ("delivery", "priority"):
            for value in list[Any](("bad", None, [])):
                given: dict[str, Any] = {name: value}
                with pytest.raises(InvalidEvent, match=name):
                    await bus.publish("x", 1, **given)
        with pytest.raises(InvalidEvent):
            await bus.publish("x", object())
        with pytest.raises(InvalidEvent, match="key"):
            await bus.publish("x", 1, key="")
    with pytest.raises(Closed):
        await bus.publish("x", 1)
    with pytest.raises(Closed):
        bus.subscribe("x", print)


async def test_the_door_in_memory_offers_events() -> None:
    """Two servers of a test share a hub as they share the tiers."""
    clock, l3 = ManualClock(), MemoryStorage()
    hub, l2, notes = EventHub(clock), MemoryCache(clock), Notes()
    async with connect(l2=l2, l3=l3, events=hub) as a, connect(l2=l2, l3=l3, events=hub) as b:
        await b.subscribe("x", notes).ready()
        await a.publish("x", 1)
        await a.publish("x", 2, delivery=RELIABLE)
        await notes.until(2)
    with pytest.raises(Closed):
        await a.publish("x", 3)


def owned(bus: EventBus, subscription: Subscription) -> int:
    """How many partitions a server works for a subscription."""
    return len(bus._readers[subscription].owned)


async def test_a_groups_member_far_behind_handles_nothing_twice() -> None:
    """What waited longer than it is known who claimed it is dropped, and counted."""
    stage, behind, other = Stage(), Notes(), Notes()
    behind.gate.clear()
    async with stage.server() as a, stage.server() as b:
        subscription = a.subscribe("x", behind, group="g")
        await a.publish("x", "holds it up")
        await behind.until(1)
        b.subscribe("x", other, group="g")
        await a.publish("x", "once")
        await other.until(1)
        stage.clock.advance(CLAIM_SECONDS + 1)
        behind.gate.set()
        await finish(stage, lambda: len(subscription) == 0, step=0.0)
        await settle()
        assert (behind.data, other.data) == (["holds it up"], ["once"])
        assert subscription.counters.dropped == 1


async def test_a_groups_member_far_behind_handles_twice_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: it claims whatever it has."""
    monkeypatch.setattr("holdfast.invalidation.subscription.CLAIMABLE_SECONDS", float("inf"))
    with pytest.raises(AssertionError):
        await test_a_groups_member_far_behind_handles_nothing_twice()


def test_a_claim_is_known_for_longer_than_events_are_claimed() -> None:
    """By more than any delay between two servers."""
    assert min(CLAIM_SECONDS, l2_events.CLAIM_SECONDS) > CLAIMABLE_SECONDS + 10


async def test_a_thread_cannot_subscribe_and_leaves_nothing_behind() -> None:
    """Half a subscription would hold up all broadcasts of its server. It can ask the loop to publish."""
    stage, notes, refused = Stage(), Notes(), list[Exception]()
    loop = asyncio.get_running_loop()
    async with stage.server() as bus:

        def handler(_: Event) -> None:
            try:
                bus.subscribe("y", print)
            except WrongEventLoop as fault:
                refused.append(fault)
            asyncio.run_coroutine_threadsafe(bus.publish("y", 1), loop).result(10)

        bus.subscribe("y", notes)
        await bus.subscribe("x", handler).ready()
        await bus.publish("x", 1)
        await notes.until(1)
        assert len(refused) == 1
        assert [each.pattern.text for each in bus.subscriptions] == ["y", "x"]
        with pytest.raises(WrongEventLoop):
            await asyncio.to_thread(asyncio.run, bus.publish("y", 2))
