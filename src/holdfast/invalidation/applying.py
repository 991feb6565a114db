"""What a change does to this server: its L1, its flights, its fence map and its lease.

No method awaits: a reader sees a poll applied wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from uuid import UUID

from holdfast.clock import Clock
from holdfast.flights import Flights
from holdfast.invalidation.fence_map import FenceMap
from holdfast.invalidation.key_history import KeyHistory
from holdfast.invalidation.lease import FeedLease
from holdfast.keys import Key
from holdfast.metrics.counters import Counters
from holdfast.protocols import Coherence, Poll
from holdfast.tags import EVERY_TAG
from holdfast.tiers.l1_local import LocalCache


class ChangeApplier:
    """Applies what the feed, a read of L3 or a write of this server told.

    Args:
        caches: the L1 cache of each kind; changes of other kinds concern other servers.
        history: is told what was learnt, for whoever asks why an answer was wrong.
    """

    def __init__(
        self,
        *,
        caches: Mapping[str, LocalCache],
        flights: Flights,
        view: FenceMap,
        lease: FeedLease,
        clock: Clock,
        counters: Counters,
        history: KeyHistory,
    ) -> None:
        self._caches = caches
        self._flights = flights
        self._view = view
        self._lease = lease
        self._clock = clock
        self._counters = counters
        self._history = history
        self._adopted_at = clock.monotonic()
        self._life: tuple[str, ...] = ()

    @property
    def incarnation(self) -> UUID:
        """Of L3, as known here."""
        return self._view.coherence.incarnation

    def apply(self, poll: Poll, began: float) -> None:
        """Take over what a poll begun at `began` (monotonic seconds) brought; then the lease is renewed."""
        cursor = poll.cursor
        if began <= self._adopted_at and cursor.coherence.incarnation != self._view.coherence.incarnation:
            return  # overtaken by an answer of the incarnation that came after; the next poll begins anew
        if poll.reset is not None or cursor.coherence.incarnation != self._view.coherence.incarnation:
            self._begin_anew(cursor.coherence)
            self._adopted_at = max(self._adopted_at, began)
        else:
            self._flush_below(cursor.coherence)
            if self._life not in {(), cursor.life}:
                self._doubt_the_end_of_a_life()
        self._life = cursor.life
        self.void_tags(poll.tags)
        now = self._clock.monotonic()
        self._history.fed(now, poll.changes)
        for change in poll.changes:
            if change.key.kind not in self._caches:
                continue
            if change.whole_kind:
                self._counters.flushes += 1
                self._flush_kind(change.key.kind)
                self._view.note_kind(change.key.kind, now)
            # What was written here was told here, after the commit: what has begun since sees it. A deletion may have a
            # number that was not drawn (V2, of a changed primary key), and so that of another change.
            elif change.deleted or not self._view.is_noted(change.key, change.version):
                self._tell(change.key, change.version, now)
        self._view.advance(cursor, began)
        self._lease.renew(began, cursor.snapshot)

    def _doubt_the_end_of_a_life(self) -> None:
        """Drop what was filled after the last good poll of a server of L3 that was started anew since.

        All that the feed delivered is still there. What was committed after it and read at once may not be, if these
        are older files, and nobody would ever tell.
        """
        self._flights.detach_all()
        for cache in set(self._caches.values()):
            cache.forget_since(self._lease.renewed_at)
        self._lease.revoke()  # its transactions are over, and their numbers may not come again for long

    def tell(self, key: Key, version: int) -> None:
        """At least this version of a key exists: nothing older may be answered or filled any more."""
        now = self._clock.monotonic()
        self._history.told(now, key, version)
        self._tell(key, version, now)
        self._view.note_unheard(key, version, now)

    def void_tags(self, generations: Mapping[str, int]) -> None:
        """Entries with these tags are void below these generations.

        They come with the feed, whatever a load told before of the newest of them: what a load alone tells of, voids
        nothing before the next poll, which is within the bound.
        """
        if generations and (risen := self._view.note_tags(generations)):
            self._counters.flushes += 1
            self._flush_tags(risen | {EVERY_TAG})

    def _tell(self, key: Key, version: int, now: float) -> None:
        self._caches[key.kind].fence(key, version)
        self._view.note(key, version, now)
        self._flights.detach(key)

    def adopt(self, coherence: Coherence, began: float) -> None:
        """Take over what L3 said of itself in a call begun at `began`; a new incarnation empties L1 first."""
        if coherence is self._view.coherence or began < self._adopted_at:
            return  # an answer overtaken by one that began later must not bring the past back
        self._adopted_at = began
        if coherence.incarnation != self._view.coherence.incarnation:
            self._begin_anew(coherence)
        else:
            self._flush_below(coherence)

    def _begin_anew(self, coherence: Coherence) -> None:
        """What was read so far may be of a history that was lost."""
        self._counters.flushes += 1
        self._history.flushed(self._clock.monotonic())
        self._lease.revoke()
        self._view.reset(coherence)
        self._flights.detach_all()
        for cache in set(self._caches.values()):
            cache.flush()

    def _flush_below(self, coherence: Coherence) -> None:
        """Empty L1 of the kinds whose generation rose."""
        known = self._view.coherence
        if coherence is known or coherence.highest < known.highest:
            return
        risen = [kind for kind in self._caches if coherence.floor(kind) > known.floor(kind)]
        for kind in risen:
            self._history.flushed(self._clock.monotonic(), kind)
            self._flush_kind(kind)
        forgotten = coherence.tagged > known.tagged
        if forgotten:  # of some tags nobody can tell this server any more that they were raised
            self._flush_tags(None)
        self._counters.flushes += bool(risen) or forgotten
        self._view.learn(coherence)

    def _flush_tags(self, tags: AbstractSet[str] | None) -> None:
        for cache in {self._caches[kind] for kind in self._view.tagged}:
            cache.flush_tags(tags)
        for kind in self._view.tagged:
            self._flights.detach_kind(kind)

    def _flush_kind(self, kind: str) -> None:
        self._caches[kind].flush_kind(kind)
        self._flights.detach_kind(kind)
