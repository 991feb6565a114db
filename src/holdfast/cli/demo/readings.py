"""Hits, misses and latencies per tier, from the reads that the servers report. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from holdfast.cli.demo.messages import Read

TIERS = ("l1", "l2", "l3")


class TierReading(msgspec.Struct, frozen=True):
    """How one tier answered.

    Attributes:
        hits: reads it answered.
        misses: reads that asked it, and went on to the next tier or found nothing.
        p50_ms: half of the reads it answered took at most this long, in milliseconds, measured around the
            whole call; None without hits.
        p95_ms: the same for 95 % of them.
    """

    tier: str
    hits: int
    misses: int
    p50_ms: float | None
    p95_ms: float | None


def read_tiers(reads: Iterable[Read]) -> list[TierReading]:
    """Sum up: a read asks L1, then L2, then L3, until one answers; a strong read asks L3 only."""
    seconds: dict[str, list[float]] = {tier: [] for tier in TIERS}
    misses = dict.fromkeys(TIERS, 0)
    for read in reads:
        asked = TIERS[-1:] if read.strong else TIERS
        for tier in asked:
            if tier == read.tier:
                seconds[tier].append(read.seconds)
                break
            misses[tier] += 1
    return [
        TierReading(
            tier,
            len(seconds[tier]),
            misses[tier],
            milliseconds(seconds[tier], 0.50),
            milliseconds(seconds[tier], 0.95),
        )
        for tier in TIERS
    ]


def milliseconds(seconds: Sequence[float], share: float) -> float | None:
    """The percentile in milliseconds; None of nothing."""
    return percentile(seconds, share) * 1000 if seconds else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank), of one or more."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
