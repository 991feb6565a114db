"""Whole servers in a seeded simulation: virtual time, and an order of events that the seed decides.

    seed = 7
    simulate(seed, lambda world: scenario(world))      # the same seed, the same run, to the last event

Nothing waits for real: when no callback is ready, time jumps to the next timer. Of the callbacks that are ready, the
seed chooses the order, so that every interleaving that two awaits allow comes up in some seed.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Coherence, Failed, Fill, Loaded, Row, SharedCache, Storage, Write

Result = TypeVar("Result")
START_SECONDS = 1_000_000.0


class World:
    """What a simulated scenario is given.

    Attributes:
        random: everything random comes from here.
    """

    def __init__(self, loop: SimulatedLoop, random_: random.Random) -> None:
        self.random = random_
        self._loop = loop

    def monotonic(self) -> float:
        """Virtual seconds; makes a world a `Clock`."""
        return self._loop.time()

    async def pause(self, most_seconds: float) -> None:
        """Take a random time, up to a most."""
        await asyncio.sleep(self.random.uniform(0, most_seconds))


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual and whose order of ready callbacks is random, both by seed."""

    def __init__(self, random_: random.Random) -> None:
        self._virtual = _VirtualSelector()
        self._random = random_
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds."""
        return START_SECONDS + self._virtual.slept

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        if len(ready) > 1:
            shuffled = list(ready)
            self._random.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]


class _VirtualSelector(selectors.SelectSelector):
    """Sleeping costs nothing: the time asked for is noted and gone."""

    def __init__(self) -> None:
        super().__init__()
        self.slept = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation has stopped: tasks wait, and no timer is set that could wake them")
        self.slept += max(0.0, timeout)
        return []


def simulate(seed: int, scenario: Callable[[World], Awaitable[Result]]) -> Result:
    """Run a scenario to its end under a seed and return its result.

    Raises:
        RuntimeError: it can never end, since everything waits for something that nobody will do.
    """
    random_ = random.Random(seed)  # noqa: S311 - the seed is the point
    loop = SimulatedLoop(random_)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(_as_coroutine(scenario(World(loop, random_))))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _as_coroutine(work: Awaitable[Result]) -> Result:
    return await work


class SlowStorage:
    """`Storage` whose requests and answers take random times, so that they overtake each other."""

    def __init__(self, inner: Storage, world: World, *, most_seconds: float) -> None:
        self._inner = inner
        self._world = world
        self._most_seconds = most_seconds

    def coherence(self) -> Coherence:
        """The newest identity known; see `Storage.coherence`."""
        return self._inner.coherence()

    async def load(self, keys: Sequence[Key]) -> Loaded:
        """Read rows; see `Storage.load`."""
        return await self._slowly(self._inner.load, keys)

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `Storage.save`."""
        return await self._slowly(self._inner.save, writes)

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        return await self._slowly(lambda deleted: self._inner.delete(deleted, expected=expected), key)

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows in order of ids; see `Storage.scan`."""
        return await self._slowly(lambda named: self._inner.scan(named, after=after, limit=limit), kind)

    async def _slowly(self, act: Callable[[Any], Awaitable[Result]], argument: Any) -> Result:
        await self._world.pause(self._most_seconds)
        result = await act(argument)
        await self._world.pause(self._most_seconds)
        return result


class SlowCache:
    """`SharedCache` whose requests and answers take random times, some of them minutes; some fences fail.

    Args:
        late_share: of the fills, those that take up to `late_seconds` to arrive.
        fail_share: of the fences, those whose node cannot be told.
    """

    def __init__(
        self,
        inner: SharedCache,
        world: World,
        *,
        most_seconds: float,
        late_share: float = 0.0,
        late_seconds: float = 0.0,
        fail_share: float = 0.0,
    ) -> None:
        self._inner = inner
        self._world = world
        self._most_seconds = most_seconds
        self._late_share = late_share
        self._late_seconds = late_seconds
        self._fail_share = fail_share

    async def read(self, keys: Sequence[Key], coherence: Coherence) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up; see `SharedCache.read`."""
        await self._world.pause(self._most_seconds)
        answers = await self._inner.read(keys, coherence)
        await self._world.pause(self._most_seconds)
        return answers

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        late = self._world.random.random() < self._late_share
        await self._world.pause(self._late_seconds if late else self._most_seconds)
        return await self._inner.fill(fills, coherence)

    async def fence(self, versions: Mapping[Key, int], coherence: Coherence) -> Sequence[Key]:
        """Raise fences; see `SharedCache.fence`."""
        await self._world.pause(self._most_seconds)
        if self._world.random.random() < self._fail_share:
            return list(versions)
        return await self._inner.fence(versions, coherence)
