"""Has the conflicts of a merge reviewed: the `Reviewer` of a run."""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast.documents import ContextVariable
from holdfast.kinds import REVIEW
from holdfast.protocols import Cursor, Poll
from holdfast.protocols.reviews import Settled
from holdfast.reviews import rules
from holdfast.reviews.reviews import Reviews

PATIENCE_SECONDS: Final = 5.0
"""After which a merge looks again, though nothing was told: a feed that cannot be read tells nothing."""


class ReviewChanges:
    """Counts polls of this server's change feed that may have changed a review, and wakes whoever waits for one.

    Attributes:
        count: of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._told = asyncio.Event()

    def hear(self, before: Cursor | None, poll: Poll) -> None:
        """Be told of a poll that was applied."""
        doubtful = before is None or poll.doubt(before) is not None
        if doubtful or any(change.key.kind == REVIEW.name for change in poll.changes):
            self.count += 1
            told, self._told = self._told, asyncio.Event()
            told.set()

    async def beyond(self, count: int) -> None:
        """Wait until it is more than that."""
        while self.count <= count:
            await self._told.wait()


class MergeReviewer:
    """`Reviewer` over the reviews in L3. Each run that merges has one of its own, and waits by it alone."""

    def __init__(self, reviews: Reviews, changes: ReviewChanges, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._reviews = reviews
        self._changes = changes
        self._patience_seconds = patience_seconds
        self._seen: int | None = None  # how many changes there were before the first answer of None

    async def settle(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable
    ) -> Settled | None:
        """The decision on a conflict; see `Reviewer.settle`. A review is opened if there is none."""
        before = self._changes.count  # before L3 is asked: what is decided meanwhile is told later
        found = rules.settled(await self._reviews.ask(run_id, child_run_id, parent, child), parent)
        if found is None and self._seen is None:
            self._seen = before
        return found

    async def changed(self) -> None:
        """Return once a review may have been decided; see `Reviewer.changed`. In the end it returns in any case."""
        seen, self._seen = self._seen, None
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._changes.beyond(self._changes.count if seen is None else seen)
        except TimeoutError:
            return
