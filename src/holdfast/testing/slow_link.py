"""A slow and lossy way from one simulated process to a tier, for calls whose effect outlives their caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from holdfast.errors import HoldfastError, OutcomeUnknown, TierUnavailable
from holdfast.testing.simulated_process import begun_outside, outside
from holdfast.testing.simulation import World

Result = TypeVar("Result")
NOTICE_SECONDS = 0.3
"""The longest that a tier keeps what was open on a connection that is gone."""
Act = Callable[[], Coroutine[Any, Any, Result]]


class SlowLink:
    """The way of one process to one tier.

    Args:
        most_seconds: for a request, and for an answer.
        lost_share: of the calls, those that get lost: before they take effect, after it, or they take effect late.
        late_seconds: how much later at most.

    Attributes:
        calm: while True nothing gets lost.
        is_cut: the process is gone: nothing arrives any more.
        troubled_at: when something last got lost, monotonic seconds.
    """

    def __init__(
        self, world: World, *, most_seconds: float, lost_share: float = 0.0, late_seconds: float = 1.0
    ) -> None:
        self.world = world
        self.most_seconds = most_seconds
        self.calm = False
        self.is_cut = False
        self.troubled_at = -1.0
        self._lost_share = lost_share
        self._late_seconds = late_seconds
        self._under_way: dict[asyncio.Task[Any], None] = {}
        self._late: dict[asyncio.Task[None], None] = {}

    async def call(self, act: Act[Result], what: str, *, lost: Callable[[], object] = lambda: None) -> Result:
        """One call and its answer.

        Args:
            lost: what the tier does when it finds the connection gone.

        Raises:
            TierUnavailable: the request was lost, or the answer.
        """
        return await self.carry(lambda: self._call(act, what, lost))

    async def write(self, act: Act[Result], what: str, *, lost: Callable[[], object] = lambda: None) -> Result:
        """A call that may take effect though nobody learns of it.

        Raises:
            OutcomeUnknown: it was lost before or after it took effect, or it will take effect later.
        """
        return await self.carry(lambda: self._write(act, what, lost))

    async def carry(self, act: Act[Result]) -> Result:
        """Do what is done at the other end, whatever becomes of the process meanwhile."""
        return await outside(lambda: self._noted(act))

    async def cut(self) -> None:
        """The process is gone: of what is under way some still arrives, and is given up if it then waits."""
        self.is_cut = True
        for task in list(self._under_way):
            if self.world.chance(0.5):
                task.cancel()
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=NOTICE_SECONDS)
        for task in list(self._under_way):
            task.cancel()
        await self.drain()

    async def drain(self) -> None:
        """Wait for what is under way now, and for what is late."""
        if left := [*self._under_way, *self._late]:
            await asyncio.wait(left)

    async def _noted(self, act: Act[Result]) -> Result:
        task = asyncio.current_task()
        if task is None or task in self._under_way:
            return await act()
        if self.is_cut:
            raise TierUnavailable("the process is gone")
        self._under_way[task] = None
        try:
            return await act()
        finally:
            self._under_way.pop(task, None)

    async def _call(self, act: Act[Result], what: str, lost: Callable[[], object]) -> Result:
        await self.world.pause(self.most_seconds)
        if self._loses(0.5):
            lost()
            raise TierUnavailable(f"{what}: the request was lost")
        result = await act()
        await self.world.pause(self.most_seconds)
        if self._loses(0.5):
            lost()
            raise TierUnavailable(f"{what}: the answer was lost")
        return result

    async def _write(self, act: Act[Result], what: str, lost: Callable[[], object]) -> Result:
        await self.world.pause(self.most_seconds)
        if not self._loses(1.0):
            result = await act()
            await self.world.pause(self.most_seconds)
            return result
        fate = self.world.random.random()
        if fate < 0.4:
            await act()
        elif fate < 0.7:
            late = begun_outside(self._act_late(act))
            self._late[late] = None
            late.add_done_callback(lambda task: self._late.pop(task, None))
        else:
            lost()
        await self.world.pause(self.most_seconds)
        raise OutcomeUnknown(f"{what}: the answer was lost")

    async def _act_late(self, act: Act[Any]) -> None:
        await self.world.pause(self._late_seconds)
        with contextlib.suppress(HoldfastError):  # then it never took effect, and nobody waits for it
            await act()

    def _loses(self, part: float) -> bool:
        loses = not self.calm and self.world.chance(self._lost_share * part)
        if loses:
            self.troubled_at = self.world.monotonic()
        return loses
