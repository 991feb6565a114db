"""Sees in a run's row that its owner, which is this server, is to end it, and ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from holdfast.documents import Run
from holdfast.errors import HoldfastError, NotOwner, RunOver
from holdfast.run_context.context import RunContext
from holdfast.run_context.ending import Ending
from holdfast.run_context.ground import Ground

logger = logging.getLogger("holdfast")

LOOK_SECONDS: Final = 1.0
"""The row is read once in so long at most: each flush of the run's own is a change of it, too."""


class TerminationWatch:
    """Of one run.

    Args:
        ending: ends it.
        turn: held while anything of the run is written; who calls `check` has it.
        be_over, be_taken_over: called when it was ended, or when it is found out that another server owns it.
    """

    def __init__(
        self,
        ground: Ground,
        context: RunContext,
        ending: Ending,
        *,
        turn: asyncio.Lock,
        be_over: Callable[[], Awaitable[None]],
        be_taken_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._runs = ground.runs
        self._context = context
        self._ending = ending
        self._turn = turn
        self._be_over = be_over
        self._be_taken_over = be_taken_over
        self._reason: str | None = None
        """Why it is to be ended. What ends it takes that out of its row, also where L3's reply to that is lost."""
        self._next = 0.0
        self._is_stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """End the run if its row says so, as far as L1 knows; where that does not know the row, it is looked at.

        While L3 does not take that, or does not say whether it did, the run goes on, until it does.

        Raises:
            RunOver: it was ended, with all that is known here.
            NotOwner: another server has taken it over.
        """
        run = self._runs.peek(self._context.run_id)
        self._note(run)
        if self._reason is not None:
            await self._terminate(self._reason)
        elif run is None:
            self.look()

    def look(self) -> None:
        """Have the row read, apart from the caller, and the run ended if it says so."""
        if self._timer is None and not self._is_stopped:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._next), self._begin)

    def stop(self) -> None:
        """Look no more, as the run is over here; may be called twice."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer, self._next = None, loop.time() + LOOK_SECONDS
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._look())
        else:  # it may have read the row before what is asked for was in it
            self.look()

    async def _look(self) -> None:
        with suppress(HoldfastError):  # the next change of the row, or end of a step, looks again
            self._note(await self._runs.get(self._context.run_id))
            if self._reason is not None:
                async with self._turn:
                    if not self._is_stopped:
                        await self._terminate(self._reason)

    def _note(self, run: Run | None) -> None:
        if run is not None and run.terminate is not None and run.epoch == self._ending.epoch:
            self._reason = run.terminate

    async def _terminate(self, reason: str) -> None:
        run_id = self._context.run_id
        try:
            await self._ending.terminate(self._context, reason)
        except NotOwner as known:
            await self._be_taken_over()
            raise NotOwner(f"run {run_id} was taken over by another server: {known}") from known
        except RunOver:
            raise
        except HoldfastError as fault:
            logger.warning("run %s is to be ended, which is tried again; until then it goes on: %s", run_id, fault)
            return
        await self._be_over()
        raise RunOver(f"run {run_id} was ended by recovery: {reason}; fork it to go on with all that it knew")
