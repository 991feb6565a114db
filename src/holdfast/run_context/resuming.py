"""Taking a run over: what its owner before has written is decided first, then nothing of it any more (rule S3)."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from holdfast.documents import Run, RunStatus
from holdfast.entry import Consistency, Entry
from holdfast.errors import (
    Conflict,
    ContextCorrupt,
    HoldfastError,
    NotFound,
    NotOwner,
    OutcomeUnknown,
    RunOver,
    TierUnavailable,
)
from holdfast.key_locks import KeyLocks
from holdfast.keys import Key
from holdfast.kinds import RUN, RUN_SNAPSHOT, SWARM
from holdfast.protocols import Isolation, Source
from holdfast.protocols.runs import ENDED
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.announcements import Announcements
from holdfast.run_context.context import RunContext
from holdfast.run_context.ground import Ground
from holdfast.run_context.liveness import is_live
from holdfast.run_context.loading import SnapshotLoader, names_same
from holdfast.run_context.restoring import Restored
from holdfast.run_context.secrets import key_ids
from holdfast.run_context.snapshots import base_of, id_of, rebased
from holdfast.run_context.under_way import UnderWay
from holdfast.transactions import Transaction

logger = logging.getLogger("holdfast")

ATTEMPTS_MAX: Final = 8
"""Others may take the run over, or prune it, at the same time."""


class Resuming:
    """Takes runs over for this server."""

    def __init__(self, ground: Ground, loader: SnapshotLoader, under_way: UnderWay) -> None:
        self._ground = ground
        self._loader = loader
        self._under_way = under_way
        self._turns = KeyLocks()
        self._announcements = Announcements(ground)

    async def resume(self, run_id: str, *, force: bool) -> ActiveRun:
        """Go on with a run; see `Runs.resume`."""
        # One after the other: what this server has in L3 is known to be a run that is under way, or nobody's.
        async with self._turns.turn(self._ground.runs.key(run_id)):
            return await self._resumed(run_id, force=force)

    async def _resumed(self, run_id: str, *, force: bool) -> ActiveRun:
        begun = self._ground.clock.monotonic()
        before, run, restored = await self._taken(run_id, force=force)
        try:
            await self._ground.keys.know(key_ids(restored.state.variables.values()))
            if restored.lost:
                run = await self._begun_anew(run_id, run, restored)
        except BaseException:
            await self._let_go(run_id, run)
            raise
        seconds = self._ground.clock.monotonic() - begun
        self._announcements.resumed(run_id, run, restored, before, seconds)
        context = RunContext(
            run_id,
            run.routine_id,
            self._ground.hybrid,
            state=restored.state,
            parent_run_id=run.parent_run_id,
            depth=run.depth,
            children=run.children,
            limits=self._ground.limits,
            keys=self._ground.keys.known,
            terms=self._ground.terms,
        )
        context.status = run.status
        resumed = ActiveRun(self._ground, self._under_way, context, run, lost=restored.lost)
        resumed.note_restored(run)
        return resumed

    async def _taken(self, run_id: str, *, force: bool) -> tuple[Run, Run, Restored]:
        """The run's row as it was, and as this server owns it, with its context."""
        for _ in range(ATTEMPTS_MAX):
            entry = await self._row(run_id)
            before = entry.value
            await self._check(run_id, before, force=force)
            # What this server has laid over the row may be refused yet; then it is not the row of that version.
            if before.owner is None and not entry.pending:
                if (nobodys := await self._take_nobodys(run_id, before, entry.version)) is not None:
                    return before, *nobodys
                continue
            if before.swarm_id is not None:  # whoever goes on with the run must see what it did to its swarm
                await self._decided(Key(SWARM.name, before.swarm_id), before.owner)
            handed_over = await self._decided(self._ground.runs.key(run_id), before.owner)
            run = (await self._row(run_id)).value
            if (restored := await self._restored(run_id, run)) is None:
                continue
            # Once more: if it lives, it has written on while all that was read.
            handed_over = await self._decided(self._ground.runs.key(run_id), before.owner) or handed_over
            if (taken := await self._take(run_id, before.epoch, handed_over)) is not None:
                return before, taken, await self._restored_now(run_id, run, taken, restored)
        raise TierUnavailable(f"run {run_id}: other servers take it over, or prune it, all the time")

    async def _decided(self, key: Key, owner: str | None) -> int:
        """Decide what the owner before has written for a key; the number of the last entry, 0: there was none."""
        return 0 if owner is None else await self._ground.handing_over.decide_for(key, owner)

    async def _row(self, run_id: str) -> Entry[Run]:
        """The row as it is in L3, under what this server has accepted for it."""
        entry = await self._ground.runs.entry(run_id, consistency=Consistency.STRONG)
        if entry is None:
            raise NotFound(f"there is no run {run_id}")
        return entry

    async def _restored(self, run_id: str, run: Run) -> Restored | None:
        """The context, before the run is taken: of one that cannot be restored nothing is changed.

        None: what the row named a moment ago was pruned since.
        """
        try:
            return await self._loader.restored(run_id, run)
        except ContextCorrupt as fault:
            if names_same(run, (await self._row(run_id)).value):
                self._ground.faults.report(
                    fault, Source.L3, key=self._ground.runs.key(run_id), run_id=run_id, swarm_id=run.swarm_id
                )
                raise
            return None

    async def _take_nobodys(self, run_id: str, run: Run, version: int) -> tuple[Run, Restored] | None:
        """Take a run without an owner: nothing is left to be decided, and one statement does; None: it has changed."""
        if (restored := await self._restored(run_id, run)) is None:
            return None
        journal = await self._ground.journal()
        taken = self._owned(run, journal, 0)
        try:
            await self._ground.runs.put(run_id, taken, expected_version=version)
        except Conflict:
            return None
        except OutcomeUnknown:
            if (held := await self._if_taken(run_id, journal, taken.epoch)) is None:
                raise
            return held, restored
        return taken, restored

    def _owned(self, run: Run, journal: str, handed_over: int) -> Run:
        """The row of a run that this server has taken."""
        return msgspec.structs.replace(
            run,
            status=RunStatus.RUNNING.value,
            owner=self._ground.server,
            journal=journal,
            epoch=run.epoch + 1,
            handed_over=handed_over,
            terminate=None,
        )

    async def _restored_now(self, run_id: str, run: Run, taken: Run, restored: Restored) -> Restored:
        """The context as it is in the row that was taken: its owner, if it lives, may have written until then."""
        if (run.newest, run.changes) == (taken.newest, taken.changes):
            return restored
        try:
            return await self._loader.restored(run_id, taken)
        except BaseException:
            await self._let_go(run_id, taken)
            raise

    async def _check(self, run_id: str, run: Run, *, force: bool) -> None:
        if run.status in ENDED:
            raise RunOver(f"run {run_id} is {run.status}: fork it to go on from one of its snapshots")
        if (
            not force
            and run.status != RunStatus.PAUSED.value
            and await is_live(self._ground, self._under_way, run_id, run)
        ):
            raise NotOwner(f"run {run_id} is run by {run.owner}, which is alive; force=True takes it over nevertheless")

    async def _take(self, run_id: str, epoch: int, handed_over: int) -> Run | None:
        """Raise the epoch; None: another server was faster."""
        journal = await self._ground.journal()

        async def take(transaction: Transaction) -> Run | None:
            runs = transaction.collection(RUN)
            run = await runs.get(run_id, lock=True)
            if run is None or run.epoch != epoch or run.status in ENDED:
                return None
            taken = self._owned(run, journal, handed_over)
            await runs.put(run_id, taken)
            return taken

        try:
            return await self._ground.transactions.transact(take, Isolation.READ_COMMITTED)
        except OutcomeUnknown:
            if (held := await self._if_taken(run_id, journal, epoch + 1)) is None:
                raise
            return held

    async def _if_taken(self, run_id: str, journal: str, epoch: int) -> Run | None:
        """The run, if L3 has given it to this server, which it did not say."""
        try:
            held = (await self._row(run_id)).value
        except HoldfastError:  # that it is not known is what the caller is told
            return None
        return held if (held.journal, held.epoch) == (journal, epoch) else None

    async def _begun_anew(self, run_id: str, run: Run, restored: Restored) -> Run:
        """A base above all numbers, so that what is damaged is never in the way again."""
        logger.error("run %s: snapshots are damaged: %s; lost: %s", run_id, ", ".join(restored.damaged), restored.lost)

        async def begin(transaction: Transaction) -> Run:
            runs = transaction.collection(RUN)
            held = await runs.get(run_id, lock=True)
            if held is None or held.epoch != run.epoch:
                raise NotOwner(f"run {run_id} was taken over while it was resumed")
            state = msgspec.structs.replace(restored.state, status=held.status)
            base = base_of(run_id, held, state, sequence=held.sequence + 1, previous=restored.newest)
            await transaction.collection(RUN_SNAPSHOT).put(id_of(base), base)
            anew = rebased(held, base)
            await runs.put(run_id, anew)
            return anew

        return await self._ground.transactions.transact(begin, Isolation.READ_COMMITTED)

    async def _let_go(self, run_id: str, run: Run) -> None:
        """What could not be resumed is nobody's."""

        async def let_go(transaction: Transaction) -> None:
            runs = transaction.collection(RUN)
            held = await runs.get(run_id, lock=True)
            if held is not None and held.epoch == run.epoch:
                await runs.put(run_id, msgspec.structs.replace(held, owner=None, journal=None))

        try:
            await self._ground.transactions.transact(let_go, Isolation.READ_COMMITTED)
        except HoldfastError as fault:  # the reason it could not be resumed is what the caller wants to see
            logger.warning("run %s could not be let go of: %s", run_id, fault)
