"""What one subscription has yet to handle (pure): the most urgent first, each lane in its order.

Reliable events are bounded by whoever hands them in. Of the others at most so many wait: then the oldest of the least
urgent gives way, be it the new one itself. One reminder may wait beside them, which goes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from holdfast.events import Event


class Origin(Protocol):
    """Where a reliable event came from."""

    @property
    def source(self) -> object:
        """What is withdrawn as a whole."""
        ...

    def holds(self) -> bool:
        """Whether it may still be handled here."""
        ...

    def settle(self, fault: str | None = None, *, attempts: int = 1) -> None:
        """It is done with; a fault says why it was given up."""
        ...

    def park(self) -> None:
        """It waits for another of its lane, which waits to be tried again: nothing goes on until then."""
        ...

    def unpark(self) -> None:
        """It goes on."""
        ...


@dataclass(slots=True, eq=False)
class Waiting:
    """One event on its way to a handler.

    Attributes:
        rank: of its priority, 0 the most urgent.
        lane: events with the same lane are handled in the order in which they came; None: it has no others to heed.
        origin: where it came from, if that must be told what becomes of it.
        failures: of the handler with it so far.
        arrived: when, by the monotonic clock, if it has no origin.
    """

    event: Event
    rank: int
    lane: Hashable | None = None
    origin: Origin | None = None
    failures: int = 0
    arrived: float = 0.0


class EventQueue:
    """The queue.

    Args:
        ranks: how many priorities there are.
        live_max: events without an origin that may wait.
    """

    def __init__(self, *, ranks: int, live_max: int) -> None:
        self._live_max = live_max
        self._live: list[deque[Waiting]] = [deque() for _ in range(ranks)]
        self._kept: list[deque[Waiting]] = [deque() for _ in range(ranks)]
        self._held: dict[Hashable, deque[Waiting]] = {}
        self._live_count = 0
        self._reminder: Waiting | None = None

    def __len__(self) -> int:
        reliable = sum(map(len, self._kept)) + sum(map(len, self._held.values()))
        return self._live_count + reliable + (self._reminder is not None)

    def push(self, item: Waiting) -> Waiting | None:
        """Put an event at the end of its priority; returns the one that had to give way, if any."""
        if item.origin is not None:
            self._kept[item.rank].append(item)
            return None
        self._live[item.rank].append(item)
        self._live_count += 1
        return self._drop() if self._live_count > self._live_max else None

    def remind(self, item: Waiting) -> None:
        """Put an event before all others, unless one waits there already; it never gives way."""
        self._reminder = self._reminder or item

    def pop(self) -> Waiting | None:
        """Take the next event that no other holds up; None if there is none.

        Of one priority those with an origin come first: whoever reads them is waiting to read on.
        """
        if self._reminder is not None:
            item, self._reminder = self._reminder, None
            return item
        for kept, live in zip(self._kept, self._live, strict=True):
            while kept:
                item = kept.popleft()
                if item.lane is None or item.lane not in self._held:
                    return item
                self._held[item.lane].append(item)
                if item.origin is not None:
                    item.origin.park()
            if live:
                self._live_count -= 1
                return live.popleft()
        return None

    def hold(self, item: Waiting) -> None:
        """Keep an event that was taken, and all of its lane behind it, until `release`."""
        self._held[self._lane(item)] = deque([item])

    def release(self, item: Waiting) -> None:
        """Put what was held with an event back, before all others of its priority."""
        held = self._held.pop(self._lane(item), ())
        for each in held:
            if each.origin is not None:
                each.origin.unpark()
        self._kept[item.rank].extendleft(reversed(held))

    def withdraw(self, source: object) -> None:
        """Forget what came from a source and is not held; what is held is told apart when it is released."""
        for rank, kept in enumerate(self._kept):
            self._kept[rank] = deque(item for item in kept if item.origin is None or item.origin.source is not source)

    def clear(self) -> list[Waiting]:
        """Forget everything; returns what had an origin, held or not."""
        found = [item for items in (*self._kept, *self._held.values()) for item in items]
        for items in (*self._kept, *self._live):
            items.clear()
        self._held.clear()
        self._live_count, self._reminder = 0, None
        return found

    def _drop(self) -> Waiting:
        self._live_count -= 1
        return next(live.popleft() for live in reversed(self._live) if live)

    @staticmethod
    def _lane(item: Waiting) -> Hashable:
        return item if item.lane is None else item.lane
