"""Scenarios that could not be stored after one of their steps are refused before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast.cli.demo import rehearsal
from holdfast.cli.demo.corpus import Corpus, Item
from holdfast.cli.demo.files import InputError, InputFileError
from holdfast.cli.demo.rehearsal import rehearse
from holdfast.cli.demo.scenario import Change, Operation, RoutineCall, Scenario, Step
from holdfast.cli.demo.stock import build_stock
from holdfast.cli.demo.swarms import new_swarm, with_change, with_step_noted
from holdfast.documents import Limits, Swarm, encode

AT = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)


def nested(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def scenario_of(name: str, *values: object, operation: Operation = Operation.SET) -> Scenario:
    """A scenario whose steps change the item `n` to these values, each with a call and an event."""
    steps = tuple(
        Step(number, "go", "a", "r", RoutineCall("r", "ok"), (Change("n", operation, value),), ("event",))
        for number, value in enumerate(values, 1)
    )
    return Scenario(name, f"scenarios/{name}.json", "flow", "", (), (), {"other": 1}, steps)


def corpus_of(*scenarios: Scenario) -> Corpus:
    """An input of nothing but these."""
    items = {scenario.name: Item(scenario.source, scenario, {}) for scenario in scenarios}
    return Corpus(items, {}, {}, {}, {"scenarios": len(items)}, [], [], [])


@pytest.mark.parametrize(
    ("value", "place", "reason"),
    [
        ("a\x00b", "after step 2, blackboard[1].value", "NUL"),
        (nested(70), "after step 2, blackboard[1].value[0]", "nests deeper than the limit"),
        ("x" * 2_000_000, "after step 2, blackboard[1].value", "at most 1048576"),
    ],
)
def test_scenario_that_cannot_be_stored_is_a_fault_and_the_others_run(value: object, place: str, reason: str) -> None:
    """Though the next step replaces the value, its file is reported with place and reason; another scenario stays."""
    stock = build_stock(corpus_of(scenario_of("bad", 1, value, 2), scenario_of("good", 1)), "run-1", AT, Limits())

    assert list(stock.swarms) == ["good"]
    (fault,) = stock.faults
    assert fault.path == "scenarios/bad.json"
    assert fault.place is not None
    assert fault.place.startswith(place)
    assert reason in fault.reason


def test_input_of_nothing_that_can_be_stored_is_refused() -> None:
    """Without any scenario left the sentence names the first fault."""
    with pytest.raises(InputError, match=r"no scenario can be run; the first fault is scenarios/bad\.json"):
        build_stock(corpus_of(scenario_of("bad", "\x00")), "run-1", AT, Limits())


def states_of(scenario: Scenario) -> list[Swarm]:
    """The swarm after each update."""
    states = [new_swarm("s", scenario, "run-1", AT)]
    for step in scenario.steps:
        states += [with_change(states[-1], change, AT) for change in step.changes]
        states.append(with_step_noted(states[-1], "s", step, AT))
    return states


@pytest.mark.parametrize("operation", [Operation.SET, Operation.APPEND])
def test_limit_is_kept_to_the_byte(operation: Operation) -> None:
    """A scenario passes if its largest state just fits, and is refused if that has one byte more."""
    scenario = scenario_of("s", *("word" * (at % 7) for at in range(30)), operation=operation)
    largest = max(len(encode(state)) for state in states_of(scenario))
    swarm = new_swarm("s", scenario, "run-1", AT)

    rehearse("s", scenario, swarm, Limits(largest), AT)
    with pytest.raises(InputFileError, match=f"the document has {largest} bytes, at most {largest - 1}"):
        rehearse("s", scenario, swarm, Limits(largest - 1), AT)


def test_scenario_that_rewrites_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of all updates have a limit, and the refusal says at which step it was passed."""
    scenario = scenario_of("s", *range(100))
    swarm = new_swarm("s", scenario, "run-1", AT)
    written = sum(len(encode(state)) for state in states_of(scenario)[1:])

    monkeypatch.setattr(rehearsal, "REWRITTEN_BYTES_MAX", 2 * written)
    rehearse("s", scenario, swarm, Limits(), AT)
    monkeypatch.setattr(rehearsal, "REWRITTEN_BYTES_MAX", written // 2)
    with pytest.raises(InputFileError, match=r"rewrites the whole swarm: up to step \d+ of 100"):
        rehearse("s", scenario, swarm, Limits(), AT)
