"""L1: a bounded LRU in this process, with TTL from insertion and tickets against stale fills.

Rules:

1. Only committed values enter (rule R1). A reader takes a ticket before it asks L2 or L3 and shows it with
   its fill.
2. A fence says "at least this version exists". A fill is refused if a newer fence for its key arrived after
   its ticket, or if fences that young were already forgotten. Below a version that is held, nothing is
   filled.
3. MISSING has no version, so any fence since the ticket refuses it (rule R2).
4. TTL runs from insertion. A hit renews an entry's place in the LRU order, never its TTL.
5. A hit counts only until the moment the feed lease allows (`Shelf.trust_until`); nothing is dropped when it passes.

One `LocalCache` is one of the seed's caches and may serve several kinds (bot, team and routine share one).
Each kind has a `Shelf` keyed by id alone, because building `(kind, id)` for every hit costs a third of it;
the entry that was not used for longest, over all shelves, is evicted first.

Synchronous and without locks: it belongs to one event loop, and no method awaits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from holdfast.entry import MISSING
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION

FENCES_PER_ENTRY = 4
"""The fence map holds this many fences for each entry the cache may hold; older ones are pruned."""


class LocalEntry:
    """What L1 holds for one id: the document or MISSING, and when it was read from L3.

    Attributes:
        version: of the row; 0 for MISSING.
        read_at: monotonic seconds of the read from L3 that produced the value.
        expires_at: monotonic seconds after which the entry does not count.
        used_at: monotonic seconds of the last hit.
        tags: of the document.
        birth: the version its row was inserted with; 0: not known.
    """

    __slots__ = ("birth", "expires_at", "read_at", "tags", "used_at", "value", "version")

    def __init__(  # noqa: PLR0917 - made for every fill
        self,
        value: Any,
        version: int,
        read_at: float,
        expires_at: float,
        used_at: float,
        tags: tuple[str, ...] = (),
        birth: int = 0,
    ) -> None:
        self.birth = birth
        self.tags = tags
        self.value = value
        self.version = version
        self.read_at = read_at
        self.expires_at = expires_at
        self.used_at = used_at


Peek = Callable[[str], Any | None]
Laid = tuple[object, Any]
"""A value that L1 holds, and what is answered in its place."""


class Shelf:
    """The entries of one kind, in LRU order, keyed by id.

    Attributes:
        peek: the live value for an id, or None (not held, expired, known to be missing, or no longer to be trusted);
            counts a hit or a miss.
        trust_until: sets the monotonic moment until which `peek` answers; at first it always does.
        laid: by id, what `peek` answers in the place of the very value named there, and of no other: writes that are
            not committed, which L1 itself never holds (rule W7).
    """

    __slots__ = ("_clock", "_counts", "entries", "laid", "peek", "trust_until")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.entries: OrderedDict[str, LocalEntry] = OrderedDict()
        self.laid: dict[str, Laid] = {}
        self.peek: Peek
        self.trust_until: Callable[[float], None]
        self.peek, self._counts, self.trust_until = _counting_peek(self.entries, self.laid, clock)
        self._clock = clock

    @property
    def hits(self) -> int:
        """Calls of `peek` that found a value."""
        return self._counts()[0]

    @property
    def misses(self) -> int:
        """Calls of `peek` that did not."""
        return self._counts()[1]

    def entry(self, identifier: str) -> LocalEntry | None:
        """The live entry for an id, MISSING included, trusted or not; counts nothing and renews nothing."""
        entry = self.entries.get(identifier)
        return entry if entry is not None and entry.expires_at > self._clock() else None


def _counting_peek(
    entries: OrderedDict[str, LocalEntry], laid: dict[str, Laid], clock: Callable[[], float]
) -> tuple[Peek, Callable[[], tuple[int, int]], Callable[[float], None]]:
    """The hottest function of the package, its counts, and its lease.

    A closure, because looking up attributes of an object would make each hit a quarter slower.
    """
    find, touch = entries.get, entries.move_to_end
    hits = misses = 0
    trusted_until = math.inf

    def peek(identifier: str) -> Any | None:
        nonlocal hits, misses
        entry = find(identifier)
        if entry is not None:
            now = clock()
            value = entry.value
            if entry.expires_at > now < trusted_until and value is not MISSING:
                entry.used_at = now
                touch(identifier)
                hits += 1
                if laid and (over := laid.get(identifier)) is not None:
                    return over[1] if over[0] is value and over[1] is not MISSING else None
                return value
        misses += 1
        return None

    def trust_until(moment: float) -> None:
        nonlocal trusted_until
        trusted_until = moment

    return peek, lambda: (hits, misses), trust_until


class LocalCache:
    """One bounded cache of the seed (`swarm`, `run` or `config`, or an own kind's).

    Args:
        entries_max: most entries held, over all kinds.
        ttl_seconds: how long an entry counts after its insertion.
        clock: monotonic seconds.
    """

    def __init__(self, *, entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> None:
        self.evictions = 0
        self.refused_fills = 0
        self._entries_max = entries_max
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._shelves: dict[str, Shelf] = {}
        self._size = 0
        # Fences by key in order of arrival: (arrival, version, the same without ANY_VERSION). Arrival numbers are this
        # cache's only clock of events.
        self._fences: OrderedDict[Key, tuple[int, int, int]] = OrderedDict()
        self._fences_max = entries_max * FENCES_PER_ENTRY
        self._arrival = 0
        self._forgotten = 0

    def shelf(self, kind: str) -> Shelf:
        """The kind's shelf, made on first use; it stays the same object for the cache's life."""
        shelf = self._shelves.get(kind)
        if shelf is None:
            shelf = self._shelves[kind] = Shelf(self._clock)
        return shelf

    def __len__(self) -> int:
        return self._size

    def ticket(self) -> int:
        """Begin a read: the number to show with the fill that ends it."""
        return self._arrival

    def fence(self, key: Key, version: int) -> None:
        """Note that this version exists: drops any other, and refuses fills of reads begun before that are older."""
        self._arrival += 1
        # ANY_VERSION forbids what was read before it, as every later fence does; what was known before it stays known.
        former = self._fences.pop(key, None)
        known = 0 if former is None else former[2]
        shelf = self._shelves.get(key.kind)
        held = None if shelf is None else shelf.entries.get(key.id)
        if held is not None and held.version != version:
            # Below it: the past. Above it: newer, or of the row's earlier life, since an upsert that ends as an insert
            # drew its number before it waited for the delete. Nobody can tell which, so L3 is asked.
            known = max(known, held.version)
            self._remove(key)
        if version > known and version != ANY_VERSION:
            known = version
        self._fences[key] = (self._arrival, max(known, version), known)
        if len(self._fences) > self._fences_max:
            _, (arrival, _, _) = self._fences.popitem(last=False)
            self._forgotten = max(self._forgotten, arrival)  # more may have been forgotten since, by a flush

    def fill(
        self,
        key: Key,
        value: Any,
        version: int,
        *,
        ticket: int,
        read_at: float,
        ttl_seconds: float,
        tags: tuple[str, ...] = (),
        birth: int = 0,
    ) -> bool:
        """Hold a value read from L2 or L3, unless the rules refuse it; says whether it is held now.

        Args:
            ttl_seconds: what is left of the TTL of the tier it came from; the shorter of the two counts.
            tags: of the value, for `flush_tags`.
            birth: of its row; 0: not known.
        """
        if ttl_seconds <= 0 or not self._admits(key, value, version, ticket, read_at):
            self.refused_fills += 1
            return False
        now = self._clock()
        expires_at = now + min(self._ttl_seconds, ttl_seconds)
        entries = self.shelf(key.kind).entries
        self._size += key.id not in entries
        entries[key.id] = LocalEntry(value, version, read_at, expires_at, now, tags, birth)
        entries.move_to_end(key.id)
        if self._size > self._entries_max:
            self._evict()
        return True

    def is_contested(self, key: Key, ticket: int) -> bool:
        """Whether a fence of a key came after a ticket: of two writes the version does not say which is the newer."""
        arrival, _, _ = self._fences.get(key, (0, 0, 0))
        return max(arrival, self._forgotten) > ticket

    def flush(self) -> None:
        """Forget everything, and refuse the fill of every read begun before now."""
        for shelf in self._shelves.values():
            shelf.entries.clear()
        self._size = 0
        self._fences.clear()
        self._arrival += 1
        self._forgotten = self._arrival

    def flush_tags(self, tags: AbstractSet[str] | None) -> None:
        """Forget the entries with any of these tags, or (None) with any at all; refuse fills of reads begun before."""
        for shelf in self._shelves.values():
            void = [
                identifier
                for identifier, entry in shelf.entries.items()
                if entry.tags and (tags is None or not tags.isdisjoint(entry.tags))
            ]
            for identifier in void:
                del shelf.entries[identifier]
            self._size -= len(void)
        self._arrival += 1
        self._forgotten = self._arrival  # whatever the tags of what is being read: nobody knows them yet

    def forget_since(self, moment: float) -> None:
        """Forget what was filled from a moment on (monotonic seconds), and refuse the fill of what is being read.

        What was only used since then goes too. When its read began says nothing: it may have ended much later.
        """
        for shelf in self._shelves.values():
            young = [identifier for identifier, entry in shelf.entries.items() if entry.used_at >= moment]
            for identifier in young:
                del shelf.entries[identifier]
            self._size -= len(young)
        self._arrival += 1
        self._forgotten = self._arrival

    def flush_kind(self, kind: str) -> None:
        """Forget a kind's entries, and refuse the fill of every read begun before now."""
        entries = self.shelf(kind).entries
        self._size -= len(entries)
        entries.clear()
        self._arrival += 1
        self._forgotten = self._arrival  # of all kinds, which costs those that share the cache a few fills

    def _admits(self, key: Key, value: Any, version: int, ticket: int, read_at: float) -> bool:
        if ticket < self._forgotten:
            return False
        arrival, fenced, _ = self._fences.get(key, (0, 0, 0))
        if arrival > ticket and (value is MISSING or fenced > version):
            return False
        held = self.shelf(key.kind).entries.get(key.id)
        if held is None:
            return True
        if value is MISSING or held.value is MISSING:
            # "No such row" has no version to compare, and reads may end in another order than they began:
            # the later one counts.
            return held.read_at <= read_at
        return held.version <= version

    def _remove(self, key: Key) -> None:
        del self.shelf(key.kind).entries[key.id]
        self._size -= 1

    def _evict(self) -> None:
        oldest = min(
            (shelf.entries for shelf in self._shelves.values() if shelf.entries),
            key=lambda entries: next(iter(entries.values())).used_at,
        )
        oldest.popitem(last=False)
        self._size -= 1
        self.evictions += 1
