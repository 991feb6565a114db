"""Work for a run that goes on if its caller is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from holdfast.errors import HoldfastError

Result = TypeVar("Result")

logger = logging.getLogger("holdfast")


class GoingOn:
    """What was begun for one run, until it is done."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._tasks: set[asyncio.Task[Any]] = set()

    async def until_done(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Begin it, and wait for it; who is cancelled meanwhile only ceases to wait."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._unheard)
            raise

    def _unheard(self, task: asyncio.Task[Any]) -> None:
        """Nobody is left who would be told why it failed: the log is."""
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, HoldfastError):
            logger.warning("run %s: what its caller waited for, who was cancelled, failed: %s", self._run_id, fault)
        elif fault is not None:
            task.get_loop().call_exception_handler(
                {"message": f"holdfast: work of run {self._run_id} failed", "exception": fault, "task": task}
            )
