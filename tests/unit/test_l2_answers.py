"""What a server makes of a node's answers, where the suites of the contract do not reach."""

from __future__ import annotations

import msgspec
import pytest

from holdfast.protocols import Absent, Cached
from holdfast.testing.conformance.l2_harness import COHERENCE, KEY, VIEW, mark_of, row
from holdfast.testing.views import FixedView
from holdfast.tiers.codec import WireEntry
from holdfast.tiers.l2_answers import Judge
from holdfast.tiers.l2_topology import Node

NODE = Node("a:1", ((0, 8191),))
NOW_MS = 1_000_000
ENTRY = WireEntry(row(5), 5, COHERENCE.incarnation.bytes, 100, NOW_MS - 4_000, 10_000)


def judge(view: FixedView = VIEW) -> Judge:
    """Of a node with a watermark of generation 90."""
    return Judge(view, mark_of(NODE), NOW_MS, NODE.slots, 2.0)


def test_an_entry_that_counts_has_its_age_by_the_nodes_clock() -> None:
    """Both from the same answer, so no other clock matters."""
    assert judge().entry(KEY, ENTRY) == Cached(row(5), 6.0, 4.0)


def test_an_entry_of_the_future_is_absent() -> None:
    """The node's clock went back: the entry's age cannot be told."""
    late = msgspec.structs.replace(ENTRY, read_at_ms=NOW_MS + 1)
    assert judge().entry(KEY, late) == Absent(NOW_MS, 90)


@pytest.mark.parametrize(("left_ms", "seconds"), [(1, 0.001), (1999, 1.999), (3_600_000, 2.0)])
def test_nobody_waits_longer_than_a_lease_lasts(left_ms: int, seconds: float) -> None:
    """One of before the clock went back, told to a reader that takes none, is cut to the time of a lease."""
    assert judge().leased(left_ms) == Absent(NOW_MS, 90, seconds)


def test_a_fence_is_absent() -> None:
    """However high its version."""
    assert judge().entry(KEY, WireEntry(None, 9, COHERENCE.incarnation.bytes, 100, 0, 0)) == Absent(NOW_MS, 90)


def test_a_watermark_of_more_slots_than_are_asked_hides_nothing() -> None:
    """A key of a slot that it lists counts, whatever else it lists."""
    wide = msgspec.structs.replace(mark_of(NODE), slots=((0, 16383),))
    wider = Judge(VIEW, wide, NOW_MS, NODE.slots, 2.0)
    assert wider.partial
    assert wider.speaks_for(8191)
    assert not Judge(VIEW, None, NOW_MS, NODE.slots, 2.0).speaks_for(8191)
