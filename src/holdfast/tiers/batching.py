"""Batching: calls of the same moment become one round trip.

A batch starts at the end of the event loop's tick that brought its first item, or when the batch before it
ends, so that under load each round trip carries all that waited meanwhile. One that takes longer than
`overlap_seconds` is not waited for: a slow answer must not hold up the ones behind it.

What waits is bounded: behind a tier that answers slower than it is asked, a queue grows until memory ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from holdfast.errors import Overloaded

WAITING_MAX: Final = 50_000

Item = TypeVar("Item")


class Batcher(Generic[Item]):
    """Collects items and hands them on in batches.

    Args:
        handle: takes one batch; it settles its items itself and must not raise.
        items_max: in one batch.
        batches_max: under way at once; further items wait for one of them to end.
        overlap_seconds: how long a batch keeps the next one waiting.
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
        waiting_max: int = WAITING_MAX,
        wanted: Callable[[Item], bool] | None = None,
    ) -> None:
        self._handle = handle
        self._items_max = items_max
        self._batches_max = batches_max
        self._overlap_seconds = overlap_seconds
        self._waiting_max = waiting_max
        self._wanted = wanted
        self._waiting: deque[Item] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._holding: asyncio.Task[None] | None = None  # the batch that the next one waits for
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
        if not self._scheduled and self._holding is None and len(self._running) < self._batches_max:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        batch = self._take()
        if not batch:
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._ended)
        if self._waiting:
            self._schedule()  # more than one batch was waiting: they go side by side
            return
        self._holding = task
        loop.call_later(self._overlap_seconds, self._release, task)

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        waiting, wanted = self._waiting, self._wanted
        while waiting and len(batch) < self._items_max:
            item = waiting.popleft()
            if wanted is None or wanted(item):
                batch.append(item)
        return batch

    async def _run(self, batch: list[Item]) -> None:
        await self._handle(batch)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._release(task)
        if self._waiting:
            self._schedule()
        if not task.cancelled() and (fault := task.exception()) is not None:
            # A handler that raises has lost its items' callers: a fault of this package, shown as such.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: a batch handler raised", "exception": fault, "task": task}
            )

    def _release(self, task: asyncio.Task[None]) -> None:
        if self._holding is task:
            self._holding = None
            if self._waiting:
                self._schedule()
