"""Exports and merges, with a mechanism switched off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from holdfast.documents import ContextVariable, Run, decode
from holdfast.kinds import EXPORT
from holdfast.protocols import Row
from holdfast.protocols.runs import ENDED
from holdfast.run_context import child_merging
from holdfast.run_context.child_merging import ChildMerging
from holdfast.run_context.context import RunContext
from holdfast.run_context.ending import Ending
from holdfast.run_context.merging import Comparison, Strategies
from simulation.mutants.registry import mutant


@mutant("exports")
def merged_by_arrival(patch: pytest.MonkeyPatch) -> None:
    """A child that has not ended holds nobody back: it is skipped, and the last to end is the last to be merged."""
    healthy = ChildMerging._unmerged

    async def unmerged(self: ChildMerging) -> AsyncIterator[tuple[str, Row]]:
        async for name, row in healthy(self):
            if decode(Run, row.body).status in ENDED:
                yield name, row

    patch.setattr(ChildMerging, "_unmerged", unmerged)


@mutant("exports")
def merges_are_not_recorded(patch: pytest.MonkeyPatch) -> None:
    """The variables are kept; that they were taken over only in memory."""
    healthy = RunContext.take_changes

    def take_changes(self: RunContext, *, snapshot: bool = False) -> Any:
        change = healthy(self, snapshot=snapshot)
        return None if change is None else msgspec.structs.replace(change, merged=None)

    patch.setattr(RunContext, "take_changes", take_changes)


@mutant("exports")
def ancestors_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """What a parent has written since counts as what the child began from."""

    def compared(
        exported: Mapping[str, ContextVariable], _: Mapping[str, ContextVariable], __: Strategies
    ) -> Comparison:
        return Comparison(dict(exported), [])

    patch.setattr(child_merging, "compared", compared)


@mutant("exports")
def ancestors_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    """A child does not note what it had inherited, so everything is in conflict."""
    patch.setattr("holdfast.run_context.variables.ancestor_of", lambda _: None)


@mutant("exports")
def left_before_the_end(patch: pytest.MonkeyPatch) -> None:
    """What leaves a run does so in a transaction of its own."""
    healthy = Ending.complete

    async def complete(self: Ending, change: Any, leaving: Any, at: Any) -> Run:
        async def leave(transaction: Any) -> None:
            await transaction.collection(EXPORT).put_many(leaving.values)

        await self._ground.transactions.transact(leave)
        return await healthy(self, change, leaving, at)

    patch.setattr(Ending, "complete", complete)
