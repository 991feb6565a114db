"""What is different between two states of a context."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fix_runs import changes, free_values
from holdfast.documents import ContextChange, ContextVariable, StepRecord, freeze
from holdfast.run_context.changes import EMPTY_STATE, ContextState, applied
from holdfast.run_context.differences import SECTIONS, Changed, difference, identical


@given(st.lists(changes(), max_size=5), st.lists(changes(), max_size=5))
def test_a_difference_leads_from_one_state_to_the_other(one: list[ContextChange], other: list[ContextChange]) -> None:
    """What is taken away, added and changed in each section gives the later state; and backwards the earlier."""
    before, after = reduce(applied, one, EMPTY_STATE), reduce(applied, other, EMPTY_STATE)
    found = difference(before, after)
    for name in SECTIONS:
        section, was, is_now = found[name], dict(getattr(before, name)), dict(getattr(after, name))
        assert all(was[key] is pair.before for key, pair in section.changed.items())
        kept = {key: value for key, value in was.items() if key not in section.removed}
        changed = {key: pair.after for key, pair in section.changed.items()}
        assert {**kept, **section.added, **changed} == is_now
        assert set(section.added) == is_now.keys() - was.keys()
        assert set(section.removed) == was.keys() - is_now.keys()
        assert all(not identical(*pair) for pair in section.changed.values())
    assert (found.current_step is None) == (before.current_step == after.current_step)


@given(st.lists(changes(), max_size=5))
def test_a_state_does_not_differ_from_itself(several: list[ContextChange]) -> None:
    """Nor from another that holds the same."""
    assert not difference(reduce(applied, several, EMPTY_STATE), reduce(applied, several, EMPTY_STATE))


def test_a_difference_shows_both_values() -> None:
    """By section and key, only where there is any."""
    before = ContextState(
        variables=variables(a=1, b=1, c=1), steps=freeze({"s": StepRecord(step_id="s")}), current_step="s"
    )
    after = ContextState(
        variables=variables(a=True, b=1, d=1),
        steps=freeze({"s": StepRecord(step_id="s", status="completed")}),
        current_step="t",
        status="failed",
    )
    found = difference(before, after)
    assert list(found.sections) == ["variables", "steps"]
    assert list(found["variables"].added) == ["d"]
    assert list(found["variables"].removed) == ["c"]
    assert [pair.after.value for pair in found["variables"].changed.values()] == [True]
    assert found["steps"].changed["s"].after.status == "completed"
    assert (found.current_step, found.status) == (Changed("s", "t"), Changed("running", "failed"))


def variables(**values: Any) -> dict[str, ContextVariable]:
    frozen: dict[str, ContextVariable] = freeze(
        {key: ContextVariable(key=key, value=value) for key, value in values.items()}
    )
    return frozen


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, True, False),
        (1, 1.0, False),
        ({"a": [1]}, {"a": [True]}, False),
        ((1,), [1], False),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        ([1], [1, 1], False),
        (math.nan, float("nan"), True),
        ({1}, {True}, False),
        ({1, 2}, {2, 1}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ],
)
def test_values_are_the_same_with_their_types(one: Any, other: Any, same: bool) -> None:  # noqa: FBT001
    """Python says 1 is True; what is stored for them is not the same."""
    assert identical(freeze(one), freeze(other)) is same


@given(free_values)
def test_a_value_is_identical_to_its_copy(value: Any) -> None:
    """However deep."""
    assert identical(freeze(value), freeze(value))
