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
from collections.abc import Awaitable, Callable
from typing import TypeVar

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

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return share > 0 and self.random.random() < share

    async def pause(self, most_seconds: float) -> None:
        """Take a random time, up to a most; none at all, not even a turn of the loop, if that is 0."""
        if most_seconds > 0:
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
