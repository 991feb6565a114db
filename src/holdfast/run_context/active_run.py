"""A run that this server owns: its steps, and how what they change comes to be kept.

Who owns what: the context belongs to the run's code and changes between its awaits; each write takes what changed since
the one before, and they follow one another, so the changes of a run are stored in the order they were made. A caller
that is cancelled ceases to wait; the write goes on, and what could not be stored goes back into the context. So does
what was accepted and is refused when it is decided: the next write tells of it before it writes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from holdfast.documents import ContextChange, Run, RunStatus, StepStatus
from holdfast.entry import Durability, Receipt
from holdfast.errors import HoldfastError, NotOwner, OutcomeUnknown, Refused, RunOver, Undecided
from holdfast.fault_words import in_words
from holdfast.protocols import LateDecision, Reviewer
from holdfast.run_context.announcements import Announcements
from holdfast.run_context.basing import BaseWriter
from holdfast.run_context.changes import ContextState
from holdfast.run_context.child_merging import Merge
from holdfast.run_context.context import RunContext
from holdfast.run_context.ending import NOBODYS, Ending, ends
from holdfast.run_context.going_on import GoingOn
from holdfast.run_context.ground import Ground
from holdfast.run_context.in_doubt import InDoubt
from holdfast.run_context.restoring import NOTHING_LOST, Loss
from holdfast.run_context.snapshots import snapshot_id
from holdfast.run_context.step import Step, end_cancelled
from holdfast.run_context.taking_over import TakingOver
from holdfast.run_context.termination_watch import TerminationWatch
from holdfast.run_context.undecided import UndecidedChanges, is_anothers
from holdfast.run_context.under_way import UnderWay
from holdfast.write_behind.operations import Append, Operation, Set

logger = logging.getLogger("holdfast")


class ActiveRun:
    """A run under way; `Runs.begin` and `Runs.resume` give it.

    Attributes:
        id: of the run.
        context: what it knows; writing to it is kept by the end of each step, `save` or `checkpoint`.
        epoch: under which this server owns it.
        critical: each end of a step is a snapshot.
        lost: what was lost when it was resumed, or of the run it was forked from.
        is_over: it has ended, was paused, let go of or taken over: nothing is written any more.
        in_doubt: what was begun below it, and may be there or not.
    """

    def __init__(
        self, ground: Ground, under_way: UnderWay, context: RunContext, run: Run, *, lost: Loss = NOTHING_LOST
    ) -> None:
        self.id = context.run_id
        self.context = context
        self.epoch = run.epoch
        self.critical = run.critical
        self.swarm_id = run.swarm_id
        self.lost = lost
        self.is_over = False
        self.in_doubt = InDoubt()
        self._is_taken_over = False
        self._is_ended = False
        self._ground = ground
        self._under_way = under_way
        self._journal = run.journal
        self._last: Receipt | None = None
        self._undecided = UndecidedChanges(context)
        self._turn = asyncio.Lock()
        self._going_on = GoingOn(self.id)
        self._bases = BaseWriter(ground, self.id, run)
        self._announcements = Announcements(ground)
        self._ending = Ending(ground, self.id, run.swarm_id, run.epoch)
        self._taking_over = TakingOver(ground, context, run.epoch, run.on_conflict, self._be_taken_over)
        self._watch = TerminationWatch(
            ground, context, self._ending, turn=self._turn, be_over=self._be_ended, be_taken_over=self._be_taken_over
        )
        under_way.note(self.id, self.epoch, self._watch.look)

    def note_restored(self, run: Run) -> None:
        """The context is what the snapshots hold: a base that is due, which nobody had time for before, is written."""
        if self._bases.is_near():
            self._bases.note(run, self.context.state)

    @contextlib.asynccontextmanager
    async def step(self, step_id: str) -> AsyncIterator[Step]:
        """``async with run.step("search") as step:``; its record is kept when it ends, however it does.

        A step of a critical run is in a snapshot before this returns; that of another run has survived as much as the
        kind `run` asks of a patch.

        Raises:
            NotOwner: another server has taken the run over.
            RunOver: the run is over.
            Refused: what was accepted before was decided otherwise, or this was; the context has it still.
            Undecided: what changed was accepted, and is not kept so safely yet; it is not given up.
            TierError: it could not be kept; the context has it still.
        """
        self._check_under_way()
        self.context.begin_step(step_id)
        step = Step(step_id)
        try:
            yield step
        except asyncio.CancelledError:
            end_cancelled(self.context, step_id)
            raise
        except Exception as fault:
            await self._keep_failure(step_id, fault)
            raise
        self.context.end_step(step_id, result=step.result)
        await self._keep_step()

    async def save(self, durability: Durability | None = None) -> Receipt | None:
        """Keep what changed in the context; None: nothing did since all of it had survived so much.

        Args:
            durability: what it is to have survived; None: what the kind `run` says.

        Raises:
            NotOwner, RunOver, Refused, Undecided, TierError: as `step`.
            ValueError: it is no `Durability`.
        """
        wanted = self._ground.runs.kind.durability if durability is None else Durability(durability)
        return await self._going_on.until_done(self._save(wanted))

    async def checkpoint(self) -> int:
        """Keep all of the context in snapshots, and return the number of the last; raises as `save`.

        It costs what changed since the last one, however large the context is.
        """
        return await self._going_on.until_done(self._checkpoint())

    async def merge_children(self, *, wait: bool = False, reviewer: Reviewer | None = None) -> Merge:
        """Take over what runs below this one have exported, in the order in which they were begun, and keep it.

        A child that has not ended holds back those behind it: call it again when it has; so does one with a secret that
        cannot be opened here yet. A secret that was tampered with is left out. Those that failed, or were cancelled,
        have exported nothing. Raises `LimitExceeded` if what a child exported does not fit, and as `save`.

        Args:
            wait: until conflicts that are to be reviewed are decided.
            reviewer: who has them decided; None: this server's reviews.
        """
        self._check_under_way()
        await self.in_doubt.settle()
        return await self._taking_over.children(self._keep_merged, wait=wait, reviewer=reviewer)

    async def settle_reviews(self) -> Sequence[LateDecision]:
        """Take over what was decided on reviews since the run had gone on without, and have L3 keep it.

        What the run has written since stands: a decision is then `overtaken`. One with a `fault` waits for a key
        or room. Returns what was decided; raises as `save`.
        """
        self._check_under_way()
        return await self._taking_over.late_decisions(lambda: self.save(Durability.COMMITTED))

    async def pause(self) -> None:
        """Keep all, and let go of the run: whoever wants to goes on with `Runs.resume`; raises as `save`."""
        await self._going_on.until_done(self._ended(RunStatus.PAUSED, None))

    async def complete(self) -> None:
        """End it well, in all tiers when this returns; raises as `save`.

        What was marked for export leaves it in the transaction that ends it; of what is refused `Run.refused_exports`
        tells. If it is `Undecided`, or `OutcomeUnknown`, the run is over here all the same: its end may be in effect.
        After `OutcomeUnknown` anybody may resume it, if it is not.
        """
        await self._going_on.until_done(self._ended(RunStatus.COMPLETED, None))

    async def fail(self, error: str | BaseException) -> None:
        """End it for a fault, given in words or as it was raised; raises as `save`.

        In the words that are kept, secrets that this process has seen are masked.
        """
        await self._going_on.until_done(self._ended(RunStatus.FAILED, in_words(error, self.context.masked)))

    async def cancel(self) -> None:
        """End it because it is no longer wanted; raises as `save`."""
        await self._going_on.until_done(self._ended(RunStatus.CANCELLED, None))

    async def release(self) -> None:
        """Keep what changed, and let other servers find the run as one that nobody runs; raises as `save`."""
        await self._going_on.until_done(self._release())

    def check_not_cut_off(self) -> None:
        """Raise `RunOver` if recovery has ended it, or `NotOwner` if another server has taken it over."""
        if self._is_ended or self._is_taken_over:
            self._check_under_way()

    async def _keep_failure(self, step_id: str, fault: Exception) -> None:
        try:
            self.context.end_step(step_id, StepStatus.FAILED, error=in_words(fault, self.context.masked))
            await self._keep_step()
        except HoldfastError as second:  # the first one is what the caller wants to see
            logger.warning("run %s: that step %s failed could not be kept: %s", self.id, step_id, second)

    async def _keep_step(self) -> None:
        if self.critical:
            await self.checkpoint()
        else:
            await self.save()

    def _check_under_way(self) -> None:
        if self._is_taken_over:
            raise NotOwner(f"run {self.id} was taken over by another server")
        if self.is_over:
            raise RunOver(f"run {self.id} is {self.context.status}, or was let go of here: nothing more can be written")

    async def _save(self, durability: Durability) -> Receipt | None:
        async with self._turn:
            receipt = await self._write(durability) or await self._raised(durability)
            await self._check_decided()
            await self._watch.check()
            self._bases.look()
            return receipt

    async def _checkpoint(self) -> int:
        async with self._turn:
            run = await self._snapshot()
            await self._watch.check()
        self._announcements.checkpoint(self.id, run, snapshot_id(self.id, run.sequence))
        return run.sequence

    async def _keep_merged(self, merge: Merge) -> None:
        await self.save()
        if merge.children:
            self._announcements.merged(self.id, self.context.routine_id, merge)

    async def _ended(self, status: RunStatus, error: str | None) -> None:
        async with self._turn:
            self._check_under_way()
            await self._watch.check()
            before, self.context.status = self.context.status, status.value
            try:
                if status is RunStatus.COMPLETED and self.context.exports:
                    await self._complete_exporting()
                else:
                    operations = ends(status, error, self._ground.hybrid.now().as_datetime())
                    await self._write_last(operations, snapshot=True)
            except BaseException:
                if not self.is_over:
                    self.context.status = before
                raise

    async def _release(self) -> None:
        async with self._turn:
            await self._watch.check()
            await self._write_last(NOBODYS)

    async def _complete_exporting(self) -> None:
        """Complete it, and let go what was marked for export, at once."""
        # First: of an end that L3 tells nothing of, nothing could be put back.
        await self._write(Durability.JOURNALED)
        await self._ending.settle_before()
        await self._check_decided()
        try:
            run = await self._ending.complete_exporting(self.context)
        except NotOwner as known:
            raise await self._not_owner(str(known)) from known
        except OutcomeUnknown:
            await self._be_over()
            raise
        await self._be_over()
        self._announcements.exports_refused(self.id, run)

    async def _write_last(self, operations: Sequence[Operation], *, snapshot: bool = False) -> None:
        """Write what makes the run over here: once that is accepted it stands, however long L3 takes to decide it."""
        self._check_under_way()
        await self._ending.settle_before()
        try:
            await self._write(Durability.COMMITTED, snapshot=snapshot, also=operations)
        except Undecided:
            await self._be_over()
            raise
        await self._be_over()
        await self._check_decided()

    async def _be_over(self) -> None:
        self.is_over = True
        self._watch.stop()
        self._under_way.forget(self.id, self.epoch)
        await self._bases.stop()

    async def _be_ended(self) -> None:
        self._is_ended = True
        await self._be_over()

    async def _be_taken_over(self) -> None:
        self._is_taken_over = True
        await self._be_over()

    async def _snapshot(self) -> Run:
        """Write what changed, and have all of it made a snapshot; the row as it is then."""
        state: ContextState | None = None

        def taken() -> None:
            nonlocal state
            if self._bases.is_near():
                state = self.context.state  # before anything else can change it: it is of this snapshot

        await self._write(Durability.COMMITTED, snapshot=True, taken=taken)
        await self._check_decided()
        run = await self._ground.runs.get(self.id)
        if run is None:
            raise RunOver(f"run {self.id} was deleted")
        if run.epoch != self.epoch:  # its newest snapshot may be another's
            raise await self._not_owner(f"it is under epoch {run.epoch}, not {self.epoch}")
        self._bases.note(run, state)
        return run

    async def _write(
        self,
        durability: Durability,
        *,
        snapshot: bool = False,
        also: Sequence[Operation] = (),
        taken: Callable[[], None] | None = None,
    ) -> Receipt | None:
        """Write what changed; None: nothing did.

        Args:
            taken: called as soon as it was taken from the context.
        """
        self._check_under_way()
        await self._check_decided()
        journal = await self._ground.journal()
        change = self.context.take_changes(snapshot=snapshot)
        if taken is not None:
            taken()
        operations = [*also] if change is None else [Append("changes", change), *also]
        if not operations:
            return None
        if journal != self._journal and not any(each.place.path == ("journal",) for each in also):
            operations.append(Set("journal", journal))  # the one before was taken over; the run was not
        try:
            receipt = await self._accepted(operations, durability, change)
        except (Undecided, NotOwner):  # it is not given up; or it is not this server's to write any more
            raise
        except HoldfastError:
            if change is not None:
                self.context.put_back(change)
            raise
        self._journal = journal
        return receipt

    async def _accepted(
        self, operations: Sequence[Operation], durability: Durability, change: ContextChange | None
    ) -> Receipt:
        runs = self._ground.runs
        try:
            receipt = await runs.accept(runs.key(self.id), operations, None, durability, self.epoch)
        except Undecided as late:
            self._note(late.receipt, change)
            raise
        except Refused as refused:
            raise await self._meant(refused) from refused
        except NotOwner as known:
            raise await self._not_owner(str(known)) from known
        self._note(receipt, change)
        return receipt

    def _note(self, receipt: Receipt, change: ContextChange | None) -> None:
        self._last = receipt
        self._undecided.note(receipt, change)

    async def _check_decided(self) -> None:
        """Let go of what was decided; what was refused of it is in the context alone, to be written again.

        Raises:
            Refused: there was some.
            NotOwner: it was refused because another server owns the run.
        """
        try:
            await self._undecided.check()
        except Refused as refused:
            self._last = None
            if (fault := await self._meant(refused)) is refused:
                raise
            raise fault from refused

    async def _raised(self, durability: Durability) -> Receipt | None:
        """What was written last, once that has survived so much; None: it had."""
        last, runs = self._last, self._ground.runs
        if last is None or last.durability.covers(durability):
            return None
        await runs.write_behind.settle([runs.key(self.id)])
        await self._check_decided()
        return last

    async def _meant(self, refused: Refused) -> HoldfastError:
        """The error that a refusal is here."""
        return await self._not_owner(refused.detail) if is_anothers(refused) else refused

    async def _not_owner(self, detail: str) -> NotOwner:
        await self._be_taken_over()
        return NotOwner(f"run {self.id} was taken over by another server: {detail}")
