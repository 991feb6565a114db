"""A run that recovery wants ended while a server runs it: that server ends it, and keeps all that it knows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_run_servers import RUN, Hall, hall, values
from holdfast import Durability
from holdfast.documents import Run
from holdfast.errors import NotOwner, OutcomeUnknown, RunOver, TierUnavailable
from holdfast.run_context import rescuing
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.context import RunContext
from holdfast.run_context.ending import Ending
from holdfast.run_context.liveness import is_live
from holdfast.run_context.rescuing import WHY, Termination
from holdfast.run_context.termination_watch import TerminationWatch

KNOWN = {"topic": "ants", "n1": 1, "acked": True}


async def begun(at: Hall) -> ActiveRun:
    """A run of server "a" with a snapshot and a change that was only accepted, whose one base is damaged then."""
    run: ActiveRun = await at.a.begin("search", {"topic": "ants"}, run_id=RUN)
    run.context["topic"] = "ants"
    run.context["n1"] = 1
    await run.checkpoint()
    run.context["acked"] = True
    await run.save(Durability.JOURNALED)
    at.damage("00000000.base")
    return run


async def stepped(at: Hall, run: ActiveRun, steps: int) -> None:
    """Make steps, each kept by L3."""
    for number in range(steps):
        async with run.step(f"later{number}"):
            run.context[f"later{number}"] = number
        await run.save(Durability.COMMITTED)
        await at.a.row(RUN)


async def is_failed(at: Hall) -> bool:
    """Whether L3 says so; time goes on meanwhile."""
    at.clock.advance(0.1)
    return at.row().status == "failed"


async def ended_in_a_step(at: Hall, run: ActiveRun) -> None:
    """A step in whose middle the run is to be ended."""
    async with run.step("long"):
        run.context["meanwhile"] = 3
        assert await at.b.rescue.terminate(RUN) is Termination.TOLD
        await until(lambda: is_failed(at))
        run.context["late"] = 4


async def test_its_owner_ends_it_at_once_and_loses_nothing() -> None:
    """It hears of it by the feed, in the middle of a step; what was acknowledged, and what was not yet, is kept."""
    async with hall() as at:
        run = await begun(at)
        with pytest.raises(RunOver, match="is failed"):
            await ended_in_a_step(at, run)
        assert run.is_over
        row = at.row()
        assert (row.error, row.terminate, row.epoch) == (WHY, None, run.epoch)
        assert values(await at.b.get(RUN)) == {**KNOWN, "meanwhile": 3}
        assert not (await at.b.get(RUN)).lost
        assert await at.b.rescue.terminate(RUN) is Termination.OVER


async def at_the_end_of_a_step(at: Hall) -> None:
    """Steps of a run whose server hears neither feed nor events, after it was to be ended."""
    run = await begun(at)
    await at.servers["a"].feed.stop()
    await at.servers["a"].bus.stop()
    assert await at.b.rescue.terminate(RUN) is Termination.TOLD
    await stepped(at, run, 3)


async def test_its_owner_sees_it_where_the_event_is_lost() -> None:
    """The row is what counts: the ends of its steps look at it."""
    async with hall() as at:
        with pytest.raises(RunOver):
            await at_the_end_of_a_step(at)
        await until(lambda: is_failed(at))
        found = values(await at.b.get(RUN))
        assert found.items() >= KNOWN.items()
        forked = await at.b.fork(RUN)
        assert not forked.lost
        assert forked.context["later0"] == 0


async def test_mutant_nobody_looks_at_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the run goes on, on a context that nobody can restore."""

    async def check(_: TerminationWatch) -> None:
        return

    monkeypatch.setattr(TerminationWatch, "check", check)
    async with hall() as at:
        await at_the_end_of_a_step(at)
        assert at.row().status == "running"


@pytest.mark.parametrize("end", ["complete", "pause", "release"])
async def test_no_other_end_comes_before_it(end: str) -> None:
    """What is ended otherwise could not be restored either: it is ended with all that its owner knows."""
    async with hall() as at:
        run = await begun(at)
        await at.servers["a"].feed.stop()
        assert await at.b.rescue.terminate(RUN) is Termination.TOLD
        at.servers["a"].caches["run"].flush()
        await at.a.row(RUN)
        with pytest.raises(RunOver, match="ended by recovery"):
            await getattr(run, end)()
        assert values(await at.b.get(RUN)) == KNOWN


async def test_while_l3_does_not_take_it_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is ended as soon as it does."""
    terminate, refused = Ending.terminate, list[str]()

    async def once_away(self: Ending, context: RunContext, reason: str) -> None:
        if not refused:
            refused.append(reason)
            raise TierUnavailable("away")
        await terminate(self, context, reason)

    monkeypatch.setattr(Ending, "terminate", once_away)
    async with hall() as at:
        run = await begun(at)
        await at.b.rescue.terminate(RUN)
        with pytest.raises(RunOver):
            await stepped(at, run, 5)
        assert refused == [WHY]
        assert values(await at.b.get(RUN)).items() >= KNOWN.items()


async def in_a_block(at: Hall, *, taken_over: bool) -> None:
    """A block that writes to a context whose run was ended, or taken over, meanwhile; it hears of that by itself."""
    async with at.a.begin("search", {"topic": "ants"}, run_id=RUN) as run:
        await run.checkpoint()
        at.damage("00000000.base")
        if taken_over:
            await at.servers["a"].feed.stop()
        assert await at.b.rescue.terminate(RUN) is Termination.TOLD
        if taken_over:
            run._watch._note(at.row())
            await at.b._ground.runs.update(RUN, lambda held: msgspec.structs.replace(held, epoch=held.epoch + 1))
            run._watch.look()

        async def is_over() -> bool:
            at.clock.advance(0.1)
            return bool(run.is_over)

        await until(is_over)
        run.context["late"] = 1


@pytest.mark.parametrize("taken_over", [False, True])
async def test_a_block_does_not_end_as_if_all_were_well(*, taken_over: bool) -> None:
    """What it wrote since is nowhere."""
    async with hall() as at:
        with pytest.raises(NotOwner if taken_over else RunOver):
            await in_a_block(at, taken_over=taken_over)


async def raising(at: Hall) -> None:
    """A block that fails when its run was ended."""
    async with at.a.begin("search", run_id=RUN) as run:
        await run._be_ended()
        raise ZeroDivisionError


async def test_a_block_that_raises_is_told_nothing_else() -> None:
    """What it raised is what its caller sees."""
    async with hall() as at:
        with pytest.raises(ZeroDivisionError):
            await raising(at)


@pytest.mark.parametrize("end", ["complete", "pause", "cancel", "release"])
async def test_a_block_that_ended_its_run_is_told_nothing(end: str) -> None:
    """It knows."""
    async with hall() as at, at.a.begin("search", run_id=RUN) as run:
        await getattr(run, end)()


async def ended_with_a_lost_reply(at: Hall, monkeypatch: pytest.MonkeyPatch) -> ActiveRun:
    """A run of a server that hears no feed, whose end took effect, which it was not told."""
    run = await begun(at)
    await at.servers["a"].feed.stop()
    assert await at.b.rescue.terminate(RUN) is Termination.TOLD
    at.servers["a"].caches["run"].flush()
    await at.a.row(RUN)
    transactions = at.a._ground.transactions
    transact = transactions.transact

    async def lost(*arguments: Any, **how: Any) -> None:
        monkeypatch.undo()
        await transact(*arguments, **how)
        raise OutcomeUnknown("the reply to COMMIT was lost")

    monkeypatch.setattr(transactions, "transact", lost)
    await run.save()
    assert (at.row().status, at.row().terminate, run.is_over) == ("failed", None, False)
    return run


@pytest.mark.parametrize("end", ["save", "checkpoint", "complete", "release"])
async def test_a_lost_reply_to_the_end_does_not_let_it_go_on(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again, also where the row says no more that it is to be; what changed meanwhile is kept."""
    async with hall() as at:
        run = await ended_with_a_lost_reply(at, monkeypatch)
        run.context["late"] = 5
        with pytest.raises(RunOver, match="ended by recovery"):
            await getattr(run, end)()
        assert run.is_over
        assert (at.row().status, at.row().error) == ("failed", WHY)
        assert values(await at.b.get(RUN)) == {**KNOWN, "late": 5}


async def test_mutant_the_row_alone_says_what_is_to_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a run that has failed completes."""
    async with hall() as at:
        run = await ended_with_a_lost_reply(at, monkeypatch)
        run._watch._reason = None
        await run.complete()
        assert (at.row().status, at.row().error) == ("completed", WHY)


async def test_who_was_replaced_meanwhile_ends_nothing() -> None:
    """The run is another's by then, under another epoch."""
    async with hall() as at:
        run = await begun(at)
        await at.servers["a"].feed.stop()
        await at.b.rescue.terminate(RUN)
        await at.b._ground.runs.update(RUN, lambda held: msgspec.structs.replace(held, epoch=held.epoch + 1))
        with pytest.raises(NotOwner):
            await stepped(at, run, 3)
        assert at.row().status == "running"


async def judged_while_pruned(at: Hall) -> Termination:
    """What is made of a run whose bases are pruned, and written anew, between two reads of who judges it."""
    run = await at.a.begin("search", run_id=RUN)
    for number in range(4):
        run.context["n"] = number
        await run.checkpoint()
    rescue = at.b.rescue
    before: Run = await rescue._row(RUN)
    row = rescue._row

    async def pruned_since(_: str) -> Run:
        rescue._row = row
        for number in range(4):
            run.context["n"] = number
            await run.checkpoint()
            if (task := run._bases._task) is not None:
                await task
        assert await at.a.prune(RUN)
        return before

    rescue._row = pruned_since
    became: Termination = await rescue.terminate(RUN)
    return became


async def test_what_was_pruned_meanwhile_is_not_corrupt() -> None:
    """The run is ended only with the base with which it was judged."""
    async with hall(run_deltas_per_base=1) as at:
        assert await judged_while_pruned(at) is Termination.RESTORABLE
        assert at.row().terminate is None


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_base_that_is_written_while_a_run_is_judged_saves_it(
    monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    """Under the row's lock it is seen, and the run judged again; without one the run is ended."""
    async with hall(run_deltas_per_base=1) as at:
        run = await begun(at)
        if (task := run._bases._task) is not None:
            await task
        for base in [key.id.partition("/")[2] for key in at.l3.log.rows if key.id.endswith(".base")]:
            at.damage(base)

        async def meanwhile(*arguments: Any) -> bool:
            monkeypatch.setattr(rescuing, "is_live", is_live)
            before = at.row().base
            while is_written and at.row().base == before:
                run.context["n"] = "n" * 1000
                await run.checkpoint()
                if (task := run._bases._task) is not None:
                    await task
            return await is_live(*arguments)

        monkeypatch.setattr(rescuing, "is_live", meanwhile)
        became = await at.b.rescue.terminate(RUN)
        assert became is (Termination.RESTORABLE if is_written else Termination.TOLD)
        assert (at.row().terminate is None) is is_written


async def test_a_run_that_was_let_go_of_is_not_ended_by_who_had_it() -> None:
    """It is anybody's: what its server remembers of it counts no more."""
    async with hall() as at:
        run = await begun(at)
        await run.pause()
        await at.b._ground.runs.update(RUN, lambda held: msgspec.structs.replace(held, terminate=WHY))
        run._watch.look()
        await run._watch._look()
        assert at.row().status == "paused"
