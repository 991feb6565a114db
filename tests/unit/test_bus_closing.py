"""The end of a subscription and of the bus: what is left running, and what becomes of what waited."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from fix_events import Notes, Stage, finish, letters, until
from fix_loop import settle
from holdfast.errors import Closed
from holdfast.events import Delivery, Event
from holdfast.invalidation.event_reader import ROOM
from holdfast.invalidation.subscription import Subscription

RELIABLE = Delivery.RELIABLE


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


async def test_one_of_two_broadcasts_leaves_with_events_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had is done with, in its handler's hands too: the other one reads on, and nothing is left unsettled."""
    monkeypatch.setattr("holdfast.invalidation.subscription.DRAIN_SECONDS", 0.01)
    stage, slow, fast = Stage(), Notes(), Notes()
    slow.gate.clear()
    async with stage.server() as bus:
        leaving = bus.subscribe("**", slow)
        await bus.subscribe("**", fast).ready()
        for number in range(ROOM):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await fast.until(ROOM)
        await slow.until(1)
        assert len(leaving) == ROOM - 1
        await leaving.close()
        for number in range(ROOM):
            await bus.publish("x", ROOM + number, delivery=RELIABLE, key="k")
        await fast.until(2 * ROOM)
        assert fast.data == list(range(2 * ROOM))
        await until_settled(stage)


async def test_one_of_two_broadcasts_leaves_while_an_event_is_to_be_tried_again() -> None:
    """That one and those behind it are done with too."""
    stage, slow, fast = Stage(backoff_seconds=60.0), Notes(), Notes()
    slow.failures = 1
    async with stage.server() as bus:
        leaving = bus.subscribe("**", slow)
        await bus.subscribe("**", fast).ready()
        for number in range(ROOM):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await fast.until(ROOM)
        await finish(stage, lambda: leaving.counters.failed == 1, step=0.0)
        await leaving.close()
        for number in range(ROOM):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await fast.until(2 * ROOM)
        await until_settled(stage)


async def until_settled(stage: Stage) -> None:
    """Wait until no reader has anything that it has not settled."""

    async def settled() -> bool:
        readers = [reader for partition in stage.hub.contents for reader in partition.readers.values()]
        return not any(entries for reader in readers for entries in reader.pending)

    await until(settled)


async def test_a_broadcast_that_left_holds_up_nobody_unless_it_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: what it had stays unsettled."""
    monkeypatch.setattr(Subscription, "_abandon", lambda *_: None)
    monkeypatch.setattr("fix_events.DEADLINE_SECONDS", 0.5)
    with pytest.raises(TimeoutError):
        await test_one_of_two_broadcasts_leaves_while_an_event_is_to_be_tried_again()


async def test_what_a_group_had_queued_comes_to_its_next_member() -> None:
    """It is not taken for done with because a member left."""
    stage, slow, notes = Stage(), Notes(), Notes()
    slow.gate.clear()
    async with stage.server() as bus:
        leaving = bus.subscribe("**", slow, group="g")
        await leaving.ready()
        for number in range(5):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await slow.until(1)
        slow.gate.set()
        await leaving.close()
        bus.subscribe("**", notes, group="g")
        await notes.until(4)
        assert notes.data == [1, 2, 3, 4]


async def test_a_close_that_is_cancelled_goes_on() -> None:
    """Whoever closes it again waits for the same end; nothing reads on."""
    stage, slow = Stage(), Notes()
    slow.gate.clear()
    before = len(asyncio.all_tasks())
    async with stage.server() as bus:
        subscription = bus.subscribe("**", slow)
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        await slow.until(1)
        closing = asyncio.ensure_future(subscription.close())
        await settle()
        closing.cancel()
        again = asyncio.ensure_future(subscription.close())
        await settle()
        assert closing.cancelled()
        assert not again.done()
        slow.gate.set()
        await again
        await settle()
        assert len(asyncio.all_tasks()) == before
        assert [name for partition in stage.hub.contents for name in partition.readers] == []


async def test_the_bus_waits_for_a_close_that_was_cancelled() -> None:
    """It ends the transport after that."""
    stage, slow = Stage(), Notes()
    slow.gate.clear()
    before = len(asyncio.all_tasks())
    async with stage.server() as bus:
        subscription = bus.subscribe("**", slow)
        await subscription.ready()
        await bus.publish("x", 1)
        await slow.until(1)
        closing = asyncio.ensure_future(subscription.close())
        await settle()
        closing.cancel()
        asyncio.get_running_loop().call_later(0.05, slow.gate.set)
    await settle()
    assert len(asyncio.all_tasks()) == before


@pytest.mark.parametrize("is_closed_before", [True, False])
async def test_nobody_waits_for_the_place_of_a_closed_subscription(*, is_closed_before: bool) -> None:
    """It will not get one."""
    stage = Stage()
    async with stage.server() as bus:
        stage.hub.away = True
        subscription = bus.subscribe("**", print)
        if is_closed_before:
            await subscription.close()
        waiting = asyncio.ensure_future(subscription.ready())
        await settle()
        await subscription.close()
        async with asyncio.timeout(2):
            with pytest.raises(Closed):
                await waiting


@pytest.mark.parametrize("how", ["awaited", "in a task", "the whole bus", "from a task of before"])
async def test_a_handler_that_ends_what_calls_it_is_not_cancelled(how: str) -> None:
    """However it asks for it; and it can do its work to its end."""
    stage, ended = Stage(), asyncio.Event()
    before = len(asyncio.all_tasks())

    async def handler(_: Event) -> None:
        if how == "awaited":
            await subscription.close()
        elif how == "in a task":
            await asyncio.gather(subscription.close())
        elif how == "the whole bus":
            await asyncio.wait_for(bus.stop(), 2)
        else:
            outside.set()
            await settle()
            await subscription.close()
        await asyncio.sleep(0)
        ended.set()

    async def close_from_outside() -> None:
        await outside.wait()
        await subscription.close()

    async with stage.server() as bus:
        outside = asyncio.Event()
        closing = asyncio.ensure_future(close_from_outside())
        subscription = bus.subscribe("**", handler)
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        async with asyncio.timeout(2):
            await ended.wait()
        outside.set()
        await closing
        assert subscription.counters.delivered == 1
    await settle()
    assert len(asyncio.all_tasks()) == before


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_handler_that_closes_its_subscription_and_fails(group: str | None) -> None:
    """No pause begins after the end, which nobody would end."""
    stage, seen = Stage(backoff_seconds=60.0), list[Any]()
    before = len(asyncio.all_tasks())

    async def handler(event: Event) -> None:
        seen.append(event.data)
        await subscription.close()
        raise ValueError("no")

    async with stage.server() as bus:
        subscription = bus.subscribe("**", handler, group=group)
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        await finish(stage, lambda: subscription.counters.failed == 1, step=0.0)
        await settle()
        assert len(asyncio.all_tasks()) == before
        assert seen == [1]


async def test_a_reader_that_cannot_tell_how_it_ends_ends() -> None:
    """Whatever the fault; the others end too, and the bus."""
    stage, notes = Stage(), Notes()
    before = len(asyncio.all_tasks())
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()

        async def leave(*_: object, **__: object) -> None:
            raise ValueError("a fault of the transport")

        bus._transport.leave = leave  # type: ignore[method-assign]
    await settle()
    assert len(asyncio.all_tasks()) == before


async def test_the_last_failure_counts_though_the_subscription_is_closing() -> None:
    """The event is a dead letter, and does not begin anew with the group's next member."""
    stage, notes, later = Stage(attempts_max=1), Notes(), Notes()
    notes.gate.clear()
    notes.failures = 1
    async with stage.server() as bus:
        subscription = bus.subscribe("**", notes, group="g")
        await subscription.ready()
        await bus.publish("x", 1, delivery=RELIABLE)
        await notes.until(1)
        closing = asyncio.ensure_future(subscription.close())
        await settle()
        notes.gate.set()
        await closing
        assert [letter.reason for letter in await letters(stage)] == ["ValueError: no 1"]
        await bus.subscribe("**", later, group="g").ready()
        await settle()
        assert later.events == []
