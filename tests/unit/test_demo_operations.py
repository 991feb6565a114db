"""The steps' updates as operations: the same swarm comes of both, or there are no operations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import InvalidOperation, Swarm
from holdfast.cli.demo import operations as module
from holdfast.cli.demo.command import SHIPPED_INPUT
from holdfast.cli.demo.corpus import load_corpus
from holdfast.cli.demo.operations import change_operations, note_operations
from holdfast.cli.demo.replay import ChangeRefusedError
from holdfast.cli.demo.scenario import Change, Operation
from holdfast.cli.demo.swarms import new_swarm, with_change, with_step_noted
from holdfast.documents import BlackboardItem, Limits, encode
from holdfast.write_behind.applying import apply_all
from holdfast.write_behind.checking import checked
from holdfast.write_behind.operations import Operation as Patch

AT = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)
LATER = datetime(2024, 5, 18, tzinfo=UTC)
ABSENT = object()
VALUES: list[Any] = [
    None,
    True,
    0,
    3,
    0.5,
    "x",
    [],
    [1],
    [[2]],
    {},
    {"a": 1},
    {"a": {"b": 1}},
    {"a": {"c": 2}, "d": [{}]},
]


def patched(swarm: Swarm, operations: Sequence[Patch]) -> Swarm:
    """The swarm after operations, as Holdfast applies them."""
    made = apply_all(swarm, checked(Swarm, operations, Limits()))
    assert made is not None
    return made


def same(one: Swarm, other: Swarm) -> bool:
    """1, 1.0 and true are three, and the order of an object counts."""
    return encode(one) == encode(other)


@pytest.mark.parametrize("name", ["flood-warning", "museum-move", "seed-exchange"])
def test_shipped_steps_are_operations(name: str) -> None:
    """All of them, and each makes the swarm that the update makes."""
    scenario = load_corpus(SHIPPED_INPUT).scenarios[name].parsed
    swarm = new_swarm("s", scenario, "run-1", AT)
    for step in scenario.steps:
        for change in step.changes:
            operations = change_operations(swarm, change, LATER)
            assert operations is not None
            before, swarm = swarm, with_change(swarm, change, LATER)
            assert same(patched(before, operations), swarm)
        before, swarm = swarm, with_step_noted(swarm, "s", step, LATER)
        assert same(patched(before, note_operations("s", step, LATER)), swarm)


def disagreements() -> Iterator[tuple[Any, Change]]:
    """Every sort of change on every sort of value whose operations make another swarm than the update."""
    for old, operation, given in itertools.product([ABSENT, *VALUES], Operation, VALUES):
        items = [] if old is ABSENT else [BlackboardItem(id="i", value=old, created_at=AT)]
        swarm = Swarm(blackboard=[BlackboardItem(id="h"), *items, BlackboardItem(id="j")])
        change = Change("i", operation, given)
        try:
            wanted = with_change(swarm, change, LATER)
        except ChangeRefusedError:
            with pytest.raises(ChangeRefusedError):
                change_operations(swarm, change, LATER)
            continue
        operations = change_operations(swarm, change, LATER)
        if operations is not None and not same(patched(swarm, operations), wanted):
            yield old, change


def test_operations_do_what_the_update_does() -> None:
    """Or there are none, or the change is refused as the update would be."""
    assert list(disagreements()) == []


def test_mutant_every_merge_is_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Merge` goes into an object that the recording replaces: the comparison above notices."""
    monkeypatch.setattr(module, "_nested", lambda *_: False)
    assert {change.operation for _, change in disagreements()} == {Operation.MERGE}


@pytest.mark.parametrize(
    ("old", "operation", "given"),
    [
        ("x", Operation.APPEND, 1),
        (None, Operation.INCREMENT, 1),
        (None, Operation.MERGE, {"a": 1}),
        ({"a": {}}, Operation.MERGE, {"a": {"b": 1}}),
    ],
)
def test_what_depends_on_the_value_is_no_operation(old: Any, operation: Operation, given: Any) -> None:
    """A list out of an element, a number or an object out of nothing, a replaced object."""
    swarm = Swarm(blackboard=[BlackboardItem(id="i", value=old)])
    assert change_operations(swarm, Change("i", operation, given), AT) is None


@pytest.mark.parametrize("item", ["", "x" * 1000, "nul\0"])
def test_what_no_place_can_name_is_refused_before_it_is_accepted(item: str) -> None:
    """The server then makes an update of it."""
    operations = change_operations(Swarm(), Change(item, Operation.SET, 1), AT)
    assert operations is not None
    with pytest.raises(InvalidOperation):
        patched(Swarm(), operations)
