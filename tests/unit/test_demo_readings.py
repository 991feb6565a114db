"""Hits, misses and latencies per tier."""

from __future__ import annotations

import pytest

from holdfast.cli.demo.messages import Read
from holdfast.cli.demo.readings import TierReading, percentile, read_tiers


def test_a_read_asks_tier_after_tier_until_one_answers() -> None:
    """A read that L3 answers is a miss of L1 and L2; one that finds nothing is a miss of all three."""
    reads = [
        Read("bot", "l1", 0.001),
        Read("bot", "l2", 0.002),
        Read("bot", "l3", 0.003),
        Read("bot", None, 0.004),
    ]

    assert [(tier.tier, tier.hits, tier.misses) for tier in read_tiers(reads)] == [
        ("l1", 1, 3),
        ("l2", 1, 2),
        ("l3", 1, 1),
    ]


def test_strong_reads_ask_l3_alone() -> None:
    """A read past the caches is no miss of theirs."""
    reads = [Read("swarm", "l3", 0.003, strong=True), Read("swarm", None, 0.003, strong=True)]

    assert [(tier.hits, tier.misses) for tier in read_tiers(reads)] == [(0, 0), (0, 0), (1, 1)]


def test_latencies_are_those_of_the_answering_tier_in_milliseconds() -> None:
    """A miss adds nothing to the latencies of the tiers it passed, and a tier without hits has none."""
    reads = [Read("bot", "l2", seconds) for seconds in (0.004, 0.001, 0.002, 0.003)]

    l1, l2, _ = read_tiers(reads)

    assert l1 == TierReading("l1", 0, 4, None, None)
    assert l2 == TierReading("l2", 4, 0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [([5.0], 0.5, 5.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 0.5, 1.0), (list(range(1, 101)), 0.95, 95)],
)
def test_percentile_is_by_nearest_rank(values: list[float], share: float, wanted: float) -> None:
    """The percentile is a value that occurred, never an average of two."""
    assert percentile(values, share) == wanted
