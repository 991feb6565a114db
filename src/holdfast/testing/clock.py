"""A clock that stands still until it is told otherwise."""

from __future__ import annotations


class ManualClock:
    """`Clock` for tests.

    Args:
        start: monotonic seconds at the beginning.
    """

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start

    def monotonic(self) -> float:
        """The time as last set, seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: negative seconds; monotonic time never goes back.
        """
        if seconds < 0:
            raise ValueError(f"monotonic time cannot go back by {-seconds} s")
        self._now += seconds
