"""A run from its begin to its end on one server: what of it is kept, when, and what a fault leaves."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_run_servers import HASTY, RUN, Hall, hall, values
from holdfast import Conflict, Durability, Refused
from holdfast.documents import RunStatus, StepStatus
from holdfast.errors import HoldfastError, LimitExceeded, NotOwner, RunOver, TierError, TierUnavailable, Undecided
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.opening import Opening

ACCEPTED, JOURNALED, COMMITTED = Durability.ACCEPTED, Durability.JOURNALED, Durability.COMMITTED


async def test_a_run_from_its_begin_to_its_end() -> None:
    """Admission is in L3 before the block; what steps write is kept; its end is in L3 when the block is left."""
    async with hall("a") as at:
        async with at.a.begin("search", {"topic": "ants"}, swarm_id="s1", run_id=RUN) as run:
            row = at.row()
            assert (row.status, row.owner, row.epoch, row.swarm_id, row.sequence) == ("running", "a", 1, "s1", 0)
            assert row.journal == at.servers["a"].write_behind.lives.journal
            assert at.snapshots() == ["00000000.base"]
            async with run.step("look") as step:
                run.context["found"] = 3
                step.result = {"pages": 3}
            assert values(await at.a.get(RUN)) == {"found": 3}
            assert await run.checkpoint() == 1
            assert at.snapshots() == ["00000000.base", "00000001"]
            run.context["found"] = 4
        row = at.row()
        assert (row.status, row.sequence, row.changes) == ("completed", 2, [])
        assert row.ended_at is not None
        view = await at.a.get(RUN)
        assert view is not None
        assert values(view) == {"found": 4}
        assert view.state.inputs == {"topic": "ants"}
        assert view.state.status == "completed"
        record = view.state.steps["look"]
        assert (record.status, record.result) == (StepStatus.COMPLETED, {"pages": 3})


async def test_an_id_is_begun_once() -> None:
    """The second is told of the conflict, and changes nothing."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        with pytest.raises(Conflict):
            await at.a.begin("other", run_id=RUN)
        assert at.row().routine_id == "search"
        await run.complete()


async def test_steps_of_a_critical_run_are_snapshots() -> None:
    """Of the others they are not."""
    async with hall("a") as at:
        for run_id, critical in (("r1", True), ("r2", False)):
            run = await at.a.begin("search", run_id=run_id, critical=critical)
            async with run.step("look"):
                pass
        assert at.snapshots("r1") == ["00000000.base", "00000001"]
        assert at.snapshots("r2") == ["00000000.base"]


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_save_reaches_what_is_asked(durability: Durability) -> None:
    """And one that has nothing to write answers for what was written before."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        assert await run.save(durability) is None
        run.context["x"] = 1
        receipt = await run.save(durability)
        assert receipt is not None
        assert receipt.durability.covers(durability)
        assert len(at.row().changes) == (durability is COMMITTED)
        await run.save(COMMITTED)
        assert receipt.durability is COMMITTED
        assert len(at.row().changes) == 1
        assert await run.save(COMMITTED) is None


async def test_mutant_nothing_to_write_is_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then `save(COMMITTED)` returns while what was saved before is in this process only."""

    async def raised(*_: Any) -> None:
        return None

    monkeypatch.setattr(ActiveRun, "_raised", raised)
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        await run.save(ACCEPTED)
        await run.save(COMMITTED)
        assert at.row().changes == []


ENDS = [
    ("complete", (), "completed", True),
    ("fail", ("it broke",), "failed", True),
    ("cancel", (), "cancelled", True),
    ("pause", (), "paused", False),
    ("release", (), "running", False),
]


@pytest.mark.parametrize(("name", "words", "status", "has_ended"), ENDS)
async def test_ends(name: str, words: tuple[str, ...], status: str, *, has_ended: bool) -> None:
    """Each keeps what changed; afterwards nothing is written any more, nor is it ended twice."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        await getattr(run, name)(*words)
        row = at.row()
        assert (row.status, row.ended_at is not None, row.owner is None) == (status, has_ended, not has_ended)
        assert row.error == (words[0] if words else None)
        assert values(await at.a.get(RUN)) == {"x": 1}
        before = at.row()
        for call in (run.save, run.checkpoint, run.complete, run.pause, run.cancel, run.release):
            with pytest.raises(RunOver, match="nothing more can be written"):
                await call()
        with pytest.raises(RunOver):
            await run.fail("again")
        with pytest.raises(RunOver):
            async with run.step("late"):
                pass
        assert at.row() == before
        assert run.context.status == status


async def test_a_block_that_ends_or_pauses_its_run_leaves_it_so() -> None:
    """Leaving it does nothing more."""
    async with hall("a") as at:
        for name, words, status, _ in ENDS:
            async with at.a.begin("search", run_id=name) as run:
                await getattr(run, name)(*words)
            assert at.row(name).status == status


async def test_a_fault_in_a_step_fails_the_run() -> None:
    """Step and run say why; the block raises what was raised."""
    async with hall("a") as at:
        with pytest.raises(ZeroDivisionError):
            async with at.a.begin("search", run_id=RUN) as run, run.step("divide"):
                run.context["x"] = 1 / 0
        view = await at.a.get(RUN)
        assert view is not None
        assert (view.run.status, view.run.error) == ("failed", "ZeroDivisionError: division by zero")
        assert view.state.steps["divide"].status == StepStatus.FAILED


async def raised_while_l3_is_away() -> type[BaseException] | None:
    """What a block raises whose step fails while neither L2 nor L3 takes anything."""
    async with hall("a", **HASTY) as at:
        try:
            async with at.a.begin("search", run_id=RUN, critical=True) as run, run.step("divide"):
                at.l3.away = at.hub.away = True
                run.context["x"] = 1 / 0
        except BaseException as fault:  # noqa: BLE001 - it is what is asked for
            return type(fault)
        finally:
            at.l3.away = at.hub.away = False
    return None


async def test_a_step_raises_its_own_fault_also_if_that_cannot_be_kept() -> None:
    """The tier's is logged."""
    assert await raised_while_l3_is_away() is ZeroDivisionError


async def test_mutant_the_tiers_fault_hides_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that, the caller sees that L3 was away, and not what was wrong."""

    async def keep(self: ActiveRun, step_id: str, _: Exception) -> None:
        self.context.end_step(step_id, StepStatus.FAILED)
        await self._keep_step()

    monkeypatch.setattr(ActiveRun, "_keep_failure", keep)
    assert await raised_while_l3_is_away() is not ZeroDivisionError


async def test_a_cancellation_inside_a_step_lets_go_of_the_run() -> None:
    """It can be resumed at once, and the step says that it was cancelled."""
    async with hall("a") as at:
        inside = asyncio.Event()

        async def work() -> None:
            async with at.a.begin("search", run_id=RUN) as run, run.step("wait"):
                run.context["x"] = 1
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        row = at.row()
        assert (row.status, row.owner, row.journal) == ("running", None, None)
        assert [each.id for each in await at.a.list(orphaned=True)] == [RUN]
        run = await at.a.resume(RUN)
        assert dict(run.context) == {"x": 1}
        assert run.context.steps["wait"].status == StepStatus.CANCELLED


@pytest.mark.parametrize("call", ["save", "checkpoint", "complete", "pause", "release"])
async def test_a_cancellation_during_a_write_loses_nothing(call: str) -> None:
    """The write goes on, and is in effect once; then the run is over, or let go of."""
    async with hall("a") as at:
        gate = asyncio.Event()

        async def work() -> None:
            async with at.a.begin("search", run_id=RUN) as run:
                run.context["x"] = 1
                accept = at.servers["a"].parts.collections["run"].accept

                async def slowly(*words: Any) -> Any:
                    gate.set()
                    await asyncio.sleep(0)
                    return await accept(*words)

                at.servers["a"].parts.collections["run"].accept = slowly  # type: ignore[method-assign, assignment]
                await getattr(run, call)()

        task = asyncio.create_task(work())
        await gate.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await at.servers["a"].store.flush()
        row = at.row()
        assert values(await at.a.get(RUN)) == {"x": 1}
        assert row.status == {"complete": "completed", "pause": "paused"}.get(call, "running")
        assert (row.owner is None) == (call != "complete")
        assert sum("x" in change.variables for change in row.changes) + row.sequence == 1


@pytest.mark.parametrize("fault", [TierUnavailable("L3 is away"), RuntimeError("a fault of this package")])
async def test_what_a_cancelled_caller_is_not_told_is_told_elsewhere(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: the log has what may happen, the event loop's handler what may not. The context has what was to be kept."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        begun, fails = asyncio.Event(), asyncio.Event()

        async def fail(*_: Any) -> Any:
            begun.set()
            await fails.wait()
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(at.servers["a"].parts.collections["run"], "accept", fail)
            saving = asyncio.ensure_future(run.save())
            await begun.wait()
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving
            fails.set()

            async def is_done() -> bool:
                return not run._going_on._tasks

            await until(is_done)
        gc.collect()
        await asyncio.sleep(0)
        logged = f"run {RUN}: what its caller waited for, who was cancelled, failed: L3 is away" in caplog.text
        messages = [each["message"] for each in told]
        if isinstance(fault, TierUnavailable):
            assert (logged, messages) == (True, [])
            await run.save()
            assert values(await at.a.get(RUN)) == {"x": 1}
        else:
            assert (logged, messages) == (False, [f"holdfast: work of run {RUN} failed"])
            assert told[0]["exception"] is fault


async def cancelled_begin(at: Hall, **options: Any) -> None:
    """Begin a run whose caller is cancelled while L3 takes it in."""
    admission = at.a._admission
    admitted, committed = admission._admitted, asyncio.Event()

    async def slowly(*words: Any, **named: Any) -> Any:
        run = await admitted(*words, **named)
        committed.set()
        await asyncio.sleep(0)
        return run

    admission._admitted = slowly
    task = asyncio.create_task(_entered(at.a.begin("search", run_id=RUN, **options)))
    await committed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    admission._admitted = admitted


async def owner_after_a_cancelled_begin() -> Any:
    """Who owns a run whose caller was cancelled while L3 took it in."""
    async with hall("a") as at:
        await cancelled_begin(at)
        return at.row().owner


async def _entered(opening: Opening) -> ActiveRun:
    return await opening


async def test_a_cancelled_begin_leaves_no_run_that_nobody_runs() -> None:
    """It is let go of, so that it is found as an orphan while this server lives."""
    assert await owner_after_a_cancelled_begin() is None


async def merged_behind_a_cancelled_begin() -> Any:
    """What a run merges of two below it, the first of which nobody was given."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id="parent")
        await cancelled_begin(at, parent=parent)
        async with at.a.begin("search", run_id="second", parent=parent) as child:
            child.context["x"] = 1
            child.context.mark_for_export("x", "parent_context")
        merge = await parent.merge_children()
        return [(each.id, each.status) for each in merge.children], merge.waits_for


async def test_a_child_whose_begin_was_cancelled_holds_nobody_back() -> None:
    """It has made no step, and nobody has it: it is cancelled, and what is behind it is merged."""
    assert await merged_behind_a_cancelled_begin() == ([(RUN, "cancelled"), ("second", "completed")], None)


async def test_mutant_a_child_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then those behind it wait for somebody to resume it."""
    monkeypatch.setattr(ActiveRun, "cancel", ActiveRun.release)
    assert await merged_behind_a_cancelled_begin() == ([], RUN)


async def test_mutant_a_cancelled_begin_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be this server's, which does not know of it."""

    async def opened(self: Opening) -> ActiveRun:
        return await self._open()

    monkeypatch.setattr(Opening, "_opened", opened)
    assert await owner_after_a_cancelled_begin() == "a"


async def test_undecided_writes_are_neither_lost_nor_doubled() -> None:
    """While L3 is away a checkpoint is undecided; what it wrote is in effect once when L3 is back."""
    async with hall("a", **HASTY) as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        await at.a.get(RUN)  # the row is in L1
        at.l3.away = True
        with pytest.raises(Undecided):
            await run.checkpoint()
        run.context["y"] = 2
        await run.save(JOURNALED)
        at.l3.away = False
        assert await run.checkpoint() == 1  # all three were decided at once
        assert at.row().changes == []
        assert list((await at.a.diff(RUN, 0, 1))["variables"].added) == ["x", "y"]


async def test_what_was_not_accepted_goes_back_into_the_context() -> None:
    """A full buffer refuses it; the next save writes it, before what came since, and once."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        buffer = at.servers["a"].write_behind.buffer
        full = buffer.is_full
        buffer.is_full = lambda *_: True  # type: ignore[method-assign]
        with pytest.raises(TierError):
            await run.checkpoint()
        buffer.is_full = full  # type: ignore[method-assign]
        run.context["x"] = 2
        del run.context["x"]
        run.context["y"] = 3
        await run.save(COMMITTED)
        assert values(await at.a.get(RUN)) == {"y": 3}
        assert at.snapshots() == ["00000000.base", "00000001"]  # that it was to be a snapshot was not forgotten


async def test_mutant_what_was_not_accepted_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without putting it back the variable is in memory only."""
    monkeypatch.setattr("holdfast.run_context.context.RunContext.put_back", lambda *_: None)
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        buffer = at.servers["a"].write_behind.buffer
        full = buffer.is_full
        buffer.is_full = lambda *_: True  # type: ignore[method-assign]
        with pytest.raises(TierError):
            await run.save()
        buffer.is_full = full  # type: ignore[method-assign]
        await run.checkpoint()
        assert values(await at.a.get(RUN)) == {}


async def status_after_an_end_in_doubt() -> str:
    """Of a run whose block completes it while L3 is away, and then goes on to raise what that raised."""
    async with hall("a", **HASTY) as at:

        async def work() -> None:
            async with at.a.begin("search", run_id=RUN) as run:
                await at.a.get(RUN)  # the row is in L1
                at.l3.away = True
                await run.complete()

        with pytest.raises(Undecided):
            await work()
        at.l3.away = False
        await at.servers["a"].store.flush(5.0)
        return at.row().status


async def test_an_end_that_is_undecided_stands() -> None:
    """The block's fault does not make a failed run of one that was completed."""
    assert await status_after_an_end_in_doubt() == RunStatus.COMPLETED


async def test_mutant_an_end_that_is_undecided_is_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the run were not over then, its block would fail it."""
    healthy = ActiveRun._write_last

    async def write_last(self: ActiveRun, operations: Any, *, snapshot: bool = False) -> None:
        try:
            await healthy(self, operations, snapshot=snapshot)
        except Undecided:
            self.is_over = False
            raise

    monkeypatch.setattr(ActiveRun, "_write_last", write_last)
    assert await status_after_an_end_in_doubt() == RunStatus.FAILED


async def test_l3_away_during_each_call() -> None:
    """Nobody begins, resumes or reads anew; a save is journaled; what was undecided is in effect when L3 is back."""
    async with hall("a", **HASTY) as at:
        run = await at.a.begin("search", run_id=RUN)
        paused = await at.a.begin("search", run_id="r2")
        await paused.pause()
        await at.a.get(RUN)  # the row is in L1
        at.l3.away = True
        for opening in (at.a.begin("search"), at.a.resume("r2"), at.a.fork("r2"), at.a.begin("x", parent=run)):
            with pytest.raises(TierError):
                await opening
        for reading in (at.a.history(RUN), at.a.at(RUN, 0), at.a.list(), at.a.prune(RUN), at.a.get("r3")):
            with pytest.raises(TierError):
                await reading
        run.context["x"] = 1
        receipt = await run.save()
        assert receipt is not None
        assert receipt.durability is JOURNALED
        at.l3.away = False
        assert at.row("r2").status == "paused"
        await run.complete()
        assert values(await at.a.get(RUN)) == {"x": 1}
        assert len(await at.a.list()) == 2
        assert run.context.children == 0


async def test_l2_away_during_each_call() -> None:
    """All that need no journal go on by L3 alone; what a live server has in its journal cannot be known."""
    async with hall() as at:
        run = await at.a.begin("search", run_id=RUN)
        at.l2.away = at.hub.away = True
        run.context["x"] = 1
        receipt = await run.save()
        assert receipt is not None
        assert receipt.durability is COMMITTED
        assert await run.checkpoint() == 1
        child = await at.a.begin("search", parent=run, run_id="r2")
        assert child.context["x"] == 1
        assert values(await at.b.get(RUN)) == {"x": 1}
        at.servers["b"].handing_over._sleep = lambda _: asyncio.sleep(0)
        with pytest.raises(TierError):
            await at.b.resume(RUN, force=True)
        assert at.row().owner == "a"
        await child.pause()
        resumed = await at.b.resume("r2")
        await resumed.complete()
        await run.complete()


async def test_children_inherit_copies_and_are_counted_once() -> None:
    """Of many begun at once; the swarm is the parent's; nothing that one writes is the other's."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN, swarm_id="s1")
        parent.context["shared"] = {"list": [1]}
        children = await asyncio.gather(*(at.a.begin("part", parent=parent) for _ in range(20)))
        assert at.row().children == parent.context.children == 20
        assert {at.row(child.id).swarm_id for child in children} == {"s1"}
        assert {at.row(child.id).depth for child in children} == {1}
        children[0].context["shared"] = "mine"
        await children[0].save(COMMITTED)
        assert [child.context["shared"] for child in children[1:]] == [{"list": [1]}] * 19
        assert parent.context["shared"] == {"list": [1]}
        assert {each.id for each in await at.a.list(parent_run_id=RUN)} == {child.id for child in children}


async def test_what_a_child_inherits_is_kept_with_it() -> None:
    """The parent's change is in L3 before the child is, though the parent has not saved it."""
    async with hall("a") as at:
        parent = await at.a.begin("search", run_id=RUN)
        parent.context["x"] = 1
        child = await at.a.begin("part", parent=parent)
        assert child.context["x"] == 1
        assert [list(change.variables) for change in at.row().changes] == [["x"]]


async def test_a_child_never_has_what_its_parent_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task of the parent writes while the child is begun: what the child has of that, the parent has kept."""
    save = ActiveRun.save

    async def beside(run: ActiveRun, *words: Any) -> Any:
        receipt = await save(run, *words)
        run.context["x"] = 2
        return receipt

    monkeypatch.setattr(ActiveRun, "save", beside)
    async with hall() as at:
        parent = await at.a.begin("search", run_id=RUN)
        parent.context["x"] = 1
        child = await at.a.begin("part", parent=parent)
        await at.kill("a")
        again = await at.b.resume(RUN)
        assert child.context["x"] == again.context["x"] == 1


async def test_a_run_names_the_journal_its_server_writes_now() -> None:
    """The one before was taken over by another server: by it nobody would find that the run is run."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        runs = at.servers["a"].parts.collections["run"]
        await runs.update(RUN, lambda row: msgspec.structs.replace(row, journal="before"))
        run._journal = "before"
        run.context["x"] = 1
        await run.save(COMMITTED)
        assert at.row().journal == at.servers["a"].write_behind.lives.journal


async def test_limits_of_children() -> None:
    """At most so many, at most so deep; a begin that failed for another reason is not counted."""
    async with hall("a", run_children_max=2, run_depth_max=1) as at:
        parent = await at.a.begin("search", run_id=RUN)
        first = await at.a.begin("part", parent=parent, run_id="c1")
        for _ in range(3):
            with pytest.raises(Conflict):
                await at.a.begin("part", parent=parent, run_id="c1")
        assert at.row().children == 1
        await at.a.begin("part", parent=parent)
        with pytest.raises(LimitExceeded, match="run_children_max"):
            await at.a.begin("part", parent=parent)
        with pytest.raises(LimitExceeded, match="run_depth_max"):
            await at.a.begin("part", parent=first)
        assert at.row().children == 2


async def test_no_run_is_begun_below_one_that_is_over() -> None:
    """Here, or elsewhere: the row has the word."""
    async with hall() as at:
        parent = await at.a.begin("search", run_id=RUN)
        taker = await at.b.resume(RUN, force=True)
        with pytest.raises(NotOwner):
            await at.a.begin("part", parent=parent, run_id="c1")
        await taker.complete()
        with pytest.raises(RunOver):
            await at.b.begin("part", parent=taker)
        assert [each.id for each in await at.a.list()] == [RUN]


async def test_a_childs_not_owner_is_the_parents_fault_to_end() -> None:
    """The error of another run does not leave this one without an end."""
    async with hall() as at:
        child = await at.a.begin("part", run_id="c1")
        await at.b.resume("c1", force=True)

        async def work() -> None:
            async with at.a.begin("search", run_id=RUN):
                child.context["x"] = 1
                await child.save(COMMITTED)

        with pytest.raises(NotOwner):
            await work()
        assert at.row().status == "failed"
        assert at.row("c1").status == "running"


async def test_a_refused_write_is_told() -> None:
    """What became of a write that was undecided is told by the next save, once."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        await run.save(ACCEPTED)
        await at.l3.raw_delete(at.servers["a"].parts.collections["run"].key(RUN))
        with pytest.raises(Refused, match="gone"):
            await run.save(COMMITTED)
        with pytest.raises(HoldfastError):
            await run.checkpoint()
