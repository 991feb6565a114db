"""Looks for reviews whose deadline has passed, on every server: one of them decides, the others find that out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.background import Background
from holdfast.errors import (
    HoldfastError,
    NotFound,
    Overloaded,
    ReviewSettled,
    StorageNotReady,
    TierError,
    TierUnavailable,
)
from holdfast.reviews.log_once import LogOnce
from holdfast.reviews.reviews import Reviews

PERIOD_SECONDS: Final = 2.0
"""How late a review may be decided, beside what that takes."""
PAGE: Final = 100
AWAY: Final = (TierUnavailable, StorageNotReady, Overloaded)
"""Of L3 as a whole: no other review can be decided either. Every other fault may be of the one review alone."""

logger = logging.getLogger("holdfast")


class ReviewSweeper:
    """Decides overdue reviews when it is started, and every two seconds.

    Attributes:
        timed_out: reviews that this server decided.
        fault: why the last attempt failed; None: it did not.
    """

    def __init__(self, reviews: Reviews, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._reviews = reviews
        self._sleep = sleep
        self._once = LogOnce(logger)
        self.timed_out = 0
        self.fault: Exception | None = None
        self._loop = Background(self._run, "reviews")

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
        while page := await self._reviews.index.due(after=after, limit=PAGE):
            for due in page:
                await self._time_out(due.id)
            after = page[-1]

    async def _time_out(self, identifier: str) -> None:
        try:
            if await self._reviews.time_out(identifier) is not None:
                self.timed_out += 1
        except (ReviewSettled, NotFound):
            return  # a person, or another server, was faster
        except AWAY:
            raise
        except HoldfastError as fault:
            self._once.warning(f"review {identifier} is overdue and cannot be decided: {fault}")

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
                self.fault = None
            except TierError as fault:
                if self.fault is None:  # once, not every two seconds
                    logger.warning("overdue reviews could not be decided, which will be tried again: %s", fault)
                self.fault = fault
            except Exception as fault:  # noqa: BLE001 - without a next attempt runs would wait for ever
                self.fault = fault
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: deciding overdue reviews failed", "exception": fault}
                )
            await self._sleep(PERIOD_SECONDS)
