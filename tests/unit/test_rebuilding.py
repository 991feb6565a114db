"""Damaged snapshots of runs: each is reported with its bytes, and of what verifies another run can be begun."""

from __future__ import annotations

import pytest

from fix_races import until
from fix_recovery import Person, hurry
from fix_run_servers import RUN, Hall, hall, values
from holdfast import Durability
from holdfast.errors import ContextCorrupt, NotFound
from holdfast.run_context import rescuing
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.loading import SnapshotLoader
from holdfast.run_context.restoring import Loss
from holdfast.testing import MemoryQuarantine, MemoryRecoveryLog
from holdfast.write_behind.handing_over import HandingOver


async def begun(at: Hall) -> ActiveRun:
    """A run of server "a" with four snapshots, a change in its row, and one in its server's journal only."""
    run: ActiveRun = await at.a.begin("search", {"topic": "ants"}, run_id=RUN)
    for number in range(1, 5):
        async with run.step(f"step{number}"):
            run.context[f"n{number}"] = number
            run.context["last"] = number
        await run.checkpoint()
    run.context["row"] = True
    await run.save(Durability.COMMITTED)
    run.context["journal"] = True
    await run.save(Durability.JOURNALED)
    return run


async def rebuilt(at: Hall) -> ActiveRun:
    """What server "b" begins anew, the base and a snapshot being damaged and server "a" gone."""
    await begun(at)
    await at.kill("a")
    at.damage("00000000.base")
    at.damage("00000002", None)
    run: ActiveRun = await at.b.rebuild(RUN, new_run_id="r2")
    return run


async def test_a_new_run_has_all_that_verifies_and_says_what_it_lacks() -> None:
    """Snapshots on both sides of a damaged one, the row's changes and what was only journaled; the old one stays."""
    async with hall() as at:
        run = await rebuilt(at)
        expected = {"n1": 1, "n3": 3, "n4": 4, "last": 4, "row": True, "journal": True}
        assert {key: run.context[key] for key in run.context.variables} == expected
        assert set(run.context.steps) == {"step1", "step3", "step4"}
        assert not run.context.inputs
        # Of the base nobody tells what it held; `last` was set again behind what is lost.
        assert run.lost == Loss(steps=1, variables=("n2",), snapshots=2, unknown=1)
        assert values(await at.b.get("r2")) == expected
        with pytest.raises(ContextCorrupt):
            await at.b.get(RUN)


async def test_mutant_the_journal_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what its server had acknowledged would be left out, and nobody would say so."""

    async def nothing(*_: object) -> int:
        return 0

    monkeypatch.setattr(HandingOver, "decide_for", nothing)
    async with hall() as at:
        assert "journal" not in (await rebuilt(at)).context


async def test_from_a_base_that_verifies_inputs_are_kept() -> None:
    """And nothing more is lost than what the damaged snapshot held, which the next one tells."""
    async with hall() as at:
        await begun(at)
        await at.kill("a")
        at.damage("00000002")
        run = await at.b.rebuild(RUN)
        assert dict(run.context.inputs) == {"topic": "ants"}
        assert run.lost == Loss(steps=1, variables=("n2",), snapshots=1)


async def test_what_only_a_damaged_base_that_began_anew_held_is_lost() -> None:
    """As that in which recovery ends a run: no delta has its number, and no summary names what it held."""
    async with hall() as at:
        run = await begun(at)
        run.context["late"] = 7
        await run._ending.terminate(run.context, "why")
        at.damage("00000005.base")
        again = await at.b.rebuild(RUN)
        assert "late" not in again.context
        assert again.lost == Loss(snapshots=1, unknown=1)


async def test_of_an_intact_run_it_is_all_of_it() -> None:
    """As a fork would be."""
    async with hall() as at:
        await begun(at)
        run = await at.b.rebuild(RUN)
        assert not run.lost
        assert {key: run.context[key] for key in run.context.variables} == values(await at.b.get(RUN))


async def test_of_nothing_no_run_is_begun() -> None:
    """It would be empty, and look as if it were what the other was."""
    async with hall() as at:
        run = await at.a.begin("search", run_id=RUN)
        run.context["n"] = 1
        await run.checkpoint()
        at.damage("00000000.base")
        at.damage("00000001")
        with pytest.raises(ContextCorrupt):
            await at.b.rebuild(RUN, new_run_id="r2")
        assert await at.b.row("r2") is None
        with pytest.raises(NotFound):
            await at.b.rebuild("none")


@pytest.mark.parametrize("bound", ["REMAINS_BYTES", "REMAINS_SECONDS"])
async def test_what_recovery_looks_at_is_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it says that it is a part."""
    monkeypatch.setattr(rescuing, bound, -1)
    async with hall() as at:
        await begun(at)
        at.damage("00000000.base")
        left = await at.b.rescue.remains(RUN)
        assert (left.partial, left.intact, left.changes) == (True, 0, 0)
        assert not left.is_empty


async def damaged_behind_an_older_base(at: Hall) -> list[tuple[str, str, str]]:
    """Step, outcome and subject of what recovery did about a damaged base before which another one verifies."""
    await (await begun(at)).pause()
    b = at.servers["b"]
    hurry(b, Person())
    assert at.row().base > 0
    at.damage(f"{at.row().base:08d}.base", b'{"a": "forgery"}')
    view = await at.b.get(RUN)
    assert values(view)["last"] == 4
    assert not view.lost

    async def is_over() -> bool:
        return not b.recovery_log.waiting and not b.faults._under_way

    await until(is_over)
    lines = [each.line for each in await MemoryRecoveryLog(at.l3).list(limit=9)]
    return [(line.step, line.outcome, line.subject) for line in lines]


async def test_a_damaged_snapshot_is_reported_though_an_older_base_verifies() -> None:
    """Its bytes are kept for inspection, under its own id; the run, of which nothing is lost, is left."""
    async with hall(run_deltas_per_base=2) as at:
        assert await damaged_behind_an_older_base(at) == [
            ("detected", "done", f"run:{RUN}"),
            ("terminate_routine", "mended", f"run:{RUN}"),
            ("completed", "recovered", f"run:{RUN}"),
        ]
        (kept,) = await MemoryQuarantine(at.l3).list(limit=10)
        found = await MemoryQuarantine(at.l3).find(kept.number)
        assert found is not None
        assert found.found.evidence == b'{"a": "forgery"}'
        assert (found.found.kind, found.found.tier) == ("run_snapshot", "l3")
        assert found.found.id.endswith(".base")


async def test_mutant_only_what_cannot_be_restored_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody hears of damage before all of it is damaged."""
    monkeypatch.setattr(SnapshotLoader, "_reports", lambda *_: lambda *_: None)
    async with hall(run_deltas_per_base=2) as at:
        assert await damaged_behind_an_older_base(at) == []
