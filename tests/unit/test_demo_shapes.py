"""Scenario files of both shapes, read into steps."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.cli.demo.files import InputFileError, JsonFile
from holdfast.cli.demo.recordings import parse_scenario
from holdfast.cli.demo.scenario import Change, Operation, RoutineCall, Scenario, Step


def flow(**parts: Any) -> Scenario:
    """A scenario of shape (a) with these parts."""
    value = {"identity": {"name": "s"}, "agents": [{"name": "a"}], "expectedFlow": [], **parts}
    return parse_scenario(JsonFile("scenarios/s.json", value))


def sequence(events: list[dict[str, Any]], bots: list[dict[str, Any]], **parts: Any) -> Scenario:
    """A scenario of shape (b) with these events, bots and parts."""
    value = {"swarmConfig": {"name": "s", "bots": bots}, "eventSequence": events, **parts}
    return parse_scenario(JsonFile("scenarios/s.json", value))


def bot(name: str, topic: str, action: dict[str, Any], **operations: Any) -> dict[str, Any]:
    """A bot with one behaviour and its output operations."""
    behaviors = [{"trigger": {"topic": topic}, "action": action}]
    return {"id": name, "agentSpec": {"behaviors": behaviors, "outputOperations": operations}}


def oddities(scenario: Scenario) -> list[tuple[str, str]]:
    """Sort and place of each oddity."""
    return [(odd.sort, odd.place) for odd in scenario.oddities]


def test_flow_step_keeps_updates_in_order_and_events_word_for_word() -> None:
    """A step of shape (a) sets its items in the recording's order, calls its routine, emits its events."""
    scenario = flow(
        routines=[{"name": "r", "type": "code"}],
        expectedFlow=[
            {
                "step": 1,
                "agent": "a",
                "trigger": "go",
                "action": "r",
                "blackboardUpdates": {"z": 1, "b": [2]},
                "emittedEvents": ["x/y"],
            }
        ],
        mocks={"routineResponses": [{"routineName": "r", "response": {"ok": True}}]},
    )

    changes = (Change("z", Operation.SET, 1), Change("b", Operation.SET, [2]))
    assert scenario.steps == (Step(1, "go", "a", "r", RoutineCall("r", {"ok": True}), changes, ("x/y",)),)
    assert scenario.oddities == ()


@pytest.mark.parametrize("turn", ["iteration", "attempt"])
def test_numbered_mocks_answer_their_own_call(turn: str) -> None:
    """A mock with a number answers the call of that number, one without answers any other."""
    mocks = [
        {"routineName": "r", turn: 2, "response": "second"},
        {"routineName": "r", "response": "any"},
        {"routineName": "q", turn: 1, "response": "first of q"},
    ]
    steps = [{"agent": "a", "action": action} for action in ("r", "r", "r", "q", "q")]

    scenario = flow(
        expectedFlow=steps,
        routines=[{"name": "r"}, {"name": "q"}],
        mocks={"routineResponses": mocks},
    )

    answers = [step.call.response for step in scenario.steps if step.call]
    assert answers == ["any", "second", "any", "first of q", None]
    assert oddities(scenario) == [("routine without mock", "step 5")]


def test_emit_and_invoke_run_no_routine() -> None:
    """The actions "emit" and "invoke" are not routine calls."""
    scenario = flow(expectedFlow=[{"agent": "a", "action": "emit"}, {"agent": "a", "action": "invoke"}])

    assert [step.call for step in scenario.steps] == [None, None]
    assert scenario.oddities == ()


def test_oddities_of_a_flow_are_listed_in_full() -> None:
    """Nothing odd in a recording of shape (a) goes unmentioned."""
    scenario = flow(
        notes="x",
        expectedFlow=[
            {"step": 3, "description": "somebody does something"},
            {"step": 2, "agent": "stranger", "action": "r", "mood": "good"},
            {"step": 3, "agent": "a", "action": "emit", "emittedEvents": ["m/n OR o/p"]},
        ],
        mocks={"routineResponses": [{"routineName": "q", "iteration": 2, "response": 1}]},
    )

    assert oddities(scenario) == [
        ("unknown field", "scenario"),
        ("unknown field", "step 2"),
        ("numbering", "step 1"),
        ("step without action", "step 1"),
        ("routine without mock", "step 2"),
        ("alternative events", "step 3"),
        ("unknown agent", "step 2"),
        ("undefined routine", "step 2"),
        ("unused mock", "mock q"),
    ]
    assert scenario.steps[0].remark == "somebody does something"
    assert scenario.steps[2].events == ("m/n OR o/p",)


def test_sequence_makes_one_step_of_each_response() -> None:
    """An event is emitted by the bot whose behaviour emits it, "X execution" is a call of X by its bot."""
    scenario = sequence(
        [{"event": "go", "expectedResponses": ["x/asked", "r execution"]}],
        [
            bot("asker", "go", {"type": "emit", "eventType": "x/asked"}),
            bot("doer", "go", {"type": "routine", "label": "r"}),
        ],
        mockRoutineResponses={"r": {"result": {}}},
    )

    assert scenario.steps == (
        Step(1, "go", "asker", "emit", events=("x/asked",)),
        Step(2, "go", "doer", "r", RoutineCall("r", {"result": {}})),
    )
    assert scenario.opening == "go"
    assert scenario.oddities == ()


def test_output_operations_move_results_that_the_answer_has() -> None:
    """Each operation takes its path of the answer to its item; a path that is not there makes no change."""
    operations = {
        "append": [
            {"routineOutput": "result.found", "blackboardId": "finds"},
            {"routineOutput": "result.absent", "blackboardId": "never"},
        ],
        "set": [{"routineOutput": "result.deep.value", "blackboardId": "deep"}],
        "increment": [{"routineOutput": "result.count", "blackboardId": "total"}],
        "merge": [{"constantValue": {"done": True}, "blackboardId": "state"}],
    }
    scenario = sequence(
        [{"event": "go", "expectedResponses": ["r execution"]}],
        [bot("doer", "go", {"type": "routine", "label": "r"}, **operations)],
        mockRoutineResponses={"r": {"result": {"found": [1], "deep": {"value": None}, "count": 2}}},
    )

    assert scenario.steps[0].changes == (
        Change("finds", Operation.APPEND, [1]),
        Change("deep", Operation.SET, None),
        Change("total", Operation.INCREMENT, 2),
        Change("state", Operation.MERGE, {"done": True}),
    )
    assert scenario.oddities == ()


def test_bot_with_the_right_trigger_is_preferred() -> None:
    """Of two bots with the same action the one whose behaviour waits for this event acts."""
    action = {"type": "routine", "label": "r"}
    scenario = sequence(
        [{"event": "second", "expectedResponses": ["r execution"]}],
        [bot("one", "first", action), bot("two", "second", action)],
        mockRoutineResponses={"r": None},
    )

    assert scenario.steps[0].agent == "two"


def test_oddities_of_a_sequence_are_listed_in_full() -> None:
    """Nothing odd in a recording of shape (b) goes unmentioned."""
    operations = {"set": [{"emitOutput": "eventId", "blackboardId": "last"}]}
    scenario = sequence(
        [
            {"event": "go", "expectedResponses": ["r execution", "all is done", "e/one OR e/two"]},
            {"event": "on", "expectedResponses": ["ghost execution", "e/one"], "mood": "good"},
        ],
        [
            bot("doer", "elsewhere", {"type": "routine", "label": "r"}),
            bot("asker", "on", {"type": "emit", "eventType": "e/one", "outputOperations": operations}),
        ],
        mockRoutineResponses={"r": {"result": {"lost": 1}, "rest": 2}, "unused": {}},
    )

    assert oddities(scenario) == [
        ("unknown field", "event 2"),
        ("other trigger", "step 1"),
        ("unclaimed result", "step 1"),
        ("unclaimed result", "step 1"),
        ("free text", "step 2"),
        ("alternative events", "step 3"),
        ("other trigger", "step 3"),
        ("unrecorded output", "step 3"),
        ("routine without mock", "step 4"),
        ("unknown agent", "step 4"),
        ("unrecorded output", "step 5"),
        ("unused mock", "mock unused"),
    ]
    assert scenario.steps[1] == Step(2, "go", remark="all is done")
    assert scenario.steps[3] == Step(4, "on", None, "ghost", RoutineCall("ghost"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "s.json: document: expected an object, got list"),
        ({"identity": {}}, "s.json: document: has neither `expectedFlow` nor `eventSequence`"),
        (
            {"identity": {"name": "s"}, "expectedFlow": [{"step": 1}, {"agent": 5}]},
            "s.json: expectedFlow[1].agent: expected `str | null`, got `int`",
        ),
        (
            {"identity": {"name": "s"}, "expectedFlow": "soon"},
            "s.json: expectedFlow: expected `array`, got `str`",
        ),
        (
            {"swarmConfig": {"name": "s"}, "eventSequence": [{"expectedResponses": []}]},
            "s.json: eventSequence[0]: object missing required field `event`",
        ),
        (
            {
                "swarmConfig": {"name": "s", "bots": [bot("b", "t", {"type": "x"}, shuffle=[])]},
                "eventSequence": [],
            },
            (
                "s.json: swarmConfig.bots[0].agentSpec.outputOperations: 'shuffle' is none of "
                "set, append, increment, merge"
            ),
        ),
    ],
)
def test_wrong_shape_names_the_place(value: object, message: str) -> None:
    """A scenario of the wrong shape is refused with the path of the fault."""
    with pytest.raises(InputFileError) as caught:
        parse_scenario(JsonFile("s.json", value))

    assert str(caught.value) == message
