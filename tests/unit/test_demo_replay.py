"""The demo's plain-Python replay, and the comparison of a server's swarm with it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from holdfast.cli.demo import compare as comparison
from holdfast.cli.demo.compare import compare
from holdfast.cli.demo.replay import ChangeRefusedError, Outcome, Record, changed, replay
from holdfast.cli.demo.scenario import Change, Operation, RoutineCall, Scenario, Step

SCENARIO = Scenario(
    name="s",
    source="scenarios/s.json",
    shape="flow",
    goal="",
    bots=(),
    routines=(),
    blackboard={"start": 0},
    steps=(
        Step(
            1,
            "go",
            "a",
            "r",
            RoutineCall("r", {"n": 1}),
            (Change("log", Operation.APPEND, "x"), Change("start", Operation.INCREMENT, 2)),
            ("one",),
        ),
        Step(2, "one", "b", "emit", events=("two", "three")),
        Step(3),
    ),
)


def test_replay_applies_steps_in_order() -> None:
    """Items appear in order of first writing; records, events and counters follow the steps."""
    assert replay(SCENARIO) == Outcome(
        blackboard=[("start", 2), ("log", ["x"])],
        records=[Record(1, "r", "a", ["log", "start"], {"n": 1})],
        events=["one", "two", "three"],
        counters={"steps": 3, "tool_calls": 1, "events": 3},
    )


def test_replay_leaves_the_scenario_alone() -> None:
    """Replaying twice gives the same outcome: values are never changed in place."""
    before = copy.deepcopy(SCENARIO)

    assert replay(SCENARIO) == replay(SCENARIO)
    assert before == SCENARIO


@pytest.mark.parametrize(
    ("before", "operation", "value", "after"),
    [
        pytest.param({"i": [1]}, Operation.SET, None, None, id="set"),
        pytest.param({}, Operation.APPEND, {"k": 1}, [{"k": 1}], id="append to nothing"),
        pytest.param({"i": [1]}, Operation.APPEND, [2, [3]], [1, 2, [3]], id="append a list"),
        pytest.param({"i": "old"}, Operation.APPEND, "new", ["old", "new"], id="append to a text"),
        pytest.param({"i": None}, Operation.APPEND, 1, [None, 1], id="append to null"),
        pytest.param({}, Operation.INCREMENT, 2, 2, id="increment nothing"),
        pytest.param({"i": 1.5}, Operation.INCREMENT, 2, 3.5, id="increment"),
        pytest.param({"i": 1}, Operation.INCREMENT, 2**80, 2**80 + 1, id="increment beyond 64 bit"),
        pytest.param({}, Operation.MERGE, {"a": 1}, {"a": 1}, id="merge into nothing"),
        pytest.param(
            {"i": {"a": {"x": 1}, "b": 2}},
            Operation.MERGE,
            {"a": {"y": 1}},
            {"a": {"y": 1}, "b": 2},
            id="merge",
        ),
    ],
)
def test_operations(before: dict[str, object], operation: Operation, value: object, after: object) -> None:
    """Each operation is a function of the item before; what it was given stays as it was."""
    kept = copy.deepcopy(before)

    assert changed(before, Change("i", operation, value)) == after
    assert before == kept


@pytest.mark.parametrize(
    ("before", "operation", "value", "message"),
    [
        ({"i": "x"}, Operation.INCREMENT, 1, "i: cannot add str 'x'"),
        ({"i": []}, Operation.INCREMENT, 1, r"i: cannot add list \[\]"),
        ({"i": 1}, Operation.INCREMENT, True, "i: cannot add bool True"),
        ({"i": [1]}, Operation.MERGE, {}, r"i: cannot merge list \[1\]"),
        ({}, Operation.MERGE, 3, "i: cannot merge int 3"),
    ],
)
def test_change_that_does_not_fit_is_refused(
    before: dict[str, object], operation: Operation, value: object, message: str
) -> None:
    """Adding to what is no number and merging with what is no object is refused, not guessed."""
    with pytest.raises(ChangeRefusedError, match=message):
        changed(before, Change("i", operation, value))


def test_equal_outcomes_have_no_differences() -> None:
    """A server that did all of it right compares equal."""
    assert compare(replay(SCENARIO), replay(SCENARIO)) == []


def _lose_item(outcome: Outcome) -> None:
    del outcome.blackboard[1]


def _double_item(outcome: Outcome) -> None:
    outcome.blackboard.append(("log", ["x"]))


def _lose_record(outcome: Outcome) -> None:
    outcome.records.clear()


def _alter_record(outcome: Outcome) -> None:
    outcome.records[0] = Record(1, "r", "b", ["log", "start"], {"n": 1})


@pytest.mark.parametrize(
    ("spoil", "differences"),
    [
        (
            lambda outcome: outcome.blackboard.__setitem__(0, ("start", 3)),
            ["blackboard item 'start': the replay has 2, the server has 3"],
        ),
        (
            lambda outcome: outcome.blackboard.__setitem__(0, ("start", 2.0)),
            ["blackboard item 'start': the replay has 2, the server has 2.0"],
        ),
        (
            lambda outcome: outcome.blackboard.append(("ghost", None)),
            ["blackboard item 'ghost': the server has None, the replay has none"],
        ),
        (_lose_item, ["blackboard item 'log': the replay has ['x'], the server has none"]),
        (_double_item, ["blackboard item 'log': the server has it 2 times"]),
        (
            lambda outcome: outcome.blackboard.reverse(),
            ["blackboard order: the replay has start, log; the server has log, start"],
        ),
        (_lose_record, ["records: the replay has 1, the server has 0"]),
        (
            _alter_record,
            ["record 1 at bot: the replay has 'a', the server has 'b'"],
        ),
        (
            lambda outcome: outcome.events.pop(),
            ["events: the replay has 3, the server has 2"],
        ),
        (
            lambda outcome: outcome.events.__setitem__(1, "other"),
            ["event 2: the replay has 'two', the server has 'other'"],
        ),
        (
            lambda outcome: outcome.counters.__setitem__("tool_calls", 0),
            ["counter 'tool_calls': the replay has 1, the server has 0"],
        ),
        (
            lambda outcome: outcome.counters.pop("steps"),
            ["counter 'steps': the replay has 3, the server has none"],
        ),
    ],
)
def test_every_error_of_the_tiers_is_a_difference(spoil: Callable[[Outcome], object], differences: list[str]) -> None:
    """A changed, lost, extra or doubled item, record, event or count is found, and named."""
    found = replay(SCENARIO)
    spoil(found)

    assert compare(replay(SCENARIO), found) == differences


def test_difference_deep_inside_a_value_is_shown_with_its_path() -> None:
    """Of two large values the report shows the place where they part, not two texts that begin alike."""
    expected, found = (
        Outcome([("plan", {"phases": [{"name": "x" * 200}, {"size": size}]})], [], [], {}) for size in (1, 2)
    )

    assert compare(expected, found) == ["blackboard item 'plan' at phases[1].size: the replay has 1, the server has 2"]


def test_many_differences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit the rest is counted, so that a report stays readable."""
    monkeypatch.setattr(comparison, "DIFFERENCES_MAX", 2)
    found = Outcome([], [], [], {})

    assert compare(replay(SCENARIO), found)[2:] == ["and 5 more differences"]


def test_sum_beyond_every_number_is_refused() -> None:
    """An integer that no float can hold, added to a float, is a change that does not fit."""
    with pytest.raises(ChangeRefusedError, match=r"n: cannot add 0\.5 to 1000"):
        changed({"n": 10**400}, Change("n", Operation.INCREMENT, 0.5))
