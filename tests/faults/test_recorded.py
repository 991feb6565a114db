"""Which faults count as recorded."""

from __future__ import annotations

import datetime as dt

import pytest

from faults.recorded import Episode, unrecorded
from holdfast.protocols import RecoveryLine

BEGAN = 1000.0
EPISODE = Episode("L2 paused", ("tier:l2",), BEGAN, BEGAN + 5.0)


def lines(
    first: float = 0.5, last: float = 6.0, *, subject: str = "tier:l2", without: str = "", outcome: str = "degraded"
) -> list[RecoveryLine]:
    """Those of one recovery, so many seconds after the fault began."""
    steps = [
        ("detected", "done", first),
        ("retry_operation", "failed", first),
        ("completed", outcome, last),
        ("returned", "mended", last),
    ]
    return [
        RecoveryLine(
            id=f"{number}",
            recovery_id=f"of {subject}",
            at=dt.datetime.fromtimestamp(BEGAN + at, dt.UTC),
            server="s",
            error_type="cache_failure",
            severity="ERROR",
            subject=subject,
            step=step,
            outcome=came,
        )
        for number, (step, came, at) in enumerate(steps)
        if step != without
    ]


@pytest.mark.parametrize(
    "found",
    [
        lines(),
        pytest.param(lines(first=-3.0), id="of an outage before, still"),
        pytest.param(lines(subject="tier:l3") + lines(), id="among others"),
    ],
)
def test_a_recovery_during_it_that_has_an_outcome_counts(found: list[RecoveryLine]) -> None:
    """However late it is over."""
    assert unrecorded([EPISODE], found) == []


@pytest.mark.parametrize(
    "found",
    [
        [],
        lines(subject="tier:l3"),
        lines(without="retry_operation"),
        lines(without="completed"),
        lines(outcome=""),
        lines(first=-9.0, last=-1.0),
        lines(first=6.5, last=9.0),
    ],
)
def test_nothing_else_does(found: list[RecoveryLine]) -> None:
    """Another subject, another time, or no word of what was done or what came of it."""
    assert unrecorded([EPISODE], found) == ["L2 paused"]


def test_what_nobody_may_have_met_need_not_be_recorded() -> None:
    """It was over too soon."""
    assert unrecorded([EPISODE._replace(ended=BEGAN + 1.0)], []) == []
