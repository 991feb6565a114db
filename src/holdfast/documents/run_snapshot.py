"""The snapshot of a run's context: history, from which a run is resumed."""

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


class ContextVariable(Part, frozen=True, kw_only=True):
    """A variable of a run.

    Attributes:
        key: its name, also its key in `RunContextSnapshot.variables`.
        value: a free value.
        source: a `VariableSource`.
        timestamp: of its last change.
        sensitivity: a `DataSensitivity`.
        mutable: False for what a child inherited.
    """

    key: str
    value: Any = None
    source: str = VariableSource.STEP.value
    timestamp: dt.datetime | None = None
    sensitivity: str = DataSensitivity.INTERNAL.value
    mutable: bool = True


class ExportDeclaration(Part, frozen=True, kw_only=True):
    """A variable that leaves the run when it completes.

    Attributes:
        key: of the variable.
        destination: an `ExportDestination`.
        sensitivity: a `DataSensitivity`.
        transformation: what happens to the value on the way, in a word.
    """

    key: str
    destination: str = ExportDestination.PARENT_CONTEXT.value
    sensitivity: str = DataSensitivity.INTERNAL.value
    transformation: str | None = None


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


class RunContextSnapshot(Document, frozen=True, kw_only=True, rename="camel"):
    """The context of a run at one moment; snapshots are only ever added.

    Attributes:
        sequence: counts the snapshots of a run, from 1.
        status: a `RunStatus`.
        current_step: id of the step.
        inputs: as the run was started with; a free mapping.
        variables: key to variable.
        intermediate: results that no later run needs; a free mapping.
        exports: key to declaration.
    """

    run_id: str
    routine_id: str
    sequence: int
    parent_run_id: str | None = None
    status: str = RunStatus.RUNNING.value
    current_step: str | None = None
    inputs: Mapping[str, Any] = EMPTY_DICT
    variables: Mapping[str, ContextVariable] = EMPTY_DICT
    intermediate: Mapping[str, Any] = EMPTY_DICT
    exports: Mapping[str, ExportDeclaration] = EMPTY_DICT
    step_history: Sequence[StepRecord] = EMPTY_LIST
    created_at: dt.datetime | None = None
