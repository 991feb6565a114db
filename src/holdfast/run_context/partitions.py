"""Keeps the partitions of history: months are made ahead, and old ones of snapshots dropped.

Where a month has no partition its first insert makes one, while it waits; that is the way out, not the rule. Every
server does this, since nothing is done twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.background import Background
from holdfast.errors import TierError
from holdfast.metrics.counters import PartitionCounters
from holdfast.protocols import RunIndex

MONTHS_AHEAD: Final = 2
PERIOD_SECONDS: Final = 86_400.0
RETRY_SECONDS: Final = 900.0
"""After a failure. There is time: what failed is wanted in two months."""

logger = logging.getLogger("holdfast")


class Partitions:
    """Looks after partitions when it is started, and daily.

    Args:
        months_kept: of snapshots, beside the current one; None: all.

    Attributes:
        fault: why the last attempt failed; None: it did not.
    """

    def __init__(
        self,
        index: RunIndex,
        months_kept: int | None,
        counters: PartitionCounters,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._index = index
        self._months_kept = months_kept
        self._counters = counters
        self._sleep = sleep
        self.fault: Exception | None = None
        self._loop = Background(self._run, "partitions")

    def start(self) -> None:
        """Begin in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End; may be called twice."""
        await self._loop.stop()

    async def tend(self) -> None:
        """Make what is missing, then drop what is old.

        Raises:
            TierError: L3 did not do it.
        """
        made = await self._index.make_ahead(MONTHS_AHEAD)
        self._counters.made += made
        if self._months_kept is None:
            return
        retained = await self._index.retain(self._months_kept)
        self._counters.dropped += len(retained.dropped)
        for month in retained.dropped:
            logger.info("snapshots of %s were dropped: months are kept for %s", f"{month:%Y-%m}", self._months_kept)
        for month, reason in retained.kept.items():
            logger.info("snapshots of %s are kept, though old: %s", f"{month:%Y-%m}", reason)

    async def _run(self) -> None:
        while True:
            try:
                await self.tend()
                self.fault = None
            except TierError as fault:
                self._failed(fault)
                logger.warning("partitions of history could not be looked after, which will be tried again: %s", fault)
            except Exception as fault:  # noqa: BLE001 - without a next attempt inserts would come to wait for months
                self._failed(fault)
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: looking after partitions failed", "exception": fault}
                )
            await self._sleep(PERIOD_SECONDS if self.fault is None else RETRY_SECONDS)

    def _failed(self, fault: Exception) -> None:
        self.fault = fault
        self._counters.failures += 1
