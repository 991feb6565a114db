"""What becomes of variables that a parent and its children have both changed, by strategy."""

from __future__ import annotations

from typing import Any

import pytest

from fix_runs import Wall, hybrid_clock
from holdfast.documents import ContextVariable
from holdfast.entry import MISSING
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.run_context.hybrid_clock import HybridClock, HybridTime
from holdfast.run_context.inheriting import inherited
from holdfast.run_context.merging import Conflict, Strategies, compared, is_for_a_person, resolved, taken_over

PARENT_WINS = Strategies({}, ConflictStrategy.PARENT_WINS)
NOW_MS = 1_749_124_800_000


def at(ms: int, node: str = "n1") -> str:
    """A clock's text, milliseconds from now."""
    return HybridTime(NOW_MS + ms, 0, node).as_text()


def variable(value: Any, ms: int = 0, **more: Any) -> ContextVariable:
    """A variable named x, written at a moment."""
    return ContextVariable(key="x", value=value, clock=at(ms), **more)


def conflict(strategy: ConflictStrategy, parent: ContextVariable | None, child: ContextVariable) -> Conflict:
    """A variable that both have changed."""
    return Conflict("x", parent, child, strategy)


@pytest.mark.parametrize(
    ("parent", "child", "is_conflict"),
    [
        (variable(1), variable(2, 5, ancestor=at(0)), False),
        (variable(1, 3), variable(2, 5, ancestor=at(0)), True),
        (None, variable(2, 5), False),
        (variable(1), variable(2, 5), True),
        (None, variable(2, 5, ancestor=at(0)), True),
        (variable(1, mutable=False), variable(2, 5, ancestor=at(0)), True),
    ],
    ids=["as inherited", "written since", "new", "made by both", "removed since", "set for good"],
)
def test_a_conflict_is_what_the_parent_has_changed_since(
    parent: ContextVariable | None, child: ContextVariable, *, is_conflict: bool
) -> None:
    """Its clock is not the one that the child had inherited."""
    found = compared({"x": child}, {} if parent is None else {"x": parent}, PARENT_WINS)
    assert [each.key for each in found.conflicts] == (["x"] if is_conflict else [])
    assert found.unopposed == ({} if is_conflict else {"x": child})


@pytest.mark.parametrize("child", [variable(1, 5), inherited(variable(0))], ids=["identical", "never written"])
def test_what_is_no_change_is_no_conflict(child: ContextVariable) -> None:
    """Two identical values; and what the child has as it inherited it, whatever the parent has by now."""
    assert compared({"x": child}, {"x": variable(1, 3)}, PARENT_WINS) == ({}, [])


def test_numbers_of_other_types_are_other_values() -> None:
    """1 is neither 1.0 nor True."""
    for value in (1.0, True):
        assert compared({"x": variable(value, 5)}, {"x": variable(1, 3)}, PARENT_WINS).conflicts


@pytest.mark.parametrize(
    ("strategy", "parent", "child", "stands"),
    [
        ("parent_wins", variable(1, 3), variable(2, 5), 1),
        ("child_wins", variable(1, 9), variable(2, 5), 2),
        ("keep_latest", variable(1, 9), variable(2, 5), 1),
        ("keep_latest", variable(1, 3), variable(2, 5), 2),
        ("merge_objects", variable({"a": 1, "c": {"d": 1}}), variable({"b": 2, "c": {"d": 2}}), None),
        ("merge_objects", variable(1), variable({"b": 2}), 1),
        ("child_wins", variable(1, mutable=False), variable(2, 5), 1),
        ("child_wins", None, variable(2, 5), 2),
        ("parent_wins", None, variable(2, 5), MISSING),
    ],
)
def test_each_strategy(strategy: str, parent: ContextVariable | None, child: ContextVariable, stands: Any) -> None:
    """Says value, strategy and reason; where it is one side's, that side's variable stands as it is."""
    found = resolved(conflict(ConflictStrategy(strategy), parent, child), hybrid_clock(), 500)
    told = found.resolution
    assert (told.variable_name, told.strategy.value, bool(told.reason)) == ("x", strategy, True)
    if stands is None:
        assert told.value == {"a": 1, "b": 2, "c": {"d": 2}}
        assert found.variable is not None
        assert found.variable.clock > max(at(0), child.clock)
    else:
        assert told.value == stands
        assert found.variable is (child if stands == 2 else parent)


def test_merged_values_are_as_sensitive_as_either() -> None:
    """And one that is guarded is not looked into at all."""
    mapping = conflict(
        ConflictStrategy.MERGE_OBJECTS, variable({"a": 1}, sensitivity="confidential"), variable({"b": 2}, 5)
    )
    merged = resolved(mapping, hybrid_clock(), 500).variable
    assert merged is not None
    assert merged.sensitivity == "confidential"
    guarded = mapping._replace(child=variable({"b": 2}, 5, sensitivity="pii"))
    assert resolved(guarded, hybrid_clock(), 500).variable is mapping.parent


@pytest.mark.parametrize(("ahead", "skewed"), [(400, False), (600, True)])
def test_a_clock_that_is_ahead_is_flagged(ahead: int, *, skewed: bool) -> None:
    """Its value stands, since all servers must decide alike; who looks at it is told."""
    clock = HybridClock(Wall(NOW_MS / 1000), "n1")
    found = resolved(conflict(ConflictStrategy.KEEP_LATEST, variable(1), variable(2, ahead)), clock, 500)
    assert (found.resolution.value, found.resolution.skewed) == (2, skewed)
    other = resolved(conflict(ConflictStrategy.CHILD_WINS, variable(1), variable(2, ahead)), clock, 500)
    assert not other.resolution.skewed


def test_a_strategy_is_the_variables_else_the_runs() -> None:
    """A word that this version does not know is for a person."""
    strategies = Strategies({"a": "child_wins", "b": "later word"}, ConflictStrategy.KEEP_LATEST)
    assert [strategies.of(key).value for key in "abc"] == ["child_wins", "manual_review", "keep_latest"]


def test_what_is_set_for_good_is_for_no_person() -> None:
    """Nothing could come of a decision."""
    manual = conflict(ConflictStrategy.MANUAL_REVIEW, variable(1), variable(2, 5))
    assert is_for_a_person(manual)
    assert not is_for_a_person(manual._replace(parent=variable(1, mutable=False)))


def test_what_is_taken_over_carries_the_parents_own_ancestor() -> None:
    """A parent that inherited the variable itself is held against its own parent by that."""
    child = variable(2, 5, ancestor=at(1))
    assert taken_over(child, inherited(variable(0))).ancestor == at(0)
    assert taken_over(child, variable(1, 3, ancestor=at(0))).ancestor == at(0)
    assert taken_over(child, None).ancestor is None
