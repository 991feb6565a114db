"""Looks for what nobody has decided in time, on every server: one of them does, the others find that out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from holdfast.background import Background
from holdfast.decisions.log_once import LogOnce
from holdfast.errors import (
    AlreadyDecided,
    HoldfastError,
    NotFound,
    Overloaded,
    StorageFull,
    StorageNotReady,
    TierError,
    TierUnavailable,
)
from holdfast.protocols.decisions import DecisionIndex

PERIOD_SECONDS: Final = 2.0
"""How late one may be decided, beside what that takes."""
PAGE: Final = 100
AWAY: Final = (TierUnavailable, StorageNotReady, StorageFull, Overloaded)
"""Of L3 as a whole: no other one can be decided either. Every other fault may be of the one alone."""

logger = logging.getLogger("holdfast")


class Overdue(Protocol):
    """What is decided by its fallback once its deadline has passed."""

    @property
    def index(self) -> DecisionIndex:
        """Finds those that are overdue."""
        ...

    async def time_out(self, identifier: str) -> object | None:
        """Let the fallback decide one; None: it is not due."""
        ...


class OverdueSweeper:
    """Decides what is overdue when it is started, and every two seconds.

    Args:
        what: is decided, in the singular.
        also: done after each sweep.

    Attributes:
        timed_out: those that this server decided.
        fault: why the last attempt failed; None: it did not.
    """

    def __init__(
        self,
        overdue: Overdue,
        sleep: Callable[[float], Awaitable[object]],
        what: str,
        also: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._overdue = overdue
        self._also = also
        self._what = what
        self._sleep = sleep
        self._once = LogOnce(logger)
        self.timed_out = 0
        self.fault: Exception | None = None
        self._loop = Background(self._run, f"{what}s")

    def start(self) -> None:
        """Begin in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End; may be called twice."""
        await self._loop.stop()

    async def sweep(self) -> None:
        """Decide what is overdue now. One that cannot be decided holds up no other.

        Raises:
            TierError: L3 cannot be asked.
        """
        after = None
        while page := await self._overdue.index.due(after=after, limit=PAGE):
            for due in page:
                await self._time_out(due.id)
            after = page[-1]

    async def _time_out(self, identifier: str) -> None:
        try:
            if await self._overdue.time_out(identifier) is not None:
                self.timed_out += 1
        except (AlreadyDecided, NotFound):
            return  # a person, or another server, was faster
        except AWAY:
            raise
        except HoldfastError as fault:
            self._once.warning(f"{self._what} {identifier} is overdue and cannot be decided: {fault}")

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
                if self._also is not None:
                    await self._also()
                self.fault = None
            except TierError as fault:
                if self.fault is None:  # once, not every two seconds
                    logger.warning("overdue %ss could not be decided, which will be tried again: %s", self._what, fault)
                self.fault = fault
            except Exception as fault:  # noqa: BLE001 - without a next attempt who waits would wait for ever
                self.fault = fault
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"holdfast: deciding overdue {self._what}s failed", "exception": fault}
                )
            await self._sleep(PERIOD_SECONDS)
