"""The context of a run as a value, and how changes make another of it (pure).

A `ContextState` never changes, so contexts, snapshots and readers share it. Whoever applies many changes, or owns the
context, does so in a `Draft`: a change costs there what it holds, whatever else the context holds.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from holdfast.documents import (
    ContextChange,
    ContextVariable,
    ExportDeclaration,
    RunContextSnapshot,
    RunStatus,
    StepRecord,
    StepStatus,
)
from holdfast.documents.frozen import EMPTY_DICT, seal_dict, seal_list

_ENDED: Final = frozenset({StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})


class ContextState(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run's context holds at one moment; immutable to the leaf.

    Attributes:
        exports: key to its declarations.
        steps: id to record, in the order the steps were first entered.
        at: of the last change.
        strategies: how conflicts of a variable are resolved, by its key: a `ConflictStrategy`.
        merged: the birth of the last child whose exports are in here; 0: none.
    """

    inputs: Mapping[str, Any] = EMPTY_DICT
    variables: Mapping[str, ContextVariable] = EMPTY_DICT
    intermediate: Mapping[str, Any] = EMPTY_DICT
    exports: Mapping[str, Sequence[ExportDeclaration]] = EMPTY_DICT
    steps: Mapping[str, StepRecord] = EMPTY_DICT
    current_step: str | None = None
    status: str = RunStatus.RUNNING.value
    at: dt.datetime | None = None
    strategies: Mapping[str, str] = EMPTY_DICT
    merged: int = 0


EMPTY_STATE: Final = ContextState()


class Draft:
    """A context while it is being changed, in place; its values are frozen."""

    __slots__ = (
        "at",
        "current_step",
        "exports",
        "inputs",
        "intermediate",
        "merged",
        "status",
        "steps",
        "strategies",
        "variables",
    )

    def __init__(self, state: ContextState = EMPTY_STATE) -> None:
        self.inputs = state.inputs
        self.variables = dict(state.variables)
        self.intermediate = dict(state.intermediate)
        self.exports = dict(state.exports)
        self.steps = dict(state.steps)
        self.current_step = state.current_step
        self.status = state.status
        self.at = state.at
        self.strategies = dict(state.strategies)
        self.merged = state.merged

    @property
    def sections(self) -> tuple[dict[str, Any], ...]:
        """What has keys: variables, intermediate results and exports."""
        return self.variables, self.intermediate, self.exports

    def apply(self, change: ContextChange) -> None:
        """Make a change: first what it removes, then what it sets."""
        self._apply(change, change.steps, change.at)

    def apply_delta(self, delta: RunContextSnapshot) -> None:
        """Make the change that a snapshot holds."""
        self._apply(delta, delta.step_history, delta.created_at)
        self.status = delta.status

    def _apply(
        self, change: ContextChange | RunContextSnapshot, steps: Sequence[StepRecord], at: dt.datetime | None
    ) -> None:
        for mapping, (removed, values) in zip(self.sections, _sections(change), strict=True):
            for key in removed:
                mapping.pop(key, None)
            mapping.update(values)
        for record in steps:
            self.steps[record.step_id] = record
        self.current_step = self.current_step if change.current_step is None else change.current_step
        self.at = self.at if at is None else at
        self.strategies.update(change.strategies)
        self.merged = max(self.merged, change.merged or 0)

    def state(self) -> ContextState:
        """What the context is now; costs as much as it holds."""
        return ContextState(
            inputs=self.inputs,
            variables=seal_dict(self.variables),
            intermediate=seal_dict(self.intermediate),
            exports=seal_dict(self.exports),
            steps=seal_dict(self.steps),
            current_step=self.current_step,
            status=self.status,
            at=self.at,
            strategies=seal_dict(self.strategies),
            merged=self.merged,
        )


class Collected:
    """Changes that become one, which does what they did one after the other.

    A key that was removed and set again is in both: so it comes behind the others, as it did. One that was new here and
    removed again is in neither: nobody has heard of it.

    Attributes:
        removed_bytes: of the names of what was removed, as JSON.
    """

    __slots__ = ("_draft", "_new", "_removed", "_snapshot", "removed_bytes")

    def __init__(self) -> None:
        self._draft = Draft()
        self._new: tuple[set[str], ...] = (set(), set(), set())
        self._removed: tuple[dict[str, None], ...] = ({}, {}, {})
        self.removed_bytes = 0
        self._snapshot = False

    def add(self, change: ContextChange, before: Draft | None = None) -> None:
        """Add the next change; costs what it holds.

        Args:
            before: the context that it changes: a key that is not there is new; None: which are is not known.
        """
        held = (None, None, None) if before is None else before.sections
        for new, removed, mapping, (keys, values) in zip(
            self._new, self._removed, held, _sections(change), strict=True
        ):
            for key in keys:
                if key in new:
                    new.remove(key)
                elif key not in removed:
                    removed[key] = None
                    self.removed_bytes += name_bytes(key)
            if mapping is not None:
                new.update(key for key in values if key not in mapping and key not in removed)
        self._draft.apply(change)
        self._snapshot = self._snapshot or change.snapshot

    def change(self) -> ContextChange:
        """The one change."""
        draft = self._draft
        variables, intermediate, exports = (seal_list(list(keys)) for keys in self._removed)
        return ContextChange(
            at=draft.at,
            variables=seal_dict(draft.variables),
            intermediate=seal_dict(draft.intermediate),
            exports=seal_dict(draft.exports),
            removed_variables=variables,
            removed_intermediate=intermediate,
            removed_exports=exports,
            steps=seal_list(list(draft.steps.values())),
            current_step=draft.current_step,
            snapshot=self._snapshot,
            strategies=seal_dict(draft.strategies),
            merged=draft.merged or None,
        )


def combined(changes: Iterable[ContextChange]) -> ContextChange:
    """One change that does what these do one after the other."""
    collected = Collected()
    for change in changes:
        collected.add(change)
    return collected.change()


def applied(state: ContextState, change: ContextChange) -> ContextState:
    """The state after a change."""
    draft = Draft(state)
    draft.apply(change)
    return draft.state()


def name_bytes(name: str) -> int:
    """Bytes of a name in a list, as JSON."""
    return len(msgspec.json.encode(name)) + len(",")


def has_ended(record: StepRecord) -> bool:
    """Whether a step has come to its end, good or bad."""
    return record.status in _ENDED


def ends_in(records: Iterable[StepRecord]) -> int:
    """How many ends of steps are recorded here."""
    return sum(map(has_ended, records))


def _sections(change: ContextChange | RunContextSnapshot) -> Iterator[tuple[Sequence[str], Mapping[str, Any]]]:
    yield change.removed_variables, change.variables
    yield change.removed_intermediate, change.intermediate
    yield change.removed_exports, change.exports
