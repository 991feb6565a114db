"""What a server makes of the answers of one node of L2 (pure; rules C1, C3 and C4)."""

from __future__ import annotations

from typing import Final

from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Absent, Cached, View, Watermark
from holdfast.tiers.codec import WireEntry
from holdfast.tiers.l2_topology import Ranges, covers

NO_GENERATION: Final = -1
"""The generation of a miss that takes no fill."""


class Judge:
    """Judges one answer of a node: all of it was read at one moment.

    Args:
        mark: the node's watermark; None if it has none.
        node_time_ms: the node's clock.
        slots: what the node is thought to serve; no key of another slot is asked of it.
        lease_seconds: how long a lease lasts at most.

    Attributes:
        trusted: whether the node's entries can count at all.
        nothing: the answer for a key that holds nothing.
        unserved: the answer for a key that the watermark does not speak for.
        partial: whether there may be such keys.
    """

    __slots__ = (
        "_coherence",
        "_fenced",
        "_floors",
        "_incarnation",
        "_lease_seconds",
        "_leasts",
        "_mark",
        "_node_time_ms",
        "_tagged",
        "_void_below",
        "nothing",
        "partial",
        "trusted",
        "unserved",
    )

    def __init__(
        self, view: View, mark: Watermark | None, node_time_ms: int, slots: Ranges, lease_seconds: float
    ) -> None:
        self._coherence = view.coherence
        self._fenced = view.fenced
        self._tagged = view.tagged
        self._void_below = view.void_below
        self._incarnation = view.coherence.incarnation.bytes
        self._floors: dict[str, int] = {}
        self._leasts: dict[str, int] = {}
        self._mark = mark
        self._node_time_ms = node_time_ms
        self._lease_seconds = lease_seconds
        self.trusted = mark is not None and view.trusts(mark)
        self.unserved = Absent(node_time_ms, NO_GENERATION)
        self.nothing = Absent(node_time_ms, mark.generation) if mark is not None else self.unserved
        self.partial = mark is not None and mark.slots != slots

    def speaks_for(self, slot: int) -> bool:
        """Whether the watermark covers a slot."""
        return self._mark is not None and covers(self._mark.slots, slot)

    def leased(self, left_ms: int) -> Absent:
        """The answer for a key that another server loads; without trust there is nothing to wait for."""
        if not self.trusted:
            return self.nothing
        left_seconds = min(left_ms / 1000, self._lease_seconds)
        return Absent(self._node_time_ms, self.nothing.generation, left_seconds)

    def entry(self, key: Key, entry: WireEntry | None) -> Cached | Absent:
        """The answer for a key that holds an entry: a hit if it counts; one of an unknown format (None) does not."""
        if not self.trusted or entry is None:
            return self.nothing
        row, kind, tags = entry.row, key.kind, entry.tags
        if row is None or entry.incarnation != self._incarnation:
            return self.nothing
        floor = self._floors.get(kind) or self._floor(kind) if tags is None else self._tags_floor(kind, tags)
        if entry.generation < floor or entry.version < self._fenced(key):
            return self.nothing
        age_ms = self._node_time_ms - entry.read_at_ms
        if age_ms < 0:  # the node's clock went back, and with it all that can be said of the entry's age
            return self.nothing
        left_ms = entry.ttl_ms - age_ms
        return Cached(row, left_ms / 1000 if left_ms > 0 else 0.0, age_ms / 1000, tags)

    def _floor(self, kind: str) -> int:
        """Of entries that tell no tags. Of a kind that declares some, they come from a server that did not know it."""
        floor = ANY_VERSION if kind in self._tagged else self._least(kind)
        self._floors[kind] = floor
        return floor

    def _tags_floor(self, kind: str, tags: tuple[str, ...]) -> int:
        return max(self._leasts.get(kind) or self._least(kind), self._void_below(tags))

    def _least(self, kind: str) -> int:
        least = self._leasts[kind] = max(self._coherence.shared_floor(kind), self.nothing.generation)
        return least
