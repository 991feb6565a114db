"""Runs, from their beginning to their end: ``state.runs``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.audit.log import AuditLog
from holdfast.documents import Run, RunStatus, decode
from holdfast.documents.frozen import EMPTY_DICT
from holdfast.entry import Consistency
from holdfast.errors import (
    Conflict,
    ContextCorrupt,
    HoldfastError,
    InvalidDocument,
    NotFound,
    NotOwner,
    OutcomeUnknown,
    RunOver,
    SettingsError,
)
from holdfast.kinds import RUN, RUN_SNAPSHOT
from holdfast.protocols import Isolation, ListedSnapshot, RunFilter
from holdfast.protocols.runs import ENDED, LISTED_MAX, PRUNED_MAX
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.begun_with import beginning_of, check_begun_with, set_secrets
from holdfast.run_context.changes import ContextState
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.run_context.context import RunContext
from holdfast.run_context.contexts import READ_MAX, Contexts, RunView
from holdfast.run_context.differences import Difference, difference
from holdfast.run_context.ground import Ground
from holdfast.run_context.loading import SnapshotLoader, names_same
from holdfast.run_context.opening import Opening
from holdfast.run_context.restoring import NOTHING_LOST, Loss
from holdfast.run_context.resuming import Resuming
from holdfast.run_context.revealing import Revealing
from holdfast.run_context.secrets import key_ids, moved_state
from holdfast.run_context.snapshots import base_of, id_of, rebased
from holdfast.run_context.under_way import UnderWay
from holdfast.transactions import Transaction

LIST_LIMIT: Final = 100


class ListedRun(NamedTuple):
    """A run in a list.

    Attributes:
        cursor: for `after`, to go on behind it.
    """

    id: str
    run: Run
    cursor: int


class Runs:
    """Begins, finds, resumes and forks runs; one per server.

    Attributes:
        reveal: shows the value of a variable, also of a secret one, and records it; see `Revealing.reveal`.
    """

    def __init__(self, ground: Ground, audit: AuditLog) -> None:
        self._ground = ground
        self._loader = SnapshotLoader(ground.l3, ground.index)
        self._contexts = Contexts(ground, self._loader)
        self._under_way = UnderWay()
        self._resuming = Resuming(ground, self._loader, self._under_way)
        self.reveal = Revealing(ground, self._contexts, audit).reveal

    def begin(
        self,
        routine_id: str,
        inputs: Mapping[str, Any] = EMPTY_DICT,
        *,
        secrets: Mapping[str, Any] = EMPTY_DICT,
        swarm_id: str | None = None,
        parent: ActiveRun | None = None,
        run_id: str | None = None,
        critical: bool = False,
        on_conflict: ConflictStrategy | str | None = None,
    ) -> Opening:
        """Begin a run: ``async with state.runs.begin("research", {"topic": "ants"}) as run:``.

        When the block is entered, or `begin` awaited, L3 has the run: no step is made of a run that nobody would find
        after a crash. At the block's end it is completed; see `Opening`.

        Args:
            inputs: what it is started with; free values. They are stored as they are, whatever they hold.
            secrets: name to value of variables that it begins with and whose sensitivity is `secret`.
            swarm_id: of the swarm it works for; None: that of its parent.
            parent: a run of this server, whose variables it inherits as read-only copies.
            run_id: None: a new one.
            critical: keep a snapshot at the end of each step, not only at checkpoints.
            on_conflict: what becomes of variables that it and a run below it have both changed, unless a variable
                declares otherwise; None: setting `run_on_conflict`.

        Raises:
            ValueError: `on_conflict` is no `ConflictStrategy`.
            Conflict: there is a run of that id.
            LimitExceeded: the parent has too many children, or the run lies too deep or begins with too much.
            RunOver: the parent has ended.
            NotOwner: another server has taken the parent over.
            InvalidKey, InvalidDocument: an id, an input or a secret.
            KeyMissing: there is no key for secrets, or those that are inherited cannot be opened here.
            TierError: L3 did not take it.
            TypeError: the parent is no `ActiveRun`.
        """
        strategy = None if on_conflict is None else ConflictStrategy(on_conflict).value

        async def open_() -> ActiveRun:
            check_begun_with(routine_id, inputs, secrets, swarm_id)
            if parent is not None and not isinstance(parent, ActiveRun):
                raise TypeError(f"parent is an ActiveRun of this server, not {type(parent).__name__}")
            chosen = self._ground.new_id() if run_id is None else run_id
            swarm = parent.swarm_id if swarm_id is None and parent is not None else swarm_id
            if parent is None:
                ground = self._ground
                context = RunContext.begin(
                    chosen,
                    routine_id,
                    ground.hybrid,
                    inputs,
                    limits=ground.limits,
                    keys=ground.keys.known,
                    transformations=ground.terms.transformations,
                )
                set_secrets(context, secrets)
                return await self._admitted(context, swarm_id=swarm, critical=critical, on_conflict=strategy)
            context = parent.context.create_child(inputs, routine_id=routine_id, run_id=chosen)
            try:
                set_secrets(context, secrets)
                await parent.save()  # what the child has inherited is not to be lost while the child is kept
                return await self._admitted(
                    context, swarm_id=swarm, critical=critical, on_conflict=strategy, parent=parent
                )
            except BaseException:
                parent.context.children -= 1
                raise

        return Opening(open_)

    def resume(self, run_id: str, *, force: bool = False) -> Opening:
        """Go on with a run that was paused, or whose server has died; `lost` of what it gives says what is lost.

        What its server had written and L2 or L3 had acknowledged when the resume began is in the context; what it still
        tries to write is refused as `NotOwner`.

        Args:
            force: also if its server is alive.

        Raises:
            NotFound: there is no such run.
            RunOver: it has ended.
            NotOwner: its server is alive.
            ContextCorrupt: none of its bases verifies.
            TierError: L2 or L3 cannot tell what its server has written, or cannot be written to.
        """

        async def open_() -> ActiveRun:
            return await self._resuming.resume(run_id, force=force)

        return Opening(open_)

    async def get(self, run_id: str, *, consistency: Consistency = Consistency.BOUNDED) -> RunView | None:
        """A run with its context, whoever runs it; None: there is none.

        It comes from memory if this server has read it before and it did not change.

        Raises:
            ContextCorrupt: none of its bases verifies.
            TierError: it could not be read.
        """
        return await self._contexts.view(run_id, consistency)

    async def row(self, run_id: str, *, consistency: Consistency = Consistency.BOUNDED) -> Run | None:
        """A run's row alone, without its context; None: there is none. It can be read whatever its snapshots are like.

        Raises:
            TierError: it could not be read.
        """
        return await self._ground.runs.get(run_id, consistency=consistency)

    async def list(
        self,
        *,
        swarm_id: str | None = None,
        status: str | None = None,
        routine_id: str | None = None,
        parent_run_id: str | None = None,
        orphaned: bool = False,
        after: int | None = None,
        limit: int = LIST_LIMIT,
    ) -> Sequence[ListedRun]:
        """Runs for which all of this holds, those begun last first.

        Args:
            orphaned: only those that have not ended and that no live server runs: what to resume after a crash.
            status: a `RunStatus`.
            after: the cursor of the last one known.
            limit: 1 to 1000.

        Raises:
            InvalidDocument: there is no such status.
        """
        if status is not None and status not in set(RunStatus):
            raise InvalidDocument("status", f"is one of {', '.join(RunStatus)}, not {status!r}")
        which = RunFilter(
            swarm_id=swarm_id, status=status, routine_id=routine_id, parent_run_id=parent_run_id, orphaned=orphaned
        )
        rows = await self._ground.index.list(which, after=after, limit=limit)
        return [ListedRun(name, decode(Run, row.body, what=f"run:{name}"), row.birth) for name, row in rows]

    async def history(
        self, run_id: str, *, after: str | None = None, limit: int = LISTED_MAX
    ) -> Sequence[ListedSnapshot]:
        """The snapshots of a run without what they hold, in order.

        Args:
            after: the id of the last one known.
            limit: 1 to 1000.
        """
        return await self._ground.index.snapshots(run_id, after=after, limit=limit)

    async def at(self, run_id: str, sequence: int) -> ContextState:
        """The context as of a snapshot.

        Raises:
            NotFound: there is no such run, or it has no snapshot of that number any more.
            ContextCorrupt, TierError: as `get`.
        """
        return (await self._at(run_id, sequence))[1]

    async def diff(self, run_id: str, earlier: int, later: int | None = None) -> Difference:
        """What is different between two snapshots of a run; raises as `at`.

        Args:
            later: None: as it is now.
        """
        before = await self.at(run_id, earlier)
        if later is not None:
            return difference(before, await self.at(run_id, later))
        view = await self._contexts.known(run_id)
        return difference(before, view.state)

    def fork(self, run_id: str, *, at: int | None = None, new_run_id: str | None = None) -> Opening:
        """Begin a run that goes on from where another one was; that one stays as it is. Raises as `at` and `begin`.

        Secret variables are sealed anew, for the new run.

        Args:
            at: number of a snapshot; None: as it is now.
        """

        async def open_() -> ActiveRun:
            lost = NOTHING_LOST
            if at is None:
                view = await self._contexts.known(run_id)
                run, state, lost = view.run, view.state, view.lost
            else:
                run, state = await self._at(run_id, at)
            chosen, keys = self._ground.new_id() if new_run_id is None else new_run_id, self._ground.keys
            await keys.know(key_ids(state.variables.values()))
            context = RunContext(
                chosen,
                run.routine_id,
                self._ground.hybrid,
                state=moved_state(state, run_id, chosen, keys.known),
                limits=self._ground.limits,
                keys=keys.known,
                transformations=self._ground.terms.transformations,
            )
            context.status = Run(routine_id=run.routine_id).status
            return await self._admitted(
                context, swarm_id=run.swarm_id, critical=run.critical, on_conflict=run.on_conflict, lost=lost
            )

        return Opening(open_)

    async def prune(self, run_id: str, *, keep: int = 1, limit: int = PRUNED_MAX) -> int:
        """Remove the oldest snapshots of a run, up to the base from which those that are kept go on.

        Args:
            keep: bases that stay, each with what is behind it, 1 or more.
            limit: of snapshots that are removed, 1 to 1000; call it again until it returns 0.

        Returns:
            How many were removed.

        Raises:
            NotFound: there is no such run.
            ContextCorrupt: none of its bases verifies; nothing was removed.
        """
        if keep < 1:
            raise SettingsError(f"prune keeps 1 base or more, not {keep}")
        run = await self._row(run_id)
        bases = await self._loader.bases(run_id)
        if len(bases) <= keep:
            return 0
        below = bases[keep - 1]
        restored = await self._loader.restored(run_id, run, at=below)
        if restored.base != below:  # damaged: those before it are what the run would be restored from
            return 0
        return await self._ground.index.prune(run_id, below, limit)

    async def _row(self, run_id: str) -> Run:
        run = await self._ground.runs.get(run_id, consistency=Consistency.STRONG)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run

    async def _at(self, run_id: str, sequence: int) -> tuple[Run, ContextState]:
        run = await self._row(run_id)
        for left in reversed(range(READ_MAX)):
            try:
                restored = await self._loader.restored(run_id, run, at=sequence)
                break
            except ContextCorrupt as corrupt:
                tried, run = run, await self._row(run_id)
                if left and not names_same(tried, run):
                    continue  # what the row named a moment ago was pruned since
                if corrupt.snapshots:
                    raise
                raise NotFound(
                    f"run {run_id} has no snapshot {sequence}, or no base any more to restore it from"
                ) from None
        if restored.sequence != sequence:
            raise NotFound(
                f"run {run_id} has no snapshot {sequence}, or it is damaged; the one before is {restored.sequence}"
            )
        return run, restored.state

    async def _admitted(
        self,
        context: RunContext,
        *,
        swarm_id: str | None,
        critical: bool,
        on_conflict: str | None,
        parent: ActiveRun | None = None,
        lost: Loss = NOTHING_LOST,
    ) -> ActiveRun:
        """Have L3 take the run in, with what it begins with."""
        run_id = context.run_id
        row = Run(
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
        except OutcomeUnknown:
            if not await self._is_there(run_id, run):
                raise
        return ActiveRun(self._ground, self._under_way, context, run, lost=lost)

    async def _is_there(self, run_id: str, run: Run) -> bool:
        """Whether L3 has taken in this very run, which it did not say."""
        try:
            held = await self._ground.runs.get(run_id, consistency=Consistency.STRONG)
        except HoldfastError:  # that it is not known is what the caller is told
            return False
        return held is not None and run_id not in self._under_way and beginning_of(held) == beginning_of(run)

    def _with_child(self, parent: ActiveRun) -> Callable[[Run], Run]:
        def changed(row: Run) -> Run:
            if row.epoch != parent.epoch:
                raise NotOwner(f"run {parent.id} was taken over by another server: no run can be begun below it here")
            if row.status in ENDED:
                raise RunOver(f"run {parent.id} is {row.status}: no run can be begun below it")
            self._ground.limits.check(parent.id, "children", row.children + 1)
            return msgspec.structs.replace(row, children=row.children + 1)

        return changed
