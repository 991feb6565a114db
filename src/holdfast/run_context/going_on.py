"""Work for a run that goes on if its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class GoingOn:
    """What was begun for one run, until it is done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def until_done(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Begin it, and wait for it; who is cancelled meanwhile only ceases to wait."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)
