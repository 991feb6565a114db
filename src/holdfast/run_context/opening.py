"""Runs in a block: ``async with state.runs.begin("research") as run:``; or without: ``run = await ...``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Final

from holdfast.errors import HoldfastError, NotOwner
from holdfast.run_context.active_run import ActiveRun, in_words

logger = logging.getLogger("holdfast")

RELEASE_SECONDS: Final = 5.0
"""How long a block that was cancelled waits for its run to be let go of."""


class Opening:
    """A run that is about to be begun or resumed.

    At the end of the block the run is completed; after an exception it is failed; after a cancellation it is let go of,
    so that another server can resume it. A run that the block has ended or paused stays as it is.
    """

    def __init__(self, open_: Callable[[], Awaitable[ActiveRun]]) -> None:
        self._open = open_
        self._run: ActiveRun | None = None

    def __await__(self) -> Generator[Any, Any, ActiveRun]:
        return self._open().__await__()

    async def __aenter__(self) -> ActiveRun:
        self._run = await self._open()
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self._run
        if run is None or run.is_over:
            return
        if fault is None:
            await run.complete()
        elif isinstance(fault, Exception):
            await self._fail(run, fault)
        else:
            await self._release(run)

    async def _fail(self, run: ActiveRun, fault: Exception) -> None:
        if isinstance(fault, NotOwner):
            return  # it is another server's to end
        try:
            await run.fail(in_words(fault))
        except HoldfastError as second:  # the first one is what the caller wants to see
            logger.warning("run %s failed, which could not be kept: %s", run.id, second)

    async def _release(self, run: ActiveRun) -> None:
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await run.release()
        except (HoldfastError, TimeoutError) as second:
            logger.warning("run %s could not be let go of; it counts as orphaned in a while: %s", run.id, second)
