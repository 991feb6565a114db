"""Changes of a run's context, and the laws they obey."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from fix_runs import NOON, changes, in_order
from holdfast.documents import ContextChange, ContextVariable, StepRecord, decode, encode
from holdfast.documents.run import Run
from holdfast.run_context.changes import EMPTY_STATE, ContextState, Draft, applied, combined, ends_in


def after(made: list[ContextChange]) -> ContextState:
    """The state that changes make of nothing."""
    return reduce(applied, made, EMPTY_STATE)


def variables(**values: object) -> dict[str, ContextVariable]:
    return {key: ContextVariable(key=key, value=value) for key, value in values.items()}


@given(st.lists(changes(), max_size=6), st.lists(changes(), max_size=6))
def test_one_change_does_what_several_do(before: list[ContextChange], several: list[ContextChange]) -> None:
    """Whatever was there before; the order of keys, which becomes that of bytes, included."""
    state = after(before)
    assert in_order(applied(state, combined(several))) == in_order(reduce(applied, several, state))


@given(st.lists(changes(), max_size=8), st.integers(0, 8))
def test_it_does_not_matter_how_they_are_combined(several: list[ContextChange], cut: int) -> None:
    """Two that were combined before are combined as those they came from."""
    halves = combined([combined(several[:cut]), combined(several[cut:])])
    assert in_order(after([halves])) == in_order(after([combined(several)]))
    assert halves.snapshot == any(change.snapshot for change in several)


@given(st.lists(changes(), max_size=4))
def test_a_change_is_stored_as_it_is(several: list[ContextChange]) -> None:
    """What comes back from the row's bytes does the same."""
    run = Run(routine_id="q", changes=several)
    assert decode(Run, encode(run)) == run


def test_a_key_that_was_removed_and_set_again_comes_last() -> None:
    """It does so one by one; a combination that forgot the removal would leave it where it was."""
    state = ContextState(variables=variables(a=1, b=1))
    removed, again = ContextChange(removed_variables=["a"]), ContextChange(variables=variables(a=2))
    change = combined([removed, again])
    assert (list(change.variables), list(change.removed_variables)) == (["a"], ["a"])
    assert list(applied(state, change).variables) == ["b", "a"]


def test_a_state_does_not_change() -> None:
    """What was shared is as it was, whatever its draft becomes."""
    state = ContextState(variables=variables(a=[1]))
    draft = Draft(state)
    draft.apply(ContextChange(at=NOON, variables=variables(a=[2], b=3), current_step="s"))
    assert state == ContextState(variables=variables(a=[1]))
    made = draft.state()
    draft.apply(ContextChange(removed_variables=["a"]))
    assert list(made.variables) == ["a", "b"]


def test_the_record_of_a_step_is_replaced_in_its_place() -> None:
    """Steps stay in the order in which they were entered."""
    entered = ContextChange(steps=[StepRecord(step_id="s"), StepRecord(step_id="t")])
    ended = ContextChange(steps=[StepRecord(step_id="s", status="completed")])
    assert list(after([entered, ended]).steps.values()) == [
        StepRecord(step_id="s", status="completed"),
        StepRecord(step_id="t"),
    ]


def test_ends_of_steps_are_the_words_for_an_end() -> None:
    """A word of a newer version counts as none."""
    words = ["pending", "running", "blocked", "later", "completed", "failed", "skipped", "cancelled"]
    assert ends_in(StepRecord(step_id="s", status=word) for word in words) == 4
