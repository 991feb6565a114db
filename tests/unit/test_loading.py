"""Contexts are restored without holding up what else the server does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fix_runs import RUN_ID, KeptRun
from holdfast.clock import SystemClock
from holdfast.documents import ContextChange, ContextVariable
from holdfast.keys import Key
from holdfast.run_context import loading
from holdfast.run_context.changes import ContextState
from holdfast.run_context.loading import SnapshotLoader
from holdfast.run_context.restoring import LOOKED_AT_BYTES, Restoring, restoring
from holdfast.testing import MemoryRuns, MemoryStorage

DELTAS, BYTES = 60, 20_000


def without_turns(*arguments: Any, **options: Any) -> Restoring:
    """Mutant: goes on with the next snapshot at once."""
    walk = restoring(*arguments, **options)
    asked = next(walk)
    try:
        while True:
            asked = walk.send({} if not asked else (yield asked))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


@pytest.mark.parametrize("mutant", [False, True], ids=["as it is", "mutant: without turns"])
@pytest.mark.parametrize("lost", [0, DELTAS - 1])
async def test_others_have_their_turn_between_snapshots(
    monkeypatch: pytest.MonkeyPatch, lost: int, *, mutant: bool
) -> None:
    """Be it that they are applied, or looked into for what is lost."""
    if mutant:
        monkeypatch.setattr(loading, "restoring", without_turns)
    kept, l3 = KeptRun(ContextState()), MemoryStorage()
    for number in range(1, DELTAS + 1):
        variable = ContextVariable(key="v", value=f"{number}" + "x" * BYTES)
        kept.decide(ContextChange(variables={"v": variable}, snapshot=True))
    for place, (name, row) in enumerate(kept.rows.items()):
        await l3.raw_put(Key("run_snapshot", name), b"{}" if lost and place == DELTAS - lost else row)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    restored = await SnapshotLoader(l3, MemoryRuns(l3, SystemClock())).restored(RUN_ID, kept.run)
    task.cancel()
    assert restored.lost.snapshots == (lost and lost + 1)
    assert (turns > DELTAS * BYTES / LOOKED_AT_BYTES / 2) is not mutant
