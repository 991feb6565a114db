"""How long a call may take, learned from those before, and how many may be made again (pure)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

GAIN: Final = 1 / 8
DEVIATION_GAIN: Final = 1 / 4
DEVIATIONS: Final = 4.0
"""The timer of TCP (RFC 6298): a smoothed time, and so many smoothed deviations from it."""


class AdaptiveTimeout:
    """A timeout from observed latency: that of nearly all calls, however fast or slow the endpoint is by nature.

    Args:
        least_seconds, most_seconds: it stays between these; before anything was observed it is the latter.

    Attributes:
        seconds: that a call made now may take.
    """

    __slots__ = ("_deviation", "_least", "_most", "_smoothed", "seconds")

    def __init__(self, least_seconds: float, most_seconds: float) -> None:
        self._least, self._most = least_seconds, most_seconds
        self._smoothed: float | None = None
        self._deviation = 0.0
        self.seconds = most_seconds

    def observe(self, seconds: float) -> None:
        """A call was answered after so long."""
        if self._smoothed is None:
            self._smoothed, self._deviation = seconds, seconds / 2
        else:
            self._deviation += DEVIATION_GAIN * (abs(seconds - self._smoothed) - self._deviation)
            self._smoothed += GAIN * (seconds - self._smoothed)
        self.seconds = min(max(self._smoothed + DEVIATIONS * self._deviation, self._least), self._most)

    def expired(self) -> None:
        """A call was not answered in time: the next one has longer, since it may be the timeout that is wrong."""
        self.seconds = min(self.seconds * 2, self._most)


class RetryBudget:
    """How many calls of L3 a process may make again: a share of those answered, so an outage multiplies no load.

    Args:
        share: of calls that L3 has answered.
        reserve: retries that there are at first, and at most.
        on_refused: called with each that there is not.
    """

    __slots__ = ("_left", "_on_refused", "_reserve", "_share")

    def __init__(
        self, *, share: float = 0.1, reserve: float = 100.0, on_refused: Callable[[], None] = lambda: None
    ) -> None:
        self._share, self._reserve = share, reserve
        self._left = reserve
        self._on_refused = on_refused

    def note_answered(self) -> None:
        """L3 has answered a call: a batch of reads, a write, or a transaction that committed."""
        self._left = min(self._left + self._share, self._reserve)

    def take(self) -> bool:
        """Whether one more call may be made again; if so, it is spent."""
        if self._left < 1:
            self._on_refused()
            return False
        self._left -= 1
        return True
