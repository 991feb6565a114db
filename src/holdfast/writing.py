"""The way of a write: L3 first, then this server's caches are told; the change feed tells everybody else.

After the commit the key is fenced in L1 and noted in the fence map, and L1 takes the new value. That runs to its end
whatever
becomes of the caller: one that is cancelled after its write was sent leaves nothing half told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from holdfast.documents import Document, Limits
from holdfast.entry import Receipt
from holdfast.errors import Conflict, HoldfastError, OutcomeUnknown, StorageFull, TierError, TierUnavailable
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.key_history import KeyHistory
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import ANY_VERSION, FaultSink, Source, Storage, Write
from holdfast.recovery.pacing import RetryBudget
from holdfast.resolution import Resolver
from holdfast.tiers.l1_local import LocalCache

Outcome = TypeVar("Outcome")

REPORTED_MAX: Final = 4
"""Documents of one write that recovery is told of: writes whose outcome is unknown are as many as connections, and so
what an outage leaves has room where recoveries wait."""


class Filled(NamedTuple):
    """A row that was committed.

    Attributes:
        document: None: the row was deleted.
        birth: the version it was inserted with; 0: not known.
    """

    key: Key
    document: Document | None
    version: int
    tags: tuple[str, ...] = ()
    birth: int = 0


class Begun(NamedTuple):
    """When a write began: L1's tickets by kind, and monotonic seconds."""

    tickets: Mapping[str, int]
    at: float


class Writes(Protocol):
    """What a collection writes by: `Writer`, or a scope's way of using it."""

    limits: Limits
    backoff: Callable[[int], float]
    sleep: Callable[[float], Awaitable[object]]

    async def save(self, kind: Kind[Any], writes: Sequence[tuple[Write, Document]]) -> Mapping[Key, int]:
        """See `Writer.save`."""
        ...

    async def delete(self, key: Key, expected: int | None) -> Receipt:
        """See `Writer.delete`."""
        ...


class Writer:
    """Commits writes and tells the caches; one per server.

    Args:
        committed: called after each write that may be in effect, for the others to be woken.
        check_writes: raises while nothing may be written.
        backoff: seconds to pause before the n-th attempt of an `update` that lost a race, n from 1.
        sleep: pauses, seconds.
        history: is told of each fill.
        faults: is told when L3 does not answer, has no room, or does not say what became of a write.
    """

    def __init__(
        self,
        *,
        l3: Storage,
        resolver: Resolver,
        applier: ChangeApplier,
        committed: Callable[[], None],
        check_writes: Callable[[], None],
        caches: Mapping[str, LocalCache],
        kinds: Mapping[str, Kind[Any]],
        limits: Limits,
        backoff: Callable[[int], float],
        sleep: Callable[[float], Awaitable[object]],
        history: KeyHistory,
        faults: FaultSink,
        retries: RetryBudget,
    ) -> None:
        self.limits = limits
        self.backoff = backoff
        self.sleep = sleep
        self._l3 = l3
        self._resolver = resolver
        self._applier = applier
        self._committed = committed
        self.check_writes = check_writes
        self._caches = caches
        self._kinds = kinds
        self._history = history
        self._faults = faults
        self._retries = retries
        self._under_way: set[asyncio.Task[Any]] = set()

    async def save(self, kind: Kind[Any], writes: Sequence[tuple[Write, Document]]) -> Mapping[Key, int]:
        """Commit documents and tell the caches, whatever becomes of the caller."""
        self.check_writes()
        return await self.shielded(self._save(kind, writes))

    async def delete(self, key: Key, expected: int | None) -> Receipt:
        """Delete a row and tell the caches, whatever becomes of the caller."""
        self.check_writes()
        return await self.shielded(self._delete(key, expected))

    async def drain(self) -> None:
        """Wait for the writes that go on without their callers."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def shielded(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Do work to its end, whatever becomes of the caller; `drain` waits for it.

        Raises:
            Closed, WrongEventLoop: it was not begun. And whatever it raises.
        """
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
        begun = self.begin([kind.name])
        versions = await self._written(
            [write.key for write, _ in writes], self._l3.save([write for write, _ in writes])
        )
        self.publish(begun, [Filled(each.key, document, versions[each.key], each.tags) for each, document in writes])
        return versions

    def begin(self, kinds: Iterable[str]) -> Begun:
        """Rows of these kinds are about to be written; `publish` is to be told what was committed."""
        return Begun({kind: self._caches[kind].ticket() for kind in kinds}, self._resolver.now())

    def publish(self, begun: Begun, filled: Sequence[Filled]) -> None:
        """These rows were committed: tell the caches, and let L1 take the documents."""
        self.adopt()
        # Another change of a key may have been told meanwhile; only L3 knows which came last.
        fit = [each for each in filled if each.document is not None and not self._is_contested(begun, each.key)]
        self.tell({each.key: each.version for each in filled})
        for each in fit:
            self._fill(begun, each)

    def _is_contested(self, begun: Begun, key: Key) -> bool:
        return self._caches[key.kind].is_contested(key, begun.tickets[key.kind])

    def _fill(self, begun: Begun, filled: Filled) -> None:
        kind = filled.key.kind
        held = self._caches[kind].fill(
            filled.key,
            filled.document,
            filled.version,
            ticket=begun.tickets[kind],
            read_at=begun.at,
            ttl_seconds=self._kinds[kind].caching.l2_ttl_seconds,
            tags=filled.tags,
            birth=filled.birth,
        )
        self._history.filled(self._resolver.now(), filled.key, filled.version, None, held=held)

    async def _delete(self, key: Key, expected: int | None) -> Receipt:
        version, existed = await self._written([key], self._l3.delete(key, expected=expected))
        self.adopt()
        # Also when there was no row: a cache may still hold what another server deleted.
        self.tell({key: version})
        return Receipt(version, existed=existed)

    async def _written(self, keys: Iterable[Key], write: Awaitable[Outcome]) -> Outcome:
        """Await a write of L3; if it fails, no cache may go on as if it were known not to be in effect."""
        try:
            written = await write
        except Conflict as conflict:
            # The expectation came from somewhere: a cache that holds the past must not answer the same again.
            self._applier.tell(conflict.key, conflict.actual or ANY_VERSION)
            raise
        except Exception as fault:
            self.report(fault, keys)
            if isinstance(fault, OutcomeUnknown) or not isinstance(fault, HoldfastError):
                # It may be in effect, now or later, at a version nobody told us: refuse every value alike. If it is,
                # the feed will bring it.
                self.tell(dict.fromkeys(keys, ANY_VERSION))
            raise
        self._retries.note_answered()
        return written

    def report(self, fault: Exception, keys: Iterable[Key]) -> None:
        """Tell of a write that L3 did not do for reasons of its own, or may have done; of any other fault nothing."""
        if isinstance(fault, TierUnavailable | StorageFull):  # of L3 as a whole
            self._faults.report(fault, Source.L3)
        elif isinstance(fault, OutcomeUnknown) or type(fault) is TierError:
            for key in (*islice(keys, REPORTED_MAX),) or (None,):
                self._faults.report(fault, Source.L3, key=key)

    def adopt(self) -> None:
        """Take over L3's identity: a commit under another one must not be judged by what is known of this one."""
        self._applier.adopt(self._l3.coherence(), self._resolver.now())

    def tell(self, versions: Mapping[Key, int]) -> None:
        """At least these versions exist, or may: fence this server's caches, and wake the others."""
        for key, version in versions.items():
            self._applier.tell(key, version)
        self._committed()
