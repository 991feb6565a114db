"""What others are told of a run's context, as events without promise (the seed's topics `routine/state/...`)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from holdfast.documents import Run
from holdfast.errors import HoldfastError
from holdfast.run_context.child_merging import Merge
from holdfast.run_context.ground import Ground
from holdfast.run_context.restoring import Restored
from holdfast.run_context.snapshots import base_id, snapshot_id

logger = logging.getLogger("holdfast")

CHECKPOINT: Final = "routine/state/checkpoint"
RESTORED: Final = "routine/state/restored"
MIGRATED: Final = "routine/state/migrated"
CORRUPTED: Final = "routine/state/corrupted"
RECOVERED: Final = "routine/state/recovered"
MERGED: Final = "routine/branch/merged"
CONFLICT: Final = "routine/branch/conflict"
RESOLVED: Final = "routine/branch/resolved"
EXPORT_REFUSED: Final = "run/export/refused"

NAMED_MAX: Final = 100
"""Of what is named in one event."""
UNDER_WAY_MAX: Final = 100
"""Events of one run that L2 has not taken yet; those beyond are not told."""


class Announcements:
    """Publishes them in the background: no run waits for an event, nor fails by one."""

    def __init__(self, ground: Ground) -> None:
        self._bus = ground.bus
        self._hybrid = ground.hybrid
        self._tasks: set[asyncio.Task[None]] = set()

    def checkpoint(self, run_id: str, run: Run, checkpoint_id: str) -> None:
        """The context up to here is in a snapshot."""
        self._tell(CHECKPOINT, run_id, run, checkpointId=checkpoint_id, sequence=run.sequence, state=run.status)

    def resumed(self, run_id: str, run: Run, restored: Restored, before: Run, seconds: float) -> None:
        """A run goes on from what its snapshots hold, perhaps on another server.

        Args:
            run: as it is now, and `before`: as it was.
            seconds: that taking it over took.
        """
        lost, from_id = restored.lost, _checkpoint_of(run_id, restored)
        if restored.damaged:
            self._tell(
                CORRUPTED,
                run_id,
                run,
                checkpointId=restored.damaged[0],
                checkpointIds=list(restored.damaged[:NAMED_MAX]),
                corruptionType="checksum",
                severity="critical" if lost else "error",
                recoverable=True,
            )
            self._tell(
                RECOVERED,
                run_id,
                run,
                corruptedCheckpointId=restored.damaged[0],
                recoveredFromCheckpointId=from_id,
                dataLoss={"steps": lost.steps, "variables": list(lost.variables[:NAMED_MAX]), "seconds": lost.seconds},
            )
        self._tell(RESTORED, run_id, run, checkpointId=from_id, restoredState=run.status, timeLost=lost.seconds)
        if before.owner != run.owner:
            self._tell(MIGRATED, run_id, run, fromExecutor=before.owner, toExecutor=run.owner, migrationTime=seconds)

    def merged(self, run_id: str, routine_id: str, merge: Merge) -> None:
        """Exports of children are in the context, and kept; of conflicts what became of them, without values."""
        ids = [child.id for child in merge.children]
        self._publish_soon(MERGED, run_id, routine_id, childIds=ids[:NAMED_MAX], children=len(ids))
        told = [
            {
                "childId": child.id,
                "variable": each.variable_name,
                "strategy": each.strategy.value,
                "reason": each.reason,
                "skewed": each.skewed,
            }
            for child in merge.children
            for each in child.resolutions
        ]
        if told:
            facts = [{"childId": each["childId"], "variable": each["variable"]} for each in told[:NAMED_MAX]]
            self._publish_soon(CONFLICT, run_id, routine_id, conflicts=facts, count=len(told))
            self._publish_soon(RESOLVED, run_id, routine_id, resolutions=told[:NAMED_MAX], count=len(told))

    def exports_refused(self, run_id: str, run: Run) -> None:
        """A run has completed, and of what it had declared to export this has not left it, or masked."""
        refused = run.refused_exports
        if refused:
            told = [
                {"key": each.key, "destination": each.destination, "reason": each.reason, "masked": each.masked}
                for each in refused[:NAMED_MAX]
            ]
            self._tell(EXPORT_REFUSED, run_id, run, refused=told, count=len(refused))

    def _tell(self, topic: str, run_id: str, run: Run, **facts: Any) -> None:
        self._publish_soon(topic, run_id, run.routine_id, **facts)

    def _publish_soon(self, topic: str, run_id: str, routine_id: str, **facts: Any) -> None:
        if len(self._tasks) >= UNDER_WAY_MAX:
            logger.warning("%s of run %s is not told: %d wait already", topic, run_id, len(self._tasks))
            return
        timestamp = round(self._hybrid.now().as_datetime().timestamp() * 1000)
        data = {"routineId": routine_id, "runId": run_id, **facts, "timestamp": timestamp}
        task = asyncio.get_running_loop().create_task(self._publish(topic, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, topic: str, data: dict[str, Any]) -> None:
        try:
            await self._bus.publish(topic, data)
        except HoldfastError as fault:
            logger.warning("%s of run %s could not be told: %s", topic, data["runId"], fault)


def _checkpoint_of(run_id: str, restored: Restored) -> str:
    """The id of the last snapshot in a context."""
    name = base_id if restored.base == restored.sequence else snapshot_id
    return name(run_id, restored.sequence)
