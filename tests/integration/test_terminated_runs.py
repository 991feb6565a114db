"""A run whose context is damaged in L3 while a server runs it: two real servers, of which only L3 tells the owner."""

from __future__ import annotations

import pytest

import holdfast
from fix_feed import connected
from fix_races import until
from fix_tiers import flows_of
from holdfast import Durability
from holdfast.errors import ContextCorrupt, RunOver
from holdfast.run_context.active_run import ActiveRun
from holdfast.settings import Settings
from integration.test_runs import RUN, Damage


async def step(run: ActiveRun, name: str) -> None:
    """Make a step that is in L3 when this returns."""
    async with run.step(name):
        run.context[name] = True
    await run.save(Durability.COMMITTED)


@pytest.mark.parametrize("heard", [True, False])
async def test_its_owner_ends_it_and_all_that_it_knew_is_kept(settings: Settings, *, heard: bool) -> None:
    """Another server finds it out by reading; the owner hears of it by the feed, or only from its row."""
    async with (
        holdfast.connect(settings) as one,
        holdfast.connect(settings) as other,
        connected(settings.postgres_url) as sql,
    ):
        run = await one.runs.begin("search", {"topic": "ants"}, run_id=RUN)
        await step(run, "first")
        await run.checkpoint()
        if not heard:
            await flows_of(one).feed.stop()
            await flows_of(one).bus.stop()
        assert await Damage(sql).put("00000000.base", b"{}")
        with pytest.raises(ContextCorrupt):
            await other.runs.get(RUN)

        async def is_told() -> bool:
            row = await other.runs.row(RUN, consistency=holdfast.Consistency.STRONG)
            return row is not None and (row.terminate is not None or row.status == "failed")

        await until(is_told)

        async def is_over() -> bool:
            if heard:
                return run.is_over  # without a step of its own
            try:
                await step(run, "second")
            except RunOver:
                return True
            return False

        await until(is_over)
        with pytest.raises(RunOver):
            await step(run, "third")
        forked = await other.runs.fork(RUN)
        assert not forked.lost
        assert dict(forked.context.inputs) == {"topic": "ants"}
        assert forked.context["first"] is True
        await forked.cancel()
