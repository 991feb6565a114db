"""Looks for what nobody has decided in time, on every server: one of them does, the others find that out.

What was decided long ago is removed, a batch at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

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

PRUNE_SWEEPS: Final = 30
"""Between two looks for what was decided long ago, unless there was more of it than one batch."""

logger = logging.getLogger("holdfast")


class Retention(NamedTuple):
    """How long what is decided is kept.

    Attributes:
        of_ended_runs: and in any case until the run that it is of has ended.
    """

    seconds: float
    of_ended_runs: bool


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
        retention: of what is decided; None: it is kept for good.

    Attributes:
        timed_out: those that this server decided; `pruned`: those that it removed.
        fault: why the last attempt failed; None: it did not.
    """

    def __init__(
        self,
        overdue: Overdue,
        sleep: Callable[[float], Awaitable[object]],
        what: str,
        also: Callable[[], Awaitable[None]] | None = None,
        retention: Retention | None = None,
    ) -> None:
        self._overdue = overdue
        self._also = also
        self._retention = retention
        self._what = what
        self._sleep = sleep
        self._once = LogOnce(logger)
        self.timed_out = 0
        self.pruned = 0
        self._until_prune = PRUNE_SWEEPS
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

    async def prune(self) -> bool:
        """Remove a batch of what was decided long ago; whether there may be more.

        Raises:
            TierError: L3 did not do it.
        """
        if self._retention is None:
            return False
        seconds, of_ended_runs = self._retention
        pruned = await self._overdue.index.prune(older_seconds=seconds, limit=PAGE, of_ended_runs=of_ended_runs)
        self.pruned += pruned
        return pruned == PAGE

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
                self._until_prune -= 1
                if self._until_prune <= 0 and not await self.prune():
                    self._until_prune = PRUNE_SWEEPS
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
