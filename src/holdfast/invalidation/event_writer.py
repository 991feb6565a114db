"""Appends the reliable events of this server to one partition, in the order in which they were published.

Those of one moment go together. While L2 does not take them, the same ones are tried again, until the time of each is
over; what comes behind waits, for it may be of the same key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from holdfast.clock import Clock
from holdfast.errors import Closed, HoldfastError, OutcomeUnknown, Overloaded
from holdfast.protocols import Append, EventTransport

WAITING_MAX: Final = 10_000
"""Events of one partition that may wait to be appended; the next is refused."""
WAITING_BYTES_MAX: Final = 8 << 20
"""The same by size: what waits may be above it by one event."""
BATCH_MAX: Final = 256
BATCH_BYTES_MAX: Final = 1 << 20
RETRY_SECONDS: Final = 0.1


@dataclass(slots=True, eq=False)
class _Publication:
    append: Append
    deadline: float
    done: asyncio.Future[None]
    is_unsure: bool = False


class EventWriter:
    """The writer of one partition.

    Args:
        patience_seconds: after which an event that could not be appended is given up.
        sleep: pauses, seconds.
    """

    def __init__(
        self,
        transport: EventTransport,
        partition: int,
        *,
        patience_seconds: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._transport = transport
        self._partition = partition
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._sleep = sleep
        self._waiting: deque[_Publication] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None

    async def append(self, rank: int, body: bytes) -> None:
        """Append an event; once this returns, it survives the death of any one server process.

        Raises:
            Overloaded: too many wait to be appended, or to be read; it was not appended.
            TierUnavailable: L2 did not take it in time; it was not appended.
            OutcomeUnknown: the same, but it may have been appended.
        """
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
            raise Overloaded(
                f"{len(self._waiting)} events of {self._waiting_bytes:,} bytes wait to be published already"
            )
        loop = asyncio.get_running_loop()
        deadline = self._clock.monotonic() + self._patience_seconds
        publication = _Publication(Append(rank, body), deadline, loop.create_future())
        self._waiting.append(publication)
        self._waiting_bytes += len(body)
        if self._task is None:
            self._task = loop.create_task(self._work(), name="holdfast events writer")
        await publication.done

    async def stop(self) -> None:
        """Give up what waits; may be called twice."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        try:
            while self._waiting:
                fault = await self._attempt(self._batch())
                if fault is not None:
                    self._give_up(fault)
                    await self._sleep(RETRY_SECONDS)
        finally:
            self._task = None
            for each in self._waiting:  # only if this ends before its time
                _settle(each, OutcomeUnknown("the server was closed meanwhile") if each.is_unsure else Closed("closed"))
            self._waiting.clear()
            self._waiting_bytes = 0

    def _batch(self) -> list[_Publication]:
        batch: list[_Publication] = []
        size = 0
        for each in self._waiting:
            size += len(each.append.body)
            if batch and (len(batch) >= BATCH_MAX or size > BATCH_BYTES_MAX):
                break
            batch.append(each)
        return batch

    async def _attempt(self, batch: Sequence[_Publication]) -> HoldfastError | None:
        """Append a batch; None once all of it is decided, else why it is not."""
        events = [msgspec.structs.replace(each.append, repeat=each.is_unsure) for each in batch]
        try:
            taken = await self._transport.append(self._partition, events)
        except Overloaded as fault:  # to try again would make it worse
            for _ in batch:
                self._refuse(fault)
            return None
        except HoldfastError as fault:
            for each in batch:
                each.is_unsure = each.is_unsure or isinstance(fault, OutcomeUnknown)
            return fault
        except BaseException:
            for each in batch:
                each.is_unsure = True
            raise
        for was_taken in taken:
            if was_taken:
                _settle(self._next(), None)
            else:  # an earlier attempt may have filled what is full now
                self._refuse(Overloaded("so many events wait to be read that no more are taken"))
        return None

    def _next(self) -> _Publication:
        """The first, which waits no longer."""
        first = self._waiting.popleft()
        self._waiting_bytes -= len(first.append.body)
        return first

    def _give_up(self, fault: HoldfastError) -> None:
        """Tell those whose time is over."""
        now = self._clock.monotonic()
        while self._waiting and self._waiting[0].deadline <= now:
            self._refuse(fault)

    def _refuse(self, fault: HoldfastError) -> None:
        """Tell the first that it was not published, or that this is not known."""
        each = self._next()
        unsure = OutcomeUnknown(f"an event may have been published or not: {fault}")
        unsure.__cause__ = fault
        _settle(each, unsure if each.is_unsure else fault)


def _settle(publication: _Publication, fault: HoldfastError | None) -> None:
    if publication.done.done():
        return  # whoever waited was cancelled
    if fault is None:
        publication.done.set_result(None)
    else:
        publication.done.set_exception(fault)
