"""Fences on their way to L2: sent after each commit, repeated until every node was told.

A fence that cannot be delivered leaves an older value standing in L2, so it is kept here, the key is read
past L2 by this server, and a background loop repeats it. The loop runs only while something is pending; it
ends with `stop`.

Bounded: above `pending_max` keys the oldest fences are given up and counted, and L2 may answer with those
    keys' old values
until their TTL ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from holdfast.keys import Key
from holdfast.protocols import Coherence, SharedCache

RETRY_SECONDS: Final = 0.25
PENDING_MAX: Final = 50_000
BATCH_MAX: Final = 1000
"""Keys in one call: a script must not hold a node up."""


class FenceSender:
    """Delivers fences.

    Args:
        coherence: what is known of L3 now; asked at each attempt.
        sleep: pauses between attempts, seconds.
    """

    def __init__(
        self,
        l2: SharedCache,
        coherence: Callable[[], Coherence],
        *,
        sleep: Callable[[float], Awaitable[object]],
        pending_max: int = PENDING_MAX,
    ) -> None:
        self._l2 = l2
        self._coherence = coherence
        self._sleep = sleep
        self._pending_max = pending_max
        self._retrying: asyncio.Task[None] | None = None
        self.pending: dict[Key, int] = {}
        self.given_up = 0
        self._stopped = False

    async def send(self, versions: Mapping[Key, int]) -> None:
        """Fence keys; returns when L2 was told, or when the untold ones are noted for repetition."""
        self._note(versions)
        try:
            await self._attempt(list(versions))
        finally:  # also when the sender is cancelled: the write is committed, whatever becomes of its task
            if self.pending and self._retrying is None and not self._stopped:
                self._retrying = asyncio.get_running_loop().create_task(self._retry())

    async def stop(self) -> None:
        """End the repetition; what is pending stays undelivered. May be called twice."""
        self._stopped = True
        task, self._retrying = self._retrying, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _note(self, versions: Mapping[Key, int]) -> None:
        """Pending before sent: a reader that comes between commit and fence must not believe L2."""
        for key, version in versions.items():
            self.pending[key] = max(version, self.pending.pop(key, 0))
        while len(self.pending) > self._pending_max:
            self.pending.pop(next(iter(self.pending)))
            self.given_up += 1

    async def _attempt(self, keys: list[Key]) -> None:
        for start in range(0, len(keys), BATCH_MAX):
            sent = {key: self.pending[key] for key in keys[start : start + BATCH_MAX] if key in self.pending}
            untold = set(await self._l2.fence(sent, self._coherence()))
            for key, version in sent.items():
                # A newer write may have raised the fence meanwhile; that one is still to be sent.
                if key not in untold and self.pending.get(key) == version:
                    del self.pending[key]

    async def _retry(self) -> None:
        while self.pending:
            await self._sleep(RETRY_SECONDS)
            try:
                await self._attempt(list(self.pending))
            except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault of a tier; it is shown, and repeated
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: repeating fences failed", "exception": fault}
                )
        self._retrying = None
