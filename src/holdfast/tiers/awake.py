"""A clock that stands still while this process does: what seems late then was not late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

TICK_SECONDS: Final = 0.05
LATE_SECONDS: Final = 0.05
"""A tick that is later than this tells that the event loop stood still, or was not run by a busy machine."""


class AwakeClock:
    """Seconds from an arbitrary start, without those beyond the first tenth in which the event loop did not run.

    Args:
        monotonic: the clock that goes on; until `start`, and after `stop`, this is it.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._going_on = monotonic
        self._lost = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to notice that the loop stands still; may be called twice."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._tick(self._loop)

    def stop(self) -> None:
        """Notice no more; may be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = self._timer = None

    def monotonic(self) -> float:
        """Now, as long as this process was awake. What was late until now may be known before the tick that is."""
        return self._going_on() - self._lost - (0.0 if self._loop is None else self._late(self._loop))

    def _late(self, loop: asyncio.AbstractEventLoop) -> float:
        if self._timer is None:
            return 0.0
        return max(0.0, loop.time() - self._ticked_at - TICK_SECONDS - LATE_SECONDS)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lost += self._late(loop)
        self._ticked_at = loop.time()
        self._timer = loop.call_later(TICK_SECONDS, self._tick, loop)
