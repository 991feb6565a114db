"""What one server writes with: at once, behind, in transactions, and by making void what caches hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from holdfast.documents import Limits
from holdfast.given import Given
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.key_history import KeyHistory
from holdfast.invalidation.lease import FeedLease
from holdfast.metrics.counters import WriteBehindCounters
from holdfast.protocols import FaultSink, Invalidation, Storage, Target
from holdfast.recovery.pacing import RetryBudget
from holdfast.resolution import Resolver
from holdfast.tiers.l1_local import LocalCache, Shelf
from holdfast.transactions import Transactions
from holdfast.voiding import Invalidator
from holdfast.write_behind.making import Ground, Making
from holdfast.writing import Writer

UPDATE_BACKOFF_SECONDS: Final = 0.002
UPDATE_BACKOFF_MAX_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What of a server's flows writes go with.

    Attributes:
        ready: lets L1 hear of changes; says whether it answers for a kind.
        check_writes: raises while nothing may be written.
        announce: gives an event to this server's own subscribers; must neither wait nor raise.
        retries: how many calls of L3 may be made again.
    """

    caches: Mapping[str, LocalCache]
    shelves: Mapping[str, Shelf]
    resolver: Resolver
    applier: ChangeApplier
    history: KeyHistory
    lease: FeedLease
    feed: ChangeFeed
    ready: Callable[[str], Awaitable[bool]]
    check_writes: Callable[[], None]
    announce: Callable[[str, Any], None]
    faults: FaultSink
    counters: WriteBehindCounters
    retries: RetryBudget


class WriteFlows:
    """Puts it together.

    Attributes:
        handing_over: decides a document's writes before it is taken over; `takeover`: all those of dead servers.
    """

    def __init__(self, given: Given, read: Read) -> None:
        self._given = given
        self._read = read
        self.writer = self._make_writer()
        making = Making(self._ground())
        self.write_behind, self.takeover = making.write_behind(), making.takeover()
        self.dead_writes = making.dead_writes(self.write_behind)
        self.handing_over = making.handing_over()
        self.transactions = Transactions(
            kinds=given.kinds,
            l3=given.l3,
            resolver=read.resolver,
            writer=self.writer,
            applier=read.applier,
            lease=read.lease,
            feed=read.feed,
            settle=self.write_behind.settle,
            retries=read.retries,
        )
        self.invalidator = self._invalidator(given.l3, audited=True)

    def void_by(self, l3: Storage) -> Callable[[Target, str, str | None], Awaitable[Invalidation]]:
        """Makes a target void, with reason and actor, where it was nobody's decision: the audit log tells nothing."""
        return self._invalidator(l3, audited=False).void

    def _invalidator(self, l3: Storage, *, audited: bool) -> Invalidator:
        given = self._given
        return Invalidator(
            l3=l3,
            kinds=given.kinds,
            writer=self.writer,
            applier=self._read.applier,
            actor=given.server,
            audited=audited,
        )

    def _make_writer(self) -> Writer:
        given, read = self._given, self._read
        return Writer(
            l3=given.l3,
            resolver=read.resolver,
            applier=read.applier,
            committed=read.feed.committed,
            check_writes=read.check_writes,
            caches=read.caches,
            kinds=given.kinds,
            limits=Limits(given.settings.document_bytes_max, given.settings.document_depth_max),
            backoff=lambda attempt: given.random_.uniform(
                0, min(UPDATE_BACKOFF_MAX_SECONDS, UPDATE_BACKOFF_SECONDS * 2 ** min(attempt, 10))
            ),
            sleep=given.sleep,
            history=read.history,
            faults=read.faults,
            retries=read.retries,
        )

    def _ground(self) -> Ground:
        given, read = self._given, self._read
        return Ground(
            settings=given.settings,
            kinds=given.kinds,
            base=given.journals,
            streams=given.streams,
            l3=given.l3,
            shelves=read.shelves,
            untrusted=given.untrusted,
            ready=read.ready,
            writer=self.writer,
            new_id=given.new_id,
            server=given.server,
            clock=given.clock,
            wall=given.wall,
            sleep=given.sleep,
            random_=given.random_,
            counters=read.counters,
            announce=read.announce,
            faults=read.faults,
            retries=read.retries,
        )
