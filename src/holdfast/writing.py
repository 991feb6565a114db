"""The way of a write: L3 first, then the caches are told.

After the commit the key is fenced in L1 and in L2, and L1 takes the new value. That runs to its end whatever becomes
of the caller: one that is cancelled after its write was sent leaves no tier half told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from holdfast.documents import Document, Limits
from holdfast.entry import Receipt
from holdfast.errors import Conflict, HoldfastError, OutcomeUnknown
from holdfast.invalidation.fences import FenceSender
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import ANY_VERSION, Storage, Write
from holdfast.resolution import Resolver
from holdfast.tiers.l1_local import LocalCache

Outcome = TypeVar("Outcome")


class Writer:
    """Commits writes and tells the caches; one per server.

    Args:
        backoff: seconds to pause before the n-th attempt of an `update` that lost a race, n from 1.
        sleep: pauses, seconds.
    """

    def __init__(
        self,
        *,
        l3: Storage,
        resolver: Resolver,
        fences: FenceSender,
        caches: Mapping[str, LocalCache],
        limits: Limits,
        backoff: Callable[[int], float],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self.limits = limits
        self.backoff = backoff
        self.sleep = sleep
        self._l3 = l3
        self._resolver = resolver
        self._fences = fences
        self._caches = caches
        self._under_way: set[asyncio.Task[Any]] = set()

    async def save(self, kind: Kind[Any], writes: Sequence[tuple[Write, Document]]) -> Mapping[Key, int]:
        """Commit documents and tell the caches, whatever becomes of the caller."""
        return await self._shielded(self._save(kind, writes))

    async def delete(self, key: Key, expected: int | None) -> Receipt:
        """Delete a row and tell the caches, whatever becomes of the caller."""
        return await self._shielded(self._delete(key, expected))

    async def drain(self) -> None:
        """Wait for the writes that go on without their callers."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def _shielded(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        try:
            self._resolver.check_open()
        except HoldfastError:
            work.close()
            raise
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have been cancelled: nobody is left to see it then

    async def _save(self, kind: Kind[Any], writes: Sequence[tuple[Write, Document]]) -> Mapping[Key, int]:
        cache = self._caches[kind.name]
        ticket, started = cache.ticket(), self._resolver.now()
        versions = await self._written(
            [write.key for write, _ in writes], self._l3.save([write for write, _ in writes])
        )
        self._adopt()
        self._tell(versions)
        for write, document in writes:
            cache.fill(
                write.key,
                document,
                versions[write.key],
                ticket=ticket,
                read_at=started,
                ttl_seconds=kind.caching.l2_ttl_seconds,
            )
        await self._fences.send(versions)
        return versions

    async def _delete(self, key: Key, expected: int | None) -> Receipt:
        version, existed = await self._written([key], self._l3.delete(key, expected=expected))
        self._adopt()
        # Also when there was no row: a cache may still hold what another server deleted.
        self._tell({key: version})
        await self._fences.send({key: version})
        return Receipt(version, existed=existed)

    async def _written(self, keys: Iterable[Key], write: Awaitable[Outcome]) -> Outcome:
        """Await a write of L3; if it fails, no cache may go on as if it were known not to be in effect."""
        try:
            return await write
        except Conflict as conflict:
            await self._correct(conflict)
            raise
        except Exception as fault:
            if isinstance(fault, OutcomeUnknown) or not isinstance(fault, HoldfastError):
                await self._forget(keys)
            raise

    def _adopt(self) -> None:
        """A fence must be of the incarnation that the write was committed in, or it stops nobody."""
        told = self._l3.coherence()
        if told.incarnation != self._resolver.coherence.incarnation:  # of generations only a read may tell
            self._resolver.adopt(told, self._resolver.now())

    def _tell(self, versions: Mapping[Key, int]) -> None:
        for key, version in versions.items():
            self._caches[key.kind].fence(key, version)
            self._resolver.detach(key)

    async def _correct(self, conflict: Conflict) -> None:
        """The expectation came from somewhere: a cache that holds the past must not answer the same again."""
        version = conflict.actual or await self._draw_above(conflict.key)
        self._tell({conflict.key: version})
        await self._fences.send({conflict.key: version})

    async def _draw_above(self, key: Key) -> int:
        """A number above every version of a row that is gone: deleting what is not there draws one."""
        try:
            return (await self._l3.delete(key, expected=0))[0]
        except Conflict as conflict:  # it is there again
            return conflict.actual or ANY_VERSION
        except HoldfastError:
            return ANY_VERSION

    async def _forget(self, keys: Iterable[Key]) -> None:
        """The write may be in effect, at a version nobody told us: refuse every value alike."""
        unknown = dict.fromkeys(keys, ANY_VERSION)
        self._tell(unknown)
        await self._fences.send(unknown)
