"""Runs, with a mechanism of their resuming and keeping switched off."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from holdfast import Durability
from holdfast.documents import Run
from holdfast.run_context import contexts
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.admission import Admission
from holdfast.run_context.basing import BaseWriter
from holdfast.run_context.changes import ContextState
from holdfast.run_context.context import RunContext
from holdfast.run_context.restoring import Restored
from holdfast.run_context.resuming import Resuming
from simulation.mutants.registry import mutant


@mutant("S3")
def two_owners_under_one_epoch(patch: pytest.MonkeyPatch) -> None:
    """Whoever takes a run over lets its epoch be."""
    replace = msgspec.structs.replace

    class Structs:
        @staticmethod
        def replace(struct: Any, **changes: Any) -> Any:
            changes.pop("epoch", None)
            return replace(struct, **changes)

    class Patched:
        structs = Structs

    patch.setattr("holdfast.run_context.resuming.msgspec", Patched)


@mutant("S3")
def restored_before_it_was_taken(patch: pytest.MonkeyPatch) -> None:
    """What an owner that lives has committed until its run is taken over is not in the context."""

    async def restored_now(_: Resuming, __: str, ___: Run, ____: Run, restored: Restored) -> Restored:
        return restored

    patch.setattr(Resuming, "_restored_now", restored_now)


@mutant("runs")
def contexts_are_kept(patch: pytest.MonkeyPatch) -> None:
    """A context that was read once is kept whatever snapshots come."""
    patch.setattr(contexts, "_newest", lambda _: None)


@mutant("runs")
def bases_of_other_moments(patch: pytest.MonkeyPatch) -> None:
    """A base holds what the context is when its snapshot is known, not when that was made."""
    healthy = BaseWriter.note

    def note(self: BaseWriter, run: Run, state: ContextState | None) -> None:
        before, held[self] = held.get(self, state), state
        healthy(self, run, before)

    held: dict[BaseWriter, ContextState | None] = {}
    patch.setattr(BaseWriter, "is_near", lambda _: True)
    patch.setattr(BaseWriter, "note", note)


@mutant("runs")
def children_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """The row of the parent is not changed by a child."""
    patch.setattr(Admission, "_with_child", lambda *_: lambda row: row)


@mutant("runs")
def children_share(patch: pytest.MonkeyPatch) -> None:
    """A child's context writes into its parent's variables."""
    healthy = RunContext.create_child

    def create_child(self: RunContext, *words: Any, **named: Any) -> RunContext:
        child = healthy(self, *words, **named)
        child._draft.variables = self._draft.variables
        return child

    patch.setattr(RunContext, "create_child", create_child)


@mutant("runs")
def checkpoints_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint is acknowledged when it is accepted."""
    healthy = ActiveRun._save

    async def checkpoint(self: ActiveRun) -> int:
        await healthy(self, Durability.ACCEPTED)
        return 0

    patch.setattr(ActiveRun, "_checkpoint", checkpoint)
