"""Reviews in words for people."""

from __future__ import annotations

import msgspec

from fix_reviews import CHILD, PARENT
from holdfast.cli.reviews.outlines import columns_of, heading, shown_review
from holdfast.documents import Review, ReviewChoice
from holdfast.protocols.reviews import OVERTAKEN

REVIEW = Review(run_id="r1", child_run_id="c1", variable="site", parent=PARENT, child=CHILD, choice="child")


def test_a_decision_that_was_overtaken_is_shown_as_such() -> None:
    """In a line of its own; otherwise there is none."""
    lines = [
        list(heading(shown_review("v", msgspec.structs.replace(REVIEW, overtaken=overtaken))))
        for overtaken in (False, True)
    ]
    assert lines[1] == [*lines[0], f"  overtaken: {OVERTAKEN}"]


def test_a_decision_that_was_left_out_is_shown_as_such() -> None:
    """Its seal is broken: that is no write of the run."""
    lines = list(heading(shown_review("v", msgspec.structs.replace(REVIEW, left_out=True))))
    assert lines[-1] == "  left out: the seal of what was decided is broken, and what the run has stands"


def test_values_that_are_not_kept_are_not_shown_as_none() -> None:
    """Nor as too large where they are closed."""
    for level, words in (("internal", "(too large)"), ("secret", "(secret)")):
        blank = msgspec.structs.replace(CHILD, value=None, sensitivity=level)
        review = msgspec.structs.replace(REVIEW, child=blank, choice=ReviewChoice.FALLBACK.value)
        _, rows = columns_of(shown_review("v", review))
        assert rows[0] == ("value", words, words)
