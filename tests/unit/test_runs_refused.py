"""What a run was told is accepted, and is refused when it is decided: it is told, and stays in the context."""

from __future__ import annotations

from typing import Any

import pytest

from fix_run_servers import RUN, Hall, hall, values
from holdfast import Consistency, Durability, Refused
from holdfast.keys import Key
from holdfast.run_context.active_run import ActiveRun

ACCEPTED, JOURNALED, COMMITTED = Durability.ACCEPTED, Durability.JOURNALED, Durability.COMMITTED


def constrain(at: Hall, word: bytes) -> None:
    """Let L3 refuse each row of a run that has this word in it."""

    def refuses(key: Key, body: bytes) -> bool:
        return key.kind == "run" and word in body

    at.l3._rules = at.l3._rules._replace(refuses=refuses)


async def refused_step(at: Hall) -> ActiveRun:
    """A run whose first step was told JOURNALED, and is refused; nobody was told."""
    run: ActiveRun = await at.a.begin("search", run_id=RUN)
    constrain(at, b"poison")
    async with run.step("look"):
        run.context["x"] = "poison"
        run.context["y"] = 1
    assert [each.refused for each in await at.servers["a"].store.flush(5.0)] == [True]
    assert at.row().changes == []
    return run


@pytest.mark.parametrize("name", ["save", "checkpoint", "complete", "pause", "release", "fail"])
async def test_each_write_tells_of_one_that_was_refused(name: str) -> None:
    """Before it writes anything; the context has it still, and the next write brings what it has now."""
    async with hall("a") as at:
        run = await refused_step(at)
        run.context["later"] = 2
        words = ("it broke",) if name == "fail" else ()
        with pytest.raises(Refused):
            await getattr(run, name)(*words)
        assert not run.is_over
        assert (at.row().status, run.context.status) == ("running", "running")
        assert dict(run.context) == {"x": "poison", "y": 1, "later": 2}
        del run.context["x"]
        await run.complete()
        view = await at.a.get(RUN, consistency=Consistency.STRONG)
        assert values(view) == {"y": 1, "later": 2}
        assert view.state.steps["look"].status == "completed"


async def test_what_was_kept_since_is_not_undone() -> None:
    """A later write of the same variable stands, also if the one before it is written again."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        constrain(at, b"poison")
        run.context["x"], run.context["y"] = "poison", 1
        await run.save(ACCEPTED)
        run.context["x"] = "good"
        await run.save(ACCEPTED)
        with pytest.raises(Refused):
            await run.save(COMMITTED)
        await run.save(COMMITTED)
        view = await at.a.get(RUN, consistency=Consistency.STRONG)
        assert values(view) == dict(run.context) == {"x": "good", "y": 1}


async def values_of_a_completed_run(at: Hall) -> Any:
    """Of a run that ends behind a step that nobody has decided yet, and that is refused."""
    run = await at.a.begin("search", run_id=RUN)
    constrain(at, b"poison")
    run.context["x"] = "poison"
    await run.save(JOURNALED)
    try:
        await run.complete()
    except Refused:
        run.context["x"] = "good"
        await run.complete()
    return values(await at.a.get(RUN, consistency=Consistency.STRONG))


async def test_no_run_completes_over_what_is_refused() -> None:
    """What is undecided is decided first."""
    async with hall("a") as at:
        assert await values_of_a_completed_run(at) == {"x": "good"}


async def test_mutant_receipts_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is complete without what a step had written, and nobody knows."""

    async def check_decided(_: ActiveRun) -> None:
        pass

    monkeypatch.setattr(ActiveRun, "_check_decided", check_decided)
    async with hall("a") as at:
        assert await values_of_a_completed_run(at) == {}


async def test_receipts_go_as_they_are_decided() -> None:
    """What is kept of a long run is what nobody has decided."""
    async with hall("a") as at:
        run = await at.a.begin("search", run_id=RUN)
        for number in range(10):
            run.context["n"] = number
            await run.save(JOURNALED)
        assert len(run._undecided) == 10
        await run.checkpoint()
        assert not run._undecided
