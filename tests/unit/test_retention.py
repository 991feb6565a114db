"""What was decided long ago is removed: not what is open, and no review that its run may look at again."""

from __future__ import annotations

import asyncio

import pytest

from fix_races import until
from fix_reviews import CHILD, PARENT
from fix_run_servers import Hall, hall
from holdfast.decisions import sweeper as sweeping
from holdfast.decisions.sweeper import OverdueSweeper, Retention
from holdfast.flows import Flows
from holdfast.reviews.reviewer import MergeReviewer

MONTH = 31 * 86_400.0
ID = "r1/c1/site"


async def still(shared: Hall) -> None:
    """Let nothing be told, swept or removed by itself."""
    for flows in shared.servers.values():
        await flows.run_flows.delivery_worker.stop()
        await flows.run_flows.escalation_sweeper.stop()
        await flows.run_flows.review_sweeper.stop()


async def asked_again(shared: Hall) -> tuple[list[str], list[str]]:
    """Reviews that there are after a run's merge asks a month after the decision; then, those after its end."""
    await still(shared)
    flows = shared.servers["a"]
    run = await shared.a.begin("search", run_id="r1")
    reviewer = MergeReviewer(flows.run_flows.reviews, flows.run_flows.review_changes, 1)
    assert await reviewer.settle("r1", "c1", PARENT, CHILD) is None
    await flows.store.reviews.resolve(ID, choice="child", by="ada", reason="why")
    shared.clock.advance(MONTH)
    assert not await flows.run_flows.review_sweeper.prune()
    settled = await reviewer.settle("r1", "c1", PARENT, CHILD)
    assert settled is None or settled.variable == CHILD
    left = [each.review.status for each in await flows.store.reviews.list(status=None)]
    await run.complete()
    await flows.run_flows.review_sweeper.prune()
    return left, [each.id for each in await flows.store.reviews.list(status=None)]


async def test_a_review_stays_as_long_as_its_run_may_ask_again() -> None:
    """However long ago it was decided; it goes once its run has ended."""
    async with hall("a") as shared:
        assert await asked_again(shared) == (["resolved"], [])


async def test_mutant_a_review_goes_before_its_run() -> None:
    """Then a person is asked twice."""
    async with hall("a") as shared:
        sweeper = shared.servers["a"].run_flows.review_sweeper
        sweeper._retention = Retention(MONTH - 1, of_ended_runs=False)
        left, _ = await asked_again(shared)
        assert left == ["open"]


async def test_a_review_is_kept_for_a_while_after_its_run() -> None:
    """So that a person can look at it."""
    async with hall("a", review_keep_days=90) as shared:
        assert await asked_again(shared) == (["resolved"], [ID])


async def test_an_escalation_goes_a_month_after_its_decision() -> None:
    """One that is open stays, whatever its age, and so does what the audit log says."""
    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        await opened(flows, "decided", "timed out", "open", "late")
        escalations, sweeper = flows.store.escalations, flows.run_flows.escalation_sweeper
        await escalations.resolve("decided", decision="wait", by="ada", reason="why")
        shared.clock.advance(3600.0)
        assert await escalations.time_out("timed out") is not None
        shared.clock.advance(MONTH)
        await escalations.resolve("late", decision="wait", by="ada", reason="why")
        assert not await sweeper.prune()
        assert [each.id for each in await escalations.list(status=None)] == ["open", "late"]
        assert sweeper.pruned == 2
        assert len(await flows.store.audit.list()) == 3


async def opened(flows: Flows, *names: str) -> None:
    """Escalations of these recoveries, which time out in an hour."""
    for name in names:
        await flows.store.escalations.open("bot:b1", failed="x", timeout_seconds=3600.0, recovery_id=name)


@pytest.mark.parametrize("retention", [Retention(60.0, of_ended_runs=False), None])
async def test_a_server_removes_by_itself(retention: Retention | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch at a time, also if L3 is away in between; without a retention all is kept."""
    monkeypatch.setattr(sweeping, "PAGE", 2)
    monkeypatch.setattr(sweeping, "PRUNE_SWEEPS", 3)
    naps = 0

    async def nap(_: float) -> None:
        nonlocal naps
        naps += 1
        shared.l3.away = naps == 3
        await asyncio.sleep(0)

    async with hall("a") as shared:
        await still(shared)
        flows = shared.servers["a"]
        await opened(flows, *(f"e{number}" for number in range(5)))
        for number in range(5):
            await flows.store.escalations.resolve(f"e{number}", decision="wait", by="ada", reason="why")
        shared.clock.advance(61.0)
        sweeper = OverdueSweeper(flows.store.escalations, nap, "escalation", retention=retention)
        sweeper.start()

        async def is_done() -> bool:
            return naps > 12

        await until(is_done)
        shared.l3.away = False
        await sweeper.stop()
        left = await flows.store.escalations.list(status=None)
        assert (len(left), sweeper.pruned) == ((5, 0) if retention is None else (0, 5))
