"""What a run takes over from elsewhere while it is under way: exports of children, and late decisions on reviews."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from holdfast.errors import NotOwner
from holdfast.protocols import LateDecision, Reviewer
from holdfast.run_context.child_merging import ChildMerging, Merge
from holdfast.run_context.context import RunContext
from holdfast.run_context.ground import Ground
from holdfast.run_context.late_decisions import LateDecisions
from holdfast.run_context.merging import Strategies, strategy_of


class TakingOver:
    """Takes over for one run, one thing at a time: two at once would take over the same child, or decision.

    Args:
        epoch: under which this server owns the run.
        on_conflict: the word of the run's own strategy; None: the server's.
        be_taken_over: called when it is found out that another server owns it.
    """

    def __init__(
        self,
        ground: Ground,
        context: RunContext,
        epoch: int,
        on_conflict: str | None,
        be_taken_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._ground = ground
        self._context = context
        self._epoch = epoch
        self._be_taken_over = be_taken_over
        self._otherwise = ground.on_conflict if on_conflict is None else strategy_of(on_conflict)
        self._late = LateDecisions(ground, context, epoch)
        self._turn = asyncio.Lock()

    async def children(
        self, keep: Callable[[Merge], Awaitable[None]], *, wait: bool, reviewer: Reviewer | None
    ) -> Merge:
        """What ended children have exported; see `ActiveRun.merge_children`.

        Args:
            keep: stores the context, which has what was merged.
        """
        asked = self._ground.reviewer(self._epoch) if reviewer is None else reviewer
        strategies = Strategies(self._context.strategies, self._otherwise)
        merging = ChildMerging(self._ground, self._context, strategies, asked)
        async with self._in_turn():
            return await merging.merge_all(keep, wait=wait)

    async def late_decisions(self, keep: Callable[[], Awaitable[object]]) -> Sequence[LateDecision]:
        """What was decided since the run had gone on without; see `ActiveRun.settle_reviews`.

        Args:
            keep: brings the context to L3.
        """
        async with self._in_turn():
            return await self._late.take_over(keep)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        async with self._turn:
            try:
                yield
            except NotOwner:  # reviews say so, too: what they refuse is never written
                await self._be_taken_over()
                raise
