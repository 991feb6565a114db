"""The change feed of one server: one loop that polls, applies, and keeps the lease alive (rules F1, F2, R3).

A poll comes at once on a hint, on a commit of this server, and for a reader whose lease has run out; 20 ms after a poll
that brought changes no hint had announced (somebody writes with another tool); otherwise a third of the bound, and at
most 5 s, after the last. A poll that fails costs the lease, never the cursor: the next one goes on where the last
good one ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from holdfast.clock import Clock
from holdfast.errors import HoldfastError, TierError
from holdfast.protocols import ChangeSource, Cursor, Poll

UNANNOUNCED_SECONDS: Final = 0.02
GAP_SECONDS: Final = 0.002
"""Between two polls at least: what is committed meanwhile comes with one of them."""
RETRY_SECONDS: Final = 0.05
START_ATTEMPTS: Final = 5
PAUSE_SECONDS_MAX: Final = 5.0
"""Between two polls at most, however long the bound: the server ends a session that is idle for twice as long."""
REFRESH_SECONDS_MAX: Final = 0.5
"""How long readers wait for a poll that does not end, before they ask L3 themselves."""


class ChangeFeed:
    """Polls a source for ever.

    Args:
        apply: takes over a poll that began at a moment (monotonic seconds); it must not await.
        bound_seconds: the shortest staleness bound of any kind.

    Attributes:
        fault: why the last poll failed; None: it did not.
        resets: polls that could not continue from their cursor.
    """

    def __init__(
        self,
        source: ChangeSource,
        apply: Callable[[Poll, float], None],
        *,
        clock: Clock,
        bound_seconds: float,
    ) -> None:
        self._source = source
        self._apply = apply
        self._clock = clock
        self._bound_seconds = bound_seconds
        self._cursor: Cursor | None = None
        self._wake = asyncio.Event()
        self._hinted = False
        self._announce = False
        self._waiting: asyncio.Future[bool] | None = None
        self._task: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[Cursor | None, Poll], None]] = []
        self._on_fault: Callable[[Exception], None] = lambda _: None
        self._pause_seconds = 0.0
        self.fault: Exception | None = None
        self.polls = 0
        self.resets = 0
        source.on_hint(self._hint)

    @property
    def cursor(self) -> Cursor | None:
        """How far the feed has come; None before the first poll."""
        return self._cursor

    async def start(self) -> None:
        """Poll for the first time, and go on in the background.

        Raises:
            TierError: the first poll failed, `START_ATTEMPTS` times; nothing runs then.
        """
        if self._task is None:
            await self._begin()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="holdfast change feed")

    async def _begin(self) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            began = self._clock.monotonic()
            try:
                poll = await self._source.poll(None)
            except TierError:  # on a busy machine it may be slow, once; later polls are repeated in the same way
                if attempt == START_ATTEMPTS:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._take(poll, began)
                return

    async def stop(self) -> None:
        """End the loop and disconnect; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(False)
        await self._source.close()

    def committed(self) -> None:
        """This server committed something: look at once, and wake the others."""
        self._announce = True
        self._wake.set()

    def on_changes(self, listener: Callable[[], None]) -> None:
        """Have a function called after each poll that brought changes was applied."""

        def hear(_before: Cursor | None, poll: Poll) -> None:
            if poll.changes or poll.reset is not None:
                listener()

        self.on_applied(hear)

    def on_applied(self, listener: Callable[[Cursor | None, Poll], None]) -> None:
        """Have a function called after each poll was applied, with the cursor it went on from; it must not await."""
        self._listeners.append(listener)

    def on_fault(self, listener: Callable[[Exception], None]) -> None:
        """Have a function called with the fault of each poll that fails; it must neither raise nor await."""
        self._on_fault = listener

    async def refresh(self) -> bool:
        """Wait for a poll that begins after this call; says whether it succeeded.

        Nobody waits for longer than the bound, or half a second if that is less, and not at all while polls fail.
        """
        if self.fault is not None or self._task is None:
            return False
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        self._wake.set()
        try:
            async with asyncio.timeout(min(self._bound_seconds, REFRESH_SECONDS_MAX)):
                return await asyncio.shield(self._waiting)
        except TimeoutError:
            return False

    def _hint(self) -> None:
        self._hinted = True
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._until_due()
            await self._poll()

    async def _until_due(self) -> None:
        await asyncio.sleep(GAP_SECONDS)
        timer = asyncio.get_running_loop().call_later(self._pause_seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    async def _poll(self) -> None:
        waiting, self._waiting = self._waiting, None
        hinted, self._hinted = self._hinted, False
        announce, self._announce = self._announce, False
        began, succeeded = self._clock.monotonic(), False
        try:
            poll = await self._source.poll(self._cursor, announce=announce)
            self._take(poll, began)
            succeeded = True
        except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault; the lease shows it
            self._fail(fault, announce=announce)
        else:
            unannounced = bool(poll.changes) and not (hinted or announce)
            idle_seconds = min(self._bound_seconds / 3, PAUSE_SECONDS_MAX)
            self._pause_seconds = UNANNOUNCED_SECONDS if unannounced else idle_seconds
        finally:
            if waiting is not None and not waiting.done():
                waiting.set_result(succeeded)

    def _take(self, poll: Poll, began: float) -> None:
        self._apply(poll, began)
        before, self._cursor = self._cursor, poll.cursor
        self.fault = None
        self.polls += 1
        self.resets += poll.reset is not None
        for listener in self._listeners:
            try:
                listener(before, poll)
            except Exception as fault:  # noqa: BLE001 - a listener's fault is not the feed's: the poll was applied
                _show("a listener of the change feed failed", fault)

    def _fail(self, fault: Exception, *, announce: bool) -> None:
        self._announce = self._announce or announce
        self._pause_seconds = RETRY_SECONDS
        self.fault = fault
        self._on_fault(fault)
        if not isinstance(fault, HoldfastError):  # a fault of this package, shown as such
            _show("a poll of the change feed failed", fault)


def _show(what: str, fault: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": f"holdfast: {what}", "exception": fault})
