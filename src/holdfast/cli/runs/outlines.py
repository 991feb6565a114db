"""Runs and their contexts in words for people (pure).

Whoever looks at a run is not always one who may see what it works on: a value is shown only if its sensitivity is known
to allow it, and of what carries no sensitivity (inputs, intermediate results, results of steps) only the names.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from holdfast.documents import (
    ContextVariable,
    DataSensitivity,
    ExportDeclaration,
    FreeValue,
    Run,
    Sealed,
    StepRecord,
)
from holdfast.run_context.changes import ContextState
from holdfast.run_context.differences import Changed, Difference
from holdfast.run_context.restoring import NOTHING_LOST, Loss

VALUE_CHARACTERS_MAX: Final = 60
ERROR_CHARACTERS_MAX: Final = 200
SHOWN: Final = frozenset({DataSensitivity.PUBLIC.value, DataSensitivity.INTERNAL.value})
"""Sensitivities whose values are shown: not those of a word that this version does not know either."""
NOT_SHOWN: Final = "(secret)"
NOT_SHOWN_PII: Final = "(pii)"


class RunLine(msgspec.Struct, frozen=True):
    """A run in a list.

    Attributes:
        depth: of runs above it.
        snapshots: number of the newest; 0: only what it began with.
        changes: that are in no snapshot yet.
        cursor: for `list --after`, to go on behind it; None: it was not listed.
    """

    id: str
    routine: str
    swarm: str | None
    parent: str | None
    depth: int
    status: str
    owner: str | None
    epoch: int
    children: int
    snapshots: int
    changes: int
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    error: str | None
    cursor: int | None = None


class VariableLine(msgspec.Struct, frozen=True):
    """A variable; `value` is cut short, or says that it is not shown."""

    name: str
    value: str
    source: str
    sensitivity: str
    mutable: bool
    written_at: dt.datetime | None


class StepLine(msgspec.Struct, frozen=True):
    """A step that was entered; `seconds` from its begin to its end."""

    id: str
    status: str
    started_at: dt.datetime | None
    seconds: float | None
    error: str | None


class ShownRun(msgspec.Struct, frozen=True):
    """A run with its context.

    Attributes:
        at: number of the snapshot as of which it is shown; None: as it is now.
        exports: name to destinations, as they were declared; refused_exports: what did not leave the run, and why.
        left_out: how many variables and steps are not shown, as they are many.
    """

    run: RunLine
    at: int | None
    status: str
    current_step: str | None
    inputs: list[str]
    intermediate: list[str]
    exports: dict[str, list[str]]
    refused_exports: list[str]
    variables: list[VariableLine]
    steps: list[StepLine]
    left_out: dict[str, int]
    lost: Loss


class DifferenceLine(msgspec.Struct, frozen=True):
    """One place in which two states of a context differ.

    Attributes:
        what: `added`, `removed` or `changed`.
        before, after: the values, in words; None: there is none, or none is told.
    """

    section: str
    key: str
    what: str
    before: str | None = None
    after: str | None = None


def run_line(identifier: str, run: Run, cursor: int | None = None) -> RunLine:
    """A run's row in a line."""
    return RunLine(
        id=identifier,
        routine=run.routine_id,
        swarm=run.swarm_id,
        parent=run.parent_run_id,
        depth=run.depth,
        status=run.status,
        owner=run.owner,
        epoch=run.epoch,
        children=run.children,
        snapshots=run.sequence,
        changes=len(run.changes),
        started_at=run.started_at,
        ended_at=run.ended_at,
        error=None if run.error is None else cut(run.error, ERROR_CHARACTERS_MAX),
        cursor=cursor,
    )


def shown_run(
    identifier: str, run: Run, state: ContextState, lost: Loss = NOTHING_LOST, *, at: int | None, most: int
) -> ShownRun:
    """A run with its context.

    Args:
        at: number of the snapshot that `state` is of; None: it is as of now.
        most: variables, and again steps, that are shown: the first ones by name, and the last ones.
    """
    names, steps = sorted(state.variables), list(state.steps.values())
    left_out = {"variables": len(names) - most, "steps": len(steps) - most}
    return ShownRun(
        run=run_line(identifier, run),
        at=at,
        status=state.status,
        current_step=state.current_step,
        inputs=sorted(state.inputs)[:most],
        intermediate=sorted(state.intermediate)[:most],
        exports={key: _destinations(state.exports[key]) for key in sorted(state.exports)[:most]},
        refused_exports=[f"{each.key} to {each.destination}: {each.reason}" for each in run.refused_exports[:most]],
        variables=[_variable(state.variables[name]) for name in names[:most]],
        steps=[_step(record) for record in steps[-most:]],
        left_out={what: count for what, count in left_out.items() if count > 0},
        lost=lost,
    )


def _variable(variable: ContextVariable) -> VariableLine:
    return VariableLine(
        name=variable.key,
        value=value_of(variable),
        source=variable.source,
        sensitivity=variable.sensitivity,
        mutable=variable.mutable,
        written_at=variable.timestamp,
    )


def value_of(variable: ContextVariable) -> str:
    """The beginning of a variable's value, or that it is not shown."""
    if variable.sensitivity in SHOWN and not isinstance(variable.value, Sealed):
        return cut(repr(variable.value), VALUE_CHARACTERS_MAX)
    return NOT_SHOWN_PII if variable.sensitivity == DataSensitivity.PII.value else NOT_SHOWN


def _step(record: StepRecord) -> StepLine:
    begun, ended = record.started_at, record.ended_at
    return StepLine(
        id=record.step_id,
        status=record.status,
        started_at=begun,
        seconds=None if begun is None or ended is None else (ended - begun).total_seconds(),
        error=None if record.error is None else cut(record.error, ERROR_CHARACTERS_MAX),
    )


def difference_lines(difference: Difference) -> Iterator[DifferenceLine]:
    """What two states differ in, a line each."""
    for name, change in (("status", difference.status), ("current step", difference.current_step)):
        if change is not None:
            yield DifferenceLine("run", name, "changed", *change)
    for section, found in difference.sections.items():
        yield from (DifferenceLine(section, key, "added", None, _told(each)) for key, each in found.added.items())
        yield from (DifferenceLine(section, key, "removed", _told(each)) for key, each in found.removed.items())
        yield from (DifferenceLine(section, key, "changed", *_both(pair)) for key, pair in found.changed.items())


def _both(pair: Changed) -> tuple[str | None, str | None]:
    """Both values; none of a variable that is not to be shown on one side: it may well be the same on the other."""
    before, after = _told(pair.before), _told(pair.after)
    hidden = next((each for each in (after, before) if each in (NOT_SHOWN, NOT_SHOWN_PII)), None)
    return (before, after) if hidden is None else (hidden, hidden)


def _told(value: FreeValue) -> str | None:
    """What is told of what a context holds; None: only that it is there."""
    if isinstance(value, ContextVariable):
        return value_of(value)
    if isinstance(value, StepRecord):
        return value.status
    return (", ".join(_destinations(value)) or None) if isinstance(value, list) else None


def _destinations(declarations: Sequence[Any]) -> list[str]:
    """Where a variable goes; of the values in a list of anything else, nothing."""
    return [each.destination for each in declarations if isinstance(each, ExportDeclaration)]


def lost_in_words(lost: Loss) -> str:
    """What damaged snapshots have taken, in one sentence."""
    if not lost:
        return "nothing is lost"
    names = ", ".join(lost.variables[:10]) + (" and more" if len(lost.variables) > 10 else "")
    unknown = f"; what {lost.unknown} of the snapshots held is not known any more" if lost.unknown else ""
    return (
        f"lost: {lost.steps} ends of steps, {len(lost.variables)} variables{f' ({names})' if names else ''}, "
        f"{lost.seconds:.1f} s, in {lost.snapshots} damaged snapshots and {lost.changes} changes behind them{unknown}"
    )


def cut(text: str, characters: int) -> str:
    """A text, cut off if it is long."""
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
