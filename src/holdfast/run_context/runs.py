"""Runs, from their beginning to their end: ``state.runs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from holdfast.audit.log import AuditLog
from holdfast.documents import Run, RunStatus
from holdfast.documents.frozen import EMPTY_DICT
from holdfast.entry import Consistency
from holdfast.errors import (
    ContextCorrupt,
    InvalidDocument,
    NotFound,
    SettingsError,
)
from holdfast.kinds import RUN
from holdfast.protocols import ListedSnapshot, Row, RunFilter
from holdfast.protocols.runs import LISTED_MAX, PRUNED_MAX
from holdfast.row_decoding import Page, page_of
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.admission import Admission, Wanted, leave_below
from holdfast.run_context.changes import ContextState
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.run_context.contexts import READ_MAX, Contexts, RunView
from holdfast.run_context.differences import Difference, difference
from holdfast.run_context.ground import Ground
from holdfast.run_context.loading import SnapshotLoader, names_same
from holdfast.run_context.opening import Leaving, Opening
from holdfast.run_context.rescuing import Rescuing
from holdfast.run_context.restoring import NOTHING_LOST
from holdfast.run_context.resuming import Resuming
from holdfast.run_context.revealing import Revealing
from holdfast.run_context.under_way import UnderWay

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

    Args:
        leaving: leaves runs whose callers are gone.

    Attributes:
        reveal: shows the value of a variable, also of a secret one, and records it; see `Revealing.reveal`.
        rescue: what can be done about a run whose context cannot be restored; for recovery.
    """

    def __init__(self, ground: Ground, audit: AuditLog, leaving: Leaving) -> None:
        self._ground = ground
        self._leaving = leaving
        self._loader = SnapshotLoader(ground.l3, ground.index, ground.faults)
        self._contexts = Contexts(ground, self._loader)
        self._under_way = under_way = UnderWay()
        self._resuming = Resuming(ground, self._loader, under_way)
        self._admission = Admission(ground, under_way)
        self.rescue = Rescuing(ground, SnapshotLoader(ground.l3, ground.index), under_way)
        self.reveal = Revealing(ground, self._contexts, audit).reveal

    def changed(self, run_id: str) -> None:
        """The feed tells that the row of a run was changed; empty: that any may be. Neither awaits nor raises."""
        self._under_way.changed(run_id)

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
        after a crash. At the block's end it is completed; see `Opening`. If this call is cancelled and L3 takes the run
        in, it is let go of, and one below another is cancelled. So is one below another, when that merges, if L3 did
        not say whether it took it in.

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
            TierError: L3 did not take it; `OutcomeUnknown`, which names the run: or it did.
            TypeError: the parent is no `ActiveRun`.
        """
        strategy = None if on_conflict is None else ConflictStrategy(on_conflict).value
        wanted = Wanted(routine_id, inputs, secrets, swarm_id, run_id, critical=critical, on_conflict=strategy)

        async def open_() -> ActiveRun:
            return await self._admission.begin(wanted, parent)

        leave = ActiveRun.release if parent is None else partial(leave_below, parent)
        return Opening(open_, self._leaving, leave=leave)

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

        return Opening(open_, self._leaving)

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
    ) -> Page[ListedRun]:
        """Runs for which all of this holds, those begun last first.

        One whose row cannot be read hides no other: `unreadable` names it.

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

        async def rows(after: int | None) -> Sequence[tuple[str, Row]]:
            return await self._ground.index.list(which, after=after, limit=limit)

        def listed(name: str, run: Run, row: Row) -> ListedRun:
            return ListedRun(name, run, row.birth)

        return await page_of(RUN.name, after, rows, listed, self._ground.stored)

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
            return await self._admission.fork(run_id, run, state, new_run_id=new_run_id, lost=lost)

        return Opening(open_, self._leaving)

    def rebuild(self, run_id: str, *, new_run_id: str | None = None) -> Opening:
        """Begin a run with all that verifies of the context of another one, past what does not; that one stays.

        It is for a run whose context cannot be restored; of others it is what `fork` gives. What its owner has written
        is decided first. `lost` of what it gives says what is missing: it may be a state that the run never had, and
        without a base that verifies it has no inputs.

        Raises:
            ContextCorrupt: nothing of it verifies.
            NotFound, TierError: as `resume`; and as `begin`.
        """

        async def open_() -> ActiveRun:
            run, rebuilt = await self.rescue.rebuilt(run_id)
            return await self._admission.fork(run_id, run, rebuilt.state, new_run_id=new_run_id, lost=rebuilt.lost)

        return Opening(open_, self._leaving)

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
