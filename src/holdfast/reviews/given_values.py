"""What a person gives for a decision: a side's name, or a value in the place of both (pure)."""

from __future__ import annotations

from typing import Final

import msgspec

from holdfast.documents import ContextVariable, FreeValue, Limits, VariableSource, encode, freeze
from holdfast.documents.review import Review, ReviewChoice
from holdfast.entry import MISSING
from holdfast.errors import InvalidDocument, SettingsError
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.run_context.merging import of_both

VALUE_BYTES_MAX: Final = 64 * 1024
"""Of a value that a person gives, as JSON."""
VALUE_DEPTH_MAX: Final = 32


def given_choice(choice: str | None, value: FreeValue) -> ReviewChoice:
    """What is chosen by one of a side and a value; raises SettingsError if not exactly one of them is given."""
    if (choice is None) == (value is MISSING):
        raise SettingsError("a review is resolved by a choice of parent or child, or by a value: give one of the two")
    if choice is None:
        return ReviewChoice.VALUE
    if choice not in (ReviewChoice.PARENT, ReviewChoice.CHILD):
        raise SettingsError(f"a review is resolved by parent or child, or by a value, not by {choice!r:.60}")
    return ReviewChoice(choice)


def given_variable(review: Review, value: FreeValue, level: str, clock: HybridClock) -> ContextVariable:
    """The variable of a person's value, plain whatever its level; raises InvalidDocument if it cannot be stored.

    Args:
        level: how closed it is.
        clock: dates it, behind both sides.
    """
    variable = of_both(review.parent, review.child, _checked_value(review, value), clock)
    return msgspec.structs.replace(variable, source=VariableSource.USER.value, sensitivity=level)


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
