"""The structures that docs/adr/0003 compares, each reduced to what a hit and an insertion cost.

All hold at most `entries_max` entries with a time to live from insertion, and answer None for what they do not hold.
What `LocalCache` does beyond that (tickets, fences, MISSING, counters) is left out, so that only the structures differ;
it is measured itself as well.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

from holdfast.keys import Key
from holdfast.tiers.l1_local import LocalCache

KIND: Final = "swarm"
Get = Callable[[str], Any]
Put = Callable[[str, Any], None]
Build = Callable[[int, float, Callable[[], float]], tuple[Get, Put]]
"""(entries_max, ttl_seconds, clock) -> get, put."""


class Entry:
    """A value with its time, its bit and its neighbours; each candidate uses what it needs."""

    __slots__ = ("expires_at", "id", "newer", "older", "used_at", "value", "visited")

    def __init__(self, identifier: str, value: Any, expires_at: float, used_at: float) -> None:
        self.id = identifier
        self.value = value
        self.expires_at = expires_at
        self.used_at = used_at
        self.visited = False
        self.newer: Entry | None = None
        self.older: Entry | None = None


def local_cache(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """What the package ships, with all its rules."""
    cache = LocalCache(entries_max=entries_max, ttl_seconds=ttl_seconds, clock=clock)

    def put(identifier: str, value: Any) -> None:
        key = Key(KIND, identifier)
        cache.fill(key, value, 1, ticket=cache.ticket(), read_at=0.0, ttl_seconds=ttl_seconds)

    return cache.shelf(KIND).peek, put


def lru_by_id(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """An OrderedDict for each kind, keyed by id; the moment of each hit is noted, to compare kinds at eviction."""
    entries: OrderedDict[str, Entry] = OrderedDict()
    find, touch = entries.get, entries.move_to_end

    def get(identifier: str) -> Any:
        entry = find(identifier)
        if entry is not None and entry.expires_at > (now := clock()):
            entry.used_at = now
            touch(identifier)
            return entry.value
        return None

    def put(identifier: str, value: Any) -> None:
        now = clock()
        entries[identifier] = Entry(identifier, value, now + ttl_seconds, now)
        touch(identifier)
        if len(entries) > entries_max:
            entries.popitem(last=False)

    return get, put


def lru_by_key(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """One OrderedDict for all kinds, keyed by (kind, id)."""
    entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
    find, touch = entries.get, entries.move_to_end
    kind = KIND

    def get(identifier: str) -> Any:
        key = (kind, identifier)
        entry = find(key)
        if entry is not None and entry.expires_at > clock():
            touch(key)
            return entry.value
        return None

    def put(identifier: str, value: Any) -> None:
        now = clock()
        key = (kind, identifier)
        entries[key] = Entry(identifier, value, now + ttl_seconds, now)
        touch(key)
        if len(entries) > entries_max:
            entries.popitem(last=False)

    return get, put


def clock_by_id(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """CLOCK: a hit sets a bit; what has it set when its turn comes loses it and goes round again."""
    entries: OrderedDict[str, Entry] = OrderedDict()
    find, touch = entries.get, entries.move_to_end

    def get(identifier: str) -> Any:
        entry = find(identifier)
        if entry is not None and entry.expires_at > clock():
            entry.visited = True
            return entry.value
        return None

    def put(identifier: str, value: Any) -> None:
        now = clock()
        if identifier not in entries and len(entries) >= entries_max:
            while (oldest := next(iter(entries.values()))).visited:
                oldest.visited = False
                touch(oldest.id)
            del entries[oldest.id]
        entries[identifier] = Entry(identifier, value, now + ttl_seconds, now)

    return get, put


def sieve_by_id(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """SIEVE: as CLOCK, but what loses its bit stays in its place; the hand goes from the oldest to the newest."""
    entries: dict[str, Entry] = {}
    find = entries.get
    ends = Entry("", None, 0.0, 0.0)  # its newer neighbour is the oldest entry, its older one the newest
    ends.newer = ends.older = ends
    hand = ends

    def get(identifier: str) -> Any:
        entry = find(identifier)
        if entry is not None and entry.expires_at > clock():
            entry.visited = True
            return entry.value
        return None

    def evict() -> None:
        nonlocal hand
        while hand is ends or hand.visited:
            hand.visited = False
            hand = _neighbour(hand.newer)
        older, newer = _neighbour(hand.older), _neighbour(hand.newer)
        older.newer, newer.older = newer, older
        del entries[hand.id]
        hand = newer

    def put(identifier: str, value: Any) -> None:
        now = clock()
        if (held := find(identifier)) is not None:
            held.value, held.expires_at = value, now + ttl_seconds
            return
        if len(entries) >= entries_max:
            evict()
        entry = entries[identifier] = Entry(identifier, value, now + ttl_seconds, now)
        newest = _neighbour(ends.older)
        entry.older, entry.newer = newest, ends
        newest.newer = ends.older = entry

    return get, put


def _neighbour(entry: Entry | None) -> Entry:
    assert entry is not None, "entries form a ring"
    return entry


def cachebox_lru(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """An LRU in Rust, without TTL: it holds our entries, and the time is checked outside."""
    return _around(importlib.import_module("cachebox").LRUCache(entries_max), ttl_seconds, clock)


def cachetools_lru(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """An LRU in Python, likewise."""
    return _around(importlib.import_module("cachetools").LRUCache(entries_max), ttl_seconds, clock)


def cachebox_ttl(entries_max: int, ttl_seconds: float, _: Callable[[], float]) -> tuple[Get, Put]:
    """The library's own TTL cache, by its own clock; evicts by age, not by use."""
    cache = importlib.import_module("cachebox").TTLCache(entries_max, ttl_seconds)
    return cache.get, cache.insert


def cachetools_ttl(entries_max: int, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    """The library's own TTL cache; evicts by use."""
    cache = importlib.import_module("cachetools").TTLCache(entries_max, ttl_seconds, timer=clock)
    return cache.get, cache.__setitem__


def _around(cache: Any, ttl_seconds: float, clock: Callable[[], float]) -> tuple[Get, Put]:
    find = cache.get

    def get(identifier: str) -> Any:
        entry = find(identifier)
        return entry.value if entry is not None and entry.expires_at > clock() else None

    def put(identifier: str, value: Any) -> None:
        now = clock()
        cache[identifier] = Entry(identifier, value, now + ttl_seconds, now)

    return get, put


def candidates() -> Iterator[tuple[str, Build]]:
    """Those whose library is there; the two of others are not among this project's dependencies."""
    yield "LocalCache, as shipped", local_cache
    yield "OrderedDict for each kind, by id", lru_by_id
    yield "OrderedDict, by (kind, id)", lru_by_key
    yield "CLOCK, by id", clock_by_id
    yield "SIEVE, by id", sieve_by_id
    if importlib.util.find_spec("cachebox"):
        yield "cachebox LRUCache and a check of the time", cachebox_lru
        yield "cachebox TTLCache", cachebox_ttl
    if importlib.util.find_spec("cachetools"):
        yield "cachetools LRUCache and a check of the time", cachetools_lru
        yield "cachetools TTLCache", cachetools_ttl
