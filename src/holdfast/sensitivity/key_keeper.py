"""Looks after L3's data keys: after a restore, or a failover to a replica that is behind, and after rotations.

Servers go on to seal with a key that they have in memory. If L3 had it no more, or only under a master key that nobody
has any more, all that would be lost when they end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import AuditLog
from holdfast.background import Background
from holdfast.errors import HoldfastError, KeyRetired
from holdfast.sensitivity.key_ring import KeyRing

RETRY_SECONDS: Final = 5.0
PERIOD_SECONDS: Final = 60.0
"""For so long after a rotation a server may seal with a data key from before it."""
FELL_BACK: Final = "L3 is another than it was, and older master keys wrapped these"

logger = logging.getLogger("holdfast")


class KeyKeeper:
    """Puts L3's data keys right whenever L3 may be another than it was; has a new one to seal with after a rotation.

    Args:
        sleep: pauses, seconds.

    Attributes:
        given_back: data keys that L3 lacked so far.
        rewrapped: data keys that older master keys wrapped in L3.
    """

    def __init__(self, ring: KeyRing, audit: AuditLog, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._ring = ring
        self._audit = audit
        self._sleep = sleep
        self._wake = asyncio.Event()
        self.given_back = 0
        self.rewrapped = 0
        self._loops = (Background(self._keep, "data keys"), Background(self._renew, "new data keys"))

    def start(self) -> None:
        """Begin in the background."""
        for loop in self._loops:
            loop.start()

    async def stop(self) -> None:
        """End; may be called twice."""
        for loop in self._loops:
            await loop.stop()

    def look(self) -> None:
        """L3 may have lost what it had: its incarnation is new."""
        self._wake.set()

    async def put_right(self) -> None:
        """Give L3 what it lacks, and wrap by the first master key what it has under others.

        Raises:
            KeyRetired: the first master key is retired.
            TierError: L3 did not do it, or did not record it before.
        """
        self.given_back += await self._ring.give_back()
        self.rewrapped += await self._ring.rewrap(self._record)

    async def _record(self, change: str, rows: int) -> None:
        subject, detail = f"master_key:{change}", {"data_keys": rows}
        await self._audit.note(AuditAction.ROTATED, subject, reason=FELL_BACK, detail=detail)
        logger.warning("L3 is another than it was: %s data keys are wrapped anew, by master keys %s", rows, change)

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self._done(self.put_right):
                self._wake.set()
                await self._sleep(RETRY_SECONDS)

    async def _renew(self) -> None:
        while True:
            await self._sleep(PERIOD_SECONDS)
            await self._done(self._ring.renew)

    async def _done(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do this; False: it is to be tried again."""
        try:
            await work()
        except KeyRetired as fault:  # until the settings name another it is refused each time
            logger.warning("data keys cannot be looked after by this server: %s", fault)
        except HoldfastError as fault:
            logger.warning("data keys could not be looked after, which will be tried again: %s", fault)
            return False
        except Exception as fault:  # noqa: BLE001 - without a next attempt what is sealed from now on may be lost
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: looking after data keys failed", "exception": fault}
            )
            return False
        return True
