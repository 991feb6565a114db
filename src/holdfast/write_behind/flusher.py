"""Brings accepted writes to L3 in the background, in batches, when they are due.

One transaction at a time, and one retry at a time: while L3 is away nothing but this loop asks it for the backlog, with
pauses that grow and vary, so the end of an outage begins no storm. A row that L3 refuses is found by halving the batch;
of its writes those that L3 refuses one by one are given up, and kept as dead letters (rules W4 to W8).
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from holdfast.background import Background
from holdfast.clock import Clock
from holdfast.errors import NotOwner, OutcomeUnknown, Refused, SerializationFailure, StorageFull, TierError
from holdfast.keys import Key
from holdfast.metrics.counters import WriteBehindCounters
from holdfast.protocols import FaultSink, Source
from holdfast.recovery.pacing import RetryBudget
from holdfast.write_behind.bisecting import bisected
from holdfast.write_behind.buffer import Buffer
from holdfast.write_behind.deciding import RefusalReason
from holdfast.write_behind.flushing import Flushing, Settled, refused_by
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.pace import Pace
from holdfast.write_behind.receipts import PendingWrite
from holdfast.write_behind.refusals import OnRefused

logger = logging.getLogger("holdfast")

FIRST_EPOCH: Final = 1
"""Of a journal as long as its own server answers for it."""
BYTES_MAX: Final = 8 * 1024 * 1024
LOCKED_SECONDS: Final = 2.0
"""Before a key is tried again whose row another transaction keeps locked."""
BACKOFF_SECONDS: Final = 0.1
BACKOFF_MAX_SECONDS: Final = 5.0

Batch = dict[Key, list[PendingWrite]]


class CacheTeller(Protocol):
    """Brings what a flush did to this server's caches."""

    def begin(self, keys: Iterable[Key]) -> Any:
        """A flush of these keys begins; what is returned is handed to `publish` after its commit."""
        ...

    def publish(self, settled: Mapping[Key, Settled], begun: Any) -> None:
        """These rows are in effect."""
        ...

    def tell(self, versions: Mapping[Key, int]) -> None:
        """Rows of these versions are in effect, which somebody else wrote; `ANY_VERSION`: it is not known which."""
        ...

    def doubt(self, keys: Iterable[Key]) -> None:
        """These rows may have changed; no version is known."""
        ...


class Flusher:
    """Flushes the writes of one journal.

    Args:
        retries: how many calls of L3 this server may make again. What was accepted is tried again whatever it says, but
            as seldom as can be once it is spent.
        caches: are told what is in effect.
        on_decided: told of writes that are decided, and `on_refused` of those that were refused.
        on_replaced: told, once, that another server has the journal.
        faults: is told when L3 has no room: whether it answers at all, its guard knows.
    """

    def __init__(
        self,
        flushing: Flushing,
        buffer: Buffer,
        overlay: Overlay,
        *,
        journal: str,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        random_: random.Random,
        counters: WriteBehindCounters,
        retries: RetryBudget,
        caches: CacheTeller,
        on_decided: Callable[[list[PendingWrite]], None],
        on_refused: OnRefused,
        on_replaced: Callable[[], None],
        faults: FaultSink,
    ) -> None:
        self._flushing = flushing
        self._buffer = buffer
        self._overlay = overlay
        self._journal = journal
        self._clock = clock
        self._sleep = sleep
        self._random = random_
        self._counters = counters
        self._retries = retries
        self._caches = caches
        self._on_decided = on_decided
        self._on_refused = on_refused
        self._on_replaced = on_replaced
        self._faults = faults
        self._wake = asyncio.Event()
        self._loop = Background(self._run, "flusher")
        self._pause_seconds = 0.0
        self._pace = Pace()
        self.fault: Exception | None = None

    def wake(self) -> None:
        """Something was accepted, or is due sooner."""
        self._wake.set()

    def start(self) -> None:
        """Begin to flush in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End, rolling back what is under way; may be called twice."""
        await self._loop.stop()

    async def _run(self) -> None:
        while True:
            await self._until_due()
            batch = self._buffer.take(self._clock.monotonic(), self._pace, BYTES_MAX)
            try:
                await self._work(batch)
            except NotOwner:
                self._on_replaced()
                return
            except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault: what it holds is not written yet
                await self._fail(fault)
            else:
                self._pause_seconds, self.fault = 0.0, None
                self._retries.note_answered()
                self._pace.faster()

    async def _until_due(self) -> None:
        while (left := self._buffer.next_due() - self._clock.monotonic()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(None if left == math.inf else left):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _work(self, batch: Batch) -> None:
        """Decide a batch, or what of it can be; what is left is given back."""
        try:
            await bisected(batch, self._flush, self._give_up, self._postpone)
        finally:
            self._buffer.give_back([key for key in batch if self._is_taken(key)], self._clock.monotonic())

    def _postpone(self, key: Key, fault: SerializationFailure) -> None:
        logger.warning("write-behind: %s is locked by another transaction; others go first: %s", key, fault)
        self._counters.retries += 1
        self._buffer.postpone(key, self._clock.monotonic() + LOCKED_SECONDS)

    def _is_taken(self, key: Key) -> bool:
        queue = self._buffer.queues.get(key)
        return queue is not None and queue.taken > 0

    async def _flush(self, batch: Batch) -> None:
        begun, at = self._caches.begin(batch), self._clock.monotonic()
        entries = {key: [write.entry for write in writes] for key, writes in batch.items()}
        try:
            settled = await self._flushing.flush(
                self._journal, FIRST_EPOCH, entries, before_commit=partial(self._stamp, batch)
            )
        except (OutcomeUnknown, asyncio.CancelledError):  # the commit may be under way
            self._set_doubt(batch)
            raise
        except BaseException:
            self._unstamp(batch)
            raise
        self._counters.flushed(len(batch), self._clock.monotonic() - at)
        self._caches.publish({key: each for key, each in settled.items() if each.changed}, begun)
        # What was decided before is laid over no longer: a cache may still hold the row of before that.
        if before := [key for key, each in settled.items() if each.covered and not each.changed]:
            self._caches.doubt(before)
        # Who is refused must not read again what its write was made on: these caches may not have heard of the row.
        if rows := refused_by(settled):
            self._caches.tell(rows)
        for key, each in settled.items():
            self._settle(key, batch[key], each)

    async def _give_up(self, write: PendingWrite, reason: str) -> None:
        try:
            refused = await self._flushing.refuse(self._journal, FIRST_EPOCH, [write.entry], reason)
        except OutcomeUnknown:
            write.tentative = Refused(write.key, RefusalReason.POISON.value, reason)
            raise
        if write.entry.seq not in refused:
            return  # whoever took over has applied it meanwhile: it is given back, and found to be covered
        self._counters.dead_letters += len(refused)
        settled = Settled()
        settled.refused = refused
        self._settle(write.key, [write], settled)

    def _stamp(self, batch: Batch, settled: Mapping[Key, Settled]) -> None:
        """From now on the rows may be seen as they will be: what is laid over must not be applied twice (rule W7)."""
        for key, writes in batch.items():
            each = settled[key]
            for write in writes:
                write.tentative = _refusal(write, each)
                # One that will be refused is in no row: it is shown until that is decided.
                write.stamp = each.version if write.tentative is None else None
            self._overlay.changed(key)

    def _unstamp(self, batch: Batch) -> None:
        for key, writes in batch.items():
            queue = self._buffer.queues[key]
            for write in writes:
                if not queue.is_doubted(write):  # else an earlier commit may yet be in effect
                    write.stamp = None
            self._overlay.changed(key)

    def _set_doubt(self, batch: Batch) -> None:
        """Whether they are in effect the next transaction will know; until then nobody is told either."""
        for key, writes in batch.items():
            self._buffer.queues[key].set_doubt(writes)
            self._overlay.changed(key)
        self._caches.doubt(batch)

    def _settle(self, key: Key, writes: list[PendingWrite], settled: Settled) -> None:
        """Let go of decided writes, in one go: nobody sees their row without them, nor them twice."""
        self._buffer.decided(key, writes)
        self._overlay.found(key, settled.version, settled.before)
        self._overlay.changed(key)
        for write in writes:
            write.stamp = None
            seq = write.entry.seq
            refused = write.tentative if seq in settled.covered else settled.refused.get(seq)
            if refused is None:
                write.committed(settled.version)
            else:
                self._refuse(write, refused)
        self._on_decided(writes)

    def _refuse(self, write: PendingWrite, refused: Refused) -> None:
        self._counters.refused += 1
        write.refused(refused)
        self._on_refused(refused, self._journal, write.entry.seq)

    async def _fail(self, fault: Exception) -> None:
        self._counters.retries += 1
        if self.fault is None:
            logger.warning("write-behind: %d writes wait, L3 takes none: %s", len(self._buffer), fault)
            if isinstance(fault, StorageFull):
                self._faults.report(fault, Source.L3)
        if not isinstance(fault, TierError):  # a fault of this package, shown as such
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: a flush of write-behind failed", "exception": fault}
            )
        self.fault = fault
        self._pace.slower()
        # Decorrelated jitter: servers that failed together do not come back together.
        shortest, longest = BACKOFF_SECONDS, max(BACKOFF_SECONDS, self._pause_seconds * 3)
        if not self._retries.take():
            shortest, longest = BACKOFF_MAX_SECONDS / 2, BACKOFF_MAX_SECONDS
        self._pause_seconds = min(BACKOFF_MAX_SECONDS, self._random.uniform(shortest, longest))
        await self._sleep(self._pause_seconds)


def _refusal(write: PendingWrite, settled: Settled) -> Refused | None:
    """Why a write is not in effect; None: it is.

    One that was decided before was so by the attempt before, which said how, or by whoever took its document over; the
    marks tell whether it was refused, and in that case not why.
    """
    seq = write.entry.seq
    if seq not in settled.covered:
        return settled.refused.get(seq)
    if seq not in settled.withheld:
        return None
    detail = "the server that took over refused it, when it decided what had been written before"
    return write.tentative or Refused(write.key, RefusalReason.NOT_OWNER.value, detail)
