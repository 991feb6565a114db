"""Whether anybody runs a run."""

from __future__ import annotations

from holdfast.documents import Run
from holdfast.protocols import JournalState
from holdfast.run_context.ground import Ground
from holdfast.run_context.under_way import UnderWay


async def is_live(ground: Ground, under_way: UnderWay, run_id: str, run: Run) -> bool:
    """Whether the owner answers for the run still: it beats, or nobody has found it dead so far."""
    if run.journal is None:
        return False
    if run.journal == await ground.journal() and run_id not in under_way:
        return False  # this very server was given it, and has lost it: how that went was not heard of
    return any(
        record.journal == run.journal and record.state is JournalState.LIVE and record.seconds < ground.takeover_seconds
        for record in await ground.journals.records()
    )
