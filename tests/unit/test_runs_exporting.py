"""Runs that complete with exports: all that leaves them, and their end, take effect at once or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fix_races import until
from fix_run_servers import HASTY, RUN, Hall, hall, values
from fix_secrets import NEW
from holdfast import Set, Swarm
from holdfast.documents import BlackboardItem
from holdfast.errors import (
    HoldfastError,
    LimitExceeded,
    NotOwner,
    OutcomeUnknown,
    Overloaded,
    RunOver,
    SerializationFailure,
    TierError,
    TierUnavailable,
)
from holdfast.kinds import DELIVERY, EXPORT
from holdfast.recovery.pacing import RetryBudget
from holdfast.run_context import ending
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.ending import Ending
from holdfast.transactions import Transactions

EVERYWHERE = ("parent_context", "blackboard", "persistent_store")


async def child_with_exports(at: Hall, swarm_id: str | None = "swarm1") -> ActiveRun:
    """A run below another one, with a variable that leaves it for every destination."""
    parent = await at.a.begin("search", run_id="parent", swarm_id=swarm_id)
    child: ActiveRun = await at.a.begin("look", parent=parent, run_id=RUN)
    child.context["x"] = 1
    for place in EVERYWHERE:
        child.context.mark_for_export("x", place)
    child.context.mark_for_export("x", "external_system", exporter="crm")
    return child


def kept(at: Hall, kind: str) -> list[str]:
    """The ids of a kind's rows in L3."""
    return [key.id for key in at.l3.log.rows if key.kind == kind]


async def board(at: Hall) -> list[tuple[str, Any]]:
    """What L3 has on the swarm's blackboard."""
    swarm = await at.servers["a"].store.swarms.get("swarm1")
    return [] if swarm is None else [(item.id, item.value) for item in swarm.blackboard]


async def test_all_that_leaves_a_run_does_when_it_completes() -> None:
    """And nothing before; its last changes are kept in the same transaction."""
    async with hall() as at:
        await at.servers["a"].store.swarms.put("swarm1", Swarm(blackboard=[BlackboardItem(id="other", value=0)]))
        run = await child_with_exports(at)
        await run.checkpoint()
        run.context["y"] = 2
        assert (kept(at, "export"), kept(at, "delivery"), await board(at)) == ([], [], [("other", 0)])
        await run.complete()
        row = at.row()
        assert (row.status, row.changes, [*row.exported], row.refused_exports) == ("completed", [], ["x"], [])
        assert row.ended_at is not None
        assert await board(at) == [("other", 0), (f"{RUN}/x", 1)]
        exported = await at.servers["b"].store.collection(EXPORT).get(f"{RUN}/x")
        assert exported is not None
        assert (exported.run_id, exported.value, exported.exported_at) == (RUN, 1, row.ended_at)
        assert kept(at, "delivery") == [f"{RUN}/crm/x"]
        delivery = await at.servers["b"].store.collection(DELIVERY).get(f"{RUN}/crm/x")
        assert delivery is not None
        assert (delivery.exporter, delivery.value) == ("crm", 1)
        view = await at.b.get(RUN)
        assert values(view) == {"x": 1, "y": 2}
        with pytest.raises(RunOver):
            await run.save()


async def test_what_was_accepted_before_is_in_the_snapshot() -> None:
    """What the flusher had not brought to L3 comes first."""
    async with hall("a") as at:
        run = await child_with_exports(at, swarm_id=None)
        await run.save()
        await run.complete()
        assert values(await at.a.get(RUN)) == {"x": 1}
        assert at.row().changes == []


async def test_an_item_takes_the_place_of_the_one_before() -> None:
    """A blackboard grows by no item that was there."""
    before = Swarm(blackboard=[BlackboardItem(id=f"{RUN}/x", value=0), BlackboardItem(id="other", value=0)])
    async with hall("a") as at:
        await at.servers["a"].store.swarms.put("swarm1", before)
        await (await child_with_exports(at)).complete()
        assert await board(at) == [(f"{RUN}/x", 1), ("other", 0)]


async def test_what_does_not_leave_is_told() -> None:
    """By the run's row and an event, without values; the rest leaves all the same."""
    async with hall("a", master_keys=(NEW,)) as at:
        heard: list[Any] = []
        at.servers["a"].store.subscribe("run/export/refused", heard.append)
        run = await child_with_exports(at, swarm_id="nobody")
        run.context.set("token", "s3cret", sensitivity="secret")
        run.context.mark_for_export("token", "persistent_store")
        await run.complete()
        row = at.row()
        assert [(each.key, each.destination) for each in row.refused_exports] == [
            ("token", "persistent_store"),
            ("x", "blackboard"),
        ]
        assert kept(at, "export") == [f"{RUN}/x"]

        async def told() -> bool:
            return bool(heard)

        await until(told)
        assert [each["key"] for each in heard[0].data["refused"]] == ["token", "x"]
        assert "s3cret" not in repr(heard[0].data)


@pytest.mark.parametrize("has_swarm", [True, False])
async def test_what_leaves_masked_is_told(*, has_swarm: bool) -> None:
    """By the row and the event; what cannot be posted, masked or not, has not left."""
    async with hall("a", master_keys=(NEW,), export_secrets="mask") as at:
        if has_swarm:
            await at.servers["a"].store.swarms.put("swarm1", Swarm())
        heard: list[Any] = []
        at.servers["a"].store.subscribe("run/export/refused", heard.append)
        run = await at.a.begin("search", run_id=RUN, swarm_id="swarm1", secrets={"token": "s3cret"})
        for place in ("persistent_store", "blackboard"):
            run.context.mark_for_export("token", place)
        await run.complete()
        told = [(each.destination, each.masked) for each in at.row().refused_exports]
        assert told == [("persistent_store", True), ("blackboard", has_swarm)]

        async def is_told() -> bool:
            return bool(heard)

        await until(is_told)
        assert [each["masked"] for each in heard[0].data["refused"]] == [True, has_swarm]


async def test_a_failed_run_exports_nothing() -> None:
    """Nor does a cancelled one."""
    async with hall("a") as at:
        await (await child_with_exports(at)).fail("it broke")
        assert (at.row().exported, kept(at, "export"), kept(at, "delivery")) == ({}, [], [])


async def test_another_owner_lets_nothing_leave() -> None:
    """Whoever has lost the run changes nothing by completing it."""
    async with hall() as at:
        run = await child_with_exports(at)
        await run.save()
        await at.b.resume(RUN, force=True)
        with pytest.raises(NotOwner):
            await run.complete()
        assert run.is_over
        assert (at.row().status, kept(at, "export"), kept(at, "delivery")) == ("running", [], [])


async def test_while_l3_is_away_the_run_goes_on() -> None:
    """It is not over, its context has all, and it can be completed later."""
    async with hall("a", **HASTY) as at:
        run = await child_with_exports(at, swarm_id=None)
        at.l3.away = True
        with pytest.raises(TierUnavailable):
            await run.complete()
        at.l3.away = False
        assert (run.is_over, run.context.status) == (False, "running")
        await run.complete()
        assert [*at.row().exported] == ["x"]
        assert values(await at.a.get(RUN)) == {"x": 1}


async def test_more_than_a_context_may_hold_does_not_leave() -> None:
    """A transformation that makes too much fails the end, not the run."""
    async with hall("a", transformations={"grow": lambda _: "x" * 3000}, run_bytes_max=2000) as at:
        parent = await at.a.begin("search", run_id="parent")
        run = await at.a.begin("look", parent=parent, run_id=RUN)
        run.context["x"] = 1
        run.context.mark_for_export("x", "parent_context", transformation="grow")
        with pytest.raises(LimitExceeded):
            await run.complete()
        assert (run.is_over, at.row().status) == (False, "running")


Transact = Callable[..., Awaitable[Any]]


def lose_commits(
    patch: pytest.MonkeyPatch, *, times: int, in_effect: bool, second: HoldfastError | None = None
) -> None:
    """Let the answers to the next transactions get lost, which took effect or did not; those behind may fail."""
    healthy = Transactions.transact
    left = times

    async def transact(self: Transactions, *words: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0 and second is not None:
            raise second
        if left < 0:
            return await healthy(self, *words, **named)
        if in_effect:
            await healthy(self, *words, **named)
        raise OutcomeUnknown("the reply was lost")

    patch.setattr(Transactions, "transact", transact)


@pytest.mark.parametrize("in_effect", [True, False])
async def test_an_end_of_unknown_outcome_is_found_out(monkeypatch: pytest.MonkeyPatch, *, in_effect: bool) -> None:
    """L3 is asked by making it again: it takes effect once."""
    async with hall("a") as at:
        await at.servers["a"].store.swarms.put("swarm1", Swarm())
        run = await child_with_exports(at)
        with monkeypatch.context() as patch:
            lose_commits(patch, times=2, in_effect=in_effect)
            await run.complete()
        row = at.row()
        assert (run.is_over, row.status, row.sequence) == (True, "completed", 1)
        assert len(await board(at)) == 1


async def end_in_doubt(at: Hall, patch: pytest.MonkeyPatch, *, in_effect: bool) -> ActiveRun:
    """A run of which L3 does not say whether it is complete, when all that was accepted is decided."""
    run = await child_with_exports(at, swarm_id=None)
    await run.checkpoint()
    run.context["y"] = 2
    with patch.context() as lost:
        lose_commits(lost, times=99, in_effect=in_effect)
        with pytest.raises(OutcomeUnknown):
            await run.complete()
    await at.servers["a"].store.flush()
    return run


async def test_an_end_that_nobody_can_find_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is over here; where it did not take effect, anybody finds it and goes on, while this server lives."""
    async with hall() as at:
        run = await end_in_doubt(at, monkeypatch, in_effect=False)
        assert run.is_over
        assert [each.id for each in await at.b.list(orphaned=True)] == [RUN]
        again = await at.b.resume(RUN)
        assert dict(again.context) == {"x": 1, "y": 2}
        await again.complete()
        assert [*at.row().exported] == ["x"]


@pytest.mark.parametrize(
    "second", [Overloaded("too many clients"), SerializationFailure("others were in the way"), TierError("read only")]
)
async def test_what_another_attempt_came_to_says_nothing_of_the_first(
    monkeypatch: pytest.MonkeyPatch, second: HoldfastError
) -> None:
    """The run is over here: what has left it must not be told to have failed."""
    async with hall() as at:
        run = await child_with_exports(at, swarm_id=None)
        with monkeypatch.context() as patch:
            lose_commits(patch, times=1, in_effect=True, second=second)
            with pytest.raises(OutcomeUnknown):
                await run.complete()
        with pytest.raises(RunOver):
            await run.fail("so it failed")
        await at.servers["a"].store.flush()
        assert (at.row().status, kept(at, DELIVERY.name)) == ("completed", [f"{RUN}/crm/x"])


async def test_an_end_that_l3_is_away_for_is_made_again_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing took effect, so the run is not over, and nothing of it is given up."""
    async with hall() as at:
        run = await child_with_exports(at, swarm_id=None)
        with monkeypatch.context() as patch:
            patch.setattr(Transactions, "transact", away)
            with pytest.raises(TierUnavailable):
                await run.complete()
        assert (run.is_over, at.row().status) == (False, "running")
        await run.complete()
        assert (at.row().status, [*at.row().exported]) == ("completed", ["x"])


async def away(*_: Any, **__: Any) -> None:
    """L3 is."""
    raise TierUnavailable("away")


async def test_an_end_that_is_in_effect_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the run was let go of changes nothing of it."""
    async with hall() as at:
        await end_in_doubt(at, monkeypatch, in_effect=True)
        row = at.row()
        assert (row.status, row.owner, [*row.exported], row.changes) == ("completed", "a", ["x"], [])
        with pytest.raises(RunOver):
            await at.b.resume(RUN)


@pytest.mark.parametrize("is_resumed", [True, False])
async def test_an_end_that_comes_late(monkeypatch: pytest.MonkeyPatch, *, is_resumed: bool) -> None:
    """It completes a run that was let go of, and not one that another server has taken meanwhile."""
    healthy, ends = Transactions.transact, list[Any]()

    async def transact(self: Transactions, operate: Any, *words: Any) -> Any:
        ends.append(lambda: healthy(self, operate, *words))
        raise OutcomeUnknown("the reply was lost")

    async with hall() as at:
        run = await child_with_exports(at, swarm_id=None)
        with monkeypatch.context() as patch:
            patch.setattr(Transactions, "transact", transact)
            with pytest.raises(OutcomeUnknown):
                await run.complete()
        await at.servers["a"].store.flush()
        if is_resumed:
            await at.b.resume(RUN)
            with pytest.raises(NotOwner):
                await ends[-1]()
        else:
            assert (await ends[-1]()).status == "completed"
        assert (kept(at, "export") == []) == is_resumed


async def test_what_was_not_saved_is_journaled_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it outlives the server that does not hear whether its end took effect."""
    async with hall() as at:
        run = await child_with_exports(at, swarm_id=None)
        with monkeypatch.context() as patch:
            lose_commits(patch, times=99, in_effect=False)
            with pytest.raises(OutcomeUnknown):
                await run.complete()
        await at.kill("a")
        again = await at.b.resume(RUN)
        assert (dict(again.context), [*again.context.exports]) == ({"x": 1}, ["x"])


async def test_what_can_neither_be_ended_nor_let_go_of_is_over_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the run is this server's still, and goes on when that has died."""
    async with hall() as at:
        run = await child_with_exports(at, swarm_id=None)
        with monkeypatch.context() as patch:
            lose_commits(patch, times=99, in_effect=False)
            patch.setattr(ending, "LET_GO", (Set("nothing", None),))
            with pytest.raises(OutcomeUnknown):
                await run.complete()
        assert (run.is_over, at.row().journal is None) == (True, False)
        assert "could not be let go of" in caplog.text
        await at.kill("a")
        await at.b.resume(RUN)


async def test_a_server_that_has_repeated_too_much_asks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its budget of retries is spent: the fault goes to the caller, and L3 is not asked again."""
    async with hall("a") as at:
        flows = at.servers["a"]
        flows.transactions.retries = RetryBudget(reserve=0.0, on_refused=flows.counters.recovery.retry_refused)
        run = await child_with_exports(at, swarm_id=None)
        with monkeypatch.context() as patch:
            lose_commits(patch, times=1, in_effect=True)
            with pytest.raises(OutcomeUnknown):
                await run.complete()
        assert flows.counters.recovery.retries_refused == 1


async def test_mutant_the_answer_is_believed_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking L3 once more, a run that has completed raises."""
    monkeypatch.setattr(ending, "UNKNOWN_MAX", 1)
    async with hall("a") as at:
        run = await child_with_exports(at, swarm_id=None)
        with monkeypatch.context() as patch:
            lose_commits(patch, times=1, in_effect=True)
            with pytest.raises(OutcomeUnknown):
                await run.complete()
        assert at.row().status == "completed"


async def test_a_cancelled_caller_lets_the_end_go_on() -> None:
    """Half of it is never in effect."""
    async with hall("a") as at:
        run = await child_with_exports(at, swarm_id=None)
        task = asyncio.ensure_future(run.complete())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        async def over() -> bool:
            return at.row().status == "completed"

        await until(over)
        assert [*at.row().exported] == ["x"]
        assert kept(at, "export") == [f"{RUN}/x"]


async def test_mutant_the_epoch_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then an owner of before completes, and exports, what another one runs."""
    healthy = Ending._complete

    async def complete(self: Ending, transaction: Any, *words: Any) -> Any:
        held = await transaction.collection(at.a._ground.runs.kind).get(RUN)
        self.epoch = held.epoch
        return await healthy(self, transaction, *words)

    async with hall() as at:
        run = await child_with_exports(at)
        await run.save()
        await at.b.resume(RUN, force=True)
        monkeypatch.setattr(Ending, "_complete", complete)
        await run.complete()
        assert at.row().status == "completed"
