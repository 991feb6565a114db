"""Contexts as any server reads them, bases in the background, history, forks, pruning, and what others are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fix_races import until
from fix_run_servers import RUN, Hall, hall, values
from holdfast import Consistency, Durability
from holdfast.errors import ContextCorrupt, NotFound, SettingsError
from holdfast.keys import Key
from holdfast.run_context import contexts
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.basing import BaseWriter

COMMITTED, STRONG = Durability.COMMITTED, Consistency.STRONG
PATIENT: dict[str, Any] = {"staleness_bound_seconds": 60.0}
"""For what is to come from memory, however long a busy machine takes between two reads."""


async def until_true(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""

    async def asked() -> bool:
        return is_so()

    await until(asked)


def snapshot_loads(at: Hall) -> int:
    """How many snapshots were asked of L3 so far."""
    return sum(key.kind == "run_snapshot" for keys in at.l3.loads for key in keys)


async def test_a_context_is_read_from_memory_while_its_run_does_not_change() -> None:
    """Also on another server; and when only the row changed, its snapshots are not read again."""
    async with hall(**PATIENT) as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        await run.checkpoint()
        await at.servers["b"].feed.refresh()
        first = await at.b.get(RUN)
        before = len(at.l3.loads)
        assert await at.b.get(RUN) is first
        assert len(at.l3.loads) == before
        run.context["x"] = 2
        await run.save(COMMITTED)
        read = snapshot_loads(at)
        assert values(await at.b.get(RUN, consistency=STRONG)) == {"x": 2}
        assert snapshot_loads(at) == read


async def test_mutant_snapshots_are_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it were not looked at which snapshots a row has."""
    monkeypatch.setattr(contexts, "_newest", lambda _: object())
    with pytest.raises(AssertionError):
        await test_a_context_is_read_from_memory_while_its_run_does_not_change()


async def read_after_a_checkpoint(at: Hall) -> int:
    """How many snapshots "b" reads for one checkpoint of "a", having read those before."""
    run = await at.a.begin("search", run_id=RUN)
    for number in range(4):
        run.context["x"] = number
        await run.checkpoint()
    assert values(await at.b.get(RUN, consistency=STRONG)) == {"x": 3}
    run.context["x"] = 4
    await run.checkpoint()
    read = snapshot_loads(at)
    assert values(await at.b.get(RUN, consistency=STRONG)) == {"x": 4}
    return snapshot_loads(at) - read


async def test_after_a_checkpoint_only_its_snapshot_is_read() -> None:
    """Whoever follows a run does not restore it each time."""
    async with hall() as at:
        assert await read_after_a_checkpoint(at) == 1


async def test_mutant_a_run_is_restored_after_each_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base and all."""
    monkeypatch.setattr(contexts, "FOLLOWED_MAX", 0)
    async with hall() as at:
        assert await read_after_a_checkpoint(at) > 4


async def seen_after_each(at: Hall) -> list[Any]:
    """What "b", which has read before, sees after each change of "a"."""
    run = await at.a.begin("search", run_id=RUN)
    seen = [values(await at.b.get(RUN, consistency=STRONG))]
    for number in (1, 2):
        run.context["x"] = number
        await run.checkpoint()
        seen.append(values(await at.b.get(RUN, consistency=STRONG)))
    await run.release()
    at.damage("00000002")
    run = await at.a.resume(RUN)
    seen.append(values(await at.b.get(RUN, consistency=STRONG)))
    run.context["y"] = 3
    await run.save(COMMITTED)
    seen.append(values(await at.b.get(RUN, consistency=STRONG)))
    fork = await at.a.fork(RUN, new_run_id="r2")
    fork.context["z"] = 4
    await fork.checkpoint()
    return [*seen, values(await at.b.get(RUN)), values(await at.b.get("r2", consistency=STRONG))]


WANTED: list[Any] = [{}, {"x": 1}, {"x": 2}, {"x": 1}, {"x": 1, "y": 3}, {"x": 1, "y": 3}, {"x": 1, "y": 3, "z": 4}]


async def test_a_context_is_never_older_than_its_row() -> None:
    """After checkpoints, a repair, a save and a fork."""
    async with hall() as at:
        assert await seen_after_each(at) == WANTED


async def test_mutant_contexts_are_kept_whatever_snapshots_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what came into snapshots since is not seen."""
    monkeypatch.setattr(contexts, "_newest", lambda _: None)
    async with hall() as at:
        assert await seen_after_each(at) != WANTED


async def test_a_reader_is_told_what_is_lost() -> None:
    """It sees what is there, changes nothing, and sees it again from memory; a fork of it says so too."""
    async with hall(**PATIENT) as at:
        run = await at.a.begin("search", run_id=RUN)
        for number in (1, 2):
            run.context["x"] = number
            await run.checkpoint()
        run.context["tail"] = 1
        await run.save(COMMITTED)
        at.damage("00000002", None)
        await at.servers["b"].feed.refresh()  # or what it says of the row's earlier versions has L3 asked once more
        before = at.row()
        view = await at.b.get(RUN, consistency=STRONG)
        assert view is not None
        assert values(view) == {"x": 1}
        assert (view.lost.snapshots, view.lost.changes, sorted(view.lost.variables)) == (1, 1, ["tail", "x"])
        assert await at.b.get(RUN) is view
        assert at.row() == before
        fork = await at.b.fork(RUN)
        assert fork.lost == view.lost


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those read longest ago make room."""
    monkeypatch.setattr(contexts, "CONTEXTS_MAX", 3)
    async with hall("a") as at:
        for number in range(5):
            await at.a.begin("search", run_id=f"r{number}")
            await at.a.get(f"r{number}")
            await at.a.get("r0")
        assert list(at.a._contexts._held) == ["r3", "r4", "r0"]
        assert await at.a.get("no run") is None


async def test_a_row_of_a_moment_ago_may_name_what_was_pruned_since() -> None:
    """It is read anew, and nobody is told that a sound run is corrupt."""
    async with hall(run_deltas_per_base=1) as at:
        run = await at.a.begin("search", run_id=RUN)
        await at.servers["b"].feed.refresh()
        assert await at.servers["b"].parts.collections["run"].get(RUN) is not None
        await at.servers["b"].feed.stop()
        for number in range(3):
            run.context["x"] = str(number) * 3000
            await run.checkpoint()
        await until_true(lambda: at.row().base > 0 or bool(at.servers["a"].store.backlog().writes))
        await at.servers["a"].store.flush()
        await until_true(lambda: at.row().base > 0)
        while await at.a.prune(RUN):
            pass
        assert "00000000.base" not in at.snapshots()
        assert values(await at.b.get(RUN)) == {"x": "2" * 3000}


async def bases_of(at: Hall, count: int, size: int) -> list[int]:
    """Bases behind so many checkpoints, each of so many bytes, when all that is under way has come to its end."""
    run = await at.a.begin("search", run_id=RUN)
    for number in range(count):
        run.context["x"] = chr(97 + number % 26) * size
        await run.checkpoint()
        if (task := run._bases._task) is not None:
            await asyncio.wait([task])
    return [int(name[:8]) for name in at.snapshots() if name.endswith(".base")]


async def test_bases_are_written_when_they_are_due_and_only_then() -> None:
    """Behind enough deltas of enough bytes; each holds the context as of its number."""
    async with hall("a", run_deltas_per_base=5) as at:
        assert await bases_of(at, 17, 2000) == [0, 5, 10, 15]
        assert at.row().base == 15
        assert 2 * 2000 < at.row().delta_bytes < 3 * 2000  # of the two behind it
        for number in (5, 10, 15):
            state = await at.a.at(RUN, number)
            assert state.variables["x"].value == chr(97 + number - 1) * 2000
        for number in range(1, 15):
            at.damage(f"{number:08}", None)
        assert values(await at.a.get(RUN)) == {"x": "q" * 2000}


async def test_small_deltas_are_not_worth_a_base() -> None:
    """Not before they have twice its bytes."""
    async with hall("a", run_deltas_per_base=2) as at:
        run = await at.a.begin("search", {"large": "x" * 20_000}, run_id=RUN)
        for number in range(10):
            run.context["x"] = number
            await run.checkpoint()
        assert run._bases._task is None


async def test_mutant_a_base_of_a_later_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the state were taken when the snapshot is committed, a base could hold what its number does not."""
    note = BaseWriter.note

    async with hall("a", run_deltas_per_base=5) as at:

        def late(self: BaseWriter, run: Any, state: Any) -> None:
            holder[0].context["x"] = "later"
            note(self, run, None if state is None else holder[0].context.state)

        monkeypatch.setattr(BaseWriter, "note", late)
        holder: list[ActiveRun] = [await at.a.begin("search", run_id=RUN)]
        for number in range(6):
            holder[0].context["x"] = str(number) * 2000
            await holder[0].checkpoint()
        assert holder[0]._bases._task is not None
        await asyncio.wait([holder[0]._bases._task])
        assert (await at.a.at(RUN, 5)).variables["x"].value == "later"


async def bases_of_a_run_without_checkpoints(at: Hall) -> list[str]:
    """Bases of a run that only saves, so much that its changes become snapshots by their number."""
    run = await at.a.begin("search", run_id=RUN)
    for round_ in range(6):
        for number in range(65):
            run.context["x"] = f"{round_}-{number}" * 20
            await run.save()
        await at.servers["a"].store.flush()
        await at.a.get(RUN)
    run.context["x"] = "end"
    await run.save()
    if (task := run._bases._task) is not None:
        await asyncio.wait([task])
    await run.complete()
    assert values(await at.a.get(RUN)) == {"x": "end"}
    return [name for name in at.snapshots() if name.endswith(".base")]


async def test_a_run_without_checkpoints_gets_bases_too() -> None:
    """Otherwise the longer it ran, the longer it would take to restore."""
    async with hall("a", run_deltas_per_base=3) as at:
        assert len(await bases_of_a_run_without_checkpoints(at)) > 1


async def test_mutant_only_checkpoints_have_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody looked when it saves."""
    monkeypatch.setattr(BaseWriter, "look", lambda _: None)
    async with hall("a", run_deltas_per_base=3) as at:
        assert await bases_of_a_run_without_checkpoints(at) == ["00000000.base"]


async def test_history_at_and_diff() -> None:
    """Each snapshot can be looked at, and two of them compared; what there is not is not found."""
    async with hall("a") as at:
        run = await at.a.begin("search", {"topic": "ants"}, run_id=RUN)
        run.context["x"] = 1
        await run.checkpoint()
        run.context["x"] = 2
        run.context["y"] = 1
        await run.checkpoint()
        del run.context["y"]
        await run.save()
        ids = [each.id for each in await at.a.history(RUN)]
        assert ids == ["r1/00000000.base", "r1/00000001", "r1/00000002"]
        assert [each.id for each in await at.a.history(RUN, after=ids[0], limit=1)] == ids[1:2]
        found = [
            {key: each.value for key, each in (await at.a.at(RUN, number)).variables.items()} for number in range(3)
        ]
        assert found == [{}, {"x": 1}, {"x": 2, "y": 1}]
        difference = await at.a.diff(RUN, 1, 2)
        assert list(difference["variables"].added) == ["y"]
        assert list(difference["variables"].changed) == ["x"]
        assert list((await at.a.diff(RUN, 2))["variables"].removed) == ["y"]
        assert not await at.a.diff(RUN, 2, 2)
        for number in (3, -1):
            with pytest.raises(NotFound):
                await at.a.at(RUN, number)
        for call in (at.a.at("r9", 0), at.a.diff("r9", 0), at.a.prune("r9"), at.a.fork("r9"), at.a.fork("r9", at=0)):
            with pytest.raises(NotFound):
                await call


async def test_a_fork_goes_on_by_itself() -> None:
    """From now or from a snapshot, also of a run that has ended; what either writes then, the other has not."""
    async with hall() as at:
        async with at.a.begin("search", {"topic": "ants"}, run_id=RUN, swarm_id="s1", critical=True) as run:
            run.context["x"] = 1
            await run.checkpoint()
            run.context["x"] = 2
        old = await at.b.fork(RUN, at=1, new_run_id="r2")
        new = await at.b.fork(RUN)
        assert (old.context["x"], new.context["x"]) == (1, 2)
        assert (old.critical, old.swarm_id, old.epoch, old.context.status) == (True, "s1", 1, "running")
        old.context["x"] = 3
        await old.complete()
        assert (values(await at.a.get(RUN)), values(await at.a.get(new.id))) == ({"x": 2}, {"x": 2})
        assert old.context.inputs == {"topic": "ants"}
        with pytest.raises(NotFound):
            await at.a.fork(RUN, at=9)


async def test_pruning_keeps_what_is_needed() -> None:
    """The newest bases and what is behind them; what was pruned is not found; a damaged base is not relied on."""
    async with hall("a", run_deltas_per_base=3) as at:
        assert await bases_of(at, 10, 2000) == [0, 3, 6, 9]
        with pytest.raises(SettingsError):
            await at.a.prune(RUN, keep=0)
        assert await at.a.prune(RUN, keep=4) == 0
        assert await at.a.prune(RUN, keep=2, limit=2) == 2
        while await at.a.prune(RUN, keep=2):
            pass
        kept = ["00000006", "00000006.base", "00000007", "00000008", "00000009", "00000009.base", "00000010"]
        assert at.snapshots() == kept
        before = values(await at.a.get(RUN))
        with pytest.raises(NotFound):
            await at.a.at(RUN, 5)
        at.damage("00000009.base")
        assert await at.a.prune(RUN) == 0
        assert values(await at.a.get(RUN)) == before
        at.damage("00000006.base")
        with pytest.raises(ContextCorrupt):
            await at.a.prune(RUN)
        assert at.snapshots() == kept


async def test_runs_are_found() -> None:
    """By what they are for, page by page, the newest first."""
    async with hall() as at:
        for number in range(5):
            run = await at.a.begin(f"routine{number % 2}", run_id=f"r{number}", swarm_id=f"s{number % 3}")
            if number > 2:
                await run.complete()
        listed = await at.b.list(limit=2)
        assert [each.id for each in listed] == ["r4", "r3"]
        assert [each.id for each in await at.b.list(after=listed[-1].cursor)] == ["r2", "r1", "r0"]
        assert [each.id for each in await at.b.list(swarm_id="s0")] == ["r3", "r0"]
        assert [each.id for each in await at.b.list(status="running", routine_id="routine1")] == ["r1"]
        assert [each.run.status for each in await at.b.list(status="completed")] == ["completed"] * 2


async def test_a_checkpoint_is_told() -> None:
    """As the seed's event, with the id of its snapshot; nobody waits for it, and a bus that is away fails no run."""
    async with hall() as at:
        heard: list[Any] = []
        at.servers["b"].store.subscribe("routine/state/checkpoint", heard.append)
        run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        await run.checkpoint()
        await until_true(lambda: bool(heard))
        data = dict(heard[0].data)
        assert isinstance(data.pop("timestamp"), int)
        assert data == {
            "routineId": "search",
            "runId": RUN,
            "checkpointId": "r1/00000001",
            "sequence": 1,
            "state": "running",
        }
        at.events.away = True
        assert await run.checkpoint() == 2


async def test_events_that_are_not_taken_do_not_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on while the bus stands still, and tells no more than so many events."""
    monkeypatch.setattr("holdfast.run_context.announcements.UNDER_WAY_MAX", 2)
    async with hall("a") as at:
        gate = asyncio.Event()

        async def publish(*_: Any) -> None:
            await gate.wait()

        at.servers["a"].bus.publish = publish  # type: ignore[method-assign, assignment]
        run = await at.a.begin("search", run_id=RUN)
        for number in range(1, 6):
            assert await run.checkpoint() == number
        assert len(run._announcements._tasks) == 2
        gate.set()
        await until_true(lambda: not run._announcements._tasks)


async def test_values_of_a_view_cannot_be_changed() -> None:
    """They are shared with everybody who reads it."""
    async with hall("a") as at:
        run = await at.a.begin("search", {"in": [1]}, run_id=RUN)
        run.context["x"] = {"list": [1]}
        await run.save()
        view = await at.a.get(RUN)
        assert view is not None
        with pytest.raises(TypeError):
            view.state.variables["x"].value["list"].append(2)
        with pytest.raises(TypeError):
            view.state.inputs["in"].append(2)


async def test_a_deleted_run_is_no_more() -> None:
    """Its context is forgotten too."""
    async with hall("a") as at:
        await at.a.begin("search", run_id=RUN)
        assert await at.a.get(RUN) is not None
        await at.l3.raw_delete(Key("run", RUN))
        assert await at.a.get(RUN, consistency=STRONG) is None
        assert RUN not in at.a._contexts._held
