"""What can be done about a run whose context cannot be restored: it is ended, and what is left of it is looked for.

Nothing is ever put in the context's place: what is found is told, and a person decides, who may begin a new run of it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from holdfast.documents import Run, RunStatus
from holdfast.entry import Consistency
from holdfast.errors import ContextCorrupt, NotFound
from holdfast.events import Delivery, Priority
from holdfast.kinds import RUN
from holdfast.protocols import Isolation
from holdfast.protocols.runs import ENDED
from holdfast.run_context.ground import Ground
from holdfast.run_context.liveness import is_live
from holdfast.run_context.loading import SnapshotLoader
from holdfast.run_context.rebuilding import Rebuilt
from holdfast.run_context.restoring import Restored
from holdfast.run_context.under_way import UnderWay
from holdfast.transactions import Transaction

TERMINATE: Final = "run/recovery/terminate"
REMAINS_BYTES: Final = 64 * 1024 * 1024
REMAINS_SECONDS: Final = 5.0
"""Recovery looks at so much of what is left of a run, and for so long."""
WHY: Final = "its context cannot be restored"


class Termination(StrEnum):
    """What became of ending a run."""

    RESTORABLE = "restorable"
    """Its context verifies, maybe from an older base: it was left as it is."""
    PARTLY = "partly"
    """A part of its context verifies, from which a resume goes on: it was left as it is."""
    FAILED = "failed"
    """Nobody live ran it: its row says that it has failed."""
    TOLD = "told"
    """A live server runs it, which has its context in memory: its row says that it is to end it, with all it knows."""
    OVER = "over"
    """It had ended before, or there is no such run."""


class Rescuing:
    """Does it, on one server."""

    def __init__(self, ground: Ground, loader: SnapshotLoader, under_way: UnderWay) -> None:
        self._ground = ground
        self._loader = loader
        self._under_way = under_way

    async def terminate(self, run_id: str) -> Termination:
        """End a run whose context was found to be corrupt, if it is that still and nobody live runs it.

        What its owner had written is decided first, and its epoch is raised: what comes later is refused.

        Raises:
            TierError: L3 cannot tell, or did not do it.
            OutcomeUnknown: it may be done; to repeat it does no harm.
        """
        while (became := await self._judged(run_id)) is None:
            pass
        return became

    async def _judged(self, run_id: str) -> Termination | None:
        """What became of it; None: its owner has written a base since, from which it may be restored."""
        try:
            run = await self._row(run_id)
        except NotFound:
            return Termination.OVER
        if run.status in ENDED:
            return Termination.OVER
        if (restored := await self._restored(run_id, run)) is not None:
            return Termination.PARTLY if restored.lost else Termination.RESTORABLE
        if await is_live(self._ground, self._under_way, run_id, run):
            became = await self._change(run_id, run, _marked, Termination.TOLD)
            if became is Termination.TOLD:
                await self._tell(run_id, run)
            return became
        if run.owner is not None:
            await self._ground.handing_over.decide_for(self._ground.runs.key(run_id), run.owner)
        return await self._change(run_id, run, self._failed, Termination.FAILED)

    async def last_good(self, run_id: str) -> Restored:
        """The context as far as it can be restored now.

        Raises:
            ContextCorrupt: no base verifies.
            NotFound: there is no such run.
            TierError: L3 cannot tell.
        """
        return await self._loader.restored(run_id, await self._row(run_id))

    async def remains(self, run_id: str) -> Rebuilt:
        """What `rebuilt` would give, as far as can be looked at in a few seconds. Raises NotFound and TierError."""
        monotonic = self._ground.clock.monotonic
        until = monotonic() + REMAINS_SECONDS
        return await self._loader.rebuilt(
            run_id, await self._row(run_id), lambda size: size > REMAINS_BYTES or monotonic() > until
        )

    async def rebuilt(self, run_id: str) -> tuple[Run, Rebuilt]:
        """The row and all that is left of a context, with what its owner has written, which is decided first.

        Raises:
            ContextCorrupt: nothing is left.
            NotFound: there is no such run.
            TierError: L2 or L3 cannot tell.
        """
        run = await self._row(run_id)
        if run.owner is not None:
            await self._ground.handing_over.decide_for(self._ground.runs.key(run_id), run.owner)
            run = await self._row(run_id)
        rebuilt = await self._loader.rebuilt(run_id, run)
        if rebuilt.is_empty:
            raise ContextCorrupt(run_id, ())
        return run, rebuilt

    async def _row(self, run_id: str) -> Run:
        run = await self._ground.runs.get(run_id, consistency=Consistency.STRONG)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run

    async def _restored(self, run_id: str, run: Run) -> Restored | None:
        try:
            return await self._loader.restored(run_id, run)
        except ContextCorrupt:  # or what the row named is pruned by now: then it has another base
            return None

    async def _tell(self, run_id: str, run: Run) -> None:
        data = {
            "runId": run_id,
            "routineId": run.routine_id,
            "swarmId": run.swarm_id,
            "owner": run.owner,
            "reason": WHY,
        }
        await self._ground.bus.publish(TERMINATE, data, delivery=Delivery.RELIABLE, priority=Priority.HIGH, key=run_id)

    def _failed(self, held: Run) -> Run:
        at = self._ground.hybrid.now().as_datetime()
        return msgspec.structs.replace(
            held,
            status=RunStatus.FAILED.value,
            ended_at=at,
            error=WHY,
            terminate=None,
            owner=None,
            journal=None,
            epoch=held.epoch + 1,
        )

    async def _change(
        self, run_id: str, judged: Run, change: Callable[[Run], Run], done: Termination
    ) -> Termination | None:
        """Change the row as it was judged; `OVER`: it has changed hands, or is over; None: it has another base."""

        async def changed(transaction: Transaction) -> Termination | None:
            runs = transaction.collection(RUN)
            held = await runs.get(run_id, lock=True)
            if held is None or held.epoch != judged.epoch or held.status in ENDED:
                return Termination.OVER
            if held.base != judged.base:
                return None
            await runs.put(run_id, change(held))
            return done

        return await self._ground.transactions.transact(changed, Isolation.READ_COMMITTED)


def _marked(held: Run) -> Run:
    """Its owner is to end it: that the row says so is what counts, whoever hears of it by an event."""
    return msgspec.structs.replace(held, terminate=WHY)
