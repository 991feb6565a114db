"""Writes bases of a run in the background: they only make it shorter to restore, so nobody waits, and one may fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec

from holdfast.documents import Run
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.entry import Durability
from holdfast.errors import AppendOnly, HoldfastError
from holdfast.run_context.changes import ContextState
from holdfast.run_context.ground import Ground
from holdfast.run_context.loading import SnapshotLoader
from holdfast.run_context.snapshots import base_is_due, base_of, id_of, size_of
from holdfast.write_behind.operations import Increment, Set

logger = logging.getLogger("holdfast")


class BaseWriter:
    """Of one run; one base at a time.

    Args:
        run: its row.
    """

    def __init__(self, ground: Ground, run_id: str, run: Run) -> None:
        self._ground = ground
        self._run_id = run_id
        self._run = run
        self._loader = SnapshotLoader(ground.l3, ground.index, ground.faults)
        self._tried = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def _is_idle(self) -> bool:
        return self._task is None or self._task.done()

    def is_near(self) -> bool:
        """Whether the next snapshot may be one to write a base behind."""
        return self._is_idle and base_is_due(self._run, self._ground.deltas_per_base - 1)

    def note(self, run: Run, state: ContextState | None) -> None:
        """A snapshot was made.

        Args:
            run: the row.
            state: of the context as of that snapshot; None: it was not kept.
        """
        self._run = run
        if state is not None and not run.changes and base_is_due(run, self._ground.deltas_per_base):
            self._begin(self._write(run, state))

    def look(self) -> None:
        """Changes were kept that no checkpoint asked for; they become snapshots when they are many.

        What the context was at the newest of those nobody has kept: it is restored for a base.
        """
        run = self._ground.runs.peek(self._run_id)
        if run is None or not self._is_idle or run.epoch != self._run.epoch or run.sequence <= self._tried:
            return
        if base_is_due(run, self._ground.deltas_per_base):
            self._tried = run.sequence
            self._begin(self._write_restored(msgspec.structs.replace(run, changes=EMPTY_LIST)))

    def _begin(self, write: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(write)

    async def _write_restored(self, run: Run) -> None:
        try:
            restored = await self._loader.restored(self._run_id, run)
        except HoldfastError as fault:
            logger.warning("run %s: a base was not written: %s", self._run_id, fault)
            return
        if restored.lost:
            logger.error("run %s: snapshots are damaged: %s", self._run_id, ", ".join(restored.damaged))
        else:
            await self._write(run, restored.state)

    async def stop(self) -> None:
        """Give up what is under way; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _write(self, run: Run, state: ContextState) -> None:
        base = base_of(self._run_id, run, state, sequence=run.sequence, previous=run.newest)
        try:
            await self._ground.snapshots.put(id_of(base), base)
        except AppendOnly:
            pass  # it is there, of an attempt that was not heard of
        except HoldfastError as fault:
            logger.warning("run %s: a base was not written, the next checkpoint tries again: %s", self._run_id, fault)
            return
        operations = (
            Set("base", run.sequence),
            Set("base_bytes", size_of(base)),
            Increment("delta_bytes", by=-run.delta_bytes),
        )
        try:
            await self._ground.runs.accept(
                self._ground.runs.key(self._run_id), operations, None, Durability.ACCEPTED, run.epoch
            )
        except HoldfastError as fault:
            logger.warning("run %s: its base %d is there and not known of: %s", self._run_id, run.sequence, fault)
