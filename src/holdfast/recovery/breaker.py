"""A circuit breaker: cuts off what fails or has become slow, and lets it back by probes (pure).

It opens within `window_seconds` of the first failure, if `failures` of the calls that ended in it failed, and these
were at least half of all; a call slower than it may be counts as failed. Open, it lets nothing pass, until its pause
is over; then one call at a time, as a probe. So many probes in a row that succeed close it; one that fails opens it
again, and each time its pause is longer, up to a bound.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

import msgspec

SHARE: Final = 0.5
"""Of the calls of a window, that must have failed."""
CALLS_MAX: Final = 256
"""That are remembered of a window; under more load it is shorter."""


class Circuit(StrEnum):
    """Of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerRules(msgspec.Struct, frozen=True, kw_only=True):
    """How a breaker decides.

    Attributes:
        failures: within a window that open it.
        window_seconds: how far back calls count.
        pause_seconds: open, before the first probe; doubled with each probe that fails, up to `pause_max_seconds`.
        probes: in a row that close it.
        probe_seconds: a probe that has not ended by then counts as failed.
    """

    failures: int = 3
    window_seconds: float = 1.0
    pause_seconds: float = 0.5
    pause_max_seconds: float = 5.0
    probes: int = 3
    probe_seconds: float = 1.0


class Breaker:
    """The breaker of one endpoint. All times are monotonic seconds of one clock.

    Attributes:
        circuit: closed, open or half open.
    """

    __slots__ = (
        "_calls",
        "_failed",
        "_left",
        "_pause",
        "_permit",
        "_rules",
        "_until",
        "circuit",
    )

    def __init__(self, rules: BreakerRules) -> None:
        self._rules = rules
        self._calls: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._left = 0
        self._pause = rules.pause_seconds
        self._permit = 0
        self._until = 0.0
        """Open: when the first probe may go. Half open: when the probe under way counts as failed; 0: there is none."""
        self.circuit = Circuit.CLOSED

    @property
    def is_failing(self) -> bool:
        """Whether it is not closed, or any call of its window failed."""
        return self.circuit is not Circuit.CLOSED or self._failed > 0

    def trip(self, now: float) -> None:
        """Open at once: it is known that nothing answers. One that is not closed stays as it is."""
        if self.circuit is Circuit.CLOSED:
            self._pause = self._rules.pause_seconds
            self._open(now)

    def mend(self) -> None:
        """Close at once: it is known that it answers. A probe that is under way says nothing any more."""
        if self.circuit is not Circuit.CLOSED:
            self._permit += 1
            self.circuit = Circuit.CLOSED

    def permit(self, now: float) -> int | None:
        """A permit for one call, to be shown when it has ended; None: it must not be made."""
        if self.circuit is Circuit.CLOSED:
            return self._permit
        if now < self._until:
            return None
        if self.circuit is Circuit.HALF_OPEN and self._until:
            self._open(now)  # the probe never came back
            return None
        if self.circuit is Circuit.OPEN:
            self._left = self._rules.probes
            self.circuit = Circuit.HALF_OPEN
        self._until = now + self._rules.probe_seconds
        self._permit += 1
        return self._permit

    def ended(self, permit: int, now: float, *, well: bool) -> None:
        """A call has ended. One from before the circuit last changed, or that is late, says nothing of how it is now.

        Args:
            well: it succeeded, and soon enough.
        """
        if permit != self._permit:
            return
        if self.circuit is Circuit.CLOSED:
            self._note(now, failed=not well)
            if self._failed >= self._rules.failures and self._failed >= SHARE * len(self._calls):
                self._pause = self._rules.pause_seconds
                self._open(now)
        elif self.circuit is Circuit.HALF_OPEN:
            self._probed(now, well=well)

    def _probed(self, now: float, *, well: bool) -> None:
        if not well:
            self._open(now)
            return
        self._until = 0.0
        self._left -= 1
        if not self._left:
            self._permit += 1
            self.circuit = Circuit.CLOSED

    def _note(self, now: float, *, failed: bool) -> None:
        calls = self._calls
        calls.append((now, failed))
        self._failed += failed
        while calls[0][0] <= now - self._rules.window_seconds or len(calls) > CALLS_MAX:
            self._failed -= calls.popleft()[1]

    def _open(self, now: float) -> None:
        if self.circuit is Circuit.HALF_OPEN:
            self._pause = min(self._pause * 2, self._rules.pause_max_seconds)
        self._until = now + self._pause
        self._permit += 1
        self._calls.clear()
        self._failed = 0
        self.circuit = Circuit.OPEN
