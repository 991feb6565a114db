"""The bus while L2 loses answers, is away, or has what cannot be read; and servers that lose their lease."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fix_events import Notes, Stage, finish, letters, until, until_letters, wake
from fix_loop import settle
from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.events import Delivery, Event, EventLimits, decode, partition_of
from holdfast.invalidation.event_reader import ROOM, PartitionReader
from holdfast.protocols import Append
from holdfast.testing.memory_events import PARTITIONS

RELIABLE = Delivery.RELIABLE


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


async def test_a_publish_that_may_have_taken_effect_says_so() -> None:
    """When its time is over: not that it did not."""
    stage = Stage()
    async with stage.server() as bus:
        stage.hub.lose_answers = 1000
        publishing = asyncio.ensure_future(bus.publish("x", 0, delivery=RELIABLE))
        await finish(stage, publishing.done, step=1.0)
        with pytest.raises(OutcomeUnknown):
            publishing.result()


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


@pytest.mark.parametrize("open_max", [1024, ROOM + 20])
async def test_a_key_that_fails_holds_up_no_other(monkeypatch: pytest.MonkeyPatch, open_max: int) -> None:
    """Though more of its events wait than are read at once; there is an end to how many."""
    monkeypatch.setattr("holdfast.invalidation.event_reader.OPEN_MAX", open_max)
    stage, seen, fails = Stage(backoff_seconds=60.0), list[Any](), [True]
    bad, good = same_partition()

    async def handler(event: Event) -> None:
        if event.metadata.key == bad and fails:
            raise ValueError("not yet")
        seen.append((event.metadata.key, event.data))

    async with stage.server() as bus:
        await bus.subscribe("**", handler).ready()
        for number in range(2 * ROOM):
            await bus.publish("x", number, delivery=RELIABLE, key=bad)
        await bus.publish("x", 0, delivery=RELIABLE, key=good)
        reader = bus._broadcasts()._partitions[partition_of(bad, PARTITIONS)]
        if open_max < 2 * ROOM:

            async def full() -> bool:
                return sum(map(len, reader._open)) == open_max

            await until(full)
            wake(bus)
            await settle()
            assert (sum(map(len, reader._open)), seen) == (open_max, [])
        else:
            await finish(stage, lambda: seen == [(good, 0)], step=0.0)
        fails.clear()
        await finish(stage, lambda: len(seen) == 2 * ROOM + 1, step=60.0)
        assert [number for key, number in seen if key == bad] == list(range(2 * ROOM))
        await finish(stage, lambda: not any(map(len, (*reader._open, *reader._parked))), step=0.0)


async def test_a_key_that_fails_holds_up_others_if_what_waits_takes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: all that is not settled counts."""
    monkeypatch.setattr("holdfast.invalidation.event_readers.Shared.park", lambda _: None)
    monkeypatch.setattr("fix_events.DEADLINE_SECONDS", 0.5)
    with pytest.raises(TimeoutError):
        await test_a_key_that_fails_holds_up_no_other(monkeypatch, 1024)


def same_partition() -> tuple[str, str]:
    """Two keys of one partition."""
    first, *others = (f"k{number}" for number in range(100))
    return first, next(key for key in others if partition_of(key, PARTITIONS) == partition_of(first, PARTITIONS))


async def test_an_event_that_cannot_be_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """For whatever reason; it is shown, and those behind it come."""
    stage, notes, shown = Stage(), Notes(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["exception"]))

    def fails_once(body: bytes, limits: EventLimits) -> Event:
        event = decode(body, limits)
        if event.data == 0:
            raise ZeroDivisionError
        return event

    monkeypatch.setattr("holdfast.invalidation.event_readers.decode", fails_once)
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()
        for number in range(3):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await notes.until(2)
        await until_letters(stage, 1)
        assert notes.data == [1, 2]
        assert (await letters(stage))[0].reason == "it could not be taken: ZeroDivisionError"
        assert [type(each) for each in shown] == [ZeroDivisionError]


async def test_a_partition_that_cannot_be_read_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it has failed for a lease, once until it can be read again; a shorter time is none of anybody's business."""
    monkeypatch.setattr("holdfast.invalidation.event_reader.RETRY_SECONDS", 0.001)
    stage = Stage()

    def warned() -> int:
        return len([each for each in caplog.records if "cannot read partition" in each.getMessage()])

    async def until_all_warned(number: int) -> None:
        await finish(stage, lambda: warned() >= number, step=0.0)

    async with stage.server() as bus:
        await bus.subscribe("**", Notes()).ready()
        readers = bus._broadcasts()._partitions
        for before in (0, PARTITIONS):
            stage.hub.away = True
            await finish(stage, lambda: all(map(is_failing, readers)), step=0.0, on_look=lambda: wake(bus))
            assert warned() == before
            stage.clock.advance(stage.rules.lease_seconds)
            await until_all_warned(before + PARTITIONS)
            for _ in range(20):
                await asyncio.sleep(0.001)  # each fails again, many times
            assert warned() == before + PARTITIONS
            stage.hub.away = False
            await finish(stage, lambda: not any(map(is_failing, readers)), step=0.0)


def is_failing(reader: PartitionReader) -> bool:
    """Whether its last call failed."""
    return reader._failing_since is not None
