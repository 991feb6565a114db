"""The event bus over a transport in memory: who gets what, when, how often, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from fix_events import Notes, Stage, until
from fix_loop import settle
from holdfast.errors import Closed, InvalidEvent, InvalidTopic, OutcomeUnknown, Overloaded, TierUnavailable
from holdfast.events import Delivery, Event, Priority
from holdfast.invalidation.bus import EventBus
from holdfast.invalidation.event_queue import EventQueue
from holdfast.invalidation.event_reader import ROOM
from holdfast.invalidation.subscription import Subscription
from holdfast.protocols import Append, DeadLetter
from holdfast.testing import EventHub, ManualClock, MemoryCache, MemoryStorage, connect

RELIABLE = Delivery.RELIABLE


async def letters(stage: Stage) -> list[DeadLetter]:
    return [letter for partition in stage.hub.contents for letter in partition.letters.values()]


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
            return len([each for each in seen if each[0] == "b"]) == 3

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


async def test_a_handler_that_keeps_failing_leads_to_a_dead_letter() -> None:
    """After so many attempts, with the reason; pauses between them are doubled; others are not concerned."""
    stage, notes, other = Stage(attempts_max=4, backoff_seconds=1.0), Notes(), Notes()
    notes.failures = 99
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes)
        bus.subscribe("**", other, group="g")
        await subscription.ready()
        await bus.publish("x", 7, delivery=RELIABLE)
        await other.until(1)
        for attempts, pause in ((1, 1.0), (2, 2.0), (3, 4.0)):
            await notes.until(attempts)
            await settle()
            assert stage.naps.longest == pause
            await stage.naps.advance(pause)
        await until_letters(stage, 1)
        (letter,) = await letters(stage)
        assert (letter.reason, letter.attempts) == ("ValueError: no 7", 4)
        assert [event.metadata.attempt for event in notes.events] == [1, 2, 3, 4]
        assert (subscription.counters.failed, subscription.counters.dead, subscription.counters.delivered) == (4, 1, 0)


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


async def test_a_handler_that_hangs_is_timed_out_and_counted() -> None:
    """Other subscriptions do not notice; the event is tried again."""
    stage, hangs, other = Stage(timeout_seconds=5.0, attempts_max=2, backoff_seconds=1.0), Notes(), Notes()
    hangs.gate.clear()
    async with stage.server() as bus:
        subscription = bus.subscribe("**", hangs)
        bus.subscribe("**", other)
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        await hangs.until(1)
        await other.until(1)
        assert subscription.counters.timed_out == 0
        await finish(stage, lambda: subscription.counters.dead == 1, step=5.0)
        assert subscription.counters.timed_out == 2
        await until_letters(stage, 1)
        assert (await letters(stage))[0].reason == "no end after 5 s"


async def test_a_handler_that_hangs_is_noticed_without_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: handlers have all the time they want."""

    async def call(subscription: Subscription, event: Event) -> str | None:
        await subscription._handle(event)
        return None

    monkeypatch.setattr(Subscription, "_call", call)
    monkeypatch.setattr("holdfast.invalidation.subscription.DRAIN_SECONDS", 0.01)
    monkeypatch.setattr("fix_events.DEADLINE_SECONDS", 0.5)
    with pytest.raises(TimeoutError):
        await test_a_handler_that_hangs_is_timed_out_and_counted()


async def test_a_handler_that_ignores_its_cancelling_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next event is handled all the same."""
    monkeypatch.setattr("holdfast.invalidation.subscription.GRACE_SECONDS", 0.01)
    stage, seen, released = Stage(timeout_seconds=5.0), list[Any](), asyncio.Event()

    async def stubborn(event: Event) -> None:
        seen.append(event.data)
        while event.data == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    async with stage.server() as bus:
        subscription = bus.subscribe("**", stubborn)
        await bus.publish("x", 1)
        await bus.publish("x", 2)
        await finish(stage, lambda: seen == [1, 2], step=5.0)
        assert subscription.counters.timed_out == 1
        released.set()


async def test_plain_functions_run_in_a_thread() -> None:
    """One that blocks holds up its own subscription alone, and is counted."""
    stage, notes, blocked, names = Stage(timeout_seconds=5.0, attempts_max=1), Notes(), threading.Event(), list[str]()

    def handler(event: Event) -> None:
        names.append(threading.current_thread().name)
        if event.data == "block":
            blocked.wait(20)

    async with stage.server() as bus:
        subscription = bus.subscribe("**", handler)
        bus.subscribe("**", notes)
        await bus.publish("x", "block")
        await notes.until(1)
        await finish(stage, lambda: subscription.counters.timed_out == 1, step=5.0)
        blocked.set()
        await bus.publish("x", "go on")
        await finish(stage, lambda: subscription.counters.delivered == 1, step=0.0)
    assert len(names) == 2
    assert set(names) == {"holdfast-events_0"}


async def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    """As one that binds an async function is."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        bus.subscribe("**", partial(later, notes))
        await bus.publish("x", 1)
        await notes.until(1)


async def test_a_handler_cancelled_by_itself_has_failed() -> None:
    """And the subscription goes on."""
    stage, seen = Stage(), list[Any]()

    async def handler(event: Event) -> None:
        seen.append(event.data)
        raise asyncio.CancelledError

    async with stage.server() as bus:
        subscription = bus.subscribe("**", handler)
        await bus.publish("x", 1)
        await bus.publish("x", 2)
        await finish(stage, lambda: seen == [1, 2], step=0.0)
        assert subscription.counters.failed == 2


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


@pytest.mark.parametrize("lost", [1, 3])
async def test_an_append_whose_answer_is_lost_is_repeated_and_flagged(lost: int) -> None:
    """The event comes more than once, with the same id; each time but the first it is flagged."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes, group="g")
        await subscription.ready()
        stage.hub.deaf = True
        stage.hub.lose_answers = lost
        publishing = asyncio.ensure_future(bus.publish("x", 1, delivery=RELIABLE, key="k"))
        await finish(stage, publishing.done, step=0.1)
        wake(bus)
        await notes.until(lost + 1)
        assert {event.id for event in notes.events} == {publishing.result().id}
        assert [event.metadata.duplicate for event in notes.events] == [False] + [True] * lost
        assert subscription.counters.duplicates == lost


async def test_an_exchange_whose_answer_is_lost_loses_nothing() -> None:
    """What was handed out with it is asked for again, and comes once."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes, group="g")
        await subscription.ready()
        stage.hub.deaf = True
        for number in range(5):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        stage.hub.lose_answers = 4
        wake(bus)
        await notes.until(5)
        await settle()
        assert notes.data == list(range(5))


async def test_a_group_goes_on_after_its_stream_vanished(caplog: pytest.LogCaptureFixture) -> None:
    """What lay in it is lost, and a warning says so; what is published afterwards is handled."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        await bus.subscribe("**", notes, group="g").ready()
        await bus.publish("x", 1, delivery=RELIABLE, key="k")
        await notes.until(1)
        for partition in range(len(stage.hub.contents)):
            stage.hub.lose_stream(partition, 2)
        await bus.publish("x", 2, delivery=RELIABLE, key="k")
        await notes.until(2)
        assert notes.data == [1, 2]
        assert "reader g:** lost its place" in caplog.text


async def test_nothing_is_read_twice_while_it_is_handled() -> None:
    """Though all that is not settled is handed out anew after each lost answer."""
    stage, notes = Stage(), Notes()
    notes.gate.clear()
    async with stage.server() as bus:
        await bus.subscribe("**", notes, group="g").ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        await notes.until(1)
        stage.hub.lose_answers = 8

        async def answered() -> bool:
            wake(bus)
            return stage.hub.lose_answers == 0

        await until(answered)
        notes.gate.set()
        await settle()
        assert notes.data == [1]


async def test_an_owner_whose_lease_ran_out_handles_nothing_more() -> None:
    """Another may be at it. If nobody was, what it had is handed out again, in order, and flagged."""
    stage, notes = Stage(), Notes()
    notes.gate.clear()
    async with stage.server() as bus:
        await bus.subscribe("**", notes, group="g").ready()
        for number in range(5):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await notes.until(1)

        async def read() -> bool:
            return len(bus.subscriptions[0]) == 4

        await until(read)
        stage.hub.away = True
        stage.clock.advance(stage.rules.lease_seconds)
        notes.gate.set()
        await settle()
        assert notes.data == [0]
        stage.hub.away = False
        await notes.until(5)
        assert notes.data == list(range(5))
        assert [event.metadata.duplicate for event in notes.events] == [False, True, True, True, True]


async def test_an_owner_whose_lease_ran_out_is_found_without_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: what was once handed out is handled, whoever owns it by now."""
    monkeypatch.setattr("holdfast.invalidation.event_readers.Shared.holds", lambda _: True)
    with pytest.raises(AssertionError):
        await test_an_owner_whose_lease_ran_out_handles_nothing_more()


async def test_l2_away_is_no_end() -> None:
    """A reliable event is refused after its time, others are dropped; then all goes on."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        stage.hub.away = True
        subscription = bus.subscribe("**", notes, group="g")
        await bus.publish("x", "dropped")
        assert bus.unsent == 1
        publishing = asyncio.ensure_future(bus.publish("x", 0, delivery=RELIABLE))
        await finish(stage, publishing.done, step=1.0)
        with pytest.raises(TierUnavailable):
            publishing.result()
        stage.hub.away = False
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        await notes.until(1)
        assert notes.data == [1]


async def test_what_waits_for_l2_is_bounded_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one partition: the next is refused; once what waited is gone there is room again."""
    monkeypatch.setattr("holdfast.invalidation.event_writer.WAITING_BYTES_MAX", 4000)
    stage = Stage()
    async with stage.server() as bus:
        for ends_well in (False, True):
            stage.hub.away = True
            waiting = [
                asyncio.ensure_future(bus.publish("x", "a" * 1000, delivery=RELIABLE, key="k")) for _ in range(4)
            ]
            await settle()
            with pytest.raises(Overloaded, match=r"4 events of [0-9,]+ bytes wait"):
                async with asyncio.timeout(1):
                    await bus.publish("x", "one more", delivery=RELIABLE, key="k")
            stage.hub.away = not ends_well
            await finish(stage, asyncio.gather(*waiting, return_exceptions=True).done)
            assert [each.exception() is None for each in waiting] == [ends_well] * 4
        await bus.publish("x", "there is room", delivery=RELIABLE, key="k")


async def test_a_publish_that_may_have_taken_effect_says_so() -> None:
    """When its time is over: not that it did not."""
    stage = Stage()
    async with stage.server() as bus:
        stage.hub.lose_answers = 1000
        publishing = asyncio.ensure_future(bus.publish("x", 0, delivery=RELIABLE))
        await finish(stage, publishing.done, step=1.0)
        with pytest.raises(OutcomeUnknown):
            publishing.result()


async def test_a_repeat_that_finds_the_backlog_full_does_not_deny_the_first_attempt() -> None:
    """The first may be what filled it; one that was only refused is told so."""
    stage, notes = Stage(), Notes()
    stage.hub.backlog_max = 1
    notes.gate.clear()
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()
        stage.hub.deaf = True
        stage.hub.lose_answers = 1
        publishing = asyncio.ensure_future(bus.publish("x", 0, delivery=RELIABLE, key="k"))
        await finish(stage, publishing.done, step=0.1)
        with pytest.raises(OutcomeUnknown, match="may have been published"):
            publishing.result()
        with pytest.raises(Overloaded):
            await bus.publish("x", 1, delivery=RELIABLE, key="k")
        wake(bus)
        await notes.until(1)
        notes.gate.set()
        assert notes.data == [0]


async def test_a_cancelled_publisher_harms_nobody() -> None:
    """Those that published with it get their answers."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()
        first = asyncio.ensure_future(bus.publish("x", 1, delivery=RELIABLE, key="k"))
        second = asyncio.ensure_future(bus.publish("x", 2, delivery=RELIABLE, key="k"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        await notes.until(2)
        assert notes.data == [1, 2]


async def test_local_events_reach_broadcasts_of_this_server_only() -> None:
    """No group, no other server."""
    stage, here, group, there = Stage(), Notes(), Notes(), Notes()
    async with stage.server() as a, stage.server() as b:
        a.subscribe("state/*", here)
        a.subscribe("state/*", group, group="g")
        b.subscribe("state/*", there)
        event = await a.publish("other", 1)
        a.deliver_local(Event("e", "state/updated", event.timestamp, event.source, {"table": "User"}))
        await here.until(1)
        await settle()
        assert (here.data, group.data, there.data) == ([{"table": "User"}], [], [])


async def test_what_cannot_be_read_goes_to_the_dead_letters() -> None:
    """A newer server's event can be replayed once this one is newer too; the next ones are not held up."""
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        await bus.subscribe("**", notes, group="g").ready()
        for listener in stage.hub.listeners.values():
            listener[0](b"nonsense")
        assert bus.unreadable == 1
        for body in (b"nonsense", b'{"v": 2}'):
            await bus._transport.append(0, [Append(0, body)])
        await bus.publish("x", 1, delivery=RELIABLE)
        await notes.until(1)
        await until_letters(stage, 2)
        assert all(letter.event is None for letter in await bus.dead_letters.list())


async def test_an_event_that_servers_die_of_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was handed out again and again and never settled, which no handler was there to count."""
    monkeypatch.setattr("holdfast.invalidation.event_reader.RETRY_SECONDS", 0.01)
    stage, notes = Stage(), Notes()
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes, group="g")
        await subscription.ready()
        stage.hub.deaf = True
        await bus.publish("x", 1, delivery=RELIABLE, key="k")
        stage.hub.lose_answers = 4 * 21
        await finish(stage, lambda: bool(stage.hub.lose_answers == 0), step=0.0, on_look=lambda: wake(bus))
        await until_letters(stage, 1)
        assert notes.events == []
        assert "never settled" in (await letters(stage))[0].reason


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
        with pytest.raises(InvalidEvent):
            await bus.publish("x", object())
        with pytest.raises(InvalidEvent, match="key"):
            await bus.publish("x", 1, key="")
    with pytest.raises(Closed):
        await bus.publish("x", 1)
    with pytest.raises(Closed):
        bus.subscribe("x", print)


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_handler_may_close_its_own_subscription(group: str | None) -> None:
    """Nobody waits for somebody who waits for him; what it was handling comes again, to a group's next member."""
    stage, seen, closed = Stage(), list[Any](), asyncio.Event()

    async def handler(event: Event) -> None:
        seen.append(event.data)
        await subscription.close()
        closed.set()

    async with stage.server() as bus:
        subscription = bus.subscribe("**", handler, group=group)
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        async with asyncio.timeout(2):
            await closed.wait()
        assert bus.subscriptions == []
        await bus.publish("x", 2, delivery=RELIABLE)
        await settle()
        assert seen == [1]


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


async def test_nothing_is_left_running() -> None:
    """After closing a subscription, and the bus, each twice."""
    stage, notes = Stage(), Notes()
    before = len(asyncio.all_tasks())
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes)
        await subscription.ready()
        await subscription.close()
        await subscription.close()
        bus.subscribe("**", notes, group="g")
        await bus.publish("x", 1, delivery=RELIABLE)
    await bus.stop()
    await settle()
    gc.collect()
    assert len(asyncio.all_tasks()) == before
    assert [name for partition in stage.hub.contents for name in partition.readers] == ["g:**"] * 4


def later(notes: Notes, event: Event) -> Coroutine[Any, Any, None]:
    """A plain function that returns a coroutine."""
    return notes(event)


def owned(bus: EventBus, subscription: Subscription) -> int:
    """How many partitions a server works for a subscription."""
    return len(bus._readers[subscription].owned)


def wake(bus: EventBus) -> None:
    """Let a server look into every partition now."""
    for partition in range(bus._transport.partitions):
        bus._hint(partition)


async def until_letters(stage: Stage, number: int) -> None:
    async def there() -> bool:
        return len(await letters(stage)) >= number

    await until(there)


async def finish(
    stage: Stage, condition: Callable[[], bool], *, step: float = 1.0, on_look: Callable[[], None] = lambda: None
) -> None:
    """Let time pass, in steps, until it is so."""

    async def passed() -> bool:
        on_look()
        if condition():
            return True
        await stage.naps.advance(step)
        return condition()

    await until(passed)
