"""The snapshots of a run's context: history, from which a run is resumed.

A snapshot is a *base*, which holds the whole context, or a *delta*, which holds what changed since the snapshot before.
Each carries a checksum of its own and says what the one before was, so that one that is damaged, missing or swapped is
noticed, and what is lost with it can be told.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.documents.base import Document, Part
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.documents.vocabulary import (
    DataSensitivity,
    ExportDestination,
    RunStatus,
    StepStatus,
    VariableSource,
)


class ContextVariable(Part, frozen=True, kw_only=True, omit_defaults=True):
    """A variable of a run.

    Attributes:
        key: its name, also its key in `RunContextSnapshot.variables`.
        value: a free value; of one that is `secret` or `pii` it is `Sealed`.
        source: a `VariableSource`.
        timestamp: of its last change.
        clock: of its last change: a hybrid logical clock as text, in whose order writes are ordered; empty: none.
        sensitivity: a `DataSensitivity`.
        mutable: False for what a child inherited.
        ancestor: of what a child has written anew: the `clock` of what it had inherited; None: it inherited nothing.
    """

    key: str
    value: Any = None
    source: str = VariableSource.STEP.value
    timestamp: dt.datetime | None = None
    clock: str = ""
    sensitivity: str = DataSensitivity.INTERNAL.value
    mutable: bool = True
    ancestor: str | None = None


class ExportDeclaration(Part, frozen=True, kw_only=True):
    """That a variable leaves the run when it completes, to one destination.

    Attributes:
        key: of the variable.
        destination: an `ExportDestination`.
        sensitivity: a `DataSensitivity`.
        transformation: what happens to the value on the way: a name that was registered with `connect`.
        exporter: of what leaves for an external system: who brings it there, by the name registered with `connect`.
    """

    key: str
    destination: str = ExportDestination.PARENT_CONTEXT.value
    sensitivity: str = DataSensitivity.INTERNAL.value
    transformation: str | None = None
    exporter: str | None = None


class RefusedExport(Part, frozen=True, kw_only=True):
    """An export that was declared and did not take place, or not with the value.

    Attributes:
        key: of the variable.
        destination: an `ExportDestination`.
        reason: in words; it names no value.
        exporter: as it was declared.
        masked: a mask has left in the value's place; otherwise nothing has.
    """

    key: str
    destination: str
    reason: str
    exporter: str | None = None
    masked: bool = False


class StepRecord(Part, frozen=True, kw_only=True, rename="camel"):
    """A step that a run has entered.

    Attributes:
        status: a `StepStatus`.
        result: a free value.
    """

    step_id: str
    status: str = StepStatus.PENDING.value
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    result: Any = None
    error: str | None = None


class SnapshotSummary(Part, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a snapshot was, told elsewhere.

    Attributes:
        sha256: its checksum, in hexadecimal digits.
        steps: ends of steps that were recorded up to it, counted from the run's begin: what is lost behind a snapshot
            can be told from two of these numbers, though nothing between them can be read.
        variables: the keys of variables that it set or removed, the first of them; `more`: of how many others. Of a
            base none.
        at: when the last of it was changed.
    """

    sequence: int
    sha256: str
    steps: int = 0
    variables: Sequence[str] = EMPTY_LIST
    more: int = 0
    at: dt.datetime | None = None


class RunContextSnapshot(Document, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The context of a run at one moment, or what changed since the one before; snapshots are only ever added.

    Attributes:
        sha256: of its JSON without these digits, in hexadecimal. It stands first, where it is found without parsing.
        sequence: counts the deltas of a run, from 1; a base has that of the delta it was made behind, 0 at the begin.
        is_base: it holds all; otherwise only what changed, and `removed_...` what is no more.
        previous: what `Run.newest` was when it was made: of a delta the snapshot before, of a base the one whose state
            it holds, without the names of variables; None: there was none.
        previous_base: sequence of the base before this base; -1: none, or it is a delta.
        status: a `RunStatus`.
        current_step: id of the step; None in a delta: as before.
        inputs: as the run was started with; a free mapping; of a base.
        variables: key to variable.
        intermediate: results that no later run needs; a free mapping.
        exports: key to its declarations, one for each destination.
        strategies: how conflicts of a variable are resolved, by its key: a `ConflictStrategy`; in a delta, what is new.
        merged: the birth of the last child whose exports are in here; None: of none, or in a delta: as before.
        step_history: records of steps, in the order they were entered; in a delta those that are new or changed.
        created_at: when the last that it holds was changed.
    """

    SCHEMA = 2

    sha256: str = ""
    run_id: str
    routine_id: str
    sequence: int
    parent_run_id: str | None = None
    is_base: bool = True
    previous: SnapshotSummary | None = None
    previous_base: int = -1
    status: str = RunStatus.RUNNING.value
    current_step: str | None = None
    inputs: Mapping[str, Any] = EMPTY_DICT
    variables: Mapping[str, ContextVariable] = EMPTY_DICT
    intermediate: Mapping[str, Any] = EMPTY_DICT
    exports: Mapping[str, Sequence[ExportDeclaration]] = EMPTY_DICT
    step_history: Sequence[StepRecord] = EMPTY_LIST
    removed_variables: Sequence[str] = EMPTY_LIST
    removed_intermediate: Sequence[str] = EMPTY_LIST
    removed_exports: Sequence[str] = EMPTY_LIST
    strategies: Mapping[str, str] = EMPTY_DICT
    merged: int | None = None
    created_at: dt.datetime | None = None

    @classmethod
    def upgrade(cls, fields: dict[str, Any], schema: int) -> dict[str, Any]:
        """Schema 1 knew bases only, and one destination of each variable."""
        if schema != 1:
            return fields
        exports = {key: [declared] for key, declared in fields.get("exports", {}).items()}
        return {**fields, "isBase": True, **({"exports": exports} if exports else {})}
