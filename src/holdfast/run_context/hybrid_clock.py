"""A hybrid logical clock: moments near the wall's time that never go back and that order what one write saw of others.

A write that has seen another gets a later moment, on whatever server and however its wall clock stands. In order to
compare moments as text, their text form has the order of the moments.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Final, NamedTuple

MS_MAX: Final = 250_000_000_000_000  # in the year 9892: twelve digits of text, and still a date
COUNTER_MAX: Final = (1 << 16) - 1
SKEW_SECONDS_MAX: Final = 60.0
"""How far ahead of this server's wall clock a moment may be to be believed."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TEXT: Final = re.compile(r"([0-9a-f]{12})\.([0-9a-f]{4})\.(.*)\Z", re.DOTALL)


class HybridTime(NamedTuple):
    """A moment of a hybrid logical clock; they are ordered as tuples are, and no two writes share one.

    Attributes:
        ms: since 1970, as the furthest clock that was heard of had it.
        counter: of the writes in that millisecond.
        node: whose write it was, to tell apart what is otherwise equal.
    """

    ms: int
    counter: int
    node: str

    def __str__(self) -> str:
        counted = f" ({self.counter})" if self.counter else ""
        return f"{self.as_datetime().isoformat(timespec='milliseconds')}{counted}"

    def as_text(self) -> str:
        """Text whose order, by code points, is the order of the moments."""
        return f"{self.ms:012x}.{self.counter:04x}.{self.node}"

    def as_datetime(self) -> dt.datetime:
        """When that was, in UTC."""
        return _EPOCH + dt.timedelta(milliseconds=self.ms)


def hybrid_time(text: str) -> HybridTime | None:
    """The moment that `HybridTime.as_text` wrote; None: the text is none."""
    found = _TEXT.match(text)
    return None if found is None else HybridTime(int(found[1], 16), int(found[2], 16), found[3])


class HybridClock:
    """Gives this server's moments.

    Attributes:
        node: this server's name, different from all others'.
        ahead: moments of others that were not believed, being too far ahead.
    """

    __slots__ = ("_last", "_skew_ms_max", "_wall", "ahead", "node")

    def __init__(self, wall: Callable[[], float], node: str, *, skew_seconds_max: float = SKEW_SECONDS_MAX) -> None:
        """Begin at the wall's time.

        Args:
            wall: seconds since 1970; may go back.
        """
        self.node = node
        self.ahead = 0
        self._wall = wall
        self._skew_ms_max = int(skew_seconds_max * 1000)
        self._last = (0, 0)

    def now(self) -> HybridTime:
        """A moment later than all that this clock has given, and all of others that it has believed."""
        ms, counter = self._last
        wall_ms = self._wall_ms()
        if wall_ms > ms:
            self._last = (wall_ms, 0)
        elif counter < COUNTER_MAX:
            self._last = (ms, counter + 1)
        else:
            self._last = (ms + 1, 0)
        return HybridTime(*self._last, self.node)

    def observe(self, time: HybridTime) -> bool:
        """Be later than another's moment from here on.

        Returns:
            False: it is further ahead of the wall than clocks may differ, so one clock is wrong. It is counted and not
            followed: otherwise one broken clock would drag all others into the future for good.
        """
        if time.ms - self._wall_ms() > self._skew_ms_max:
            self.ahead += 1
            return False
        self._last = max(self._last, (time.ms, time.counter))
        return True

    def ahead_ms(self, time: HybridTime) -> int:
        """Milliseconds by which a moment is ahead of this server's wall clock; below 0: behind it."""
        return time.ms - self._wall_ms()

    def _wall_ms(self) -> int:
        return min(max(int(self._wall() * 1000), 0), MS_MAX)
