"""Has the conflicts of a merge reviewed: the `Reviewer` of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final
from weakref import WeakSet

from holdfast.documents import ContextVariable, Review
from holdfast.kinds import REVIEW
from holdfast.protocols import Cursor, Poll
from holdfast.protocols.reviews import Settled
from holdfast.reviews import outcomes, rules
from holdfast.reviews.reviews import Reviews

PATIENCE_SECONDS: Final = 5.0
"""After which a merge looks again, though nothing was told: a feed that cannot be read tells nothing."""


class ReviewChanges:
    """Tells those who wait for reviews what this server's change feed has brought of them."""

    def __init__(self) -> None:
        self._reviewers: WeakSet[MergeReviewer] = WeakSet()

    def join(self, reviewer: MergeReviewer) -> None:
        """Tell a reviewer, too, as long as there is anybody who has it."""
        self._reviewers.add(reviewer)

    def hear(self, before: Cursor | None, poll: Poll) -> None:
        """Be told of a poll that was applied."""
        changed = [change for change in poll.changes if change.key.kind == REVIEW.name]
        if before is None or poll.doubt(before) is not None or any(change.whole_kind for change in changed):
            self._tell(None)
        elif changed:
            self._tell({change.key.id for change in changed})

    def _tell(self, identifiers: Collection[str] | None) -> None:
        for reviewer in list(self._reviewers):
            reviewer.hear(identifiers)


class MergeReviewer:
    """`Reviewer` over the reviews in L3. Each run that merges has one of its own, and waits by it alone.

    Args:
        epoch: under which who merges owns the run; under another one nothing is opened or noted.
    """

    def __init__(
        self, reviews: Reviews, changes: ReviewChanges, epoch: int, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._reviews = reviews
        self._epoch = epoch
        self._patience_seconds = patience_seconds
        self._awaited: set[str] = set()
        self._told = asyncio.Event()
        changes.join(self)

    async def settle(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable
    ) -> Settled | None:
        """The decision on a conflict; see `Reviewer.settle`. A review is opened if there is none."""
        identifier = rules.review_id(run_id, child_run_id, child.key)
        self._awaited.add(identifier)  # before L3 is asked: what is decided meanwhile is told later
        review = await self._reviews.ask(run_id, child_run_id, parent, child, self._epoch)
        found = await self._settled(review, parent, child)
        if found is None:
            return None
        self._awaited.discard(identifier)
        if found.overtaken != review.overtaken:
            await self._reviews.note_overtaken(identifier, run_id, self._epoch, overtaken=found.overtaken)
        return found

    async def _settled(self, review: Review, parent: ContextVariable | None, child: ContextVariable) -> Settled | None:
        found = outcomes.settled(review, parent, child, self._reviews.hybrid)
        if found is None or not found.overtaken:
            return found
        # It may be another decision that put there what the run has now.
        decided = await self._reviews.decided_clocks(review.run_id, review.variable)
        return outcomes.settled(review, parent, child, self._reviews.hybrid, decided)

    async def changed(self) -> None:
        """Return once a review may have been decided; see `Reviewer.changed`. In the end it returns in any case."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._told.wait()
        except TimeoutError:
            return
        self._told.clear()

    def hear(self, identifiers: Collection[str] | None) -> None:
        """Be told that these reviews have changed; None: any may have."""
        if identifiers is None or not self._awaited.isdisjoint(identifiers):
            self._told.set()
