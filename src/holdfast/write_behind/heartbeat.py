"""Shows in L3 that the server of a journal lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.errors import TierError
from holdfast.protocols import JournalBase

BEATS: Final = 4
"""In a takeover time."""


class Heartbeat:
    """Counts up the beat of one journal.

    Args:
        on_replaced: told, once, that another server has the journal.
    """

    def __init__(
        self,
        base: JournalBase,
        journal: str,
        epoch: int,
        *,
        takeover_seconds: float,
        sleep: Callable[[float], Awaitable[object]],
        on_replaced: Callable[[], None],
    ) -> None:
        self._base = base
        self._journal = journal
        self._epoch = epoch
        self._pause_seconds = takeover_seconds / BEATS
        self._sleep = sleep
        self._on_replaced = on_replaced
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat in the background."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="holdfast journal heartbeat")

    async def stop(self) -> None:
        """End; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await self._sleep(self._pause_seconds)
            try:
                if not await self._base.beat(self._journal, self._epoch):
                    self._on_replaced()
                    return
            except TierError:
                pass  # nobody can take over either while L3 is away; the next beat shows that this server lives
            except Exception as fault:  # noqa: BLE001 - who ceased to beat would be taken for dead
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: a beat of a journal failed", "exception": fault}
                )
