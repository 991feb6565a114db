"""How a review is opened and decided (pure); what its run makes of that is in `outcomes`."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Final, NamedTuple

import msgspec

from holdfast.documents import ContextVariable, Run
from holdfast.documents.review import Review, ReviewChoice, ReviewPolicy, ReviewStatus
from holdfast.entry import MISSING
from holdfast.errors import NotOwner, ReviewSettled, RunOver
from holdfast.keys import ID_BYTES_MAX, joined_id
from holdfast.protocols.runs import ENDED
from holdfast.run_context.conflicts import ConflictStrategy, Side, resolve
from holdfast.run_context.differences import identical
from holdfast.run_context.hybrid_clock import HybridClock, hybrid_time
from holdfast.run_context.merging import of_both, strategy_of
from holdfast.settings import Settings

TOO_LARGE: Final = "both values together are too large to be reviewed"


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


def timed_out(identifier: str, review: Review, at: dt.datetime, by: str, clock: HybridClock) -> Review:
    """A review that nobody has answered until its deadline, decided by its fallback.

    Args:
        clock: dates a value that is neither side's.

    Raises:
        ReviewSettled: it is not open any more.
    """
    found = fallen_back(review.fallback, review.parent, review.child, clock)
    resolved = found.variable if found.choice is ReviewChoice.VALUE else None
    reason = f"no person answered until {review.deadline}; {review.fallback}: {found.reason}"
    return _closed(identifier, review, at=at, by=by, choice=found.choice, reason=reason, resolved=resolved)


def given_up(identifier: str, review: Review, at: dt.datetime, by: str, why: str) -> Review:
    """A review whose run cannot take anything over any more: what that has stays; raises as `timed_out`."""
    return _closed(identifier, review, at=at, by=by, choice=ReviewChoice.PARENT, reason=why)


def too_large(identifier: str, review: Review, at: dt.datetime, by: str) -> Review:
    """A review whose values together cannot be kept: without them, and the fallback decides where they are merged."""
    blank = msgspec.structs.replace(
        review,
        parent=None if review.parent is None else msgspec.structs.replace(review.parent, value=None),
        child=msgspec.structs.replace(review.child, value=None),
    )
    return _closed(identifier, blank, at=at, by=by, choice=ReviewChoice.FALLBACK, reason=TOO_LARGE)


def nobody_waits(run_id: str, run: Run | None) -> str | None:
    """Why a decision would reach no run, in words; None: it can.

    Args:
        run: as L3 has it; None: it was deleted.
    """
    if run is not None and run.status not in ENDED:
        return None
    return f"run {run_id} is {'deleted' if run is None else run.status}: a decision would reach nobody"


def check_owned(run_id: str, run: Run | None, epoch: int) -> None:
    """Raises NotOwner, or RunOver for a deleted run, unless it is owned under this epoch.

    Args:
        run: as L3 has it; None: it was deleted.
    """
    if run is None:
        raise RunOver(f"run {run_id} was deleted")
    if run.epoch != epoch:
        raise NotOwner(f"run {run_id} was taken over by another server: it is under epoch {run.epoch}, not {epoch}")


class FallenBack(NamedTuple):
    """What a fallback has decided; `variable` is the one that stands, None: none."""

    choice: ReviewChoice
    variable: ContextVariable | None
    reason: str


def fallen_back(
    fallback: str, parent: ContextVariable | None, child: ContextVariable, clock: HybridClock
) -> FallenBack:
    """What the fallback of this word makes of two sides.

    Args:
        clock: dates a value that is neither side's.
    """
    sides = _side(parent), _side(child)
    found = resolve(_strategy(fallback), *sides)
    if identical(found.value, sides[0].value):
        return FallenBack(ReviewChoice.PARENT, parent, found.reason)
    if identical(found.value, child.value):
        return FallenBack(ReviewChoice.CHILD, child, found.reason)
    return FallenBack(ReviewChoice.VALUE, of_both(parent, child, found.value, clock), found.reason)


def _side(variable: ContextVariable | None) -> Side:
    return Side(MISSING) if variable is None else Side(variable.value, hybrid_time(variable.clock))


def _strategy(word: str) -> ConflictStrategy:
    """The fallback; what a newer version calls one, and what would ask for a review again, lets the parent stand."""
    found = strategy_of(word)
    return ConflictStrategy.PARENT_WINS if found is ConflictStrategy.MANUAL_REVIEW else found


def _closed(
    identifier: str,
    review: Review,
    *,
    at: dt.datetime,
    by: str,
    choice: ReviewChoice,
    reason: str,
    resolved: ContextVariable | None = None,
) -> Review:
    """A review that no person has decided."""
    _check_open(identifier, review)
    return msgspec.structs.replace(
        review,
        status=ReviewStatus.TIMED_OUT.value,
        choice=choice.value,
        resolved=resolved,
        resolved_by=by,
        resolved_at=at,
        reason=reason,
    )


def _check_open(identifier: str, review: Review) -> None:
    if review.status != ReviewStatus.OPEN:
        raise ReviewSettled(
            identifier,
            status=review.status,
            by=review.resolved_by,
            at=review.resolved_at,
            choice=review.choice,
        )
