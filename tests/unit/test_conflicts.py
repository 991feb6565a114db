"""Which of two values stands, by each strategy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.documents import FrozenDict, freeze
from holdfast.entry import MISSING
from holdfast.run_context.conflicts import ConflictStrategy, Side, merged_objects, resolve
from holdfast.run_context.hybrid_clock import HybridTime

PARENT, CHILD = Side("parent"), Side("child")
MERGE = ConflictStrategy.MERGE_OBJECTS
LATEST = ConflictStrategy.KEEP_LATEST

_leaves = st.sampled_from([None, 0, 1, True, 1.0, "p"])
_objects = st.recursive(
    st.dictionaries(st.sampled_from("abc"), _leaves, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | _leaves, max_size=3),
    max_leaves=6,
).map(freeze)


def test_the_strategies_are_the_seeds() -> None:
    """Their names in settings and in stored reviews."""
    assert [each.value for each in ConflictStrategy] == [
        "parent_wins",
        "child_wins",
        "merge_objects",
        "keep_latest",
        "manual_review",
    ]


@pytest.mark.parametrize(
    ("strategy", "value", "needs_review"),
    [
        (ConflictStrategy.PARENT_WINS, "parent", False),
        (ConflictStrategy.CHILD_WINS, "child", False),
        (MERGE, "parent", False),
        (LATEST, "parent", False),
        (ConflictStrategy.MANUAL_REVIEW, "parent", True),
    ],
)
def test_two_texts(strategy: ConflictStrategy, value: str, needs_review: bool) -> None:  # noqa: FBT001
    """Each says what stands, by which strategy, and why."""
    resolution = resolve(strategy, PARENT, CHILD)
    assert (resolution.value, resolution.strategy, resolution.needs_review) == (value, strategy, needs_review)
    assert resolution.reason


@pytest.mark.parametrize(
    ("parent", "child", "stands"),
    [
        (HybridTime(5, 0, "a"), HybridTime(5, 1, "a"), "child"),
        (HybridTime(5, 1, "a"), HybridTime(5, 1, "b"), "child"),
        (HybridTime(6, 0, "a"), HybridTime(5, 9, "b"), "parent"),
        (HybridTime(5, 0, "a"), HybridTime(5, 0, "a"), "parent"),
        (None, HybridTime(9, 0, "a"), "parent"),
        (HybridTime(1, 0, "a"), None, "parent"),
    ],
)
def test_the_latest_is_told_by_clocks(parent: HybridTime | None, child: HybridTime | None, stands: str) -> None:
    """A committed value without one counts as later: L3 ordered it so."""
    assert resolve(LATEST, Side("parent", parent), Side("child", child)).value == stands


MERGES: dict[str, tuple[Any, Any, Any, Any]] = {
    "both_added": ({"a": 1}, {"b": 2}, MISSING, {"a": 1, "b": 2}),
    "both_changed": ({"a": 1}, {"a": 2}, MISSING, {"a": 2}),
    "below": ({"a": {"b": 1}}, {"a": {"c": 2}}, MISSING, {"a": {"b": 1, "c": 2}}),
    "mapping_and_value": ({"a": {"b": 1}}, {"a": 2}, MISSING, {"a": 2}),
    "parent_alone_changed": ({"a": 2}, {"a": 1}, {"a": 1}, {"a": 2}),
    "child_alone_changed": ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}),
    "child_alone_removed": ({"a": 1, "b": 1}, {"b": 1}, {"a": 1, "b": 1}, {"b": 1}),
    "parent_alone_removed": ({"b": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 1}, {"b": 1}),
    "removed_and_changed": ({"a": 2}, {}, {"a": 1}, {"a": 2}),
    "changed_and_removed": ({}, {"a": 2}, {"a": 1}, {"a": 2}),
    "true_is_not_one": ({"a": 1}, {"a": True}, {"a": 1}, {"a": True}),
}


@pytest.mark.parametrize("name", MERGES)
def test_mappings_are_merged_key_by_key(name: str) -> None:
    """As the rule says, with an ancestor and without."""
    parent, child, ancestor, merged = MERGES[name]
    resolution = resolve(MERGE, Side(freeze(parent)), Side(freeze(child)), freeze(ancestor))
    assert repr(resolution.value) == repr(freeze(merged))


@given(one=_objects, other=_objects)
def test_a_side_that_changed_nothing_changes_nothing(one: FrozenDict, other: FrozenDict) -> None:
    """The other side's value comes out, whichever side it is."""
    assert merged_objects(other, one, one) == other
    assert merged_objects(one, other, one) == other


@given(one=_objects)
def test_equal_sides_are_what_they_are(one: FrozenDict) -> None:
    """Whatever the ancestor was."""
    assert merged_objects(one, one) == one
