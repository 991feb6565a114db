"""Handlers that fail, hang, block or run in threads, and what becomes of their events."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any

import msgspec
import pytest

from fix_events import DEADLINE_SECONDS, Notes, Stage, finish, letters, until_letters
from fix_loop import settle
from holdfast.events import Delivery, Event
from holdfast.invalidation.event_readers import Shared
from holdfast.invalidation.subscription import Subscription

RELIABLE = Delivery.RELIABLE


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
    assert set(names) == {"holdfast-events"}


@pytest.mark.parametrize("fault", [StopIteration("none left"), SystemExit(3)])
async def test_what_a_plain_function_raises_has_failed_it(fault: BaseException) -> None:
    """Be it one that no task can raise; it has not taken too long, and the thread goes on."""
    stage, shown = Stage(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))

    def handler(event: Event) -> None:
        if event.data == 1:
            raise fault

    async with stage.server() as bus:
        subscription = bus.subscribe("**", handler)
        await bus.publish("x", 1)
        await bus.publish("x", 2)
        await finish(stage, lambda: subscription.counters.delivered == 1, step=0.0)
        assert (subscription.counters.failed, subscription.counters.timed_out, shown) == (1, 0, [])


HANGS = """
import asyncio, threading
from holdfast.invalidation.handler_thread import HandlerThread

async def main():
    thread = HandlerThread()
    began, call = asyncio.Event(), None
    loop = asyncio.get_running_loop()
    def hang():
        loop.call_soon_threadsafe(began.set)
        threading.Event().wait()
    call = thread.call(hang)
    await began.wait()
    call.cancel()
    thread.stop()

asyncio.run(main())
print("ended")
"""


async def test_a_plain_function_that_hangs_does_not_keep_the_process() -> None:
    """It is left behind, as one that can be cancelled and will not is."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGS, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (out.split(), process.returncode) == ([b"ended"], 0)


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


def later(notes: Notes, event: Event) -> Coroutine[Any, Any, None]:
    """A plain function that returns a coroutine."""
    return notes(event)


class UnspeakableError(Exception):
    """It cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ValueError("cannot open \udcff.txt"), "ValueError: cannot open ?.txt"),
        (UnspeakableError(), "UnspeakableError"),
        (ValueError("x" * 5000), "ValueError: " + "x" * 988),
    ],
)
async def test_whatever_a_handler_raises_can_be_told(fault: Exception, reason: str) -> None:
    """As the reason of a dead letter, which is JSON; those behind it come after it, in order."""
    stage, seen = Stage(attempts_max=2, backoff_seconds=1.0), list[Any]()

    async def handler(event: Event) -> None:
        seen.append(event.data)
        if event.data == 0:
            raise fault

    async with stage.server() as bus:
        await bus.subscribe("**", handler).ready()
        for number in range(3):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await finish(stage, lambda: len(seen) == 4)
        await until_letters(stage, 1)
        assert seen == [0, 0, 1, 2]
        (letter,) = await letters(stage)
        assert letter.reason == reason
        assert msgspec.json.encode(letter.reason)


async def test_an_event_is_tried_again_after_a_fault_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is shown; an event that is neither settled nor tried again would hold up its partition."""
    stage, notes, shown = Stage(backoff_seconds=1.0), Notes(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["exception"]))
    holds, faults = Shared.holds, [OSError("once")]

    def fails_once(shared: Shared) -> bool:
        if faults:
            raise faults.pop()
        return holds(shared)

    monkeypatch.setattr(Shared, "holds", fails_once)
    async with stage.server() as bus:
        await bus.subscribe("**", notes).ready()
        for number in range(3):
            await bus.publish("x", number, delivery=RELIABLE, key="k")
        await finish(stage, lambda: len(notes.data) == 3)
        assert notes.data == [0, 1, 2]
        assert [str(each) for each in shown] == ["once"]
