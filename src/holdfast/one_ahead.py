"""Work that goes on while what comes after it is prepared: one piece at a time, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Result = TypeVar("Result")


class OneAhead(Generic[Result]):
    """Pieces of work for something that does one thing at a time, like a connection.

        async with OneAhead() as ahead:
            for part in parts:
                work = prepared(part)
                done.append(await ahead.begin(work))    # of the part before; None: there was none
            done.append(await ahead.end())

    After an error or a cancellation nothing of it is under way any more.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Result] | None = None

    async def begin(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Wait for the piece before, begin this one, and return what the other one returned."""
        try:
            before = await self.end()
        except BaseException:
            work.close()
            raise
        self._task = asyncio.create_task(work)
        # One turn begins it, and after one more what it has sent has left: some loops write at the end of a turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return before

    async def end(self) -> Result | None:
        """Wait for the last piece."""
        task = self._task
        result = await task if task is not None else None
        self._task = None
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            _ = task.cancelled() or task.exception()  # the first fault is the one to see
