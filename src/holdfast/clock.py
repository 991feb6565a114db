"""Time as a value passed in, so that whole servers run on a virtual clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What ages, timeouts and TTLs are measured by; nothing else in the package reads a clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. For ages, TTLs and timeouts."""
        ...


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    """Seconds since 1970, as the machine believes; it may go back. To be shown, never to decide anything."""
