"""Batching: calls of the same moment become one round trip.

A batch starts at the end of the event loop's tick that brought its first item, or when one before it ends, so that
under load each round trip carries all that waited meanwhile. One that takes longer than `overlap_seconds` is not
waited for: a slow answer must not hold up the ones behind it.

What waits is bounded: behind a tier that answers slower than it is asked, a queue grows until memory ends.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from holdfast.errors import Overloaded

WAITING_MAX: Final = 50_000
SHARE_MIN: Final = 16
"""So few items are never shared among lanes: a round trip costs as much as they do."""

Item = TypeVar("Item")


class Batcher(Generic[Item]):
    """Collects items and hands them on in batches.

    Args:
        handle: takes one batch; it settles its items itself and must not raise.
        items_max: in one batch.
        batches_max: under way at once; further items wait for one of them to end.
        overlap_seconds: how long a batch keeps the next one waiting.
        lanes: so many batches go side by side before the next one waits, and share what there is: the answers of one
            are taken apart here while the other's are still being made over there.
        waiting_max: items in no batch yet; one more is refused.
        wanted: asked of each item when its batch is made; one that nobody wants any more is left out. Until
            then it counts as waiting.
    """

    def __init__(
        self,
        handle: Callable[[list[Item]], Awaitable[None]],
        *,
        items_max: int,
        batches_max: int,
        overlap_seconds: float,
        lanes: int = 1,
        waiting_max: int = WAITING_MAX,
        wanted: Callable[[Item], bool] | None = None,
    ) -> None:
        self._handle = handle
        self._items_max = items_max
        self._batches_max = batches_max
        self._overlap_seconds = overlap_seconds
        self._lanes = lanes
        self._waiting_max = waiting_max
        self._wanted = wanted
        self._waiting: deque[Item] = deque()
        self._running: set[asyncio.Task[None]] = set()
        # The batches that the next one waits for, with the loop's time up to which it does.
        self._holding: dict[asyncio.Task[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False

    def add(self, item: Item) -> None:
        """Put an item into the next batch.

        Raises:
            Overloaded: `waiting_max` items wait already; this one was not taken.
        """
        if len(self._waiting) >= self._waiting_max:
            raise Overloaded(f"{self._waiting_max} calls wait for their batch already; that is the most")
        self._waiting.append(item)
        if not self._scheduled:
            self._schedule()

    async def drain(self) -> None:
        """Wait until nothing waits or runs."""
        while self._running or self._waiting:
            await asyncio.wait(self._running) if self._running else await asyncio.sleep(0)

    def _schedule(self) -> None:
        if not self._scheduled and self._may_begin():
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _may_begin(self) -> bool:
        return len(self._holding) < self._lanes and len(self._running) < self._batches_max

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and self._may_begin():
            lanes = self._lanes - len(self._holding)
            share = max(SHARE_MIN, math.ceil(len(self._waiting) / lanes))
            batch = self._take(min(share, self._items_max))
            # More than the lanes can take goes beside them: only a batch that leaves no more than that holds one.
            if batch:
                self._begin(batch, holds=len(self._waiting) <= self._items_max * (lanes - 1))

    def _begin(self, batch: list[Item], *, holds: bool) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._ended)
        if holds:
            until = self._holding[task] = loop.time() + self._overlap_seconds
            if self._timer is None:  # one for all batches: most end long before
                self._timer = loop.call_at(until, self._release)

    def _take(self, items_max: int) -> list[Item]:
        batch: list[Item] = []
        waiting, wanted = self._waiting, self._wanted
        while waiting and len(batch) < items_max:
            item = waiting.popleft()
            if wanted is None or wanted(item):
                batch.append(item)
        return batch

    async def _run(self, batch: list[Item]) -> None:
        await self._handle(batch)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._holding.pop(task, None)
        if self._waiting and not self._scheduled:
            self._start()  # those whom this batch woke have asked again already: their turn came before
        if not task.cancelled() and (fault := task.exception()) is not None:
            # A handler that raises has lost its items' callers: a fault of this package, shown as such.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: a batch handler raised", "exception": fault, "task": task}
            )

    def _release(self) -> None:
        """Wait no longer for the batches that take too long; called when that is due for the oldest of them."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._holding = {task: until for task, until in self._holding.items() if until > now}
        if self._holding:
            self._timer = loop.call_at(min(self._holding.values()), self._release)
        if self._waiting:
            self._schedule()
