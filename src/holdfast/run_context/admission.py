"""How runs come to be: L3 takes a new one in, with all that it begins with, before it makes its first step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from holdfast.documents import Run
from holdfast.entry import Consistency
from holdfast.errors import Conflict, HoldfastError, NotOwner, OutcomeUnknown, RunOver, Undecided
from holdfast.kinds import RUN, RUN_SNAPSHOT
from holdfast.protocols import Isolation
from holdfast.protocols.runs import ENDED
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.begun_with import beginning_of, check_begun_with, set_secrets
from holdfast.run_context.changes import ContextState
from holdfast.run_context.context import RunContext
from holdfast.run_context.ground import Ground
from holdfast.run_context.restoring import NOTHING_LOST, Loss
from holdfast.run_context.secrets import key_ids, moved_state
from holdfast.run_context.snapshots import base_of, id_of, rebased
from holdfast.run_context.under_way import UnderWay
from holdfast.transactions import Transaction


async def leave_below(parent: ActiveRun, run: ActiveRun) -> None:
    """Cancel a run that nobody was given: it would hold back those behind it, which its parent merges in order.

    If that cannot be done now, the parent does it when it merges; and it raises what keeps it from that.
    """
    try:
        await _cancelled(run)
    except HoldfastError:
        parent.in_doubt.note(partial(_cancelled, run))
        raise


async def _cancelled(run: ActiveRun) -> bool:
    with contextlib.suppress(RunOver, NotOwner, Undecided):  # another has it meanwhile; or it will be decided
        await run.cancel()
    return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that is to begin; see `Runs.begin`."""

    routine_id: str
    inputs: Mapping[str, Any]
    secrets: Mapping[str, Any]
    swarm_id: str | None
    run_id: str | None
    critical: bool
    on_conflict: str | None

    def check(self) -> None:
        """Refuse what no run can begin with; raises InvalidKey or InvalidDocument."""
        check_begun_with(self.routine_id, self.inputs, self.secrets, self.swarm_id)


class Admission:
    """Begins runs of one server; their errors are those of `Runs.begin` and `Runs.fork`."""

    def __init__(self, ground: Ground, under_way: UnderWay) -> None:
        self._ground = ground
        self._under_way = under_way

    async def begin(self, wanted: Wanted, parent: ActiveRun | None) -> ActiveRun:
        """Begin a run, below another one or by itself."""
        wanted.check()
        if parent is None:
            return await self._begin_uppermost(wanted)
        if not isinstance(parent, ActiveRun):
            raise TypeError(f"parent is an ActiveRun of this server, not {type(parent).__name__}")
        return await self._begin_below(wanted, parent)

    async def fork(
        self, run_id: str, run: Run, state: ContextState, *, new_run_id: str | None, lost: Loss
    ) -> ActiveRun:
        """Begin a run with the state of another one; its secrets are sealed anew."""
        chosen, keys = self._chosen(new_run_id), self._ground.keys
        await keys.know(key_ids(state.variables.values()))
        context = RunContext(
            chosen,
            run.routine_id,
            self._ground.hybrid,
            state=moved_state(state, run_id, chosen, keys.known),
            limits=self._ground.limits,
            keys=keys.known,
            terms=self._ground.terms,
        )
        context.status = Run(routine_id=run.routine_id).status
        row = await self._row(context, swarm_id=run.swarm_id, critical=run.critical, on_conflict=run.on_conflict)
        return await self._admitted(context, row, lost=lost)

    async def _begin_uppermost(self, wanted: Wanted) -> ActiveRun:
        ground = self._ground
        context = RunContext.begin(
            self._chosen(wanted.run_id),
            wanted.routine_id,
            ground.hybrid,
            wanted.inputs,
            limits=ground.limits,
            keys=ground.keys.known,
            terms=ground.terms,
        )
        set_secrets(context, wanted.secrets)
        return await self._admitted(context, await self._row_of(context, wanted, wanted.swarm_id))

    async def _begin_below(self, wanted: Wanted, parent: ActiveRun) -> ActiveRun:
        swarm = parent.swarm_id if wanted.swarm_id is None else wanted.swarm_id
        context = parent.context.create_child(
            wanted.inputs, routine_id=wanted.routine_id, run_id=self._chosen(wanted.run_id)
        )
        try:
            set_secrets(context, wanted.secrets)
            await parent.save()  # what the child has inherited is not to be lost while the child is kept
            return await self._admitted(context, await self._row_of(context, wanted, swarm), parent=parent)
        except BaseException:
            parent.context.children -= 1
            raise

    async def _row_of(self, context: RunContext, wanted: Wanted, swarm_id: str | None) -> Run:
        return await self._row(context, swarm_id=swarm_id, critical=wanted.critical, on_conflict=wanted.on_conflict)

    def _chosen(self, run_id: str | None) -> str:
        return self._ground.new_id() if run_id is None else run_id

    async def _row(self, context: RunContext, *, swarm_id: str | None, critical: bool, on_conflict: str | None) -> Run:
        """The row of a run that this server is about to own, without its snapshots."""
        return Run(
            routine_id=context.routine_id,
            swarm_id=swarm_id,
            parent_run_id=context.parent_run_id,
            depth=context.depth,
            critical=critical,
            owner=self._ground.server,
            journal=await self._ground.journal(),
            started_at=self._ground.hybrid.now().as_datetime(),
            on_conflict=on_conflict,
        )

    async def _admitted(
        self, context: RunContext, row: Run, *, parent: ActiveRun | None = None, lost: Loss = NOTHING_LOST
    ) -> ActiveRun:
        """Have L3 take the run in, with what it begins with."""
        run_id = context.run_id
        base = base_of(run_id, row, context.state, sequence=0, previous=None)
        run = rebased(row, base)

        async def admit(transaction: Transaction) -> None:
            if parent is not None:
                await transaction.collection(RUN).update(parent.id, self._with_child(parent))
            await transaction.collection(RUN).put(run_id, run, expected_version=0)
            await transaction.collection(RUN_SNAPSHOT).put(id_of(base), base)

        try:
            await self._ground.transactions.transact(admit, Isolation.READ_COMMITTED)
        except Conflict as conflict:
            if conflict.key == self._ground.runs.key(run_id):
                conflict.args = (f"there is a run {run_id} already: go on with it, or choose another id",)
            raise
        except OutcomeUnknown as unknown:
            if not await self._is_there(run_id, run):
                unknown.args = (f"whether run {run_id} was begun is not known: {unknown}",)
                if parent is not None:
                    parent.in_doubt.note(partial(self._cancelled, context, run))
                raise
        return ActiveRun(self._ground, self._under_way, context, run, lost=lost)

    async def _is_there(self, run_id: str, run: Run) -> bool:
        """Whether L3 has taken in this very run, which it did not say."""
        try:
            held = await self._ground.runs.get(run_id, consistency=Consistency.STRONG)
        except HoldfastError:  # that it is not known is what the caller is told
            return False
        return held is not None and self._is_ours(held, run_id, run)

    def _is_ours(self, held: Run, run_id: str, run: Run) -> bool:
        """It is this run as it began here, and not another one of its id; nor has somebody gone on with it."""
        return run_id not in self._under_way and beginning_of(held) == beginning_of(run)

    async def _cancelled(self, context: RunContext, run: Run) -> bool:
        """Cancel a run that nobody was given, if L3 has it; False: it may come there still.

        Raises:
            TierError: that cannot be told, or done.
        """
        run_id = context.run_id
        held = await self._ground.runs.get(run_id, consistency=Consistency.STRONG)
        if held is None:
            return False
        if held.status not in ENDED and self._is_ours(held, run_id, run):
            try:
                return await _cancelled(ActiveRun(self._ground, self._under_way, context, run))
            finally:
                self._under_way.forget(run_id, run.epoch)  # else it would be taken for one that somebody has
        return True

    def _with_child(self, parent: ActiveRun) -> Callable[[Run], Run]:
        def changed(row: Run) -> Run:
            if row.epoch != parent.epoch:
                raise NotOwner(f"run {parent.id} was taken over by another server: no run can be begun below it here")
            if row.status in ENDED:
                raise RunOver(f"run {parent.id} is {row.status}: no run can be begun below it")
            self._ground.limits.check(parent.id, "children", row.children + 1)
            return msgspec.structs.replace(row, children=row.children + 1)

        return changed
