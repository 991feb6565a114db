"""Success conditions judged on the replay."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.cli.demo.replay import replay
from holdfast.cli.demo.scenario import Change, Operation, RoutineCall, Scenario, ScenarioBot, Step
from holdfast.cli.demo.success import Verdict, judge

MET, UNMET, NOT_COVERED = Verdict.MET, Verdict.UNMET, Verdict.NOT_COVERED

COMPLETE = (
    Step(1, "go", "a", "r", RoutineCall("r"), (Change("n", Operation.SET, 2),), ("asked",)),
    Step(2, "asked", "a", "emit", events=("over",)),
)


def scenario(steps: tuple[Step, ...] = COMPLETE, **parts: Any) -> Scenario:
    """A scenario whose one agent listens to `go` and `asked`."""
    bots = (ScenarioBot("a", "", "", ("go", "asked"), {}),)
    return Scenario("s", "s.json", "flow", "", bots, (), parts.pop("blackboard", {}), steps, opening="go", **parts)


def verdicts(given: Scenario) -> list[Verdict]:
    """The verdict of each condition."""
    return [judgement.verdict for judgement in judge(given, replay(given))]


@pytest.mark.parametrize(
    ("value", "wanted", "verdict"),
    [
        (2, ">0", MET),
        (0, ">0", UNMET),
        (1, ">=1", MET),
        (0.5, ">=1", UNMET),
        (0.5, "<1", MET),
        (2, "<=1.5", UNMET),
        (3, "==3", MET),
        (3, "=4", UNMET),
        (-3, "> -4", MET),
        ("3", ">0", UNMET),
        (True, ">0", UNMET),
        ([1], "length>0", MET),
        ([], "length>0", UNMET),
        ("four", "length>=4", MET),
        ({"a": 1}, "length>=2", UNMET),
        (7, "length>0", UNMET),
        (True, "true", MET),
        ("true", "true", MET),
        (False, "true", UNMET),
        (1, "true", UNMET),
        (False, "false", MET),
        (0, "exists", MET),
        (None, "exists", UNMET),
        ("done", "done", MET),
        ("open", "done", UNMET),
        (4, 4, MET),
        (True, 1, UNMET),
        ({"a": [1]}, {"a": [1]}, MET),
        (None, None, MET),
    ],
)
def test_blackboard_conditions(value: object, wanted: object, verdict: Verdict) -> None:
    """Comparisons want numbers, lengths want something with a length, anything else wants plain equality."""
    steps = (Step(1, changes=(Change("item", Operation.SET, value),)),)

    assert verdicts(scenario(steps, success={"blackboardState": {"item": wanted}})) == [verdict]


def test_item_that_no_step_writes_is_not_covered_unless_it_holds_already() -> None:
    """False about an item that the steps never touch says nothing; true about it is true."""
    success = {"blackboardState": {"start": ">=1", "fine": ">=1", "absent": "exists"}}

    assert verdicts(scenario(blackboard={"start": 0, "fine": 1}, success=success)) == [
        NOT_COVERED,
        MET,
        NOT_COVERED,
    ]


@pytest.mark.parametrize("event", ["go", "asked", "over"])
def test_event_that_the_recording_shows_is_met(event: str) -> None:
    """The opening event, a trigger and an emitted event have all happened."""
    assert verdicts(scenario(success={"requiredEvents": [event]})) == [MET]


def test_event_missing_from_a_complete_recording_is_unmet() -> None:
    """A recording that accounts for everything shows that the event did not happen."""
    assert verdicts(scenario(success={"requiredEvents": ["never"]})) == [UNMET]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (Step(3), "step 3 does not say what was done"),
        (Step(3, "over", "a", "emit", events=("x OR never",)), "step 3 leaves open which event it emitted"),
        (Step(3, "over", "a", "emit", events=("asked",)), "nothing follows asked of step 3"),
    ],
)
def test_event_missing_from_an_incomplete_recording_is_not_covered(last: Step, reason: str) -> None:
    """Where the recording leaves something open, the event may have followed."""
    given = scenario((*COMPLETE, last), success={"requiredEvents": ["never"]})

    (judgement,) = judge(given, replay(given))

    assert judgement.verdict is NOT_COVERED
    assert judgement.reason == f"not in the recording, which is incomplete: {reason}"


def test_alternative_events_are_not_taken_for_either() -> None:
    """Neither of two events is shown to have happened by "A OR B"."""
    steps = (Step(1, "go", "a", "emit", events=("x OR y",)),)

    assert verdicts(scenario(steps, success={"requiredEvents": ["x", "y"]})) == [NOT_COVERED, NOT_COVERED]


def test_routine_calls_are_counted() -> None:
    """The recording always covers how many routines it ran."""
    assert verdicts(scenario(success={"routineCallsMin": 1})) == [MET]
    assert verdicts(scenario(success={"routineCallsMin": 2})) == [UNMET]


@pytest.mark.parametrize("success", [{"agentCoordination": True}, {"leadershipTransitions": {"minimumHandoffs": 4}}])
def test_conditions_without_a_measure_are_not_covered(success: dict[str, Any]) -> None:
    """A condition of which the recording has no measure is said to be just that."""
    assert verdicts(scenario(success=success)) == [NOT_COVERED]


def test_conditions_read_as_stated() -> None:
    """Each judgement repeats its condition and says what it rests on."""
    given = scenario(
        success={
            "requiredEvents": ["go"],
            "blackboardState": {"n": ">=1", "m": "low"},
            "routineCallsMin": 1,
            "mood": "x",
        }
    )

    assert [(judgement.condition, judgement.reason) for judgement in judge(given, replay(given))] == [
        ("event go", "in the recording"),
        ("n >=1", "is 2"),
        ("m is low", "no step writes it; it is not on the blackboard"),
        ("at least 1 routine calls", "the recording has 1"),
        ("mood is x", "the recording has no measure of it"),
    ]
