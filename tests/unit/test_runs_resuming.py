"""Runs go on on another server: who may take one over, what is in it then, and what its owner of before is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fix_races import until
from fix_run_servers import RUN, Hall, hall, values
from holdfast import Durability, Refused
from holdfast.errors import ContextCorrupt, NotFound, NotOwner, RunOver, TierError
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.loading import SnapshotLoader
from holdfast.run_context.resuming import Resuming
from holdfast.write_behind.handing_over import HandingOver

ACCEPTED, JOURNALED, COMMITTED = Durability.ACCEPTED, Durability.JOURNALED, Durability.COMMITTED


async def begun(at: Hall) -> ActiveRun:
    """A run of "a": two snapshots, and a change that is journaled."""
    run: ActiveRun = await at.a.begin("search", {"topic": "ants"}, run_id=RUN, swarm_id="s1")
    for number in (1, 2):
        async with run.step(f"step{number}"):
            run.context["n"] = number
        await run.checkpoint()
    run.context["tail"] = True
    await run.save(JOURNALED)
    return run


async def test_a_paused_run_is_resumed_by_anybody() -> None:
    """With all it had, under the next epoch, and as one that runs."""
    async with hall() as at:
        run = await begun(at)
        await run.pause()
        resumed = await at.b.resume(RUN)
        assert dict(resumed.context) == {"n": 2, "tail": True}
        assert list(resumed.context.steps) == ["step1", "step2"]
        assert (resumed.epoch, resumed.context.status, resumed.swarm_id, bool(resumed.lost)) == (
            2,
            "running",
            "s1",
            False,
        )
        row = at.row()
        assert (row.owner, row.status, row.journal) == ("b", "running", at.servers["b"].write_behind.lives.journal)
        await resumed.complete()
        with pytest.raises(RunOver, match="completed"):
            await at.a.resume(RUN)


async def test_a_live_owner_is_not_robbed() -> None:
    """But by force, by another server or its own."""
    async with hall() as at:
        await begun(at)
        for runs in (at.a, at.b):
            with pytest.raises(NotOwner, match="alive"):
                await runs.resume(RUN)
        for epoch, runs in enumerate((at.b, at.b, at.a), 2):
            run = await runs.resume(RUN, force=True)
            assert run.epoch == epoch
            assert dict(run.context) == {"n": 2, "tail": True}
        with pytest.raises(NotFound):
            await at.b.resume("no run")


async def tail_of_an_orphan(at: Hall) -> Any:
    """What is resumed of a run whose server was killed: the value that was only journaled."""
    await begun(at)
    assert await at.b.list(orphaned=True) == []
    await at.kill("a")
    resumed = await at.b.resume(RUN)
    return resumed.context.get("tail")


async def test_an_orphan_is_resumed_with_what_was_journaled() -> None:
    """Its server is dead; nobody has taken its journal over yet."""
    async with hall() as at:
        assert await tail_of_an_orphan(at) is True
        assert at.row().handed_over == 5
        with pytest.raises(NotOwner):
            await at.b.resume(RUN)


async def test_mutant_nothing_is_decided_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3: then what its owner was promised is not in the context."""

    async def decide_for(*_: Any) -> int:
        return 0

    monkeypatch.setattr(HandingOver, "decide_for", decide_for)
    async with hall() as at:
        assert await tail_of_an_orphan(at) is None


@pytest.mark.parametrize("durability", list(Durability))
async def test_an_owner_of_before_writes_nothing_any_more(durability: Durability) -> None:
    """Whatever it calls, as soon as it is known here or in L3; what was accepted before is refused, and says so."""
    async with hall() as at:
        run = await begun(at)
        at.servers["a"].feed.committed = lambda: None  # type: ignore[method-assign]
        await at.servers["a"].feed.stop()  # it hears of nothing
        run.context["early"] = 1
        early = await run.save(ACCEPTED)
        await at.servers["a"].write_behind.lives.current.journal.stop()  # type: ignore[union-attr]
        taker = await at.b.resume(RUN, force=True)
        run.context["late"] = 1
        if durability is COMMITTED:
            with pytest.raises(NotOwner):
                await run.save(durability)
        else:
            late = await run.save(ACCEPTED)
            assert late is not None
            await at.servers["a"].store.flush()
            with pytest.raises(Refused, match="not_owner"):
                await late.reached(COMMITTED)
        for call in (run.save, run.checkpoint, run.complete, run.pause, run.release):
            run.context["later"] = 1
            with pytest.raises(NotOwner):
                await call()
        assert run.is_over
        assert early is not None
        taker.context["mine"] = 1
        await taker.complete()
        assert set(values(await at.b.get(RUN))) - {"early"} == {"n", "tail", "mine"}


async def test_an_owner_of_before_that_has_heard_of_it_is_refused_at_once() -> None:
    """Nothing is accepted then; and its block does not end the run."""
    async with hall() as at:

        async def work() -> None:
            async with at.a.begin("search", run_id=RUN) as run:
                await at.b.resume(RUN, force=True)
                await at.servers["a"].feed.refresh()
                run.context["x"] = 1
                await run.save(ACCEPTED)

        with pytest.raises(NotOwner):
            await work()
        assert at.servers["a"].store.backlog().writes == 0
        row = at.row()
        assert (row.status, row.owner, row.epoch) == ("running", "b", 2)


async def test_a_checkpoint_behind_which_another_took_over_makes_no_base() -> None:
    """It reads a row that is another's, with another's newest snapshot."""
    async with hall(run_deltas_per_base=1) as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["big"] = "x" * 3000
        await run.checkpoint()
        run.context["mine"] = 1
        get = at.servers["a"].parts.collections["run"].get

        async def later(*words: Any, **named: Any) -> Any:
            taker = await at.b.resume(RUN, force=True)
            taker._bases.note = lambda *_: None  # its own would be right
            taker.context["big"] = "y" * 3000
            await taker.checkpoint()
            await at.servers["a"].feed.refresh()
            return await get(*words, **named)

        at.servers["a"].parts.collections["run"].get = later  # type: ignore[method-assign]
        with pytest.raises(NotOwner):
            await run.checkpoint()
        assert "00000003.base" not in at.snapshots()
        assert values(await at.b.get(RUN)) == {"big": "y" * 3000, "mine": 1}


async def test_two_that_resume_at_once() -> None:
    """One of them does; the other is told that the run is run."""
    async with hall("a", "b", "c") as at:
        await begun(at)
        await at.kill("a")
        got = await asyncio.gather(at.b.resume(RUN), at.servers["c"].store.runs.resume(RUN), return_exceptions=True)
        winner = next(each for each in got if isinstance(each, ActiveRun))
        loser = next(each for each in got if not isinstance(each, ActiveRun))
        assert isinstance(loser, NotOwner)
        assert at.row().epoch == winner.epoch == 2
        assert dict(winner.context) == {"n": 2, "tail": True}


async def test_mutant_the_epoch_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then both believe that they run it."""
    take = Resuming._take

    async def taken(self: Resuming, run_id: str, epoch: int, handed_over: int) -> Any:
        return await take(self, run_id, epoch, handed_over) or await take(self, run_id, epoch + 1, handed_over)

    monkeypatch.setattr(Resuming, "_take", taken)
    async with hall("a", "b", "c") as at:
        await begun(at)
        await at.kill("a")
        got = await asyncio.gather(at.b.resume(RUN), at.servers["c"].store.runs.resume(RUN), return_exceptions=True)
        assert all(isinstance(each, ActiveRun) for each in got)


BAD: list[tuple[str, bytes | None]] = [("flipped", b'{"runId":"r1"}'), ("cut", b'{"runId'), ("missing", None)]


@pytest.mark.parametrize("body", [body for _, body in BAD], ids=[name for name, _ in BAD])
async def test_a_damaged_snapshot_is_gone_back_behind_and_its_loss_told(body: bytes | None) -> None:
    """What is lost is exactly that one and what came after; a second resume finds nothing lost."""
    async with hall() as at:
        await begun(at)
        await at.kill("a")
        at.damage("00000002", body)
        heard: list[Any] = []
        at.servers["b"].store.subscribe("routine/state/*", heard.append)
        resumed = await at.b.resume(RUN)
        assert dict(resumed.context) == {"n": 1}
        lost = resumed.lost
        assert (lost.steps, lost.snapshots, lost.changes, lost.unknown) == (1, 1, 1, 0)
        assert sorted(lost.variables) == ["n", "tail"]
        assert at.snapshots()[-1] == "00000003.base"
        await until_heard(heard, 4)
        events = {event.type.rpartition("/")[2]: event.data for event in heard}
        assert events["corrupted"]["checkpointId"] == "r1/00000002"
        assert events["corrupted"]["severity"] == "critical"
        assert events["recovered"]["corruptedCheckpointId"] == "r1/00000002"
        assert events["recovered"]["recoveredFromCheckpointId"] == "r1/00000001"
        assert events["recovered"]["dataLoss"] == {
            "steps": 1,
            "variables": list(lost.variables),
            "seconds": lost.seconds,
        }
        assert events["restored"]["timeLost"] == lost.seconds
        assert (events["migrated"]["fromExecutor"], events["migrated"]["toExecutor"]) == ("a", "b")
        resumed.context["n"] = 7
        await resumed.checkpoint()
        again = await at.b.resume(RUN, force=True)
        assert not again.lost
        assert dict(again.context) == {"n": 7}


async def test_a_repaired_run_is_under_way_in_its_snapshots_too() -> None:
    """Though it was paused when it was damaged."""
    async with hall() as at:
        run = await begun(at)
        await run.pause()
        at.damage("00000003")
        await at.b.resume(RUN)
        assert (await at.b.at(RUN, 4)).status == "running"


async def until_heard(heard: Sequence[Any], count: int) -> None:
    """Wait until so many events were heard."""

    async def enough() -> bool:
        return len(heard) >= count

    await until(enough)


async def after_no_base_verified(at: Hall) -> tuple[Any, Any]:
    """The row before and after somebody tried to resume a run whose only base is damaged."""
    run = await begun(at)
    await run.pause()
    at.damage("00000000.base")
    await at.servers["b"].recovery.stop()  # which would end the run
    before = at.row()
    with pytest.raises(ContextCorrupt):
        await at.b.resume(RUN)
    with pytest.raises(ContextCorrupt):
        await at.b.get(RUN)
    return before, at.row()


async def test_when_no_base_verifies_nothing_is_changed() -> None:
    """Not its epoch, owner or status; and an empty context is never given."""
    async with hall() as at:
        before, after = await after_no_base_verified(at)
        assert before == after


async def test_mutant_it_is_taken_before_it_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a run that nobody can run is no longer paused."""
    restored, take = SnapshotLoader.restored, Resuming._take

    async def taken(self: SnapshotLoader, run_id: str, run: Any, *, at: int | None = None) -> Any:
        resuming: Any = waiting.pop() if waiting else None
        if resuming is not None:
            await take(resuming, run_id, run.epoch, 0)
        return await restored(self, run_id, run, at=at)

    async with hall() as at:
        waiting = [at.b._resuming]
        monkeypatch.setattr(SnapshotLoader, "restored", taken)
        before, after = await after_no_base_verified(at)
        assert before != after


async def test_a_base_that_the_row_has_not_heard_of_may_have_what_is_lost() -> None:
    """It was written, and its server died before it told; a delta before it is damaged."""
    async with hall(run_deltas_per_base=2) as at:
        run = await at.a.begin("search", run_id=RUN)
        accept = at.servers["a"].parts.collections["run"].accept

        async def deaf(key: Any, operations: Any, default: Any, durability: Any, owner: int = 0) -> Any:
            if any(str(each.place) == "base" for each in operations):
                raise TierError("it died")
            return await accept(key, operations, default, durability, owner)

        at.servers["a"].parts.collections["run"].accept = deaf  # type: ignore[method-assign]
        for number in range(4):
            run.context["n"] = str(number) * 3000
            await run.checkpoint()
        await based(at, "00000004.base")
        assert at.row().base == 0
        await run.release()
        at.damage("00000002")
        resumed = await at.b.resume(RUN)
        assert dict(resumed.context) == {"n": "3" * 3000}
        assert not resumed.lost


async def based(at: Hall, name: str) -> None:
    """Wait until a base is there."""

    async def there() -> bool:
        return name in at.snapshots()

    await until(there)


async def test_what_its_owner_commits_while_it_is_taken_over_is_in_it() -> None:
    """Between the restoring and the raising of the epoch a live owner writes on."""
    async with hall() as at:
        run = await begun(at)
        take = Resuming._take

        async def late(self: Resuming, *words: Any) -> Any:
            run.context["late"] = 1
            await run.checkpoint()
            return await take(self, *words)

        resuming: Any = at.b._resuming
        resuming._take = late.__get__(resuming)
        taker = await at.b.resume(RUN, force=True)
        assert dict(taker.context) == {"n": 2, "tail": True, "late": 1}
        assert at.row().epoch == 2


async def test_mutant_what_was_restored_before_is_taken_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the snapshot that came meanwhile is not in the context, though it is in the chain."""

    async def restored_now(_: Resuming, __: str, ___: Any, ____: Any, restored: Any) -> Any:
        return restored

    monkeypatch.setattr(Resuming, "_restored_now", restored_now)
    with pytest.raises(AssertionError):
        await test_what_its_owner_commits_while_it_is_taken_over_is_in_it()


CALLS: list[Callable[[Any], Any]] = [lambda runs: runs.resume(RUN, force=True), lambda runs: runs.resume(RUN)]


@pytest.mark.parametrize("call", CALLS)
async def test_nobody_takes_a_run_over_without_l3(call: Callable[[Any], Any]) -> None:
    """Nothing is changed."""
    async with hall() as at:
        run = await begun(at)
        before = at.row()
        at.l3.away = True
        with pytest.raises(TierError):
            await call(at.b)
        at.l3.away = False
        assert at.row() == before
        await run.complete()
