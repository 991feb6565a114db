"""Runs in a block: ``async with state.runs.begin("research") as run:``; or without: ``run = await ...``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Final, TypeAlias

from holdfast.errors import HoldfastError, RunOver
from holdfast.run_context.active_run import ActiveRun

logger = logging.getLogger("holdfast")

Leave: TypeAlias = Callable[[ActiveRun], Awaitable[None]]

RELEASE_SECONDS: Final = 5.0
"""How long a block that was cancelled waits for its run to be let go of, and the end of a server for all such."""


class Leaving:
    """Leaves runs whose callers were cancelled; one per server.

    That belongs to the server and not to the caller, which may be cancelled again, and waits only for a while: a run
    that L3 takes in later would be one that this server runs and that nobody has.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this, whatever becomes of the caller; return when it is done, or has taken `RELEASE_SECONDS`."""
        task = asyncio.get_running_loop().create_task(work, name="holdfast leaving a run")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=RELEASE_SECONDS)

    async def stop(self) -> None:
        """Wait for what is under way for `RELEASE_SECONDS`, and cancel the rest; may be called twice."""
        if tasks := {*self._tasks}:
            _, late = await asyncio.wait(tasks, timeout=RELEASE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)


class Opening:
    """A run that is about to be begun or resumed.

    At the end of the block the run is completed; after an exception it is failed, or let go of if that cannot be kept;
    after a cancellation it is let go of, so that another server can resume it. A run that the block has ended or paused
    stays as it is. If recovery has ended it meanwhile the block raises `RunOver`, unless it has raised anything else,
    and `NotOwner` if another server was found to have taken it over: what the context had since is not kept.

    Args:
        leave: what becomes of a run whose caller was cancelled before it had it.
    """

    def __init__(
        self, open_: Callable[[], Awaitable[ActiveRun]], leaving: Leaving, *, leave: Leave = ActiveRun.release
    ) -> None:
        self._open = open_
        self._leaving = leaving
        self._leave = leave
        self._run: ActiveRun | None = None

    def __await__(self) -> Generator[Any, Any, ActiveRun]:
        return self._opened().__await__()

    async def __aenter__(self) -> ActiveRun:
        self._run = await self._opened()
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self._run
        if run is None:
            return
        if run.is_over:
            if fault is None:
                run.check_not_cut_off()
        elif fault is None:
            await run.complete()
        elif isinstance(fault, Exception):
            await self._fail(run, fault)
        else:
            await self._left(run)

    async def _opened(self) -> ActiveRun:
        """The run; if the caller is cancelled meanwhile, it is left: L3 may have given it to this server."""
        opening = asyncio.get_running_loop().create_task(_awaited(self._open))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await self._leaving.finish(_left_when_open(opening, self._leave))
            raise

    async def _fail(self, run: ActiveRun, fault: Exception) -> None:
        try:
            await run.fail(fault)
        except HoldfastError as second:  # the first one is what the caller wants to see
            logger.warning("run %s failed, which could not be kept: %s", run.id, second)
            if not run.is_over:
                await self._left(run)

    async def _left(self, run: ActiveRun) -> None:
        await self._leaving.finish(_left(run, ActiveRun.release))


async def _left_when_open(opening: asyncio.Task[ActiveRun], leave: Leave) -> None:
    try:
        run = await opening
    except HoldfastError:
        return  # there is none; of one in doubt its parent knows
    await _left(run, leave)


async def _left(run: ActiveRun, leave: Leave) -> None:
    try:
        await leave(run)
    except RunOver:
        pass  # a write that was under way has ended it
    except HoldfastError as fault:
        logger.warning("run %s could not be let go of; it counts as orphaned in a while: %s", run.id, fault)


async def _awaited(open_: Callable[[], Awaitable[ActiveRun]]) -> ActiveRun:
    return await open_()
