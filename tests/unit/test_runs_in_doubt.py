"""Runs while an answer is lost, an owner writes on, or others prune: what L3 has decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fix_races import until
from fix_run_servers import RUN, Hall, hall, values
from holdfast import Collection, Consistency, Durability, Set
from holdfast.errors import ContextCorrupt, NotOwner, OutcomeUnknown, Refused
from holdfast.kinds import RUN as KIND
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.loading import SnapshotLoader
from holdfast.run_context.runs import Runs
from holdfast.transactions import Transactions
from holdfast.write_behind.handing_over import HandingOver


def lose_answers(patch: pytest.MonkeyPatch, *, committed: bool = True, away: Hall | None = None) -> None:
    """Let each transaction and each put be one of unknown outcome; `away`: and L3 cannot be asked then."""

    def lost(healthy: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def write(*words: Any, **named: Any) -> Any:
            if committed:
                await healthy(*words, **named)
            if away is not None:
                away.l3.away = True
            raise OutcomeUnknown("the connection was lost")

        return write

    patch.setattr(Transactions, "transact", lost(Transactions.transact))
    patch.setattr(Collection, "put", lost(Collection.put))


async def test_a_begin_of_unknown_outcome_goes_on_if_it_is_in_l3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is raised: there is none, or one that was begun before."""
    async with hall("a") as at:
        for _ in range(2):
            with monkeypatch.context() as patch:
                lose_answers(patch, committed=False)
                with pytest.raises(OutcomeUnknown):
                    await at.a.begin("search", run_id=RUN)
            if RUN not in at.a._admission._under_way:
                with monkeypatch.context() as patch:
                    lose_answers(patch)
                    run = await at.a.begin("search", run_id=RUN)
        run.context["x"] = 1
        await run.complete()
        assert values(await at.a.get(RUN)) == {"x": 1}


async def test_a_resume_of_unknown_outcome_goes_on_if_it_is_in_l3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is raised; and anybody may resume the run then."""
    async with hall() as at:
        await (await at.a.begin("search", run_id=RUN)).pause()
        with monkeypatch.context() as patch:
            lose_answers(patch, committed=False)
            with pytest.raises(OutcomeUnknown):
                await at.b.resume(RUN)
        with monkeypatch.context() as patch:
            lose_answers(patch)
            run = await at.b.resume(RUN)
        assert (run.epoch, at.row().epoch, at.row().owner) == (2, 2, "b")
        with pytest.raises(NotOwner, match="alive"):
            await at.b.resume(RUN)
        await run.complete()


async def resumed_in_doubt(at: Hall, monkeypatch: pytest.MonkeyPatch) -> int:
    """The epoch of a run that is resumed again by the server which was not told that it had it."""
    await (await at.a.begin("search", run_id=RUN)).pause()
    with monkeypatch.context() as patch:
        lose_answers(patch, away=at)
        with pytest.raises(OutcomeUnknown):
            await at.b.resume(RUN)
    at.l3.away = False
    assert at.row().owner == "b"
    with pytest.raises(NotOwner, match="alive"):
        await at.a.resume(RUN)
    epoch: int = (await at.b.resume(RUN)).epoch
    return epoch


async def test_a_run_that_its_server_does_not_know_of_is_resumed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """L3 has given it to this server, which was not told: no other one would take it while this one lives."""
    async with hall() as at:
        assert await resumed_in_doubt(at, monkeypatch) == 3


async def test_mutant_each_run_of_a_live_server_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then only force helps."""
    async with hall() as at:
        monkeypatch.setattr("holdfast.run_context.under_way.UnderWay.__contains__", lambda *_: True)
        with pytest.raises(NotOwner, match="alive"):
            await resumed_in_doubt(at, monkeypatch)


async def test_a_run_is_resumed_by_one_task_of_a_server() -> None:
    """The second finds it under way; what is over is forgotten."""
    async with hall("a") as at:
        await (await at.a.begin("search", run_id=RUN)).release()
        first, second = await asyncio.gather(*(at.a.resume(RUN)._opened() for _ in range(2)), return_exceptions=True)
        assert isinstance(second, NotOwner)
        assert isinstance(first, ActiveRun)
        assert RUN in at.a._admission._under_way
        await first.complete()
        assert RUN not in at.a._admission._under_way


async def test_of_two_servers_that_have_restored_a_run_one_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other finds that the row has changed since it read it, and that its owner is alive."""
    async with hall() as at:
        await (await at.a.begin("search", run_id=RUN)).pause()
        both, healthy = asyncio.Barrier(2), SnapshotLoader.restored

        async def restored(*words: Any, **named: Any) -> Any:
            found = await healthy(*words, **named)
            await both.wait()
            return found

        monkeypatch.setattr(SnapshotLoader, "restored", restored)
        outcomes = await asyncio.gather(*(each.resume(RUN)._opened() for each in (at.a, at.b)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in outcomes) == ["ActiveRun", "NotOwner"]
        assert at.row().epoch == 2


async def test_what_a_taker_has_accepted_for_the_row_is_not_taken_for_its_state() -> None:
    """It was laid over what L3 has, and is refused when it comes there: what another server committed stands."""
    async with hall() as at:
        await (await at.a.begin("search", run_id=RUN)).pause()
        rows = {name: each.store.collection(KIND) for name, each in at.servers.items()}
        await rows["b"].get(RUN)
        late = await rows["b"].patch(RUN, Set("error", "accepted"), durability=Durability.ACCEPTED)
        await rows["a"].patch(RUN, Set("error", "committed"), durability=Durability.COMMITTED)
        await at.b.resume(RUN)
        with pytest.raises(Refused):
            await late.reached(Durability.COMMITTED)
        assert (at.row().error, at.row().owner) == ("committed", "b")


async def acknowledged_meanwhile(at: Hall, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a taker has of a write that the live owner was told is JOURNALED while the taker restored the context."""
    run = await at.a.begin("search", run_id=RUN)
    run.context["x"] = 1
    await run.save()
    healthy = SnapshotLoader.restored
    receipts: list[Any] = []

    async def restored(self: SnapshotLoader, *words: Any, **more: Any) -> Any:
        found = await healthy(self, *words, **more)
        if not receipts:
            run.context["x"] = 2
            receipts.append(await run.save())
        return found

    monkeypatch.setattr(SnapshotLoader, "restored", restored)
    taker = await at.b.resume(RUN, force=True)
    assert receipts[0].durability.covers(Durability.JOURNALED)
    return taker.context["x"]


async def test_what_is_acknowledged_while_a_run_is_restored_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decided once more before the run is taken."""
    async with hall() as at:
        assert await acknowledged_meanwhile(at, monkeypatch) == 2


async def test_mutant_it_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what was acknowledged meanwhile is refused."""
    healthy, calls = HandingOver.decide_for, [0]

    async def decide_for(self: HandingOver, *words: Any) -> int:
        calls[0] += 1
        return await healthy(self, *words) if calls[0] == 1 else 0

    monkeypatch.setattr(HandingOver, "decide_for", decide_for)
    async with hall() as at:
        assert await acknowledged_meanwhile(at, monkeypatch) == 1


CALLS: list[Callable[[Runs], Awaitable[Any]]] = [
    lambda runs: runs.resume(RUN, force=True)._opened(),
    lambda runs: runs.get(RUN, consistency=Consistency.STRONG),
    lambda runs: runs.fork(RUN)._opened(),
    lambda runs: runs.at(RUN, 4),
    lambda runs: runs.diff(RUN, 4),
]


async def pruned_beside(at: Hall, monkeypatch: pytest.MonkeyPatch, call: Callable[[Runs], Awaitable[Any]]) -> None:
    """Call something that has read the row when its owner writes on and all that the row names is pruned."""
    run = await at.a.begin("search", run_id=RUN)
    await run.checkpoint()
    healthy = SnapshotLoader.restored
    pruned: list[int] = []

    async def base_is_written() -> bool:
        return bool(run._bases._is_idle)

    async def restored(self: SnapshotLoader, *words: Any, **more: Any) -> Any:
        if not pruned and self is at.b._loader:
            pruned.append(0)
            for _ in range(3):
                run.context["x"] = "y" * 2_000
                await run.checkpoint()
                await until(base_is_written)
            await run.save(Durability.COMMITTED)
            pruned.append(await at.a.prune(RUN))
        return await healthy(self, *words, **more)

    monkeypatch.setattr(SnapshotLoader, "restored", restored)
    await call(at.b)
    assert pruned[1:] > [0]


@pytest.mark.parametrize("call", CALLS)
async def test_a_run_that_is_pruned_beside_is_not_corrupt(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Runs], Awaitable[Any]]
) -> None:
    """Its row is read again: it leads elsewhere now."""
    async with hall(run_deltas_per_base=1) as at:
        await pruned_beside(at, monkeypatch, call)


@pytest.mark.parametrize("call", CALLS[:3])
async def test_mutant_a_row_leads_where_it_led(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Runs], Awaitable[Any]]
) -> None:
    """Then an intact run is called corrupt."""
    for module in ("contexts", "resuming", "runs"):
        monkeypatch.setattr(f"holdfast.run_context.{module}.names_same", lambda *_: True)
    async with hall(run_deltas_per_base=1) as at:
        with pytest.raises(ContextCorrupt):
            await pruned_beside(at, monkeypatch, call)
