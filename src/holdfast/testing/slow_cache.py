"""L2 behind a slow and faulty network, as servers see it and as the relay does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from holdfast.clock import Clock
from holdfast.errors import TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Coherence, Failed, FenceTarget, Fill, View, Watermark, Withdrawal
from holdfast.testing.memory_cache import MemoryCache
from holdfast.testing.simulation import World

Result = TypeVar("Result")


class _Moment:
    """A clock that stands at the moment a node answered."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class SlowCache:
    """`SharedCache` as one server sees it.

    An answer is made when the request reaches the node, and judged by what the server knows when the answer arrives.

    Args:
        make: makes an L2 like `inner` with another clock.
        most_seconds: for a request, and for an answer.
        late_share: of the fills, those that take up to `late_seconds` to arrive.

    Attributes:
        calm: while True nothing is late.
    """

    def __init__(
        self,
        inner: MemoryCache,
        make: Callable[[Clock], MemoryCache],
        world: World,
        *,
        most_seconds: float,
        late_share: float = 0.0,
        late_seconds: float = 0.0,
    ) -> None:
        self.calm = False
        self._inner = inner
        self._moment = _Moment()
        self._answered = make(self._moment)
        self._world = world
        self._most_seconds = most_seconds
        self._late_share = late_share
        self._late_seconds = late_seconds

    async def read(
        self, keys: Sequence[Key], view: View, *, lease: bool = True
    ) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up; see `SharedCache.read`."""
        await self._world.pause(self._most_seconds)
        contents, moment = self._inner.dump(), self._world.monotonic()
        there = await self._inner.read(keys, view, lease=lease)
        await self._world.pause(self._most_seconds)
        self._moment.now = moment
        self._answered.restore(contents)
        here = await self._answered.read(keys, view, lease=False)
        return {key: answer if isinstance(answer, Failed) else here[key] for key, answer in there.items()}

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        late = not self.calm and self._world.chance(self._late_share)
        await self._world.pause(self._late_seconds if late else self._most_seconds)
        return await self._inner.fill(fills, coherence)

    async def withdraw(self, withdrawals: Sequence[Withdrawal], coherence: Coherence) -> int:
        """Put fences in the place of entries; see `SharedCache.withdraw`."""
        await self._world.pause(self._most_seconds)
        return await self._inner.withdraw(withdrawals, coherence)


class SlowFences:
    """`FenceSink` as one server sees it.

    Args:
        most_seconds: for a request, and for an answer.
        late_share: of the advances, those that reach the node up to `late_seconds` after the relay gave them up, or
            never, or whose answer is lost.

    Attributes:
        calm: while True nothing is late.
    """

    def __init__(
        self,
        inner: MemoryCache,
        world: World,
        *,
        most_seconds: float,
        late_share: float = 0.0,
        late_seconds: float = 0.0,
    ) -> None:
        self.calm = False
        self._inner = inner
        self._world = world
        self._most_seconds = most_seconds
        self._late_share = late_share
        self._late_seconds = late_seconds
        self._late: set[asyncio.Task[None]] = set()

    async def targets(self) -> Sequence[FenceTarget]:
        """The primaries; see `FenceSink.targets`."""
        return await self._inner.targets()

    async def watermark(self, target: FenceTarget) -> Watermark | None:
        """A node's watermark; see `FenceSink.watermark`."""
        return await self._slowly(lambda: self._inner.watermark(target))

    async def advance(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        """Fence keys and move the watermark; see `FenceSink.advance`."""
        if self.calm or not self._world.chance(self._late_share):
            return await self._slowly(lambda: self._inner.advance(target, before, after, versions))
        fate = self._world.random.random()
        if fate < 0.3:
            await self._slowly(lambda: self._inner.advance(target, before, after, versions))
        elif fate < 0.9:
            task = asyncio.get_running_loop().create_task(self._advance_late(target, before, after, versions))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        await self._world.pause(self._most_seconds)
        raise TierUnavailable(f"L2: {target.name} did not answer in time")

    async def drain(self) -> None:
        """Wait for what arrives late."""
        while self._late:
            await asyncio.wait(self._late)

    async def _advance_late(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> None:
        await self._world.pause(self._late_seconds)
        with contextlib.suppress(TierUnavailable):  # the node is away: nobody waits for it
            await self._inner.advance(target, before, after, versions)

    async def _slowly(self, act: Callable[[], Awaitable[Result]]) -> Result:
        await self._world.pause(self._most_seconds)
        result = await act()
        await self._world.pause(self._most_seconds)
        return result
