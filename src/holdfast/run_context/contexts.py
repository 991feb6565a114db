"""Contexts of runs as any server reads them: rows through the caches; what their snapshots hold is kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from holdfast.documents import Run, SnapshotSummary
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.entry import Consistency
from holdfast.errors import ContextCorrupt, NotFound
from holdfast.protocols import Source
from holdfast.run_context.changes import ContextState, Draft
from holdfast.run_context.ground import Ground
from holdfast.run_context.loading import SnapshotLoader, names_same
from holdfast.run_context.restoring import NOTHING_LOST, Loss

CONTEXTS_MAX: Final = 500
"""Kept in memory; those read longest ago make room."""
READ_MAX: Final = 8
"""A run may be pruned so often while it is read."""
FOLLOWED_MAX: Final = 100
"""Snapshots that are read behind what is known; for more there may be a base."""


class RunView(NamedTuple):
    """A run as it was read.

    Attributes:
        run: its row.
        state: its context: inputs, variables, intermediate results, exports, steps.
        lost: what damaged snapshots have taken from it; false: nothing.
    """

    id: str
    run: Run
    state: ContextState
    lost: Loss


class _Held(NamedTuple):
    view: RunView
    below: ContextState
    """What the snapshots hold, without what is in the row."""


class Contexts:
    """Reads them; one per server."""

    def __init__(self, ground: Ground, loader: SnapshotLoader) -> None:
        self._ground = ground
        self._loader = loader
        self._held: OrderedDict[str, _Held] = OrderedDict()

    async def known(self, run_id: str) -> RunView:
        """A run that there is, as it is in L3 now. Raises as `view`, and NotFound if there is none."""
        view = await self.view(run_id, Consistency.STRONG)
        if view is None:
            raise NotFound(f"there is no run {run_id}")
        return view

    async def view(self, run_id: str, consistency: Consistency = Consistency.BOUNDED) -> RunView | None:
        """A run with its context; None: there is no such run.

        A run whose row L1 holds, and that did not change, is answered from memory.

        Raises:
            ContextCorrupt: no base of it verifies.
            TierError: it could not be read.
        """
        run = await self._ground.runs.get(run_id, consistency=consistency)
        for left in reversed(range(READ_MAX)):
            if run is None:
                break
            held = self._held.get(run_id)
            if held is not None and held.view.run is run:
                self._held.move_to_end(run_id)
                return held.view
            try:
                return self._kept(await self._read(run_id, run, held))
            except ContextCorrupt as fault:
                # A row of a moment ago may name snapshots that were pruned since.
                tried, run = run, await self._ground.runs.get(run_id, consistency=Consistency.STRONG)
                if run is not None and (not left or names_same(tried, run)):
                    self._ground.faults.report(
                        fault, Source.L3, key=self._ground.runs.key(run_id), run_id=run_id, swarm_id=run.swarm_id
                    )
                    raise
        self._held.pop(run_id, None)
        return None

    def _kept(self, held: _Held) -> RunView:
        self._held[held.view.id] = held
        self._held.move_to_end(held.view.id)
        if len(self._held) > CONTEXTS_MAX:
            self._held.popitem(last=False)
        return held.view

    async def _read(self, run_id: str, run: Run, held: _Held | None) -> _Held:
        bare = msgspec.structs.replace(run, changes=EMPTY_LIST)
        below = None if held is None else await self._followed(run_id, bare, held)
        if below is None:
            restored = await self._loader.restored(run_id, bare)
            if restored.lost:  # what the row has in it builds on what is lost
                restored = await self._loader.restored(run_id, run)
                return _Held(RunView(run_id, run, restored.state, restored.lost), restored.state)
            below = restored.state
        draft = Draft(below)
        for change in run.changes:
            draft.apply(change)
        draft.status = run.status
        return _Held(RunView(run_id, run, draft.state(), NOTHING_LOST), below)

    async def _followed(self, run_id: str, run: Run, held: _Held) -> ContextState | None:
        """What snapshots hold now, from what they held; None: that does not lead there."""
        before = held.view.run.newest
        if held.view.lost or before is None:
            return None
        if _newest(held.view.run) == _newest(run):
            return held.below
        if not 0 < run.sequence - before.sequence <= FOLLOWED_MAX:
            return None
        followed = await self._loader.followed(run_id, run, held.below, before)
        return None if followed.lost else followed.state


def _newest(run: Run) -> tuple[int, str] | None:
    """What tells which snapshots a run has; a number alone may come again, after a restore of L3."""
    newest: SnapshotSummary | None = run.newest
    return None if newest is None else (newest.sequence, newest.sha256)
