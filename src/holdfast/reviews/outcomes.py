"""What a run makes of a review: where it merges, and where it has gone on without a decision (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdfast.documents import ContextVariable
from holdfast.documents.review import Review, ReviewChoice, ReviewPolicy, ReviewStatus
from holdfast.protocols.reviews import OVERTAKEN, Basis, LateDecision, Settled
from holdfast.reviews.rules import fallen_back
from holdfast.run_context.hybrid_clock import HybridClock

_CHOICES: Final = frozenset(choice.value for choice in ReviewChoice)


def settled(
    review: Review,
    parent: ContextVariable | None,
    child: ContextVariable,
    clock: HybridClock,
    decided: Iterable[str] = (),
) -> Settled | None:
    """What a merge makes of a review; None: it waits.

    Args:
        parent: the variable as the run has it now; `child`: as the child exported it.
        clock: dates a value that is neither side's.
        decided: what `decided_clocks` gives for other reviews of the run on this variable.
    """
    if not is_decided(review):
        if review.policy == ReviewPolicy.GO_ON:
            return Settled(parent, "a review is open, and the run goes on with its own value until it is decided")
        return None
    if review.choice == ReviewChoice.FALLBACK:
        found = fallen_back(review.fallback, parent, child, clock)
        return Settled(found.variable, f"{_in_words(review)}; {review.fallback}: {found.reason}")
    if (variable := _decided_variable(review)) is None:
        return Settled(parent, _in_words(review))
    if _basis(review, decided).is_overtaken(parent):
        return Settled(parent, f"{_in_words(review)}; {OVERTAKEN}", overtaken=True)
    return Settled(variable, _in_words(review))


def is_decided(review: Review) -> bool:
    """Whether it is, in a way that this version knows: what a newer one calls a choice is left to such a one."""
    return review.status != ReviewStatus.OPEN and review.choice in _CHOICES


def is_unapplied(review: Review) -> bool:
    """Whether its run went on without the decision, and has still to take it over."""
    is_late = review.policy == ReviewPolicy.GO_ON and review.choice != ReviewChoice.FALLBACK
    return is_late and is_decided(review) and not review.applied


def decided_clocks(review: Review) -> frozenset[str]:
    """Clocks of what its decision may have put in the place of the run's variable."""
    if not is_decided(review):
        return frozenset()
    return frozenset(each.clock for each in (review.child, review.resolved) if each is not None)


def has_put(review: Review) -> bool:
    """Whether its run has taken a variable over from its decision, late, and that is noted."""
    return review.applied and not (review.overtaken or review.left_out) and _decided_variable(review) is not None


def late_decision(identifier: str, review: Review, decided: Iterable[str], *, was_put: bool = False) -> LateDecision:
    """What a run that has gone on makes of a review that is decided.

    Args:
        decided: as of `settled`; `was_put`: see `Basis`.
    """
    basis = _basis(review, decided)._replace(was_put=was_put)
    variable = _decided_variable(review)
    return LateDecision(identifier, review.child_run_id, review.variable, variable, _in_words(review), basis)


def _basis(review: Review, decided: Iterable[str]) -> Basis:
    parent = None if review.parent is None else review.parent.clock
    return Basis(parent, decided_clocks(review).union(decided))


def _decided_variable(review: Review) -> ContextVariable | None:
    """What takes the place of the run's; None: that stays."""
    return review.child if review.choice == ReviewChoice.CHILD else review.resolved


def _in_words(review: Review) -> str:
    return f"{review.status} by {review.resolved_by}: {review.reason}"
