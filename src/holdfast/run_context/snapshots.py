"""Snapshots of a run's context: their ids, checksums and links, and the way to and from a state (pure).

A checksum is taken over the stored bytes, not over the document: a server that does not know a field, or a time zone,
finds it right all the same, and nothing that was damaged is parsed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from holdfast.documents import Limits, Run, RunContextSnapshot, SnapshotSummary, decode, encode
from holdfast.documents.frozen import EMPTY_LIST, seal_dict, seal_list
from holdfast.errors import CorruptDocument
from holdfast.run_context.changes import ContextState, combined, ends_in, name_bytes

BASE_AFTER_BYTES_RATIO: Final = 2
"""The deltas must have so many times the bytes of the base: once a context grows no more, bases add half to them."""

NAMES_MAX: Final = 100
NAMES_BYTES_MAX: Final = 1024
"""Of variables that a summary names, as JSON. It is in the next delta, and in the row of the run, which each flush
writes: there has to be room for changes beside it."""

_BASE: Final = ".base"
_SEAL: Final = re.compile(rb'\{"__version":[0-9]{1,9},"sha256":"(?P<sha256>[0-9a-f]{64})"')

UNLIMITED: Final = Limits(bytes_max=1 << 40, depth_max=128)
"""Of what is looked at here; whoever stores it has limits of his own."""


def snapshot_id(run_id: str, sequence: int) -> str:
    """The id of a delta."""
    return f"{run_id}/{sequence:08d}"


def base_id(run_id: str, sequence: int) -> str:
    """The id of a base."""
    return f"{snapshot_id(run_id, sequence)}{_BASE}"


def base_number(identifier: str) -> int | None:
    """The number of the base that an id is of; None: it is of a delta."""
    number = identifier.removesuffix(_BASE).rpartition("/")[2]
    return int(number) if identifier.endswith(_BASE) and number.isascii() and number.isdigit() else None


def id_of(snapshot: RunContextSnapshot) -> str:
    """The id under which a snapshot is stored."""
    name = base_id if snapshot.is_base else snapshot_id
    return name(snapshot.run_id, snapshot.sequence)


def delta_of(run_id: str, run: Run) -> RunContextSnapshot:
    """The changes in a run's row as its next delta, sealed."""
    change = combined(run.changes)
    return sealed(
        RunContextSnapshot(
            run_id=run_id,
            routine_id=run.routine_id,
            sequence=run.sequence + 1,
            parent_run_id=run.parent_run_id,
            is_base=False,
            previous=run.newest,
            status=run.status,
            current_step=change.current_step,
            variables=change.variables,
            intermediate=change.intermediate,
            exports=change.exports,
            step_history=change.steps,
            removed_variables=change.removed_variables,
            removed_intermediate=change.removed_intermediate,
            removed_exports=change.removed_exports,
            strategies=change.strategies,
            merged=change.merged,
            created_at=change.at or (run.newest.at if run.newest else None),
        )
    )


def base_of(
    run_id: str, run: Run, state: ContextState, *, sequence: int, previous: SnapshotSummary | None
) -> RunContextSnapshot:
    """A state as a base, sealed.

    Args:
        sequence: 0 at the begin; that of the delta behind which the context was this; or above all, after a loss.
        previous: of the snapshot behind which the context was this; None at the begin.
    """
    return sealed(
        RunContextSnapshot(
            run_id=run_id,
            routine_id=run.routine_id,
            sequence=sequence,
            parent_run_id=run.parent_run_id,
            previous=None if previous is None else _nameless(previous),
            previous_base=-1 if previous is None else run.base,
            status=state.status,
            current_step=state.current_step,
            inputs=state.inputs,
            variables=state.variables,
            intermediate=state.intermediate,
            exports=state.exports,
            step_history=seal_list(list(state.steps.values())),
            strategies=state.strategies,
            merged=state.merged or None,
            created_at=state.at,
        )
    )


def state_of(base: RunContextSnapshot) -> ContextState:
    """The state that a base holds."""
    return ContextState(
        inputs=base.inputs,
        variables=base.variables,
        intermediate=base.intermediate,
        exports=base.exports,
        steps=seal_dict({record.step_id: record for record in base.step_history}),
        current_step=base.current_step,
        status=base.status,
        at=base.created_at,
        strategies=base.strategies,
        merged=base.merged or 0,
    )


def rebased(run: Run, base: RunContextSnapshot) -> Run:
    """The run's row when a base begins its chain: at the begin, or anew after a loss."""
    return msgspec.structs.replace(
        run,
        sequence=base.sequence,
        base=base.sequence,
        newest=summary_of(base),
        base_bytes=size_of(base),
        delta_bytes=0,
        changes=EMPTY_LIST,
    )


def base_is_due(run: Run, deltas_min: int) -> bool:
    """Whether a base would make it shorter to restore the run, and is paid for by what was written since the last.

    Args:
        deltas_min: behind the newest base, from which on another may be due; setting `run_deltas_per_base`.
    """
    enough = run.sequence - run.base >= deltas_min
    return enough and run.delta_bytes >= BASE_AFTER_BYTES_RATIO * run.base_bytes


def summary_of(snapshot: RunContextSnapshot) -> SnapshotSummary:
    """What the next delta names as the snapshot before: of a base behind a delta that delta, as it holds the same."""
    before, itself = snapshot.previous, named_by(snapshot)
    if isinstance(itself, SnapshotSummary):
        return itself
    steps = 0 if before is None else before.steps
    keys = () if snapshot.is_base else tuple(dict.fromkeys((*snapshot.removed_variables, *snapshot.variables)))
    named = _first(keys)
    return SnapshotSummary(
        sequence=snapshot.sequence,
        sha256=snapshot.sha256,
        steps=steps if snapshot.is_base else steps + ends_in(snapshot.step_history),
        variables=seal_list(named),
        more=len(keys) - len(named),
        at=snapshot.created_at,
    )


def _first(names: Iterable[str]) -> list[str]:
    """The first names, as many as a summary has room for."""
    first: list[str] = []
    room = NAMES_BYTES_MAX
    for name in names:
        room -= name_bytes(name)
        if room < 0 or len(first) == NAMES_MAX:
            break
        first.append(name)
    return first


def _nameless(summary: SnapshotSummary) -> SnapshotSummary:
    """A summary as a base has it: what was changed before is all in there."""
    return msgspec.structs.replace(summary, variables=EMPTY_LIST, more=0)


def named_by(snapshot: RunContextSnapshot) -> RunContextSnapshot | SnapshotSummary:
    """What the next delta names as the snapshot before."""
    before = snapshot.previous
    return before if snapshot.is_base and before is not None and before.sequence == snapshot.sequence else snapshot


def is_same(
    one: RunContextSnapshot | SnapshotSummary | None, other: RunContextSnapshot | SnapshotSummary | None
) -> bool:
    """Whether two snapshots, or summaries of them, are one."""
    if one is None or other is None:
        return False
    return (one.sequence, one.sha256) == (other.sequence, other.sha256)


def snapshot_in(body: bytes) -> RunContextSnapshot | None:
    """The snapshot that stored bytes hold; None: they are not what was sealed.

    Raises:
        SchemaTooNew: they are, by a newer version of this program.
    """
    seal = _SEAL.match(body)
    if seal is None or seal["sha256"].decode() != checksum_of(body[: seal.start("sha256")], body[seal.end("sha256") :]):
        return None
    try:
        return decode(RunContextSnapshot, body)
    except CorruptDocument:  # sealed, and yet no snapshot: whoever wrote it has a fault
        return None


def checksum_of(*parts: bytes) -> str:
    """The checksum of a snapshot's JSON in which that of the checksum is empty, in hexadecimal digits."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def sealed(snapshot: RunContextSnapshot) -> RunContextSnapshot:
    """The snapshot with its checksum.

    Raises:
        InvalidDocument: it holds what cannot be stored; `path` says where.
    """
    blank = msgspec.structs.replace(snapshot, sha256="")
    return msgspec.structs.replace(snapshot, sha256=checksum_of(encode(blank, UNLIMITED)))


def size_of(snapshot: RunContextSnapshot) -> int:
    """Bytes of its JSON."""
    return len(encode(snapshot, UNLIMITED))
