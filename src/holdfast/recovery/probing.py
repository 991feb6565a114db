"""Whether what failed works again: the very thing is asked once more, past all caches that could answer for it."""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast.errors import StorageFull, TierUnavailable
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.keys import Key
from holdfast.kinds import SWARM
from holdfast.protocols import Failed, SharedCache, Source, Storage, View
from holdfast.protocols.guards import TierGuard
from holdfast.recovery.reports import Report
from holdfast.resolution import Resolver

PATIENCE_SECONDS: Final = 1.0
ANY_KEY: Final = Key(SWARM.name, "@recovery")
"""Asked for where it is not known what was; it need not be there."""


class Prober:
    """Asks the tiers of one server.

    Args:
        l3_guard: asks whether L3 answers, where that is the question: what calls go through may be full, which says
            nothing of L3.
    """

    def __init__(
        self,
        *,
        l2: SharedCache,
        l3: Storage,
        l3_guard: TierGuard,
        feed: ChangeFeed,
        resolver: Resolver,
        view: View,
    ) -> None:
        self._l2 = l2
        self._l3 = l3
        self._l3_guard = l3_guard
        self._feed = feed
        self._resolver = resolver
        self._view = view

    async def check(self, report: Report) -> None:
        """Ask again what was reported.

        Raises:
            HoldfastError: it is as it was, or worse; or it has not answered for a second.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._check(report)
        except TimeoutError as fault:
            raise TierUnavailable(f"{report.subject}: no answer within {PATIENCE_SECONDS:g} s") from fault

    async def l3_answers(self) -> bool:
        """Whether L3 answers; asked now, unless it is cut off."""
        if self._l3_guard.answers:
            await self._l3_guard.check()
        return self._l3_guard.answers

    async def _check(self, report: Report) -> None:
        if report.source is Source.FEED:
            self._check_feed()
        elif report.source is Source.L3:
            await self.reload(report)
        else:
            if report.key is not None and not report.of_tier:
                await asyncio.shield(self._resolver.load(report.key))  # others may wait for it; it has L2 filled again
            await self._check_l2(report)

    async def reload(self, report: Report) -> None:
        """Ask L3: for the document, if it is one that is affected, which also fills the caches. Raises as `check`."""
        if isinstance(report.fault, StorageFull):
            raise report.fault  # that it reads does not mean that it writes
        if report.of_tier:
            if not await self.l3_answers():
                raise TierUnavailable(f"L3 does not answer ({self._l3_guard.health().fault})")
        elif report.key is not None:
            await self._resolver.load_strong(report.key)
        else:
            await self._l3.load([])

    async def _check_l2(self, report: Report) -> None:
        key = report.key or ANY_KEY
        answer = (await self._l2.read([key], self._view, lease=False))[key]
        # A node that answers with what cannot be read is there.
        if isinstance(answer, Failed) and (answer.absent is None or not report.of_tier):
            raise answer.error

    def _check_feed(self) -> None:
        if self._feed.fault is not None:
            raise TierUnavailable("the change feed is not heard") from self._feed.fault
