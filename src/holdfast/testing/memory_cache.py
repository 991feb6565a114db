"""L2 in memory, with the rules of the scripts in `holdfast.tiers.lua`.

Several servers of one test share one `MemoryCache`, as they would share a Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from holdfast.clock import Clock
from holdfast.errors import TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Coherence, Failed, Fill, Row


class Held(msgspec.Struct, frozen=True):
    """What a key holds: a row, or (None) a fence."""

    row: Row | None
    version: int
    incarnation: UUID
    generation: int
    read_at_ms: int
    expires_at_ms: int


class MemoryCache:
    """`SharedCache` in memory.

    Attributes:
        away: while True every call fails as if no node answered.
    """

    def __init__(self, clock: Clock, *, fence_lifetime_seconds: float = 60.0) -> None:
        self.away = False
        self._clock = clock
        self._fence_ms = round(fence_lifetime_seconds * 1000)
        self._held: dict[Key, Held] = {}

    async def read(self, keys: Sequence[Key], coherence: Coherence) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up; see `SharedCache.read`."""
        if self.away:
            return dict.fromkeys(keys, Failed(TierUnavailable("L2 in memory is away")))
        return {key: self._judge(key, coherence) for key in keys}

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        return 0 if self.away else sum(self._fill(fill, coherence) for fill in fills)

    async def fence(self, versions: Mapping[Key, int], coherence: Coherence) -> Sequence[Key]:
        """Raise fences; see `SharedCache.fence`."""
        if self.away:
            return list(versions)
        for key, version in versions.items():
            self._fence(key, version, coherence)
        return []

    def forget(self) -> None:
        """Lose everything, as a Redis may at any time."""
        self._held.clear()

    def _now_ms(self) -> int:
        return round(self._clock.monotonic() * 1000)

    def _live(self, key: Key) -> Held | None:
        held = self._held.get(key)
        return held if held is not None and held.expires_at_ms > self._now_ms() else None

    def _judge(self, key: Key, coherence: Coherence) -> Cached | Absent:
        held, now = self._live(key), self._now_ms()
        if held is None or held.row is None:
            return Absent(now)
        if held.incarnation != coherence.incarnation or held.generation < coherence.floor(key.kind):
            return Absent(now)
        return Cached(held.row, (held.expires_at_ms - now) / 1000, (now - held.read_at_ms) / 1000)

    def _fill(self, fill: Fill, coherence: Coherence) -> bool:
        age_ms = self._now_ms() - fill.node_time_ms
        if not 0 <= age_ms <= self._fence_ms // 2:
            return False
        held = self._live(fill.key)
        if held is not None and held.incarnation == coherence.incarnation and held.version > fill.row.version:
            return False
        expires_at_ms = fill.node_time_ms + round(fill.ttl_seconds * 1000)
        self._held[fill.key] = Held(
            fill.row,
            fill.row.version,
            coherence.incarnation,
            coherence.highest,
            fill.node_time_ms,
            expires_at_ms,
        )
        return True

    def _fence(self, key: Key, version: int, coherence: Coherence) -> None:
        held, until = self._live(key), self._now_ms() + self._fence_ms
        if held is None or held.incarnation != coherence.incarnation or held.version < version:
            self._held[key] = Held(None, version, coherence.incarnation, coherence.highest, 0, until)
        elif held.row is None:
            self._held[key] = msgspec.structs.replace(held, expires_at_ms=until)
