"""Two ways to do one thing, timed in turns: what disturbs the machine disturbs both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

ROUNDS: Final = 11

Work = Callable[[], Awaitable[int | list[float]]]
"""Does one round's work and says how many operations that was; or how many seconds each took, where their 95th
percentile is compared."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two ways; the label says which, in the report.

    Attributes:
        ready: awaited before each of its turns, untimed.
    """

    label: str
    work: Work
    ready: Callable[[], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """What a ratio has to keep.

    Attributes:
        sense: "at least": of our operations per second over theirs. "at most": of our time per operation over theirs.
            "none": as "at least", only shown.
        percent: ratios are shown in percent.
    """

    sense: Literal["at least", "at most", "none"]
    value: float = 0.0
    percent: bool = False

    def ratio(self, times: Round) -> float:
        """The ratio that is held against the value."""
        return times.ours / times.theirs if self.sense == "at most" else times.theirs / times.ours

    def holds(self, ratio: float) -> bool:
        """Whether the ratio keeps it."""
        return ratio <= self.value if self.sense == "at most" else ratio >= self.value

    def shown(self, ratio: float) -> str:
        """A ratio as text."""
        return f"{ratio * 100:.0f} %" if self.percent else f"{ratio:.1f}x"

    def __str__(self) -> str:
        return "none" if self.sense == "none" else f"{self.sense} {self.shown(self.value)}"


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds per operation of each side, in one round."""

    ours: float
    theirs: float


@dataclass(frozen=True, slots=True)
class Result:
    """A comparison and its limit.

    Attributes:
        operation: what is counted, in the plural: "reads", "rows".
        ours, theirs: the labels of the sides.
    """

    name: str
    operation: str
    ours: str
    theirs: str
    limit: Limit
    rounds: tuple[Round, ...]

    @property
    def ratios(self) -> list[float]:
        """The ratio of each round."""
        return [self.limit.ratio(each) for each in self.rounds]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios; it decides."""
        return statistics.median(self.ratios)

    @property
    def kept(self) -> bool:
        """Whether the limit is kept."""
        return self.limit.holds(self.ratio)

    @property
    def times(self) -> Round:
        """The median seconds per operation of each side."""
        return Round(
            statistics.median(each.ours for each in self.rounds),
            statistics.median(each.theirs for each in self.rounds),
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and the most it may be.

    Attributes:
        unit: of both.
    """

    name: str
    value: float
    most: float
    unit: str

    @property
    def kept(self) -> bool:
        """Whether the limit is kept."""
        return self.value <= self.most


async def compare(
    name: str,
    operation: str,
    ours: Side,
    theirs: Side,
    *,
    limit: Limit,
    between: Callable[[], Awaitable[object]] | None = None,
) -> Result:
    """Time both sides in turns, after one round that does not count. Every other round begins with the other side.

    Args:
        between: tidies up before each round, untimed.
    """
    rounds = []
    with steady_collector():
        for number in range(ROUNDS + 1):
            if between is not None:
                await between()
            seconds: dict[Side, float] = {}
            for side in (ours, theirs) if number % 2 else (theirs, ours):
                seconds[side] = await _seconds(side)
            rounds.append(Round(seconds[ours], seconds[theirs]))
    return Result(name, operation, ours.label, theirs.label, limit, tuple(rounds[1:]))


@contextmanager
def steady_collector() -> Iterator[None]:
    """What exists already is no work for the garbage collector, which stays on, as in a server."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _seconds(side: Side) -> float:
    gc.collect()
    if side.ready is not None:
        await side.ready()
    begun = time.perf_counter()
    done = await side.work()
    return sorted(done)[len(done) * 95 // 100] if isinstance(done, list) else (time.perf_counter() - begun) / done
