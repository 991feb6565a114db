"""L3 behind a slow and faulty network: calls overtake each other, get lost, and take effect late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.audit.chain import AuditNote
from holdfast.errors import HoldfastError, OutcomeUnknown, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import (
    Affected,
    Coherence,
    Invalidation,
    Isolation,
    Loaded,
    Row,
    StorageTransaction,
    Target,
    Write,
)
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.testing.simulation import World

Result = TypeVar("Result")


class SlowStorage:
    """`Storage` as one server sees it.

    Args:
        most_seconds: for a request, and for an answer.
        lost_share: of the reads, those that fail.
        unknown_share: of the writes, those whose outcome stays unknown: they took effect, never will, or will later.
        late_seconds: how much later at most.

    Attributes:
        calm: while True nothing gets lost.
    """

    def __init__(
        self,
        inner: MemoryStorage,
        world: World,
        *,
        most_seconds: float,
        lost_share: float = 0.0,
        unknown_share: float = 0.0,
        late_seconds: float = 0.0,
    ) -> None:
        self.calm = False
        self._inner = inner
        self._world = world
        self._most_seconds = most_seconds
        self._lost_share = lost_share
        self._unknown_share = unknown_share
        self._late_seconds = late_seconds
        self._coherence = inner.coherence()
        self._calls = self._told = 0
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._late: set[asyncio.Task[object]] = set()

    def coherence(self) -> Coherence:
        """The newest identity that an answer told; see `Storage.coherence`."""
        return self._coherence

    async def load(self, keys: Sequence[Key], known: Mapping[Key, int] = {}) -> Loaded:
        """Read rows; see `Storage.load`."""
        return await self._read(lambda: self._inner.load(keys, known))

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows in order of ids; see `Storage.scan`."""
        return await self._read(lambda: self._inner.scan(kind, after=after, limit=limit))

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `Storage.save`."""
        return await self.write(lambda: self._inner.save(writes))

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        return await self.write(lambda: self._inner.delete(key, expected=expected))

    async def open_transaction(self, isolation: Isolation) -> SlowTransaction:
        """Begin a transaction; see `Storage.open_transaction`. A connection that is new after a crash tells so."""
        return SlowTransaction(await self.step(lambda: self._inner.open_transaction(isolation)), self)

    async def invalidate(
        self, target: Target, *, reason: str, actor: str, note: AuditNote | None = None
    ) -> Invalidation:
        """Make void what caches hold of a target; see `Storage.invalidate`."""
        return await self.write(lambda: self._inner.invalidate(target, reason=reason, actor=actor, note=note))

    async def count(self, target: Target) -> int:
        """How many rows a target names; see `Storage.count`."""
        return await self._read(lambda: self._inner.count(target))

    async def invalidations(self, limit: int) -> Sequence[Invalidation]:
        """The newest records; see `Storage.invalidations`."""
        return await self._read(lambda: self._inner.invalidations(limit))

    def hold(self) -> None:
        """Let L3 say nothing until `release`: requests lie unread, and connections stay open."""
        self._goes_on.clear()

    def release(self) -> None:
        """Let L3 go on with what lies there, and with what comes."""
        self._goes_on.set()

    async def is_read(self) -> None:
        """Wait while L3 reads nothing."""
        await self._goes_on.wait()

    async def drain(self) -> None:
        """Wait for what takes effect late."""
        while self._late:
            await asyncio.wait(self._late)

    async def step(self, act: Callable[[], Awaitable[Result]]) -> Result:
        """One call and its answer."""
        await self._world.pause(self._most_seconds)
        self._calls += 1
        call = self._calls
        await self.is_read()
        try:
            return await act()
        finally:
            told = self._inner.coherence()
            await self._world.pause(self._most_seconds)
            if call > self._told:
                self._told, self._coherence = call, told

    async def write(
        self, act: Callable[[], Awaitable[Result]], give_up: Callable[[], Awaitable[object]] | None = None
    ) -> Result:
        """A call that writes.

        Args:
            give_up: what the server does if it loses the connection before it is told to act.

        Raises:
            OutcomeUnknown: by chance.
        """
        if self.calm or not self._world.chance(self._unknown_share):
            return await self.step(act)
        fate = self._world.random.random()
        if fate < 0.4:
            await self.step(act)
        elif fate < 0.8:
            task = asyncio.get_running_loop().create_task(self._act_late(act))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        elif give_up is not None:
            await give_up()
        await self._world.pause(self._most_seconds)
        raise OutcomeUnknown("the reply was lost on the way from L3")

    async def _read(self, act: Callable[[], Awaitable[Result]]) -> Result:
        if not self.calm and self._world.chance(self._lost_share):
            await self._world.pause(self._most_seconds)
            raise TierUnavailable("the request was lost on the way to L3")
        return await self.step(act)

    async def _act_late(self, act: Callable[[], Awaitable[object]]) -> None:
        started = self._inner.started
        await self._world.pause(self._late_seconds)
        if self._inner.started != started:
            return  # the connection ended with the server
        with contextlib.suppress(HoldfastError):  # then it never took effect, and nobody waits for it
            await act()


class SlowTransaction:
    """`StorageTransaction` as one server sees it."""

    def __init__(self, inner: StorageTransaction, storage: SlowStorage) -> None:
        self._inner = inner
        self._storage = storage
        self._sent = False

    @property
    def connection(self) -> Any:
        """What stands for SQL of one's own."""
        return self._inner.connection

    async def load(self, keys: Sequence[Key], *, lock: bool = False) -> Mapping[Key, Row]:
        """Read rows; see `StorageTransaction.load`."""
        return await self._storage.step(lambda: self._inner.load(keys, lock=lock))

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `StorageTransaction.save`."""
        return await self._storage.step(lambda: self._inner.save(writes))

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `StorageTransaction.delete`."""
        return await self._storage.step(lambda: self._inner.delete(key, expected=expected))

    async def audit(self, note: AuditNote) -> None:
        """Record a deed; see `StorageTransaction.audit`."""
        await self._storage.step(lambda: self._inner.audit(note))

    async def affected(self) -> Affected:
        """What it has changed so far; see `StorageTransaction.affected`."""
        return await self._inner.affected()

    async def commit(self) -> None:
        """Let all of it take effect; see `StorageTransaction.commit`."""
        self._sent = True
        await self._storage.write(self._end, self._inner.rollback)

    async def rollback(self) -> int | None:
        """Let nothing of it take effect, unless COMMIT was sent; see `StorageTransaction.rollback`."""
        return None if self._sent else await self._inner.rollback()

    async def _end(self) -> None:
        try:
            await self._inner.commit()
        except HoldfastError:
            await self._inner.rollback()
            raise

    def understood(self, fault: Exception) -> Exception:
        """See `StorageTransaction.understood`."""
        return self._inner.understood(fault)
