"""Runs that nobody was given, since their caller was cancelled or L3 did not answer: as children they hold back none.

Servers are in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

from fix_run_servers import RUN, Hall, hall
from holdfast.errors import OutcomeUnknown, TierError, TierUnavailable
from holdfast.run_context import opening
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.child_merging import Merge
from holdfast.run_context.opening import Leaving
from holdfast.transactions import Transactions

LOST = "lost"


class Slow:
    """L3 takes a child in, and is slow to say so.

    Attributes:
        answers: set, it says so.
    """

    def __init__(self, at: Hall, patch: pytest.MonkeyPatch) -> None:
        self.answers = asyncio.Event()
        self._at = at
        self._is_there = asyncio.Event()
        transact = Transactions.transact

        async def slowly(*words: Any) -> Any:
            done = await transact(*words)
            self._is_there.set()
            await self.answers.wait()
            return done

        self._patch, self._slowly = patch, slowly

    async def begin_and_cancel(self, parent: ActiveRun, *, times: int = 1) -> asyncio.Task[ActiveRun]:
        """Begin it below `parent`, and cancel the caller as often, as soon as L3 has it."""

        async def begin() -> ActiveRun:
            run: ActiveRun = await self._at.a.begin("look", parent=parent, run_id=LOST)
            return run

        with self._patch.context() as patch:
            patch.setattr(Transactions, "transact", self._slowly)
            task = asyncio.create_task(begin())
            await self._is_there.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return task

    async def is_cancelled(self) -> bool:
        """Whether L3 knows that it was given up."""
        return self._at.row(LOST).status == "cancelled"


async def merged_with_another(at: Hall, parent: ActiveRun) -> Merge:
    """What the parent merges when one more child has completed."""
    async with at.a.begin("look", parent=parent, run_id="second") as child:
        child.context["x"] = 1
        child.context.mark_for_export("x", "parent_context")
    return await parent.merge_children()


async def left_though(at: Hall, patch: pytest.MonkeyPatch, *, times: int, seconds: float) -> Merge:
    """What a run merges behind a child whose caller was cancelled so often, or waited so long, before L3 answered."""
    patch.setattr(opening, "RELEASE_SECONDS", seconds)
    parent = await at.a.begin("search", run_id=RUN)
    slow = Slow(at, patch)
    task = await slow.begin_and_cancel(parent, times=times)
    with pytest.raises(asyncio.CancelledError):
        await task
    slow.answers.set()
    if left := {*at.servers["a"].run_flows._leaving._tasks}:
        await asyncio.wait(left)
    return await merged_with_another(at, parent)


@pytest.mark.parametrize(("times", "seconds"), [(1, 0.01), (2, 30.0)], ids=["slow", "twice"])
async def test_a_child_is_left_however_late_l3_answers(
    monkeypatch: pytest.MonkeyPatch, times: int, seconds: float
) -> None:
    """Its caller waits for a while, or is cancelled again; it is cancelled all the same."""
    async with hall("a") as at:
        merge = await left_though(at, monkeypatch, times=times, seconds=seconds)
        assert ([each.id for each in merge.children], merge.waits_for) == ([LOST, "second"], None)


@pytest.mark.parametrize(("times", "seconds"), [(1, 0.01), (2, 30.0)], ids=["slow", "twice"])
async def test_mutant_the_caller_leaves_it(monkeypatch: pytest.MonkeyPatch, times: int, seconds: float) -> None:
    """Then it is left no longer than the caller waits."""

    async def finish(_: Leaving, work: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(work, opening.RELEASE_SECONDS)

    monkeypatch.setattr(Leaving, "finish", finish)
    async with hall("a") as at:
        assert (await left_though(at, monkeypatch, times=times, seconds=seconds)).waits_for == LOST


async def test_the_end_of_a_server_waits_for_runs_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that L3 hears of them."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        slow = Slow(at, monkeypatch)
        await asyncio.wait([await slow.begin_and_cancel(parent, times=2)])
        asyncio.get_running_loop().call_later(0.05, slow.answers.set)
        await at.servers["a"].run_flows.stop()
        assert await slow.is_cancelled()


async def test_the_end_of_a_server_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not left by then is the run of a dead server, and found as an orphan."""
    monkeypatch.setattr(opening, "RELEASE_SECONDS", 0.01)
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        slow = Slow(at, monkeypatch)
        await asyncio.wait([await slow.begin_and_cancel(parent)])
        await at.servers["a"].run_flows.stop()
        await at.servers["a"].run_flows.stop()
        assert at.servers["a"].run_flows._leaving._tasks == set()
        assert at.row(LOST).status == "running"


async def test_a_child_that_cannot_be_left_is_left_by_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """When that merges, as often as it takes."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        slow = Slow(at, monkeypatch)
        slow.answers.set()
        with monkeypatch.context() as patch:
            cannot_cancel(patch)
            await asyncio.wait([await slow.begin_and_cancel(parent)])
            with pytest.raises(TierUnavailable):
                await parent.merge_children()
        assert at.row(LOST).status == "running"
        assert (await merged_with_another(at, parent)).waits_for is None
        assert await slow.is_cancelled()


def cannot_cancel(patch: pytest.MonkeyPatch) -> None:
    """No tier is there to be told that a run is cancelled."""

    async def cancel(_: ActiveRun) -> None:
        raise TierUnavailable("no tier is there")

    patch.setattr(ActiveRun, "cancel", cancel)


async def begin_in_doubt(at: Hall, parent: ActiveRun | None, patch: pytest.MonkeyPatch, *, is_there: bool) -> str:
    """Begin a child of which L3 does not say whether it is there; the error in words."""
    transact = Transactions.transact

    async def lost(*words: Any) -> Any:
        if is_there:
            await transact(*words)
        at.l3.away = True
        raise OutcomeUnknown("the connection was lost")

    with patch.context() as broken:
        broken.setattr(Transactions, "transact", lost)
        with pytest.raises(OutcomeUnknown) as told:
            await at.a.begin("look", parent=parent, run_id=LOST)
    at.l3.away = False
    return str(told.value)


async def test_a_child_in_doubt_holds_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent looks for it when it merges, and cancels it."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        told = await begin_in_doubt(at, parent, monkeypatch, is_there=True)
        assert told == f"whether run {LOST} was begun is not known: the connection was lost"
        merge = await merged_with_another(at, parent)
        assert [(each.id, each.status) for each in merge.children] == [(LOST, "cancelled"), ("second", "completed")]
        assert parent.in_doubt._doubts == set()


async def test_mutant_a_child_in_doubt_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it holds back those behind it for as long as this server lives."""
    monkeypatch.setattr("holdfast.run_context.in_doubt.InDoubt.note", lambda *_: None)
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        await begin_in_doubt(at, parent, monkeypatch, is_there=True)
        assert (await merged_with_another(at, parent)).waits_for == LOST


async def test_a_run_in_doubt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it is below none: this server may resume it, if it is there."""
    async with hall("a") as at:
        assert LOST in await begin_in_doubt(at, None, monkeypatch, is_there=True)
        run = await at.a.resume(LOST)
        await run.complete()


async def test_a_child_in_doubt_may_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is not there the parent asks again at each merge."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        await begin_in_doubt(at, parent, monkeypatch, is_there=True)
        rows = at.l3.log.rows
        (key,) = [key for key in rows if key.id == LOST]
        row = rows.pop(key)
        assert (await merged_with_another(at, parent)).waits_for is None
        rows[key] = row
        await parent.merge_children()
        assert at.row(LOST).status == "cancelled"


async def test_a_child_in_doubt_that_somebody_goes_on_with_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds back those behind it, as any child."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        await begin_in_doubt(at, parent, monkeypatch, is_there=True)
        child = await at.a.resume(LOST)
        assert (await merged_with_another(at, parent)).waits_for == LOST
        await child.complete()
        assert (await parent.merge_children()).waits_for is None
        assert at.row(LOST).status == "completed"


async def test_another_child_of_its_id_is_none_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was begun after the one that never came."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        await begin_in_doubt(at, parent, monkeypatch, is_there=False)
        child = await at.a.begin("look", parent=parent, run_id=LOST)
        assert (await merged_with_another(at, parent)).waits_for == LOST
        await child.complete()


@pytest.mark.parametrize("is_known", [False, True], ids=["nothing is known", "it cannot be cancelled"])
async def test_a_doubt_lasts_until_l3_answers(monkeypatch: pytest.MonkeyPatch, *, is_known: bool) -> None:
    """A merge that cannot settle it fails, and the next one tries again."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        await begin_in_doubt(at, parent, monkeypatch, is_there=True)
        for _ in range(2):
            at.l3.away = not is_known
            with monkeypatch.context() as patch:
                cannot_cancel(patch)
                with pytest.raises(TierError):
                    await parent.merge_children()
            at.l3.away = False
        assert (await merged_with_another(at, parent)).waits_for is None
        assert at.row(LOST).status == "cancelled"
