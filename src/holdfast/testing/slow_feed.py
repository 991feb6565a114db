"""The change feed behind a slow and faulty network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdfast.errors import TierUnavailable
from holdfast.protocols import ChangeSource, Coherence, Cursor, Poll
from holdfast.testing.simulation import World

Result = TypeVar("Result")


class SlowFeed:
    """`ChangeSource` as one server sees it.

    Args:
        most_seconds: for a request, for an answer, and for a hint.
        lost_share: of the calls, those that fail, before or after they took effect; and of the hints.

    Attributes:
        calm: while True nothing gets lost.
    """

    def __init__(self, inner: ChangeSource, world: World, *, most_seconds: float, lost_share: float = 0.0) -> None:
        self.calm = False
        self._inner = inner
        self._world = world
        self._most_seconds = most_seconds
        self._lost_share = lost_share

    async def poll(self, cursor: Cursor | None, *, announce: bool = False) -> Poll:
        """Everything committed since a cursor; see `ChangeSource.poll`."""
        return await self._slowly(lambda: self._inner.poll(cursor, announce=announce))

    async def since(self, cursor: Cursor) -> Poll:
        """Everything committed since a cursor that somebody kept; see `ChangeSource.since`."""
        return await self._slowly(lambda: self._inner.since(cursor))

    def on_hint(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, late or never; see `ChangeSource.on_hint`."""

        def hear() -> None:
            if not self._loses():
                delay = self._world.random.uniform(0, self._most_seconds)
                asyncio.get_running_loop().call_later(delay, wake)

        self._inner.on_hint(hear)

    async def lead(self) -> bool:
        """Try to become, or stay, the leader; see `ChangeSource.lead`."""
        return await self._slowly(self._inner.lead)

    async def raise_generation(self, scope: str) -> Coherence:
        """Void every cached entry of a scope; see `ChangeSource.raise_generation`."""
        return await self._slowly(lambda: self._inner.raise_generation(scope))

    async def tidy(self) -> None:
        """Remove what every reader has read; see `ChangeSource.tidy`."""
        await self._slowly(self._inner.tidy)

    async def close(self) -> None:
        """Disconnect; see `ChangeSource.close`."""
        await self._inner.close()

    def _loses(self) -> bool:
        return not self.calm and self._world.chance(self._lost_share)

    async def _slowly(self, act: Callable[[], Awaitable[Result]]) -> Result:
        await self._world.pause(self._most_seconds)
        if self._loses():
            raise TierUnavailable("the request was lost on the way to L3")
        result = await act()
        await self._world.pause(self._most_seconds)
        if self._loses():
            raise TierUnavailable("the answer was lost on the way from L3")
        return result
