"""Hits, misses and latencies per tier, and what became of writes, from what the servers report. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from holdfast.cli.demo.messages import Behind, Read, RunReading

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


class WriteReading(msgspec.Struct, frozen=True):
    """What became of the servers' writes.

    Attributes:
        accepted: by write-behind, as operations; `updated`: the others, which are no operations.
        journaled: how many of the accepted were in the journal when their call returned, and `committed_at_once` how
            many were committed by then.
        commits: that brought accepted writes to L3, on average `writes_per_commit` and at most `largest_commit`.
        window_ms: the longest time from the acceptance of one to its commit: so long it would have been lost, had its
            server and L2 died together.
    """

    accepted: int
    updated: int
    journaled: int
    committed_at_once: int
    commits: int
    writes_per_commit: float
    largest_commit: int
    window_ms: float


def read_writes(behind: Sequence[Behind], writes: int) -> WriteReading:
    """Sum up.

    Args:
        behind: of each step.
        writes: how many there were, updates included.
    """
    accepted, journaled = sum(each.accepted for each in behind), sum(each.journaled for each in behind)
    commits = [size for each in behind for size in each.commits]
    return WriteReading(
        accepted=accepted,
        updated=writes - accepted,
        journaled=journaled,
        committed_at_once=accepted - journaled,
        commits=len(commits),
        writes_per_commit=sum(commits) / len(commits) if commits else 0.0,
        largest_commit=max(commits, default=0),
        window_ms=1000 * max((each.window_seconds for each in behind), default=0.0),
    )


class RunsReading(msgspec.Struct, frozen=True):
    """The runs of an execution of the demo.

    Attributes:
        runs: of scenarios, and of steps.
        checkpoints: how often their contexts were made snapshots of, and `snapshots`: how many there are, with the
            bases that the runs began with.
    """

    runs: int
    checkpoints: int
    snapshots: int


def read_runs(executions: Iterable[RunReading]) -> RunsReading:
    """Sum up."""
    runs = checkpoints = snapshots = 0
    for each in executions:
        runs += 1 + len(each.children)
        checkpoints += each.checkpoints
        snapshots += each.snapshots
    return RunsReading(runs, checkpoints, snapshots)


def milliseconds(seconds: Sequence[float], share: float) -> float | None:
    """The percentile in milliseconds; None of nothing."""
    return percentile(seconds, share) * 1000 if seconds else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank), of one or more."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
