"""Batching: which calls share a round trip, and how many are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_loop import settle
from holdfast.errors import Overloaded
from holdfast.tiers.batching import Batcher

FOR_EVER = 3600.0


class Handler:
    """Handles batches when told to.

    Attributes:
        begun: every batch so far, in order.
        open: the batches under way.
    """

    def __init__(self) -> None:
        self.begun: list[list[int]] = []
        self.open: list[tuple[list[int], asyncio.Future[None]]] = []
        self.changed = asyncio.Condition()
        self.at_once = False

    async def __call__(self, batch: list[int]) -> None:
        """Take a batch and keep it until `finish`."""
        self.begun.append(list(batch))
        if self.at_once:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open.append((batch, done))
        async with self.changed:
            self.changed.notify_all()
        await done

    def finish(self, number: int = 0, fault: Exception | None = None) -> None:
        """End one of the batches under way."""
        _, done = self.open.pop(number)
        if fault is None:
            done.set_result(None)
        else:
            done.set_exception(fault)

    async def finish_all(self) -> None:
        """End the batches under way, and each later one at once."""
        self.at_once = True
        while self.open:
            self.finish()
            await settle()

    async def until_begun(self, count: int) -> None:
        """Wait until so many batches have begun."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: len(self.begun) >= count)


def batcher(
    handler: Handler,
    *,
    items_max: int = 100,
    batches_max: int = 100,
    overlap_seconds: float = FOR_EVER,
    lanes: int = 1,
    waiting_max: int = 1000,
    wanted: Callable[[int], bool] = lambda _: True,
) -> Batcher[int]:
    """A batcher that keeps the next batch waiting until the one before it has ended."""
    return Batcher(
        handler,
        items_max=items_max,
        batches_max=batches_max,
        overlap_seconds=overlap_seconds,
        lanes=lanes,
        waiting_max=waiting_max,
        wanted=wanted,
    )


@pytest.fixture
async def handler() -> AsyncIterator[Handler]:
    """A handler whose batches end with the test."""
    found = Handler()
    yield found
    await found.finish_all()


async def test_calls_of_one_tick_share_a_batch(handler: Handler) -> None:
    """Several tasks that are ready in the same tick become one round trip, in the order of their calls."""
    batches = batcher(handler)

    async def call(item: int) -> None:
        batches.add(item)

    await asyncio.gather(*(call(item) for item in range(5)))
    await handler.until_begun(1)
    assert handler.begun == [[0, 1, 2, 3, 4]]


async def test_nothing_is_handled_inside_the_call(handler: Handler) -> None:
    """`add` returns before any work begins: it may be called from the middle of anything."""
    batcher(handler).add(1)
    assert handler.begun == []
    await handler.until_begun(1)


async def test_what_waits_behind_a_batch_goes_together(handler: Handler) -> None:
    """Under load each round trip carries all that came during the one before it."""
    batches = batcher(handler)
    batches.add(0)
    await settle()
    for item in (1, 2, 3):
        batches.add(item)
        await settle()
    assert handler.begun == [[0]]
    handler.finish()
    await settle()
    assert handler.begun == [[0], [1, 2, 3]]


async def test_a_slow_batch_does_not_hold_up_the_next(handler: Handler) -> None:
    """After `overlap_seconds` the next batch goes beside the one that has not ended."""
    batches = batcher(handler, overlap_seconds=0.001)
    batches.add(0)
    await handler.until_begun(1)
    batches.add(1)
    await handler.until_begun(2)
    assert handler.begun == [[0], [1]]
    assert len(handler.open) == 2


async def test_the_end_of_an_overtaken_batch_changes_nothing_for_the_next(handler: Handler) -> None:
    """Only the youngest batch is waited for: when an older one ends, what waits behind the youngest still waits."""
    batches = batcher(handler, items_max=1)
    batches.add(0)
    batches.add(1)
    await settle()
    assert handler.begun == [[0], [1]]
    batches.add(2)
    handler.finish(0)
    await settle()
    assert handler.begun == [[0], [1]]
    handler.finish(0)
    await settle()
    assert handler.begun == [[0], [1], [2]]


async def test_more_than_one_batch_of_items_goes_side_by_side(handler: Handler) -> None:
    """A batch has at most `items_max` items, and full ones do not wait for each other."""
    batches = batcher(handler, items_max=3)
    for item in range(8):
        batches.add(item)
    await settle()
    assert handler.begun == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_the_batches_under_way_are_bounded(handler: Handler) -> None:
    """At `batches_max` further items wait, and go when one of them ends."""
    batches = batcher(handler, items_max=1, batches_max=2)
    for item in range(4):
        batches.add(item)
    await settle()
    assert handler.begun == [[0], [1]]
    handler.finish(1)
    await settle()
    assert handler.begun == [[0], [1], [2]]


async def test_time_does_not_lift_the_bound(handler: Handler) -> None:
    """Slow batches stop holding up the next ones, and still count."""
    batches = batcher(handler, batches_max=2, overlap_seconds=0.0)
    for item in range(4):
        batches.add(item)
        await settle()
    assert handler.begun == [[0], [1]]
    handler.finish()
    await handler.until_begun(3)
    assert handler.begun == [[0], [1], [2, 3]]


async def test_lanes_share_what_there_is(handler: Handler) -> None:
    """Two lanes take half each, what comes meanwhile waits for the first of them to end, and then goes together."""
    batches = batcher(handler, lanes=2)
    for item in range(40):
        batches.add(item)
    await settle()
    assert handler.begun == [list(range(20)), list(range(20, 40))]
    for item in range(40, 60):
        batches.add(item)
        await settle()
    assert len(handler.begun) == 2
    handler.finish(1)
    await settle()
    assert handler.begun[2:] == [list(range(40, 60))]


async def test_a_few_items_are_not_shared(handler: Handler) -> None:
    """Up to 16 make one batch; what comes then finds a lane free and does not wait."""
    batches = batcher(handler, lanes=2)
    for item in range(16):
        batches.add(item)
    await settle()
    batches.add(16)
    await settle()
    assert handler.begun == [list(range(16)), [16]]


async def test_more_than_the_lanes_take_goes_beside_them(handler: Handler) -> None:
    """Full batches hold nobody up; the last ones, one for each lane, do."""
    batches = batcher(handler, lanes=2, items_max=20)
    for item in range(70):
        batches.add(item)
    await settle()
    assert [len(batch) for batch in handler.begun] == [20, 20, 16, 14]
    batches.add(70)
    handler.finish(0)
    await settle()
    assert len(handler.begun) == 4, "one that held nobody has ended"
    handler.finish(2)
    await settle()
    assert handler.begun[4:] == [[70]]


async def test_slow_lanes_are_left_one_by_one(handler: Handler) -> None:
    """After `overlap_seconds` each of them stops keeping others waiting, the older one first."""
    batches = batcher(handler, lanes=2, overlap_seconds=0.001)
    for item in range(5):
        batches.add(item)
        await handler.until_begun(item + 1)
    assert [len(batch) for batch in handler.begun] == [1] * 5
    assert len(handler.open) == 5


async def test_what_waits_is_bounded(handler: Handler) -> None:
    """At `waiting_max` one more is refused at once and never handled; what was let in is, and makes room."""
    batches = batcher(handler, items_max=2, batches_max=1, waiting_max=3)
    for item in range(3):
        batches.add(item)
    await settle()
    assert handler.begun == [[0, 1]]
    batches.add(3)
    batches.add(4)  # with 2 and 3 as many as may wait; 0 and 1 are under way and do not count
    with pytest.raises(Overloaded, match=r"^3 calls wait for their batch already; that is the most$"):
        batches.add(5)
    handler.finish()
    await settle()
    batches.add(6)
    await handler.finish_all()
    await batches.drain()
    assert handler.begun == [[0, 1], [2, 3], [4, 6]]


async def test_what_nobody_wants_any_more_is_left_out(handler: Handler) -> None:
    """An item whose caller has gone while it waited takes no place in a batch."""
    gone: set[int] = set()
    batches = batcher(handler, items_max=2, batches_max=1, wanted=lambda item: item not in gone)
    for item in range(8):
        batches.add(item)
    await settle()
    gone.update((2, 4, 6, 7))
    await handler.finish_all()
    await batches.drain()
    assert handler.begun == [[0, 1], [3, 5]]


async def test_a_batch_of_nothing_is_not_handled(handler: Handler) -> None:
    """When all who waited have gone there is no round trip, and the next caller is served as if it were the first."""
    gone = {0, 1}
    batches = batcher(handler, wanted=lambda item: item not in gone)
    batches.add(0)
    batches.add(1)
    async with asyncio.timeout(10):
        await batches.drain()
    assert handler.begun == []
    batches.add(2)
    await handler.until_begun(1)
    assert handler.begun == [[2]]


async def test_draining_waits_for_what_waits_and_what_runs(handler: Handler) -> None:
    """`drain` returns after the last batch, and at once when there is nothing."""
    batches = batcher(handler, items_max=1, batches_max=1)
    await batches.drain()
    batches.add(0)
    batches.add(1)
    draining = asyncio.get_running_loop().create_task(batches.drain())
    for count in (1, 2):
        await handler.until_begun(count)
        await settle()
        assert not draining.done()
        handler.finish()
    async with asyncio.timeout(10):
        await draining
    assert handler.begun == [[0], [1]]


async def test_a_handler_that_raises_is_shown_and_stops_nothing(handler: Handler) -> None:
    """The fault reaches the loop's exception handler; the batches behind it are handled."""
    shown: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
    batches = batcher(handler)
    batches.add(0)
    await handler.until_begun(1)
    batches.add(1)
    fault = RuntimeError("a bug")
    handler.finish(fault=fault)
    await handler.until_begun(2)
    assert [(context["exception"], context["message"]) for context in shown] == [
        (fault, "holdfast: a batch handler raised")
    ]


def test_a_batcher_is_made_without_a_loop() -> None:
    """The constructor starts nothing: a server can be built before its loop runs."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()

    async def use(batches: Batcher[int]) -> None:
        batches.add(1)
        await batches.drain()
        assert handled == [[1]]

    handled: list[list[int]] = []

    async def handle(batch: list[int]) -> None:
        handled.append(batch)

    asyncio.run(use(Batcher(handle, items_max=1, batches_max=1, overlap_seconds=1.0)))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6)),
        st.tuples(st.just("finish"), st.integers(0, 5)),
        st.tuples(st.just("forget"), st.integers(0, 20)),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(
    items_max=st.integers(1, 4),
    batches_max=st.integers(1, 3),
    overlap_seconds=st.sampled_from([0.0, FOR_EVER]),
    lanes=st.integers(1, 3),
    steps=steps,
)
def test_each_item_is_handled_once_within_the_limits(
    items_max: int, batches_max: int, overlap_seconds: float, lanes: int, steps: list[tuple[str, int]]
) -> None:
    """Over any mixture of calls and ends every item still wanted is handled once, in order, and the sizes hold."""

    async def run() -> None:
        handler, added = Handler(), 0
        taken, forgotten = set[int](), set[int]()

        def wanted(item: int) -> bool:
            if item in forgotten:
                return False
            taken.add(item)
            return True

        batches = batcher(
            handler,
            items_max=items_max,
            batches_max=batches_max,
            overlap_seconds=overlap_seconds,
            lanes=lanes,
            wanted=wanted,
        )
        for what, number in steps:
            if what == "add":
                for _ in range(number):
                    batches.add(added)
                    added += 1
            elif what == "finish" and handler.open:
                handler.finish(number % len(handler.open))
            elif what == "forget":
                forgotten |= {number} - taken
            else:
                await settle()
            assert len(handler.open) <= batches_max
        await handler.finish_all()
        await batches.drain()
        assert all(1 <= len(batch) <= items_max for batch in handler.begun)
        assert [item for batch in handler.begun for item in batch] == [
            item for item in range(added) if item not in forgotten
        ]

    asyncio.run(run())
