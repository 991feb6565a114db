"""Time as a value passed in, so that whole servers run on a virtual clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What ages, timeouts and TTLs are measured by; nothing else in the package reads a clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. For ages, TTLs and timeouts."""
        ...


def wall_clock_ms() -> int:
    """The machine's time of day, milliseconds since 1970; only to be shown, never to order by."""
    return time.time_ns() // 1_000_000


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
