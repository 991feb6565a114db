"""Tiers that can be stopped at the moment a race needs: after the answer was made, before it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from holdfast.audit.chain import AuditNote
from holdfast.keys import Key
from holdfast.protocols import (
    Absent,
    Cached,
    Coherence,
    Failed,
    Fill,
    Invalidation,
    Isolation,
    Loaded,
    Row,
    SharedCache,
    Storage,
    StorageTransaction,
    Target,
    View,
    Withdrawal,
    Write,
)


class Pause:
    """One stop: a call runs into it, the test sees that, does something meanwhile, and lets the call go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let the stopped call go on."""
        self._released.set()

    async def here(self) -> None:
        """Stop until released."""
        self.reached.set()
        await self._released.wait()


class PausingStorage:
    """`Storage` around another one; `pause_next_load` stops the next load between its answer and its arrival."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self._load_pause: Pause | None = None
        self._save_pause: Pause | None = None

    def pause_next_load(self) -> Pause:
        """Stop the next load after it was answered."""
        self._load_pause = Pause()
        return self._load_pause

    def pause_next_save(self) -> Pause:
        """Stop the next save after it was committed."""
        self._save_pause = Pause()
        return self._save_pause

    def coherence(self) -> Coherence:
        """The newest identity known; see `Storage.coherence`."""
        return self.inner.coherence()

    async def load(self, keys: Sequence[Key], known: Mapping[Key, int] = {}) -> Loaded:
        """Read rows; see `Storage.load`."""
        pause, self._load_pause = self._load_pause, None
        loaded = await self.inner.load(keys, known)
        if pause is not None:
            await pause.here()
        return loaded

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `Storage.save`."""
        pause, self._save_pause = self._save_pause, None
        versions = await self.inner.save(writes)
        if pause is not None:
            await pause.here()
        return versions

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        return await self.inner.delete(key, expected=expected)

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows in order of ids; see `Storage.scan`."""
        return await self.inner.scan(kind, after=after, limit=limit)

    async def open_transaction(self, isolation: Isolation) -> StorageTransaction:
        """Begin a transaction; see `Storage.open_transaction`."""
        return await self.inner.open_transaction(isolation)

    async def invalidate(
        self, target: Target, *, reason: str, actor: str, note: AuditNote | None = None
    ) -> Invalidation:
        """Make void what caches hold of a target; see `Storage.invalidate`."""
        return await self.inner.invalidate(target, reason=reason, actor=actor, note=note)

    async def count(self, target: Target) -> int:
        """How many rows a target names; see `Storage.count`."""
        return await self.inner.count(target)

    async def invalidations(self, limit: int) -> Sequence[Invalidation]:
        """The newest records; see `Storage.invalidations`."""
        return await self.inner.invalidations(limit)


class PausingCache:
    """`SharedCache` around another one; `pause_next_fill` stops the next fill before it arrives."""

    def __init__(self, inner: SharedCache) -> None:
        self.inner = inner
        self._fill_pause: Pause | None = None

    def pause_next_fill(self) -> Pause:
        """Stop the next fill on its way."""
        self._fill_pause = Pause()
        return self._fill_pause

    async def read(
        self, keys: Sequence[Key], view: View, *, lease: bool = True
    ) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up; see `SharedCache.read`."""
        return await self.inner.read(keys, view, lease=lease)

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        pause, self._fill_pause = self._fill_pause, None
        if pause is not None:
            await pause.here()
        return await self.inner.fill(fills, coherence)

    async def withdraw(self, withdrawals: Sequence[Withdrawal], coherence: Coherence) -> int:
        """Put fences in the place of entries; see `SharedCache.withdraw`."""
        return await self.inner.withdraw(withdrawals, coherence)
