"""What the feed brings of keys that this server wrote itself."""

from __future__ import annotations

import uuid

import pytest

from holdfast.changes import ChangeOperation
from holdfast.flights import Flights
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.fence_map import FenceMap
from holdfast.invalidation.key_history import KeyHistory
from holdfast.invalidation.lease import FeedLease
from holdfast.keys import Key
from holdfast.metrics.counters import Counters
from holdfast.protocols import Change, Coherence, Cursor, Poll, Snapshot
from holdfast.testing import ManualClock
from holdfast.tiers.l1_local import LocalCache

KEY = Key("bot", "b1")
L3 = Coherence(uuid.UUID(int=1))
BEGIN = Cursor(L3, Snapshot(10, 10))


class Place:
    """An applier that has come to a first cursor, and L1."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cache = LocalCache(entries_max=10, ttl_seconds=60.0, clock=self.clock.monotonic)
        self.applier = ChangeApplier(
            caches={"bot": self.cache},
            flights=Flights(),
            view=FenceMap(L3),
            lease=FeedLease({"bot": 0.25}, {"bot": lambda _: None}),
            clock=self.clock,
            counters=Counters(),
            history=KeyHistory(0.0),
        )
        self.applier.apply(Poll(BEGIN), self.clock.monotonic())

    def read(self, version: int) -> None:
        """A read of L3, begun and ended now."""
        self.clock.advance(0.01)
        now = self.clock.monotonic()
        self.cache.fill(KEY, "value", version, ticket=self.cache.ticket(), read_at=now, ttl_seconds=60.0)

    def brings(self, *changes: Change) -> None:
        """The feed, in its next poll."""
        self.clock.advance(0.01)
        self.applier.apply(Poll(Cursor(L3, Snapshot(20, 20)), changes), self.clock.monotonic())

    @property
    def held(self) -> int | None:
        """The version that L1 holds."""
        entry = self.cache.shelf("bot").entry(KEY.id)
        return None if entry is None else entry.version


def test_its_own_write_leaves_what_was_read_since() -> None:
    """It was told with the commit."""
    at = Place()
    at.applier.tell(KEY, 20)
    at.read(20)
    at.brings(Change(KEY, 20))
    assert at.held == 20


@pytest.mark.parametrize("order", [(20, 21), (21, 20)])
def test_a_write_of_another_server_takes_it(order: tuple[int, int]) -> None:
    """Whichever came first."""
    at = Place()
    at.applier.tell(KEY, 20)
    at.read(20)
    at.brings(*(Change(KEY, version) for version in order))
    assert at.held is None


def test_a_deletion_with_the_number_of_its_own_change_takes_what_was_read() -> None:
    """V2: a changed primary key leaves its id at a number that is not drawn; a delete of no row may have drawn it."""
    at = Place()
    at.applier.tell(KEY, 20)  # deleted here, and there was nothing
    at.read(19)  # inserted elsewhere, before that and committed after
    assert at.held == 19
    at.brings(Change(KEY, 19, ChangeOperation.INSERT), Change(KEY, 20, ChangeOperation.DELETE))
    assert at.held is None
