"""One subscription: a bounded queue, one worker, and a handler that may fail, hang or be slow without harm to others.

A handler is called with one event at a time. An async one runs in a task of its own and is cancelled when its time is
over; any other function runs in a thread of its own, which cannot be stopped: the next call waits for it, as a part of
its own time, and the process ends without it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from holdfast.clock import Clock
from holdfast.errors import Closed
from holdfast.events import PRIORITIES, Event
from holdfast.fault_words import in_words
from holdfast.invalidation.event_queue import EventQueue, Origin, Waiting
from holdfast.invalidation.handler_thread import HandlerThread
from holdfast.invalidation.topics import Pattern

logger = logging.getLogger("holdfast")
SEEN_MAX: Final = 10_000
"""Ids that a subscription remembers, to know a repetition by."""
GRACE_SECONDS: Final = 1.0
"""How long a cancelled handler may take to end; then it is left alone."""
DRAIN_SECONDS: Final = 5.0
"""How long the end of a subscription waits for its handler."""
BACKOFF_MAX_SECONDS: Final = 60.0
CLAIMABLE_SECONDS: Final = 45.0
"""How long an event without promise may wait here and still be claimed. A claim is known for `CLAIM_SECONDS` only:
somebody who is further behind would not see that another had it, and handle it too."""
FAULT_CHARS_MAX: Final = 1000

Handler = Callable[[Event], Any]
_handling: ContextVar[asyncio.Task[None] | None] = ContextVar("holdfast_handling", default=None)
"""The call of a handler that this code is a part of, be it in a task that the handler made."""


class HandlerRules(msgspec.Struct, frozen=True):
    """How handlers are treated.

    Attributes:
        timeout_seconds: for one call.
        attempts_max: calls with one reliable event; then it is a dead letter.
        backoff_seconds: before the second call; doubled for each further one, up to a minute.
        queue_max: events without promise that may wait.
        masked: takes secrets out of what a handler has raised, before it is logged or kept.
    """

    timeout_seconds: float = 30.0
    attempts_max: int = 5
    backoff_seconds: float = 0.1
    queue_max: int = 1000
    masked: Callable[[str], str] = str


@dataclass(slots=True)
class SubscriptionCounters:
    """What became of a subscription's events.

    Attributes:
        delivered: calls of the handler that returned.
        failed: calls that raised.
        timed_out: calls that took too long.
        dropped: events without promise that gave way in a full queue, or waited so long that a group's other member
            may have had them.
        duplicates: calls with an event that may have been handled before.
        dead: reliable events that were given up.
    """

    delivered: int = 0
    failed: int = 0
    timed_out: int = 0
    dropped: int = 0
    duplicates: int = 0
    dead: int = 0


class Subscription:
    """Calls a handler with the events of a pattern; made by `EventBus.subscribe`.

    Args:
        claim: says whether this server may handle an event that was sent to all; None: it may.
        clock: tells how long such an event has waited.
        ready: waits until its reader has its place.
        leave: takes it off the bus.
        sleep: pauses, seconds.
    """

    def __init__(
        self,
        pattern: Pattern,
        handler: Handler,
        *,
        group: str | None,
        rules: HandlerRules,
        claim: Callable[[Event], Awaitable[bool]] | None,
        clock: Clock,
        ready: Callable[[], Awaitable[None]],
        leave: Callable[[Subscription], Awaitable[None]],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self.pattern = pattern
        self.group = group
        self.counters = SubscriptionCounters()
        self._handler = handler
        self._is_async = _is_async(handler)
        self._rules = rules
        self._claim = claim
        self._clock = clock
        self._ready, self._leave = ready, leave
        self._stopping = asyncio.Event()
        self._sleep = sleep
        self._queue = EventQueue(ranks=len(PRIORITIES), live_max=rules.queue_max)
        self._seen: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None
        self._in_hand: Waiting | None = None
        self._pauses: set[asyncio.Task[None]] = set()
        self._thread = HandlerThread()

    def __len__(self) -> int:
        """How many events wait for the handler here."""
        return len(self._queue)

    async def ready(self) -> None:
        """Wait until it has its place: what is published reliably from now on will reach it, or its group.

        Raises:
            Closed: it was closed before.
        """
        either: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(each) for each in (self._ready(), self._stopping.wait())
        ]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in either:
                each.cancel()
        if self._stopping.is_set():
            raise Closed("the subscription is closed")

    async def close(self) -> None:
        """End the subscription; may be called twice. A group's position stays, for its other members or later ones.

        Returns when it has ended. If the caller is cancelled meanwhile it ends all the same. Called by its own handler
        it does not wait for that.
        """
        await self._leave(self)

    @property
    def is_caller(self) -> bool:
        """Whether this is asked by the handler, in the call that goes on now."""
        return self._work is not None and _handling.get() is self._work

    def push(self, item: Waiting) -> Waiting | None:
        """Take an event over; returns the one that had to give way, if any."""
        dropped = self._queue.push(item)
        self.counters.dropped += dropped is not None
        self._wake.set()
        return dropped

    def remind(self, item: Waiting) -> None:
        """Take over what is to be handled next, and never dropped; of several that wait the first will do."""
        self._queue.remind(item)
        self._wake.set()

    def withdraw(self, source: object) -> None:
        """Forget what came from a source; it comes again, here or elsewhere."""
        self._queue.withdraw(source)

    def start(self) -> None:
        """Begin to call the handler."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"holdfast events {self.pattern.text}"
            )

    async def stop(self) -> None:
        """Let the handler end, for a while, and call it no more; may be called twice, and by the handler itself."""
        self._stopping.set()
        self._wake.set()
        task, self._task = self._task, None
        if self.is_caller:
            task = None  # it ends when the handler returns
        if task is not None:
            await asyncio.wait([task], timeout=DRAIN_SECONDS)
        tasks = [*self._pauses, *([task] if task is not None else [])]
        for each in tasks:
            each.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if task is not None and self._in_hand is not None:
            self._abandon(self._in_hand)
        for item in self._queue.clear():
            self._abandon(item)
        self._thread.stop()

    def _abandon(self, item: Waiting) -> None:
        """Others of this server may have the event too, and nobody reads on before all are done with it.

        What a group has not settled is left to its next member.
        """
        if self.group is None and item.origin is not None:
            item.origin.settle()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            item = self._queue.pop()
            if item is None:
                await self._wake.wait()
                self._wake.clear()
                continue
            self._in_hand = item
            try:
                await self._deliver(item)
            except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault of this package, shown as such
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: an event could not be delivered", "exception": fault}
                )
                if item.origin is not None:
                    self._failed(item, item.origin, self._words(fault))
            self._in_hand = None

    async def _deliver(self, item: Waiting) -> None:
        origin = item.origin
        if origin is None:
            if await self._may_handle(item):
                await self._call(item.event)
        elif origin.holds():
            fault = await self._call(self._labelled(item))
            if fault is None:
                origin.settle()
            else:
                self._failed(item, origin, fault)

    async def _may_handle(self, item: Waiting) -> bool:
        if self._claim is None:
            return True
        if self._clock.monotonic() - item.arrived > CLAIMABLE_SECONDS:
            self.counters.dropped += 1
            return False
        return await self._claim(item.event)

    def _failed(self, item: Waiting, origin: Origin, fault: str) -> None:
        item.failures += 1
        if item.failures >= self._rules.attempts_max:
            self.counters.dead += 1
            logger.warning("event %s (%s) was given up: %s", item.event.id, item.event.type, fault)
            origin.settle(fault, attempts=item.failures)
            return
        if self._stopping.is_set():
            self._abandon(item)  # nobody would end a pause that begins now
            return
        self._queue.hold(item)
        pause = asyncio.get_running_loop().create_task(self._retry(item), name="holdfast events backoff")
        self._pauses.add(pause)
        pause.add_done_callback(self._pauses.discard)

    def _labelled(self, item: Waiting) -> Event:
        event, how = item.event, item.event.metadata
        is_repeat = how.duplicate or event.id in self._seen
        self._seen[event.id] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self.counters.duplicates += is_repeat
        if not item.failures and is_repeat == how.duplicate:
            return event
        how = msgspec.structs.replace(how, attempt=how.attempt + item.failures, duplicate=is_repeat)
        return msgspec.structs.replace(event, metadata=how)

    async def _retry(self, item: Waiting) -> None:
        await self._sleep(min(BACKOFF_MAX_SECONDS, self._rules.backoff_seconds * 2 ** (item.failures - 1)))
        self._queue.release(item)
        self._wake.set()

    async def _call(self, event: Event) -> str | None:
        """Call the handler; None, or why it failed, in words."""
        loop = asyncio.get_running_loop()
        work = self._work = loop.create_task(self._handle(event), name="holdfast events handler")
        work.add_done_callback(_retrieve)
        timer = loop.create_task(_pause(self._sleep, self._rules.timeout_seconds))
        try:
            await asyncio.wait([work, timer], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.counters.timed_out += 1
                work.cancel()
                await asyncio.wait([work], timeout=GRACE_SECONDS)
                return f"no end after {self._rules.timeout_seconds:g} s"
        finally:
            timer.cancel()
            work.cancel()
        return self._outcome(work)

    def _outcome(self, work: asyncio.Task[None]) -> str | None:
        fault = asyncio.CancelledError("cancelled by itself") if work.cancelled() else work.exception()
        if fault is None:
            self.counters.delivered += 1
            return None
        self.counters.failed += 1
        if logger.isEnabledFor(logging.DEBUG):
            trace = self._rules.masked("".join(traceback.format_exception(fault)))
            logger.debug("a handler of %s failed: %s", self.pattern.text, trace)
        return self._words(fault)

    def _words(self, fault: BaseException) -> str:
        return in_words(fault, self._rules.masked)[:FAULT_CHARS_MAX]

    async def _handle(self, event: Event) -> None:
        _handling.set(asyncio.current_task())
        if self._is_async:
            await self._handler(event)
            return
        result = await self._thread.call(self._handler, event)
        if inspect.isawaitable(result):  # a function that returns a coroutine, such as a lambda
            await result


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def _retrieve(work: asyncio.Task[None]) -> None:
    """Look at how a handler ended that nobody waits for any more, or asyncio complains."""
    if not work.cancelled():
        work.exception()


async def _pause(sleep: Callable[[float], Awaitable[object]], seconds: float) -> None:
    await sleep(seconds)
