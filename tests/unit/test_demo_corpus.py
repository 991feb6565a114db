"""Input directories: what is imported, what is refused, what is renamed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.demo.corpus import Collision, load_corpus
from holdfast.cli.demo.files import InputError


def scenario(name: str = "s", **parts: Any) -> dict[str, Any]:
    """A scenario of shape (a)."""
    return {"identity": {"name": name}, "expectedFlow": [], **parts}


def routine(identifier: str, label: str = "") -> dict[str, Any]:
    """A routine of one version."""
    return {"id": identifier, "resourceType": "Routine", "versions": [{"id": "v", "versionLabel": label}]}


def agent(name: str) -> dict[str, Any]:
    """An agent."""
    return {"identity": {"name": name}, "goal": "g", "role": "monitor"}


def write(root: Path, files: Mapping[str, object]) -> Path:
    """Write files below the directory; text as it is, anything else as JSON."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def test_all_four_folders_are_read(tmp_path: Path) -> None:
    """Scenarios, routines, agents and teams are found at any depth under their own ids."""
    corpus = load_corpus(
        write(
            tmp_path,
            {
                "scenarios/a.json": scenario("s"),
                "routines/x/y/r.json": routine("r1"),
                "agents/m.json": agent("m1"),
                "teams/t.json": {"id": "t1", "name": "T", "members": [{"agent": "m1"}]},
                "other/z.json": "not read",
            },
        )
    )

    assert [*corpus.scenarios, *corpus.routines, *corpus.agents, *corpus.teams] == ["s", "r1", "m1", "t1"]
    assert corpus.files == {"scenarios": 1, "routines": 1, "agents": 1, "teams": 1}
    assert (corpus.faults, corpus.collisions, corpus.remarks) == ([], [], [])


def test_malformed_and_misshapen_files_are_reported_and_not_imported(tmp_path: Path) -> None:
    """Each faulty file is named with line or place and reason; nothing of it is in the corpus."""
    bad_scenario = scenario("bad", expectedFlow=[{"step": "one"}])
    corpus = load_corpus(
        write(
            tmp_path,
            {
                "scenarios/a.json": scenario("s"),
                "scenarios/b.json": bad_scenario,
                "routines/cut.json": '{"id": "r0",\n"versions": [',
                "routines/shape.json": {"id": 7, "resourceType": "Routine", "versions": []},
                "agents/none.json": {"identity": {}, "goal": "g", "role": "r"},
            },
        )
    )

    assert [str(fault) for fault in corpus.faults] == [
        "scenarios/b.json: expectedFlow[0].step: expected `int | null`, got `str`",
        "routines/cut.json:2: Expecting value (column 14)",
        "routines/shape.json: id: expected `str`, got `int`",
        "agents/none.json: identity: object missing required field `name`",
    ]
    assert [*corpus.scenarios, *corpus.routines, *corpus.agents] == ["s"]


def test_first_file_in_sorted_order_keeps_a_colliding_id(tmp_path: Path) -> None:
    """The same directory always gives the same ids, whatever order the file system lists it in."""
    files = {
        "scenarios/a.json": scenario(),
        "routines/z/one.json": routine("r", "z"),
        "routines/a/two.json": routine("r", "a"),
        "routines/m.json": routine("r", "m"),
        "agents/a.json": agent("r"),
    }

    corpus = load_corpus(write(tmp_path, files))

    assert {key: item.parsed.versions[0].version_label for key, item in corpus.routines.items()} == {
        "r": "a",
        "r@routines/m.json": "m",
        "r@routines/z/one.json": "z",
    }
    assert corpus.collisions == [
        Collision("routines", "r", "routines/a/two.json", "routines/m.json", "r@routines/m.json"),
        Collision("routines", "r", "routines/a/two.json", "routines/z/one.json", "r@routines/z/one.json"),
    ]


def test_id_that_cannot_name_a_document_is_a_fault(tmp_path: Path) -> None:
    """An empty id, one that is too long, and one that a collision would take twice are refused."""
    corpus = load_corpus(
        write(
            tmp_path,
            {
                "scenarios/a.json": scenario(),
                "routines/a.json": routine(""),
                "routines/b.json": routine("x" * 513),
                "routines/c.json": routine("y@routines/e.json"),
                "routines/d.json": routine("y"),
                "routines/e.json": routine("y"),
            },
        )
    )

    assert [str(fault)[:59] for fault in corpus.faults] == [
        "routines/a.json: an id must not be empty",
        "routines/b.json: id '" + "x" * 38,
        "routines/e.json: the ids 'y' and 'y@routines/e.json' are bo",
    ]
    assert list(corpus.routines) == ["y@routines/e.json", "y"]


def test_scenario_that_cannot_be_replayed_is_a_fault(tmp_path: Path) -> None:
    """A recording whose own steps contradict each other is refused with the step."""
    operations = {"increment": [{"routineOutput": "n", "blackboardId": "total"}]}
    behavior = {"trigger": {"topic": "go"}, "action": {"type": "routine", "label": "r"}}
    broken = {
        "swarmConfig": {
            "name": "broken",
            "bots": [{"id": "b", "agentSpec": {"behaviors": [behavior], "outputOperations": operations}}],
        },
        "eventSequence": [{"event": "go", "expectedResponses": ["r execution"]}],
        "mockRoutineResponses": {"r": {"n": "many"}},
    }

    corpus = load_corpus(write(tmp_path, {"scenarios/a.json": scenario(), "scenarios/b.json": broken}))

    assert [str(fault) for fault in corpus.faults] == ["scenarios/b.json: step 1: total: cannot add str 'many'"]


def test_repeated_key_is_a_remark(tmp_path: Path) -> None:
    """A file with a key twice in one object is imported, and that is said."""
    text = '{"identity": {"name": "s"}, "expectedFlow": [], "success": {"a": 1, "a": 2}}'

    corpus = load_corpus(write(tmp_path, {"scenarios/a.json": text}))

    assert corpus.remarks == ["scenarios/a.json: 'a' stands twice in one object; the last counts"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "found none"),
        (
            {"scenarios/a.json": "{"},
            r"found 1 files, none of them usable; the first fault is scenarios/a\.json:1: ",
        ),
    ],
)
def test_input_without_a_usable_scenario_is_refused(tmp_path: Path, files: dict[str, object], message: str) -> None:
    """Without a scenario there is nothing to run, and one sentence says so."""
    with pytest.raises(InputError, match=message):
        load_corpus(write(tmp_path, files))


def test_input_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """A path that is no directory is named."""
    with pytest.raises(InputError, match="nowhere is not a directory"):
        load_corpus(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "content", "place"),
    [
        ("routines/r.json", {**routine("r"), "versions": []}, "versions"),
        ("agents/a.json", {**agent("a"), "identity": {}}, "identity"),
        ("teams/t.json", {"id": "t", "name": "T", "members": [{}]}, "members[0]"),
        ("scenarios/z.json", scenario("z", agents=[{}]), "agents[0]"),
        ("scenarios/z.json", scenario("z", mocks={"routineResponses": [{}]}), "mocks.routineResponses[0]"),
    ],
)
def test_file_without_a_needed_part_is_a_fault(tmp_path: Path, path: str, content: object, place: str) -> None:
    """A part that is empty or missing is a fault with its place, and the rest of the input is read."""
    corpus = load_corpus(write(tmp_path, {"scenarios/s.json": scenario("s"), path: content}))

    assert [(fault.path, fault.place) for fault in corpus.faults] == [(path, place)]
    assert list(corpus.scenarios) == ["s"]
