"""When the changes in a run's row become a snapshot (pure, and the same on every server that decides a write)."""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from holdfast.documents import Document, Run, encode
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.keys import Key
from holdfast.run_context.changes import has_ended
from holdfast.run_context.snapshots import UNLIMITED, delta_of, id_of, size_of, summary_of

D = TypeVar("D", bound=Document)

BYTES_MAX: Final = 2 * 1024
"""Of the row's JSON with changes in it. Each flush writes all of the row: with 4 KiB a step costs L3 over three times
what it changes, with 64 KiB thirty times, and with 1 KiB the snapshots that come more often cost what is saved. What is
over 2 KB PostgreSQL moves aside besides."""

SNAPSHOT_KIND: Final = "run_snapshot"


class Spilled(NamedTuple, Generic[D]):
    """What becomes of a row that had too much in it.

    Attributes:
        document: the row without what was moved.
        history: kind, id and document of rows that are to be inserted, in the same transaction.
    """

    document: D
    history: tuple[tuple[str, str, Document], ...]


def spill_run(key: Key, run: Run) -> Spilled[Run] | None:
    """Move a run's changes into its next delta, if one of them asks for it or they are many; None: they stay."""
    if not run.changes or not _is_due(run):
        return None
    delta = delta_of(key.id, run)
    header = msgspec.structs.replace(
        run,
        sequence=delta.sequence,
        newest=summary_of(delta),
        delta_bytes=run.delta_bytes + size_of(delta),
        changes=EMPTY_LIST,
    )
    return Spilled(header, ((SNAPSHOT_KIND, id_of(delta), delta),))


def _is_due(run: Run) -> bool:
    # Writes are decided several at once: a change that asks for a snapshot need not be the last.
    if any(change.snapshot for change in run.changes):
        return True
    if run.critical and any(has_ended(record) for change in run.changes for record in change.steps):
        return True
    return len(encode(run, UNLIMITED)) > BYTES_MAX
