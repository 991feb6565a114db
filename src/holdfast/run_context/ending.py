"""How a run ends: what must be decided before, and the one transaction in which a run completes that exports anything.

A run without exports ends by a patch, as it is saved by one. With exports all that leaves the run, and that it is over,
takes effect at once or not at all.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from holdfast.documents import BlackboardItem, ContextChange, RefusedExport, Run, RunStatus, Swarm
from holdfast.documents.frozen import seal_list
from holdfast.entry import Durability
from holdfast.errors import (
    HoldfastError,
    InvalidDocument,
    NotOwner,
    OutcomeUnknown,
    RunOver,
    TierUnavailable,
    Undecided,
)
from holdfast.keys import Key, joined_id
from holdfast.kinds import DELIVERY, EXPORT, RUN, RUN_SNAPSHOT, SWARM
from holdfast.protocols import Isolation
from holdfast.protocols.runs import ENDED
from holdfast.run_context.context import RunContext
from holdfast.run_context.exports import Leaving, Origin, leaving
from holdfast.run_context.ground import Ground
from holdfast.run_context.snapshots import base_of, id_of, rebased
from holdfast.run_context.spilling import spill_run
from holdfast.transactions import Transaction, TransactionCollection
from holdfast.write_behind.operations import Operation, Set

logger = logging.getLogger("holdfast")

NOBODYS: Final[Sequence[Operation]] = (Set("owner", None), Set("journal", None))
LET_GO: Final[Sequence[Operation]] = (Set("journal", None),)
"""Anybody may resume the run. Who had it stays to be read: what that server has accepted is decided before."""
UNKNOWN_MAX: Final = 4
"""Attempts at a transaction of which L3 does not say what became of it."""


def ends(status: RunStatus, error: str | None, at: dt.datetime) -> list[Operation]:
    """What is written to a run's row when it ends, or is paused."""
    written: list[Operation] = [Set("status", status.value)]
    written += NOBODYS if status is RunStatus.PAUSED else [Set("ended_at", at)]
    return written if error is None else [*written, Set("error", error)]


class Ending:
    """Ends one run.

    Args:
        epoch: under which this server owns it.
    """

    def __init__(self, ground: Ground, run_id: str, swarm_id: str | None, epoch: int) -> None:
        self._ground = ground
        self._run_id = run_id
        self._swarm_id = swarm_id
        self.epoch = epoch

    async def settle_before(self) -> None:
        """Have decided what was written until now: nothing refused is ended over, and who goes on sees the swarm."""
        keys = [self._ground.runs.key(self._run_id)]
        if self._swarm_id is not None:
            keys.append(Key(SWARM.name, self._swarm_id))
        try:
            await self._ground.runs.write_behind.settle(keys)
        except TierUnavailable as fault:  # then the end waits in the journal too, behind them, and is `Undecided`
            logger.warning("run %s ends while writes before are undecided: %s", self._run_id, fault)

    async def terminate(self, context: RunContext, reason: str) -> None:
        """Have the run fail, with all that its context holds as a base that needs no snapshot before it.

        What cannot be restored from L3 is in the context still: so nothing is lost that was kept.

        Raises:
            NotOwner: another server has taken the run over; nothing took effect.
            OutcomeUnknown: it may be done; to repeat it does no harm.
            TierError, RunOver: nothing took effect.
        """
        await self.settle_before()
        change = context.take_changes()
        state = msgspec.structs.replace(context.state, status=RunStatus.FAILED.value)

        async def fail(transaction: Transaction) -> None:
            runs = transaction.collection(RUN)
            held = await self._held(runs)
            if held.status in ENDED and (change is None or held.status != state.status):
                return  # by an attempt before; what has changed since one that failed it is kept, too
            base = base_of(self._run_id, held, state, sequence=held.sequence + 1, previous=held.newest)
            await transaction.collection(RUN_SNAPSHOT).put(id_of(base), base)
            at = self._ground.hybrid.now().as_datetime()
            failed = msgspec.structs.replace(
                rebased(held, base), status=state.status, ended_at=at, error=reason, terminate=None
            )
            await runs.put(self._run_id, failed)

        try:
            await self._ground.transactions.transact(fail, Isolation.READ_COMMITTED)
        except HoldfastError:
            if change is not None:
                context.put_back(change)
            raise
        context.status = state.status

    async def complete_exporting(self, context: RunContext) -> Run:
        """Complete the run with what its context has marked for export; its row as it is then. Raises as `complete`.

        What of the context was not stored is given back to it, where it is known that nothing took effect. Where that
        is not known, the run is let go of.

        Raises:
            LimitExceeded: transformations have made more for the parent than a context may hold.
        """
        at = self._ground.hybrid.now()
        origin = Origin(self._run_id, context.routine_id, self._swarm_id, context.parent_run_id)
        found = leaving(origin, context.variables, context.exports, self._ground.terms, at)
        change = context.take_changes(snapshot=True) or ContextChange(snapshot=True)
        try:
            self._ground.limits.check_exported(self._run_id, found.exported)
            return await self.complete(change, found, at.as_datetime())
        except NotOwner:
            raise
        except OutcomeUnknown:
            await self._let_go()
            raise
        except HoldfastError:
            context.put_back(change)
            raise

    async def complete(self, change: ContextChange, leaving: Leaving, at: dt.datetime) -> Run:
        """Complete the run with what leaves it, in one transaction; its row as it is then.

        Where L3 does not say what became of it, it is made again: whichever comes first completes the run, and what
        comes behind it finds it complete. Nobody else could have completed it under this epoch.

        Args:
            change: what was not stored of its context.

        Raises:
            NotOwner: another server has taken the run over; nothing took effect.
            OutcomeUnknown: L3 does not say either whether an attempt took effect, or this server may repeat no more.
            RunOver, TierError, InvalidDocument: nothing took effect.
        """

        async def complete(transaction: Transaction) -> Run:
            return await self._complete(transaction, change, leaving, at)

        unknown: OutcomeUnknown | None = None
        for attempt in range(1, UNKNOWN_MAX + 1):
            try:
                return await self._ground.transactions.transact(complete, Isolation.READ_COMMITTED)
            except (NotOwner, RunOver):  # known under the row's lock
                raise
            except OutcomeUnknown as fault:
                unknown = fault
            except HoldfastError as fault:  # of this attempt nothing took effect, which says nothing of those before
                if unknown is None:
                    raise
                logger.warning("run %s: what became of its end cannot be asked: %s", self._run_id, fault)
            if not self._ground.transactions.retries.take():
                break
            await self._ground.transactions.pause(attempt)
        raise unknown or OutcomeUnknown(f"run {self._run_id}: L3 did not say whether it is complete")

    async def _let_go(self) -> None:
        """Let others find the run as one that nobody runs; if its end is in effect, this changes nothing that counts.

        It is decided under this epoch and behind the end, whose transaction has the row locked. An end that comes later
        all the same finds either the run as it was, and completes it, or another epoch, and is refused.
        """
        runs = self._ground.runs
        try:
            await runs.accept(runs.key(self._run_id), LET_GO, None, Durability.JOURNALED, self.epoch)
        except Undecided:  # it is accepted
            pass
        except HoldfastError as fault:
            logger.warning(
                "run %s: L3 does not say whether it is complete, and it could not be let go of; it counts as orphaned"
                " when this server has ended: %s",
                self._run_id,
                fault,
            )

    async def _complete(
        self, transaction: Transaction, change: ContextChange, leaving: Leaving, at: dt.datetime
    ) -> Run:
        runs = transaction.collection(RUN)
        held = await self._held(runs)
        if held.status == RunStatus.COMPLETED:  # by an attempt before
            return held
        if held.status in ENDED:
            raise RunOver(f"run {self._run_id} is {held.status}")
        told = [*leaving.refused, *await self._post(transaction, leaving.items)]
        # What is masked, and not posted either, has not left.
        refused = {(each.key, each.destination, each.exporter): each for each in told}
        run = msgspec.structs.replace(
            held,
            status=RunStatus.COMPLETED.value,
            ended_at=at,
            changes=seal_list([*held.changes, change]),
            exported=leaving.exported,
            refused_exports=list(refused.values()),
        )
        spilled = spill_run(self._ground.runs.key(self._run_id), run)
        if spilled is not None:
            run = spilled.document
            for kind, identifier, document in spilled.history:
                await transaction.collection(self._ground.collections[kind].kind).put(identifier, document)
        await transaction.collection(EXPORT).put_many(leaving.values)
        await transaction.collection(DELIVERY).put_many(leaving.deliveries)
        await runs.put(self._run_id, run)
        return run

    async def _held(self, runs: TransactionCollection[Run]) -> Run:
        """The run's row, locked, if it is this server's still."""
        held = await runs.get(self._run_id, lock=True)
        if held is None:
            raise RunOver(f"run {self._run_id} was deleted")
        if held.epoch != self.epoch:
            raise NotOwner(f"it is under epoch {held.epoch}, not {self.epoch}")
        return held

    async def _post(self, transaction: Transaction, items: Sequence[BlackboardItem]) -> Iterable[RefusedExport]:
        """Put items on the swarm's blackboard; returns those that have no place there."""
        if not items or self._swarm_id is None:
            return ()
        swarms = transaction.collection(SWARM)
        swarm = await swarms.get(self._swarm_id, lock=True)
        if swarm is None:
            return self._not_posted(items, f"there is no swarm {self._swarm_id}")
        try:
            await swarms.put(self._swarm_id, posted(swarm, items))
        except InvalidDocument as fault:  # before anything was sent
            return self._not_posted(items, f"swarm {self._swarm_id} has no place for it: {type(fault).__name__}")
        return ()

    def _not_posted(self, items: Iterable[BlackboardItem], reason: str) -> list[RefusedExport]:
        prefix = joined_id(self._run_id, "")
        return [
            RefusedExport(key=item.id.removeprefix(prefix), destination="blackboard", reason=reason) for item in items
        ]


def posted(swarm: Swarm, items: Iterable[BlackboardItem]) -> Swarm:
    """A swarm with items on its blackboard: each in the place of the one of its id, otherwise behind all."""
    board = {item.id: item for item in swarm.blackboard}
    board.update((item.id, item) for item in items)
    return msgspec.structs.replace(swarm, blackboard=seal_list(list(board.values())))
