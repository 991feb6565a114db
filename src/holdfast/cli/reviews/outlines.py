"""Reviews in words for people (pure)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from holdfast.cli.runs.outlines import NOT_SHOWN, SHOWN, cut
from holdfast.documents import ContextVariable, Review, ReviewChoice
from holdfast.protocols.reviews import OVERTAKEN

VALUE_CHARACTERS_MAX: Final = 2000
TOO_LARGE: Final = "(too large)"
COLUMNS = ("id", "status", "opened", "deadline", "policy", "decided by", "cursor")


class ReviewLine(msgspec.Struct, frozen=True):
    """A review in a list.

    Attributes:
        cursor: for `list --after`, to go on behind it.
    """

    id: str
    run: str
    child: str
    variable: str
    status: str
    policy: str
    opened_at: dt.datetime | None
    deadline: dt.datetime | None
    choice: str | None
    resolved_by: str
    cursor: int | None = None


class SideLine(msgspec.Struct, frozen=True):
    """A variable as one side has it; `value` is cut short, or says that it is not shown."""

    value: str
    sensitivity: str
    source: str
    written_at: dt.datetime | None


class ShownReview(msgspec.Struct, frozen=True):
    """A review with both values.

    Attributes:
        parent: None: the run has no such variable.
        resolved: what takes the place of both; None: one of them stands, or nothing is decided yet.
        overtaken: what the run wrote after the review was opened stands.
        left_out: what was decided could not be opened.
    """

    review: ReviewLine
    opened_by: str
    fallback: str
    parent: SideLine | None
    child: SideLine
    resolved: SideLine | None
    resolved_at: dt.datetime | None
    reason: str
    overtaken: bool = False
    left_out: bool = False


def review_line(identifier: str, review: Review, cursor: int | None = None) -> ReviewLine:
    """A review in a line."""
    return ReviewLine(
        id=identifier,
        run=review.run_id,
        child=review.child_run_id,
        variable=review.variable,
        status=review.status,
        policy=review.policy,
        opened_at=review.opened_at,
        deadline=review.deadline,
        choice=review.choice,
        resolved_by=review.resolved_by,
        cursor=cursor,
    )


def shown_review(identifier: str, review: Review) -> ShownReview:
    """A review with its values, or none of them if one is closed: the others may well be the same."""
    sides = [each for each in (review.parent, review.child, review.resolved) if each is not None]
    instead = NOT_SHOWN if any(each.sensitivity not in SHOWN for each in sides) else None
    if instead is None and review.choice == ReviewChoice.FALLBACK:
        instead = TOO_LARGE
    return ShownReview(
        review=review_line(identifier, review),
        opened_by=review.opened_by,
        fallback=review.fallback,
        parent=None if review.parent is None else _side(review.parent, instead),
        child=_side(review.child, instead),
        resolved=None if review.resolved is None else _side(review.resolved, instead),
        resolved_at=review.resolved_at,
        reason=review.reason,
        overtaken=review.overtaken,
        left_out=review.left_out,
    )


def heading(shown: ShownReview) -> Iterator[str]:
    """What is said of a review, line by line, beside its values."""
    review = shown.review
    yield f"review {review.id}: {review.status}"
    yield f"  variable {review.variable} of run {review.run}, as its child {review.child} exported it"
    yield f"  opened {_time(review.opened_at)} by {shown.opened_by}"
    if review.choice is None:
        run = "the run waits" if review.policy == "wait" else "the run goes on"
        until = "it is decided" if review.deadline is None else f"{_time(review.deadline)}, then {shown.fallback}"
        yield f"  {run} until {until}"
    else:
        yield f"  decided {_time(shown.resolved_at)} by {review.resolved_by}: {review.choice}, {shown.reason}"
    if shown.overtaken:
        yield f"  overtaken: {OVERTAKEN}"
    if shown.left_out:
        yield "  left out: the seal of what was decided is broken, and what the run has stands"


def columns_of(shown: ShownReview) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Headings and rows that show the values side by side."""
    sides = {"parent": shown.parent, "child": shown.child, "decided": shown.resolved}
    given = {name: side for name, side in sides.items() if side is not None}
    rows: list[Sequence[str]] = [
        ("value", *(side.value for side in given.values())),
        ("written", *(_time(side.written_at) for side in given.values())),
        ("source", *(side.source for side in given.values())),
        ("sensitivity", *(side.sensitivity for side in given.values())),
    ]
    return ("", *given), rows


def cells(each: ReviewLine) -> Sequence[str]:
    """A review's line of the table of `COLUMNS`."""
    times = _time(each.opened_at), _time(each.deadline)
    return each.id, each.status, *times, each.policy, each.resolved_by, str(each.cursor or "")


def _side(variable: ContextVariable, instead: str | None) -> SideLine:
    """A side with its value, or with what stands instead of it."""
    value = cut(repr(variable.value), VALUE_CHARACTERS_MAX) if instead is None else instead
    return SideLine(value, variable.sensitivity, variable.source, variable.timestamp)


def _time(at: dt.datetime | None) -> str:
    return "" if at is None else at.isoformat(" ", "seconds")
