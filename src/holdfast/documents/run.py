"""The live state of a run: who runs it, how far it is, and what changed in its context since the newest snapshot.

A run's context is never written as a whole for each change: it is the newest base among its snapshots, the deltas
behind that, and `Run.changes`. Whatever decides a write of the run moves changes that are many, or asked for, into a
snapshot of their own, in the same transaction; so a row of L3 stays small however long the run becomes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.documents.base import Document, Part
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.documents.run_snapshot import (
    ContextVariable,
    ExportDeclaration,
    RefusedExport,
    SnapshotSummary,
    StepRecord,
)
from holdfast.documents.vocabulary import RunStatus


class ContextChange(Part, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What one write changed in a run's context.

    Attributes:
        at: when, by the writer's clock.
        variables, intermediate, exports: what was set, by key.
        removed_variables, removed_intermediate, removed_exports: keys that were removed, before anything was set: a key
            may be in both.
        steps: records that are new, or replace the one of their `step_id`.
        current_step: the step that was entered; None: as before.
        snapshot: the changes up to here are to become a snapshot.
        strategies: how conflicts of a variable are resolved, by its key: a `ConflictStrategy`.
        merged: the birth of the last child whose exports are in `variables`, and in those of changes before;
            None: as before. Children are merged in the order of their births, so this one number tells which were.
    """

    at: dt.datetime | None = None
    variables: Mapping[str, ContextVariable] = EMPTY_DICT
    intermediate: Mapping[str, Any] = EMPTY_DICT
    exports: Mapping[str, Sequence[ExportDeclaration]] = EMPTY_DICT
    removed_variables: Sequence[str] = EMPTY_LIST
    removed_intermediate: Sequence[str] = EMPTY_LIST
    removed_exports: Sequence[str] = EMPTY_LIST
    steps: Sequence[StepRecord] = EMPTY_LIST
    current_step: str | None = None
    snapshot: bool = False
    strategies: Mapping[str, str] = EMPTY_DICT
    merged: int | None = None


class Run(Document, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A run; its id is the row's.

    Attributes:
        swarm_id: of the swarm it works for; None: of none.
        depth: of runs above it.
        status: a `RunStatus`.
        critical: each end of a step becomes a snapshot.
        owner: the server that runs it, in words; `journal`: the name of the journal it wrote to when it began.
        epoch: raised by each resume; what was written under an older one is refused (rule S3).
        handed_over: of the owner before: its last entry for this run that was applied; 0: none.
        children: how many runs were begun below it.
        sequence: of the newest snapshot; 0: only the base that was written when it began.
        base: sequence of the newest base that is known of.
        newest: of the snapshot `sequence`, told apart from it, so that what is lost with it can be told; None only
            before the first base is known of.
        base_bytes, delta_bytes: of the newest base, and of the deltas since.
        changes: since the newest snapshot, in order.
        error: why it failed, in words.
        terminate: why its owner is to end it, which keeps all that it knows then; None: it is not to.
        on_conflict: a `ConflictStrategy` for variables that declare none; None: that of the kind.
        exported: of a completed run: what its parent may merge, by key.
        refused_exports: what it had declared and did not export, or masked.
    """

    routine_id: str
    swarm_id: str | None = None
    parent_run_id: str | None = None
    depth: int = 0
    status: str = RunStatus.RUNNING.value
    critical: bool = False
    owner: str | None = None
    journal: str | None = None
    epoch: int = 1
    handed_over: int = 0
    children: int = 0
    sequence: int = 0
    base: int = 0
    newest: SnapshotSummary | None = None
    base_bytes: int = 0
    delta_bytes: int = 0
    changes: Sequence[ContextChange] = EMPTY_LIST
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    error: str | None = None
    terminate: str | None = None
    on_conflict: str | None = None
    exported: Mapping[str, ContextVariable] = EMPTY_DICT
    refused_exports: Sequence[RefusedExport] = EMPTY_LIST
