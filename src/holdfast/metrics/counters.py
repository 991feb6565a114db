"""Counters of the tiers (pure). Each moves exactly when its line here says; none is ever labelled by key.

The L1 counters live in the caches (`tiers.l1_local`), whose hits are too hot to be reported anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class TierCounters:
    """One tier's counters.

    Attributes:
        hits: keys answered with a document.
        misses: keys answered with "not here" (L2) or "no such row" (L3). An error is not a miss.
        errors: L2: keys whose node failed or whose entry was unreadable; L3: queries that failed.
        fills: entries that the tier took over from the tier below.
        round_trips: batches asked, answered or not.
        keys: in these batches.
        seconds: spent waiting for these, summed.
    """

    hits: int = 0
    misses: int = 0
    errors: int = 0
    fills: int = 0
    round_trips: int = 0
    keys: int = 0
    seconds: float = 0.0

    def observe(self, seconds: float, keys: int) -> None:
        """Note one answered round trip."""
        self.round_trips += 1
        self.keys += keys
        self.seconds += seconds


@dataclass(slots=True)
class Counters:
    """The counters of one server.

    Attributes:
        flushes: times L1, or the part of a kind, was emptied: L3 is another incarnation, a generation was raised, or a
            kind changed by more keys than are told apart.
    """

    l2: TierCounters = field(default_factory=TierCounters)
    l3: TierCounters = field(default_factory=TierCounters)
    flushes: int = 0
