"""The demo's documents: what an input becomes, and how steps change a swarm."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast import Routine, Swarm
from holdfast.cli.demo.command import SHIPPED_INPUT
from holdfast.cli.demo.compare import compare
from holdfast.cli.demo.corpus import Corpus, load_corpus
from holdfast.cli.demo.files import InputError
from holdfast.cli.demo.replay import replay
from holdfast.cli.demo.scenario import Change, Operation, Scenario, Step
from holdfast.cli.demo.stock import Stock, build_stock
from holdfast.cli.demo.swarms import new_swarm, outcome_of, run_of, steps_of, with_change, with_step_noted
from holdfast.documents import Limits, decode, encode

AT = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def shipped() -> Corpus:
    """The input that the package ships."""
    return load_corpus(SHIPPED_INPUT)


@pytest.fixture(scope="module")
def stock(shipped: Corpus) -> Stock:
    """Its documents."""
    return build_stock(shipped, "run-1", AT, Limits())


Update = tuple[Step, Change | None]
"""One update of the swarm: of a blackboard item, or (None) the noting of the step."""


def updates_of(scenario: Scenario) -> list[Update]:
    """The updates that the servers make, in order."""
    return [(step, change) for step in scenario.steps for change in (*step.changes, None)]


def after(scenario: Scenario, updates: list[Update]) -> Swarm:
    """The scenario's swarm after these updates."""
    swarm = new_swarm("s", scenario, "run-1", AT)
    for step, change in updates:
        swarm = with_change(swarm, change, AT) if change else with_step_noted(swarm, "s", step, AT)
    return swarm


def test_shipped_input_is_clean_but_for_what_it_shows(shipped: Corpus, stock: Stock) -> None:
    """The shipped input has no faulty file, and one colliding id."""
    assert (shipped.faults, stock.faults, shipped.remarks) == ([], [], [])
    assert [collision.new_id for collision in shipped.collisions] == [
        "710000000000000103@routines/planning/shift-rota.json"
    ]
    assert stock.sizes == {"teams": 4, "bots": 13, "routines": 18, "swarms": 3}


@pytest.mark.parametrize("name", ["flood-warning", "museum-move", "seed-exchange"])
def test_swarm_after_its_steps_equals_the_replay(shipped: Corpus, name: str) -> None:
    """The same steps on documents and on plain values come to the same, through storage and back."""
    scenario = shipped.scenarios[name].parsed

    stored = decode(Swarm, encode(after(scenario, updates_of(scenario))))

    assert compare(replay(scenario), outcome_of("s", stored)) == []
    assert steps_of(stored) == len(scenario.steps)
    assert run_of(stored) == "run-1"


@pytest.mark.parametrize("name", ["flood-warning", "museum-move", "seed-exchange"])
def test_any_lost_update_is_a_difference(shipped: Corpus, name: str) -> None:
    """Without any one of its updates a swarm differs from the replay, unless a later update replaces the value."""
    scenario = shipped.scenarios[name].parsed
    updates = updates_of(scenario)
    expected = replay(scenario)

    for at, (_, lost) in enumerate(updates):
        later = [change for _, change in updates[at + 1 :] if change and lost and change.item == lost.item]
        if all(change.operation is not Operation.SET for change in later):
            swarm = after(scenario, updates[:at] + updates[at + 1 :])
            assert compare(expected, outcome_of("s", swarm)) != [], f"update {at} was lost unnoticed"


def test_item_keeps_its_place_and_birth_when_it_changes() -> None:
    """Changing an item keeps its place and creation time; a new one goes to the end."""
    scenario = Scenario("s", "s.json", "flow", "", (), (), {"a": 1, "b": 2}, ())
    later = AT.replace(hour=11)

    swarm = new_swarm("s", scenario, "run-1", AT)
    swarm = with_change(swarm, Change("a", Operation.INCREMENT, 4), later)
    swarm = with_change(swarm, Change("c", Operation.APPEND, "x"), later)

    assert [(item.id, item.value, item.created_at) for item in swarm.blackboard] == [
        ("a", 5, AT),
        ("b", 2, AT),
        ("c", ["x"], later),
    ]


@pytest.mark.parametrize(
    ("limits", "credits_max", "duration_ms"),
    [
        ({"maxCredits": "500000000", "maxDurationMs": 300000}, 500_000_000, 300_000),
        ({"maxCredits": 1200000000, "maxDuration": 600001}, 1_200_000_000, 600_001),
        ({"maxCredits": "plenty", "maxDuration": 1.5}, 5_000_000, 600_000),
        ({"maxCredits": "9" * 4301}, 5_000_000, 600_000),
    ],
)
def test_limits_of_both_shapes(limits: dict[str, Any], credits_max: int, duration_ms: int) -> None:
    """Credits come as text or number; what is neither leaves the default, and the recording's words are kept."""
    scenario = Scenario("s", "s.json", "flow", "", (), (), {}, (), limits=limits)

    swarm = new_swarm("s", scenario, "run-1", AT)

    assert (swarm.limits.max_credits, swarm.limits.max_duration_ms) == (credits_max, duration_ms)
    assert swarm.metadata["demo"]["limits"] == limits


def test_nothing_of_a_configuration_is_lost(shipped: Corpus, stock: Stock) -> None:
    """A routine's and an agent's document hold all that their files do."""
    for identifier, item in shipped.routines.items():
        stored = json.dumps(decode(Routine, encode(stock.routines[identifier])).extra["file"])
        newest = item.value["versions"][-1]
        without = {**item.value, "versions": [{name: newest[name] for name in newest if name != "config"}]}
        assert json.loads(stored) == without
        assert stock.routines[identifier].config == newest["config"]
    for identifier, agent in shipped.agents.items():
        held = {"identity": agent.value["identity"], **stock.bots[identifier].agent_spec}
        assert held == agent.value


def test_routine_has_its_words_fields_and_steps(stock: Stock) -> None:
    """A multi-step routine's form becomes inputs and outputs, its graph becomes steps."""
    routine = stock.routines["710000000000000105"]

    assert (routine.name, routine.version, routine.default_strategy) == ("Moving Day", "1.0.0", "reasoning")
    assert [(spec.name, spec.required) for spec in routine.inputs] == [("inventory", True), ("address", False)]
    assert [spec.name for spec in routine.outputs] == ["schedule"]
    assert [(step.step_id, step.configuration["subroutineId"]) for step in routine.steps] == [
        ("step-1", "710000000000000103"),
        ("step-2", "710000000000000104"),
    ]


def _corpus(root: Path, files: dict[str, object]) -> Corpus:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(content))
    return load_corpus(root)


GOOD = {"identity": {"name": "good"}, "expectedFlow": [{"step": 1, "action": "emit"}]}


def test_file_whose_documents_are_refused_is_left_out_whole(tmp_path: Path) -> None:
    """A scenario with one item that cannot be stored leaves no bot, team or routine behind."""
    bad = {
        "identity": {"name": "bad"},
        "agents": [{"name": "a"}],
        "routines": [{"name": "r"}],
        "expectedFlow": [],
        "initialConditions": {"blackboardState": {"note": "nul \0 inside"}},
    }
    huge = {"id": "r", "resourceType": "Routine", "versions": [{"id": "v", "config": {"text": "x" * 2000}}]}
    corpus = _corpus(tmp_path, {"scenarios/bad.json": bad, "scenarios/good.json": GOOD, "routines/huge.json": huge})

    stock = build_stock(corpus, "run-1", AT, Limits(bytes_max=1500))

    assert [(fault.path, fault.place) for fault in stock.faults] == [
        ("routines/huge.json", "config.text"),
        ("scenarios/bad.json", "blackboard[0].value"),
    ]
    assert (list(stock.swarms), list(stock.teams), stock.bots, stock.routines) == (["good"], ["good"], {}, {})


def test_id_that_is_too_long_for_its_parts_is_a_fault(tmp_path: Path) -> None:
    """A scenario whose name leaves no room for its agents' ids is refused, not cut."""
    name = "n" * 510
    long = {"identity": {"name": name}, "agents": [{"name": "agent"}], "expectedFlow": []}
    corpus = _corpus(tmp_path, {"scenarios/a.json": long, "scenarios/b.json": GOOD})

    stock = build_stock(corpus, "run-1", AT, Limits())

    assert [fault.path for fault in stock.faults] == ["scenarios/a.json"]
    assert "has 516 bytes; at most 512" in stock.faults[0].reason


def test_id_that_is_too_long_for_its_runs_is_a_fault(tmp_path: Path) -> None:
    """Their ids are longer than the scenario's, and have to leave room for those of their snapshots."""
    names = {"scenarios/a.json": "n" * 491, "scenarios/b.json": "m" * 490}  # behind "run-1." and before ".1"
    step = {"step": 1, "trigger": "go", "agent": "a", "action": "emit"}
    corpus = _corpus(
        tmp_path,
        {path: {"identity": {"name": name}, "agents": [], "expectedFlow": [step]} for path, name in names.items()},
    )

    stock = build_stock(corpus, "run-1", AT, Limits())

    assert list(stock.swarms) == ["m" * 490]
    assert [fault.path for fault in stock.faults] == ["scenarios/a.json"]
    assert "has over 498 bytes: its snapshots need the rest" in stock.faults[0].reason


def test_taken_id_is_a_fault(tmp_path: Path) -> None:
    """A scenario's team does not replace one of the input's own teams."""
    corpus = _corpus(
        tmp_path,
        {
            "scenarios/a.json": {**GOOD, "identity": {"name": "crew"}},
            "scenarios/b.json": GOOD,
            "teams/crew.json": {"id": "crew", "name": "Crew"},
        },
    )

    stock = build_stock(corpus, "run-1", AT, Limits())

    assert [str(fault) for fault in stock.faults] == ["scenarios/a.json: the id 'crew' is taken by another file"]


def test_input_without_a_scenario_that_can_be_stored_is_refused(tmp_path: Path) -> None:
    """If Holdfast refuses every scenario, one sentence says so."""
    corpus = _corpus(tmp_path, {"scenarios/a.json": GOOD})

    with pytest.raises(InputError, match=r"no scenario can be run; the first fault is scenarios/a\.json: "):
        build_stock(corpus, "run-1", AT, Limits(bytes_max=10))
