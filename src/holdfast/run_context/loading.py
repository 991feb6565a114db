"""Restoring contexts from their snapshots in L3, past those that are damaged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

from holdfast.documents import Run, SnapshotSummary
from holdfast.errors import ContextCorrupt, CorruptDocument
from holdfast.keys import Key
from holdfast.kinds import RUN_SNAPSHOT
from holdfast.protocols import FaultSink, RunIndex, Source, Storage
from holdfast.protocols.runs import LISTED_MAX
from holdfast.run_context.changes import ContextState
from holdfast.run_context.rebuilding import Rebuilt, rebuilding
from holdfast.run_context.restoring import Restored, Spoilt, following, restoring

Walked = TypeVar("Walked")


class SnapshotLoader:
    """Reads snapshots as they are in L3: caches hold decoded ones, and a checksum is of what was stored.

    Args:
        faults: is told of each that is damaged; None: recovery looks, which was told.
    """

    def __init__(self, l3: Storage, index: RunIndex, faults: FaultSink | None = None) -> None:
        self._l3 = l3
        self._index = index
        self._faults = faults

    async def restored(self, run_id: str, run: Run, *, at: int | None = None) -> Restored:
        """The context of a run.

        Args:
            at: as of this snapshot, without what the row has in it; None: as it is now.

        Raises:
            ContextCorrupt: no base verifies.
            SchemaTooNew: a newer version of this program has written a snapshot.
            TierError: L3 cannot tell.
        """
        spoilt = self._reports(run_id, run)
        if at is None:
            try:  # as a rule the newest base that the row knows is good, and so is what is behind it
                restored = await self._walked(restoring(run_id, run, [run.base], spoilt=spoilt))
                if not restored.lost:  # else a later one, which the row has not heard of, may have what is lost
                    return restored
            except ContextCorrupt:
                pass
        return await self._walked(restoring(run_id, run, await self.bases(run_id), spoilt=spoilt, at=at))

    async def followed(self, run_id: str, run: Run, state: ContextState, newest: SnapshotSummary) -> Restored:
        """What has become of a context that was restored before; see `following`. Raises as `restored`."""
        return await self._walked(following(run_id, run, state, newest, spoilt=self._reports(run_id, run)))

    async def rebuilt(self, run_id: str, run: Run, enough: Callable[[int], bool] = lambda _: False) -> Rebuilt:
        """What can be put together past what is damaged; see `rebuilding`. Raises as `restored`, but ContextCorrupt."""
        bases = await self.bases(run_id)
        return await self._walked(rebuilding(run_id, run, bases, spoilt=self._reports(run_id, run), enough=enough))

    async def bases(self, run_id: str) -> list[int]:
        """The numbers of all bases of a run, the highest first."""
        bases: list[int] = []
        while page := await self._index.bases(run_id, below=bases[-1] if bases else None, limit=LISTED_MAX):
            bases += page
        return bases

    def _reports(self, run_id: str, run: Run) -> Spoilt:
        """Has each damaged snapshot of a run reported, with its bytes: an older base may verify, and hide it."""

        def report(identifier: str, body: bytes) -> None:
            key = Key(RUN_SNAPSHOT.name, identifier)
            fault = CorruptDocument(f"{key} is not what was stored")
            if self._faults is not None:
                self._faults.report(fault, Source.L3, key=key, run_id=run_id, swarm_id=run.swarm_id, evidence=body)

        return report

    async def _walked(self, walk: Generator[tuple[str, ...], Mapping[str, bytes], Walked]) -> Walked:
        found: dict[str, bytes] | None = None
        while True:
            try:
                wanted = next(walk) if found is None else walk.send(found)
            except StopIteration as end:
                walked: Walked = end.value
                return walked
            if wanted:
                found = await self._found(wanted)
            else:  # a context of many variables takes a second in all
                found = {}
                await asyncio.sleep(0)

    async def _found(self, identifiers: Sequence[str]) -> dict[str, bytes]:
        keys = [Key(RUN_SNAPSHOT.name, identifier) for identifier in identifiers]
        loaded = await self._l3.load(keys)
        return {key.id: row.body for key, row in loaded.rows.items()}


def names_same(run: Run, later: Run) -> bool:
    """Whether what one row leads to is what the other does; if not, snapshots of the one may have been pruned since."""
    return (run.newest, run.base) == (later.newest, later.base)
