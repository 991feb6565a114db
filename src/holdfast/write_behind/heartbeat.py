"""Shows in L3 that the server of a journal lives, and this server that the journal is still its own.

Nobody takes a journal over before its beat has stood still for the takeover time. So whoever counted it up knows that
until so long after it began to, what is not decided here is decided by nobody else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.background import Background
from holdfast.clock import Clock
from holdfast.errors import TierError
from holdfast.protocols import JournalBase

BEATS: Final = 4
"""In a takeover time."""


class Heartbeat:
    """Counts up the beat of one journal.

    Args:
        on_replaced: told that another server has the journal.

    Attributes:
        sure_until: nobody has taken the journal over before then, monotonic seconds.
    """

    def __init__(
        self,
        base: JournalBase,
        journal: str,
        epoch: int,
        *,
        takeover_seconds: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        on_replaced: Callable[[], None],
    ) -> None:
        self._base = base
        self._journal = journal
        self._epoch = epoch
        self.sure_until = -math.inf
        self._takeover_seconds = takeover_seconds
        self._clock = clock
        self._sleep = sleep
        self._on_replaced = on_replaced
        self._loop = Background(self._run, "journal heartbeat")

    def start(self) -> None:
        """Begin to beat in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End; may be called twice."""
        await self._loop.stop()

    def beaten(self, began: float) -> None:
        """L3 has heard from this server, which began to tell it then."""
        self.sure_until = max(self.sure_until, began + self._takeover_seconds)

    async def beat(self) -> bool:
        """Count the beat up; False: another server has the journal.

        Raises:
            TierError: L3 did not answer.
        """
        began = self._clock.monotonic()
        if await self._base.beat(self._journal, self._epoch):
            self.beaten(began)
            return True
        self._on_replaced()
        return False

    async def _run(self) -> None:
        while True:
            await self._sleep(self._takeover_seconds / BEATS)
            try:
                if not await self.beat():
                    return
            except TierError:
                pass  # nobody can take over either while L3 is away; the next beat shows that this server lives
            except Exception as fault:  # noqa: BLE001 - who ceased to beat would be taken for dead
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: a beat of a journal failed", "exception": fault}
                )
