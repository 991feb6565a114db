"""The reviews of all servers: ``state.reviews``."""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import AuditLog
from holdfast.collection import Collection
from holdfast.decisions.docket import LIST_LIMIT, Docket
from holdfast.decisions.log_once import LogOnce
from holdfast.documents import ContextVariable, FreeValue, Limits, Run, encode
from holdfast.documents.review import Review, ReviewChoice, ReviewStatus
from holdfast.entry import MISSING
from holdfast.errors import (
    Conflict,
    DocumentTooLarge,
    HoldfastError,
    RunOver,
)
from holdfast.invalidation.bus import EventBus
from holdfast.kinds import REVIEW, RUN
from holdfast.protocols import DecisionIndex, Isolation, LateDecision
from holdfast.reviews import outcomes, rules
from holdfast.reviews.given_values import given_choice, given_variable
from holdfast.reviews.rules import Decision, ReviewRules
from holdfast.row_decoding import Page, Stored
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.sensitivity.levels import is_secret, strictest
from holdfast.transactions import Transaction, Transactions

OPENED: Final = "routine/review/opened"
RESOLVED: Final = "routine/review/resolved"
TIMED_OUT: Final = "routine/review/timed_out"

Seal = Callable[[str, ContextVariable], ContextVariable]
"""Seals a variable's value for a run; raises KeyMissing where there is no key."""
Held = Callable[[str, str], Awaitable[ContextVariable | None]]
"""The variable of a run, by its id and the variable's name, as L3 has it now; None: it has none."""

logger = logging.getLogger("holdfast")


class ListedReview(NamedTuple):
    """A review in a list.

    Attributes:
        cursor: for `after`, to go on behind it: the number of the write that opened it.
        version: the number of its last write; all writes of L3 are numbered in their order.
    """

    id: str
    review: Review
    cursor: int
    version: int


class Reviews:
    """Opens, lists and decides reviews; one per server.

    Args:
        server: who this server is, in words.
        limits: of documents.
        seal: seals a value for a secret variable.
        held: tells what a run has now.
        stored: the review in a row of L3.

    Attributes:
        hybrid: the clock of variables.
    """

    def __init__(
        self,
        collection: Collection[Review],
        transactions: Transactions,
        index: DecisionIndex,
        audit: AuditLog,
        bus: EventBus,
        *,
        opening: ReviewRules,
        hybrid: HybridClock,
        server: str,
        limits: Limits,
        seal: Seal,
        held: Held,
        stored: Stored,
    ) -> None:
        self.index = index
        self.hybrid = hybrid
        self._docket = Docket(REVIEW, collection, transactions, index, self._record, stored=stored)
        self._transactions = transactions
        self._audit = audit
        self._bus = bus
        self._opening = opening
        self._server = server
        self._seal = seal
        self._held = held
        self._once = LogOnce(logger)
        self._room = Limits(max(limits.bytes_max // 2, 1), limits.depth_max)  # what is made of both has the other half

    async def list(
        self,
        *,
        status: str | None = ReviewStatus.OPEN.value,
        run_id: str | None = None,
        after: int | None = None,
        limit: int = LIST_LIMIT,
    ) -> Page[ListedReview]:
        """Reviews, from L3, the oldest first. One that cannot be read hides no other: `unreadable` names it.

        Args:
            status: a `ReviewStatus`; None: any.
            run_id: of the run that merges.
            after: the cursor of the last one known.
            limit: 1 to 1000.

        Raises:
            TierError: L3 cannot be asked.
        """
        listed = await self._docket.list(status=status, run_id=run_id, after=after, limit=limit)
        return listed.of(ListedReview(*each) for each in listed)

    async def get(self, identifier: str) -> Review | None:
        """A review as it is in L3 now; None: there is none.

        Raises:
            CorruptDocument, SchemaTooNew: it cannot be read.
            TierError: L3 cannot be asked.
        """
        return await self._docket.get(identifier)

    async def resolve(
        self,
        identifier: str,
        *,
        choice: str | None = None,
        value: FreeValue = MISSING,
        by: str,
        reason: str,
    ) -> Review:
        """Decide a review, and record who did and why, in one transaction of L3.

        The run that waits for it goes on, on whichever server it is.

        Args:
            choice: `parent` or `child`: whose value stands.
            value: one that takes the place of both instead.
            by, reason: for the audit log; the reason is read by others, and names no secret.

        Raises:
            NotFound: there is no such review.
            ReviewSettled: it was decided before; the error says by whom.
            RunOver: the run has ended, or was deleted, so nobody would take the decision over.
            SettingsError: not exactly one of `choice` and `value`.
            KeyMissing: it is a value for a secret variable, and no master key is set.
            InvalidDocument: the value cannot be stored, or is larger than 64 KiB.
            InvalidKey: `by` or `reason` is empty, too long, or nothing that L3 can store.
            OutcomeUnknown: it may be decided: look at it before you repeat.
            TierError: L3 did not do it.
            ContextCorrupt: it is a value, and whether the run's variable is secret cannot be told.
        """
        given = given_choice(choice, value)
        found = await self._docket.found(identifier)
        level = await self.sensitivity(found) if given is ReviewChoice.VALUE else None

        def decided(review: Review, at: dt.datetime, why: str | None) -> Review:
            variable = None if level is None else given_variable(review, value, level, self.hybrid)
            if variable is not None and is_secret(variable.sensitivity):
                variable = self._seal(review.child_run_id, variable)  # a merge takes it over as it takes the child's
            decision = Decision(choice=given, by=by, reason=reason, variable=variable)
            done = rules.decided(identifier, review, decision, at)
            if why is not None:
                raise RunOver(why)
            return done

        review = await self._docket.decide_beside(identifier, self._nobody_waits(found.run_id), decided)
        await self._tell(RESOLVED, identifier, review)
        return review

    async def time_out(self, identifier: str) -> Review | None:
        """Let the fallback decide a review, and record that no person did; None: it is not due.

        Of a run that is over, what it has stays. Raises as `resolve` does.
        """
        found = await self._docket.found(identifier)

        def fallen_back(review: Review, at: dt.datetime, why: str | None) -> Review | None:
            if review.status == ReviewStatus.OPEN and not rules.is_due(review, at):
                return None
            if why is None:
                return rules.timed_out(identifier, review, at, self._server, self.hybrid)
            return rules.given_up(identifier, review, at, self._server, why)

        review = await self._docket.decide_beside(identifier, self._nobody_waits(found.run_id), fallen_back)
        if review is not None:
            await self._tell(TIMED_OUT, identifier, review)
        return review

    async def ask(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable, epoch: int
    ) -> Review:
        """The review of a conflict, which is opened if there is none.

        One whose values are too large for a review is left to the fallback at once, and that is recorded.

        Args:
            epoch: under which who asks owns the run.

        Raises:
            NotOwner, RunOver: there is none, and another server has taken the run over, or it was deleted.
            TierError: L3 did not do it.
        """
        identifier = rules.review_id(run_id, child_run_id, child.key)
        if (review := await self.get(identifier)) is not None:
            self._tell_of_unknown(identifier, review)
            return review
        at = await self.index.now()
        review = rules.opened(run_id, child_run_id, parent, child, rules=self._opening, at=at, by=self._server)
        try:
            if not self._fits(review):
                review = rules.too_large(identifier, review, at, self._server)
            await self._open(identifier, review, epoch)
        except Conflict:  # another server, which had the run before, was faster
            return await self._docket.found(identifier)
        await self._tell(OPENED if review.status == ReviewStatus.OPEN else TIMED_OUT, identifier, review)
        return review

    async def unapplied(self, run_id: str) -> Sequence[LateDecision]:
        """Decisions that a run has still to take over; see `LateReviews.unapplied`. Raises as `list` does."""
        found: list[ListedReview] = []
        decided: defaultdict[str, set[str]] = defaultdict(set)
        put: defaultdict[str, int] = defaultdict(int)  # the last write of a review that has put something there
        async for each in self._of(run_id):
            decided[each.review.variable] |= outcomes.decided_clocks(each.review)
            if outcomes.has_put(each.review):
                put[each.review.variable] = max(put[each.review.variable], each.version)
            if outcomes.is_unapplied(each.review):
                found.append(each)
        return [
            outcomes.late_decision(name, review, decided[review.variable], was_put=put[review.variable] > birth)
            for name, review, birth, _ in found
        ]

    async def decided_clocks(self, run_id: str, variable: str) -> frozenset[str]:
        """Clocks of what decisions may have put in the place of a run's variable. Raises as `list` does."""
        found = [each.review async for each in self._of(run_id) if each.review.variable == variable]
        return frozenset().union(*map(outcomes.decided_clocks, found))

    async def note_applied(self, decision: LateDecision, run_id: str, epoch: int) -> None:
        """Note that the run has taken a decision over, once that is kept; see `LateReviews.note_applied`."""
        done = {"applied": True, "overtaken": decision.overtaken, "left_out": decision.left_out}
        await self._note(decision.id, run_id, epoch, **done)

    async def note_overtaken(self, identifier: str, run_id: str, epoch: int, *, overtaken: bool) -> None:
        """Note whether a merge lets stand what the run has written since. Raises as `note_applied` does."""
        await self._note(identifier, run_id, epoch, overtaken=overtaken)

    async def sensitivity(self, review: Review) -> str:
        """How closed a value for a review's variable is to be: as either side, and the run's now, whichever is most.

        Raises:
            ContextCorrupt, TierError: it cannot be told.
        """
        held = await self._held(review.run_id, review.variable)
        return strictest(*(each.sensitivity for each in (review.parent, review.child, held) if each is not None))

    async def _of(self, run_id: str) -> AsyncIterator[ListedReview]:
        """All reviews of a run, the oldest first."""
        after = None
        while page := await self.list(status=None, run_id=run_id, after=after):
            for each in page:
                yield each
            after = page[-1].cursor

    def _fits(self, review: Review) -> bool:
        try:
            encode(review, self._room)
        except DocumentTooLarge:
            return False
        return True

    async def _open(self, identifier: str, review: Review, epoch: int) -> None:
        """Store a new review, and the record of one that is decided already; raises Conflict if there is one."""

        async def operate(transaction: Transaction) -> None:
            rules.check_owned(review.run_id, await self._run(transaction, review.run_id), epoch)
            await transaction.collection(REVIEW).put(identifier, review, expected_version=0)
            if review.status != ReviewStatus.OPEN:
                await self._record(transaction, identifier, review)

        await self._transactions.transact(operate, Isolation.READ_COMMITTED)

    async def _note(self, identifier: str, run_id: str, epoch: int, **noted: bool) -> None:
        async def operate(transaction: Transaction) -> None:
            rules.check_owned(run_id, await self._run(transaction, run_id), epoch)
            await transaction.collection(REVIEW).update(identifier, lambda review: replace(review, **noted))

        await self._transactions.transact(operate, Isolation.READ_COMMITTED)

    def _nobody_waits(self, run_id: str) -> Callable[[Transaction], Awaitable[str | None]]:
        """See `rules.nobody_waits`; it stays so until the transaction's end."""

        async def why(transaction: Transaction) -> str | None:
            return rules.nobody_waits(run_id, await self._run(transaction, run_id))

        return why

    async def _run(self, transaction: Transaction, run_id: str) -> Run | None:
        """The run's row, locked: it neither ends nor is taken over before the transaction does.

        It comes before all other locks: writes of the run may have to be brought to L3 first, and who locks both its
        row and a review's does it in this order.
        """
        return await transaction.collection(RUN).get(run_id, lock=True)

    def _tell_of_unknown(self, identifier: str, review: Review) -> None:
        if review.status != ReviewStatus.OPEN and not outcomes.is_decided(review):
            self._once.warning(
                f"review {identifier} is {review.status} for {review.choice}, which this version does not know: "
                "for a newer one to take over"
            )

    async def _record(self, transaction: Transaction, identifier: str, review: Review) -> None:
        await self._audit.note(
            AuditAction.RESOLVED,
            f"review:{identifier}",
            actor=review.resolved_by,
            reason=review.reason,
            detail={
                "run": review.run_id,
                "child": review.child_run_id,
                "variable": review.variable,
                "status": review.status,
                "choice": review.choice,
            },
            transaction=transaction.opened(),
        )

    async def _tell(self, topic: str, identifier: str, review: Review) -> None:
        """Publish what became of a review, without values and without promise: it has happened in any case."""
        data: dict[str, Any] = {
            "reviewId": identifier,
            "runId": review.run_id,
            "childRunId": review.child_run_id,
            "variable": review.variable,
            "status": review.status,
            "choice": review.choice,
            "by": review.resolved_by or review.opened_by,
            "timestamp": round(self.hybrid.now().as_datetime().timestamp() * 1000),
        }
        try:
            await self._bus.publish(topic, data)
        except HoldfastError as fault:
            logger.warning("%s of %s could not be told: %s", topic, identifier, fault)
