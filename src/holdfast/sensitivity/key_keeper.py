"""Gives L3 back data keys that it has lost: by a restore, or a failover to a replica that had not got them.

Servers go on to seal with a key that they have in memory. If L3 had it no more, all that would be lost when they end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.background import Background
from holdfast.errors import HoldfastError
from holdfast.sensitivity.key_ring import KeyRing

RETRY_SECONDS: Final = 5.0

logger = logging.getLogger("holdfast")


class KeyKeeper:
    """Looks after L3's data keys whenever L3 may be another than it was.

    Args:
        sleep: pauses, seconds.

    Attributes:
        given_back: data keys that L3 lacked so far.
    """

    def __init__(self, ring: KeyRing, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._ring = ring
        self._sleep = sleep
        self._wake = asyncio.Event()
        self.given_back = 0
        self._loop = Background(self._run, "data keys")

    def start(self) -> None:
        """Begin in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End; may be called twice."""
        await self._loop.stop()

    def look(self) -> None:
        """L3 may have lost what it had: its incarnation is new."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                self.given_back += await self._ring.give_back()
            except HoldfastError as fault:
                logger.warning("data keys could not be looked after, which will be tried again: %s", fault)
                self._wake.set()
                await self._sleep(RETRY_SECONDS)
            except Exception as fault:  # noqa: BLE001 - without a next attempt what is sealed from now on may be lost
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: looking after data keys failed", "exception": fault}
                )
                self._wake.set()
                await self._sleep(RETRY_SECONDS)
