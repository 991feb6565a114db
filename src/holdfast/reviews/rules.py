"""How a review is opened, decided, and what its run makes of it (pure)."""

from __future__ import annotations

import datetime as dt
import hashlib

import msgspec

from holdfast.documents import ContextVariable, FreeValue
from holdfast.documents.review import Review, ReviewChoice, ReviewPolicy, ReviewStatus
from holdfast.entry import MISSING
from holdfast.errors import ReviewSettled
from holdfast.keys import ID_BYTES_MAX, joined_id
from holdfast.protocols.reviews import LateDecision, Settled
from holdfast.run_context.conflicts import ConflictStrategy, Side, resolve
from holdfast.run_context.differences import identical
from holdfast.run_context.hybrid_clock import hybrid_time
from holdfast.sensitivity.levels import strictest
from holdfast.settings import Settings


class ReviewRules(msgspec.Struct, frozen=True):
    """How reviews are opened.

    Attributes:
        timeout_seconds: until the deadline.
        fallback: decides if nobody has by then; any strategy but `MANUAL_REVIEW`.
    """

    policy: ReviewPolicy = ReviewPolicy.WAIT
    timeout_seconds: float = 3600.0
    fallback: ConflictStrategy = ConflictStrategy.PARENT_WINS


def review_rules(settings: Settings) -> ReviewRules:
    """How this server opens them."""
    return ReviewRules(
        ReviewPolicy(settings.review_policy),
        settings.review_timeout_seconds,
        ConflictStrategy(settings.review_fallback),
    )


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decides.

    Attributes:
        variable: of a choice of `VALUE`: what takes the place of both; else None.
    """

    choice: ReviewChoice
    by: str
    reason: str
    variable: ContextVariable | None = None


def review_id(run_id: str, child_run_id: str, variable: str) -> str:
    """``<run>/<child>/<variable>``, slashes in the first two escaped; if that is too long for an id, its digest."""
    joined = joined_id(run_id, child_run_id, variable)
    if len(joined.encode()) <= ID_BYTES_MAX:
        return joined
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"


def opened(
    run_id: str,
    child_run_id: str,
    parent: ContextVariable | None,
    child: ContextVariable,
    *,
    rules: ReviewRules,
    at: dt.datetime,
    by: str,
) -> Review:
    """A new review of a conflict."""
    return Review(
        run_id=run_id,
        child_run_id=child_run_id,
        variable=child.key,
        parent=parent,
        child=child,
        policy=rules.policy.value,
        fallback=rules.fallback.value,
        opened_at=at,
        opened_by=by,
        deadline=at + dt.timedelta(seconds=rules.timeout_seconds),
    )


def decided(identifier: str, review: Review, decision: Decision, at: dt.datetime) -> Review:
    """A review with a person's decision. One that comes after the deadline counts, if the fallback was not faster.

    Raises:
        ReviewSettled: it is not open any more.
    """
    _check_open(identifier, review)
    return msgspec.structs.replace(
        review,
        status=ReviewStatus.RESOLVED.value,
        choice=decision.choice.value,
        resolved=decision.variable,
        resolved_by=decision.by,
        resolved_at=at,
        reason=decision.reason,
    )


def is_due(review: Review, at: dt.datetime) -> bool:
    """Whether it is open and its deadline has passed."""
    return review.status == ReviewStatus.OPEN and review.deadline is not None and review.deadline <= at


def timed_out(identifier: str, review: Review, at: dt.datetime, by: str, why: str | None = None) -> Review:
    """A review that nobody has answered, decided by its fallback.

    Args:
        why: in words; None: its deadline has passed.

    Raises:
        ReviewSettled: it is not open any more.
    """
    _check_open(identifier, review)
    why = why or f"no person answered until {review.deadline}"
    choice, variable, reason = _fallen_back(review)
    return msgspec.structs.replace(
        review,
        status=ReviewStatus.TIMED_OUT.value,
        choice=choice.value,
        resolved=variable,
        resolved_by=by,
        resolved_at=at,
        reason=f"{why}; {review.fallback}: {reason}",
    )


def settled(review: Review, parent: ContextVariable | None) -> Settled | None:
    """What a merge makes of a review; None: it waits.

    Args:
        parent: the variable as the run has it now: where it stays, what was written since the review was opened stays.
    """
    if review.status == ReviewStatus.OPEN:
        if review.policy == ReviewPolicy.GO_ON:
            return Settled(parent, "a review is open, and the run goes on with its own value until it is decided")
        return None
    stands = {ReviewChoice.PARENT.value: parent, ReviewChoice.CHILD.value: review.child}
    return Settled(stands.get(review.choice or "", review.resolved), _in_words(review))


def is_unapplied(review: Review) -> bool:
    """Whether its run went on without the decision, and has still to take it over."""
    return review.status != ReviewStatus.OPEN and review.policy == ReviewPolicy.GO_ON and not review.applied


def late_decision(identifier: str, review: Review) -> LateDecision:
    """What a run that has gone on makes of a review that is decided."""
    variable = review.child if review.choice == ReviewChoice.CHILD else review.resolved
    return LateDecision(identifier, review.child_run_id, review.variable, variable, _in_words(review))


def _in_words(review: Review) -> str:
    return f"{review.status} by {review.resolved_by}: {review.reason}"


def _fallen_back(review: Review) -> tuple[ReviewChoice, ContextVariable | None, str]:
    parent = _side(review.parent)
    found = resolve(_strategy(review.fallback), parent, _side(review.child))
    if identical(found.value, parent.value):
        return ReviewChoice.PARENT, None, found.reason
    if identical(found.value, review.child.value):
        return ReviewChoice.CHILD, None, found.reason
    return ReviewChoice.VALUE, joined(review, found.value), found.reason


def joined(review: Review, value: FreeValue) -> ContextVariable:
    """The child's variable with a value that is neither side's; as closed as the more closed of the two."""
    levels = [each.sensitivity for each in (review.parent, review.child) if each is not None]
    return msgspec.structs.replace(review.child, value=value, sensitivity=strictest(*levels))


def _side(variable: ContextVariable | None) -> Side:
    return Side(MISSING) if variable is None else Side(variable.value, hybrid_time(variable.clock))


def _strategy(word: str) -> ConflictStrategy:
    """The fallback; what a newer version calls one, and what would ask for a review again, lets the parent stand."""
    known = {each.value: each for each in ConflictStrategy if each is not ConflictStrategy.MANUAL_REVIEW}
    return known.get(word, ConflictStrategy.PARENT_WINS)


def _check_open(identifier: str, review: Review) -> None:
    if review.status != ReviewStatus.OPEN:
        raise ReviewSettled(
            identifier,
            status=review.status,
            by=review.resolved_by,
            at=review.resolved_at,
            choice=review.choice,
        )
