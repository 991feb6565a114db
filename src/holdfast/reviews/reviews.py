"""The reviews of all servers: ``state.reviews``."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import AuditLog
from holdfast.collection import Collection
from holdfast.decisions.docket import LIST_LIMIT, Docket
from holdfast.documents import ContextVariable, FreeValue, Limits, VariableSource, encode, freeze
from holdfast.documents.review import Review, ReviewChoice, ReviewStatus
from holdfast.entry import MISSING
from holdfast.errors import Conflict, DocumentTooLarge, HoldfastError, InvalidDocument, SettingsError
from holdfast.invalidation.bus import EventBus
from holdfast.kinds import REVIEW
from holdfast.protocols import LateDecision, StorageTransaction
from holdfast.protocols.decisions import DecisionIndex
from holdfast.reviews import rules
from holdfast.reviews.rules import Decision, ReviewRules
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.sensitivity.levels import is_secret
from holdfast.transactions import Transaction, Transactions

OPENED: Final = "routine/review/opened"
RESOLVED: Final = "routine/review/resolved"
TIMED_OUT: Final = "routine/review/timed_out"
TOO_LARGE: Final = "both values together are too large to be reviewed"
VALUE_BYTES_MAX: Final = 64 * 1024
"""Of a value that a person gives, as JSON."""
VALUE_DEPTH_MAX: Final = 32

Seal = Callable[[str, ContextVariable], ContextVariable]
"""Seals a variable's value for a run; raises KeyMissing where there is no key."""

logger = logging.getLogger("holdfast")


class ListedReview(NamedTuple):
    """A review in a list.

    Attributes:
        cursor: for `after`, to go on behind it.
    """

    id: str
    review: Review
    cursor: int


class Reviews:
    """Opens, lists and decides reviews; one per server.

    Args:
        server: who this server is, in words.
        limits: of documents.
        seal: seals a value for a secret variable.
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
    ) -> None:
        self.index = index
        self._collection = collection
        self._docket = Docket(REVIEW, collection, transactions, index, self._record)
        self._audit = audit
        self._bus = bus
        self._opening = opening
        self._hybrid = hybrid
        self._server = server
        self._seal = seal
        self._room = Limits(max(limits.bytes_max // 2, 1), limits.depth_max)  # what is made of both has the other half

    async def list(
        self,
        *,
        status: str | None = ReviewStatus.OPEN.value,
        run_id: str | None = None,
        after: int | None = None,
        limit: int = LIST_LIMIT,
    ) -> list[ListedReview]:
        """Reviews, from L3, the oldest first.

        Args:
            status: a `ReviewStatus`; None: any.
            run_id: of the run that merges.
            after: the cursor of the last one known.
            limit: 1 to 1000.

        Raises:
            TierError: L3 cannot be asked.
            CorruptDocument, SchemaTooNew: one of them cannot be read.
        """
        listed = await self._docket.list(status=status, run_id=run_id, after=after, limit=limit)
        return [ListedReview(*each) for each in listed]

    async def get(self, identifier: str) -> Review | None:
        """A review as it is in L3 now; None: there is none. Raises as `list` does."""
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
            SettingsError: not exactly one of `choice` and `value`.
            KeyMissing: it is a value for a secret variable, and no master key is set.
            InvalidDocument: the value cannot be stored, or is larger than 64 KiB.
            InvalidKey: `by` or `reason` is empty, too long, or nothing that L3 can store.
            OutcomeUnknown: it may be decided: look at it before you repeat.
            TierError: L3 did not do it.
        """
        given = _given(choice, value)

        def decided(review: Review, at: dt.datetime) -> Review:
            variable = self._given_variable(review, value) if given is ReviewChoice.VALUE else None
            decision = Decision(choice=given, by=by, reason=reason, variable=variable)
            return rules.decided(identifier, review, decision, at)

        review = await self._docket.decide(identifier, decided)
        await self._tell(RESOLVED, identifier, review)
        return review

    async def time_out(self, identifier: str) -> Review | None:
        """Let the fallback decide a review, and record that no person did; None: it is not due.

        Raises as `resolve` does.
        """

        def fallen_back(review: Review, at: dt.datetime) -> Review | None:
            if review.status == ReviewStatus.OPEN and not rules.is_due(review, at):
                return None
            return rules.timed_out(identifier, review, at, self._server)

        review = await self._docket.decide(identifier, fallen_back)
        if review is not None:
            await self._tell(TIMED_OUT, identifier, review)
        return review

    async def ask(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable
    ) -> Review:
        """The review of a conflict, which is opened if there is none.

        One whose values are too large for a review is decided by the fallback at once, and that is recorded.

        Raises:
            TierError: L3 did not do it.
        """
        identifier = rules.review_id(run_id, child_run_id, child.key)
        if (review := await self.get(identifier)) is not None:
            return review
        at = await self.index.now()
        review = rules.opened(run_id, child_run_id, parent, child, rules=self._opening, at=at, by=self._server)
        try:
            encode(review, self._room)
            await self._collection.put(identifier, review, expected_version=0)
        except DocumentTooLarge:
            review = rules.timed_out(identifier, review, at, self._server, TOO_LARGE)
            await self._note(identifier, review)
            return review
        except Conflict:  # another server, which had the run before, was faster
            return await self._docket.found(identifier)
        await self._tell(OPENED, identifier, review)
        return review

    async def unapplied(self, run_id: str) -> Sequence[LateDecision]:
        """Decisions that a run has still to take over; see `LateReviews.unapplied`. Raises as `list` does."""
        found: list[LateDecision] = []
        after = None
        while page := await self.list(status=None, run_id=run_id, after=after):
            found += [rules.late_decision(each.id, each.review) for each in page if rules.is_unapplied(each.review)]
            after = page[-1].cursor
        return found

    async def note_applied(self, identifier: str) -> None:
        """Note that the run has taken a decision over, once that is kept. Raises as `Collection.update` does."""
        await self._collection.update(identifier, lambda review: msgspec.structs.replace(review, applied=True))

    async def _record(self, transaction: Transaction, identifier: str, review: Review) -> None:
        await self._note(identifier, review, transaction.opened())

    async def _note(self, identifier: str, review: Review, transaction: StorageTransaction | None = None) -> None:
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
            transaction=transaction,
        )

    def _given_variable(self, review: Review, value: FreeValue) -> ContextVariable:
        """The variable of a person's value, sealed if one of both sides is secret."""
        now = self._hybrid.now()
        variable = msgspec.structs.replace(
            rules.joined(review, _checked_value(review, value)),
            source=VariableSource.USER.value,
            timestamp=now.as_datetime(),
            clock=now.as_text(),
        )
        if not is_secret(variable.sensitivity):
            return variable
        return self._seal(review.child_run_id, variable)  # a merge takes it over as it takes the child's

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
            "timestamp": round(self._hybrid.now().as_datetime().timestamp() * 1000),
        }
        try:
            await self._bus.publish(topic, data)
        except HoldfastError as fault:
            logger.warning("%s of %s could not be told: %s", topic, identifier, fault)


def _given(choice: str | None, value: FreeValue) -> ReviewChoice:
    if (choice is None) == (value is MISSING):
        raise SettingsError("a review is resolved by a choice of parent or child, or by a value: give one of the two")
    if choice is None:
        return ReviewChoice.VALUE
    if choice not in (ReviewChoice.PARENT, ReviewChoice.CHILD):
        raise SettingsError(f"a review is resolved by parent or child, or by a value, not by {choice!r:.60}")
    return ReviewChoice(choice)


def _checked_value(review: Review, value: FreeValue) -> FreeValue:
    """A person's value, frozen; refused without a word of it, nor of what found the fault: it may be a secret."""
    blank = _carrying(review, None)
    try:
        frozen = freeze(value)
        encode(_carrying(review, frozen), Limits(len(encode(blank)) + VALUE_BYTES_MAX, VALUE_DEPTH_MAX))
    except InvalidDocument:
        raise InvalidDocument("value", f"it is no free value of at most {VALUE_BYTES_MAX} bytes") from None
    return frozen


def _carrying(review: Review, value: FreeValue) -> Review:
    """A review with a value alone, to measure it by."""
    child = ContextVariable(key=review.variable, value=value)
    return Review(run_id="", child_run_id="", variable="", child=child)
