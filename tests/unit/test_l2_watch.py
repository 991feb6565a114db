"""What a node of L2 is cut off for, and whose fault a late answer is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from glide import TimeoutError as GlideTimeoutError

from holdfast.tiers.awake import AwakeClock
from holdfast.tiers.l2_topology import Node
from holdfast.tiers.l2_watch import NodeWatch

NODE = Node("a:1", ((0, 16383),))
REQUEST_SECONDS = 0.5


class Loop:
    """An event loop of which one sees the time, and its one timer."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due = 0.0
        self._callback: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> Any:
        self._due, self._callback = self.now + seconds, lambda: callback(*arguments)
        return self

    def cancel(self) -> None:
        """Of the timer."""

    def passes(self, seconds: float) -> None:
        """Time in which it runs."""
        until = self.now + seconds
        while self._due <= until:
            self.now = max(self.now, self._due)
            self._callback()
        self.now = until

    def stands_still(self, seconds: float) -> None:
        """Time in which it does not; the timer has not been called yet when that is over."""
        self.now += seconds


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """The loop that runs."""
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


async def nobody(_: Node) -> None:
    """Answers each ping."""


def watch_of(loop: Loop) -> tuple[NodeWatch, AwakeClock]:
    """A watch by a clock that has begun."""
    clock = AwakeClock(loop.time)
    clock.start()
    return NodeWatch(nobody, monotonic=clock.monotonic, request_timeout_seconds=REQUEST_SECONDS), clock


def test_the_clock_goes_while_the_loop_runs_and_is_halted_while_it_does_not(loop: Loop) -> None:
    """It never goes back, whether it is looked at before the timer that was late or after it."""
    clock = AwakeClock(loop.time)
    assert clock.monotonic() == loop.now
    clock.start()
    clock.start()
    loop.passes(10.0)
    assert clock.monotonic() == pytest.approx(110.0)
    loop.stands_still(5.0)
    seen = clock.monotonic()
    assert 110.0 <= seen <= 110.101
    loop.passes(0.0)
    assert clock.monotonic() == pytest.approx(seen)
    loop.passes(1.0)
    assert clock.monotonic() == pytest.approx(seen + 1.0)
    clock.stop()
    clock.stop()


@pytest.mark.parametrize("mutant", [False, True])
def test_answers_that_this_process_took_late_cut_nobody_off(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, *, mutant: bool
) -> None:
    """The loop stood still with calls in flight. Mutant: nobody notices that."""
    if mutant:
        monkeypatch.setattr(AwakeClock, "_late", lambda _clock, _loop: 0.0)
    watch, clock = watch_of(loop)
    loop.passes(1.0)
    began = clock.monotonic()
    loop.stands_still(0.4)
    for _ in range(3):
        watch.answered(NODE, began)
    assert watch.guards.is_cut_off(NODE.name) is mutant


def test_a_node_that_is_cut_off_for_its_slowness_says_so(loop: Loop) -> None:
    """Not that there is no fault."""
    watch, clock = watch_of(loop)
    for _ in range(3):
        began = clock.monotonic()
        loop.passes(0.3)
        watch.answered(NODE, began)
    assert watch.opened == 1
    assert "took too long, the last one 0.3 s" in str(watch.fault)
    assert "took too long" in str(watch._refusal(NODE))


def test_a_refusal_names_its_cause(loop: Loop) -> None:
    """As each error of a tier does."""
    watch, clock = watch_of(loop)
    fault = GlideTimeoutError("no answer")
    began = clock.monotonic()
    loop.passes(0.5)
    assert watch.failed(NODE, began, fault)
    assert watch._refusal(NODE).__cause__ is fault
    assert watch.opened == 1
