"""A run whose context cannot be restored: it is ended if nobody runs it, and what is left of it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_recovery import Nobody, Person, hurry
from fix_run_servers import RUN, Hall, hall
from holdfast import Durability, Escalation, Swarm
from holdfast.documents import Run
from holdfast.errors import ContextCorrupt, RunOver
from holdfast.events import Event
from holdfast.invalidation.topics import RECOVERY_COMPLETED
from holdfast.protocols import Source
from holdfast.recovery import manager as managing
from holdfast.recovery.escalations import Escalations
from holdfast.recovery.leaders import ALERT
from holdfast.recovery.manager import RecoveryManager
from holdfast.run_context.rescuing import TERMINATE, Rescuing, Termination
from holdfast.run_context.restoring import Loss
from holdfast.testing import MemoryRecoveryLog


class Told:
    """What server "b" told of recoveries, and all servers by events that wait."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def hear(self, event: Event) -> None:
        self.events.append(event)

    async def data(self, topic: str) -> dict[str, Any]:
        """Of the first event of a topic."""

        async def heard() -> bool:
            return any(each.type == topic for each in self.events)

        await until(heard)
        return next(dict(each.data) for each in self.events if each.type == topic)

    async def steps(self) -> list[tuple[str, str]]:
        """Of the recovery, once it is over."""
        return [(each["step"], each["outcome"]) for each in (await self.data(RECOVERY_COMPLETED))["tried"]]


@asynccontextmanager
async def listening(person: Person | None = None) -> AsyncIterator[tuple[Hall, Told]]:
    """Servers "a" and "b", the recoveries of the latter being heard.

    Args:
        person: is asked by them; None: who would be.
    """
    async with hall() as at:
        told, b = Told(), at.servers["b"]
        hurry(b, person)
        for pattern, group in (("state/recovery/*", None), (ALERT, "g"), (TERMINATE, "g")):
            await b.bus.subscribe(pattern, told.hear, group=group).ready()
        await b.store.swarms.put("s1", Swarm(goal="g", swarm_leader="b7"))
        run = await at.a.begin("search", {"topic": "ants"}, run_id=RUN, swarm_id="s1")
        for number in (1, 2):
            async with run.step(f"step{number}"):
                run.context[f"n{number}"] = number
            await run.checkpoint()
        run.context["tail"] = True
        await run.save(Durability.COMMITTED)
        yield at, told


async def read_corrupt(at: Hall) -> None:
    """A reader finds out that no base verifies."""
    at.damage("00000000.base")
    with pytest.raises(ContextCorrupt):
        await at.b.get(RUN)


async def test_a_run_that_nobody_runs_has_failed() -> None:
    """Under the next epoch; its leader is told, a person is asked, and its snapshots stay as they are."""
    person = Person()
    async with listening(person) as (at, told):
        await at.kill("a")
        before = at.row()
        await read_corrupt(at)
        assert await told.steps() == [
            ("terminate_routine", "done"),
            ("notify_swarm_leader", "done"),
            ("escalate_to_human", "escalated"),
        ]
        row = at.row()
        assert (row.status, row.epoch, row.owner, row.error) == (
            "failed",
            before.epoch + 1,
            None,
            "its context cannot be restored",
        )
        assert (row.newest, row.changes) == (before.newest, before.changes)
        alert = await told.data(ALERT)
        assert (alert["swarmId"], alert["leaderBotId"], alert["runId"]) == ("s1", "b7", RUN)
        (asked,) = person.asked.values()
        assert (asked["run"], asked["swarm"], asked["subject"]) == (RUN, "s1", f"run:{RUN}")
        with pytest.raises(RunOver):
            await at.b.resume(RUN)


async def test_a_context_that_verifies_after_all_is_left() -> None:
    """What was reported is asked again before anything is done."""
    async with listening(Person()) as (at, told):
        await at.kill("a")
        before = at.row()
        at.servers["b"].faults.report(ContextCorrupt(RUN, ()), Source.L3, run_id=RUN)
        assert await told.steps() == [("terminate_routine", "mended")]
        assert at.row() == before
        await (await at.b.resume(RUN)).complete()


async def terminated(at: Hall) -> tuple[Termination, str]:
    """What became of ending a run that another server takes over meanwhile, and its status."""
    await at.kill("a")
    rescue: Rescuing = at.b.rescue
    restored = rescue._restored

    async def taken_over_meanwhile(run_id: str, run: Any) -> None:
        await at.b.resume(run_id)
        rescue._restored = restored  # type: ignore[method-assign]

    rescue._restored = taken_over_meanwhile  # type: ignore[method-assign]
    rescue._under_way = type(rescue._under_way)()  # the judge is not the one who took it
    became = await rescue.terminate(RUN)
    return became, at.row().status


async def test_it_is_ended_under_the_epoch_it_was_judged_by() -> None:
    """Who has taken it over meanwhile keeps it."""
    async with listening(Person()) as (at, _):
        assert await terminated(at) == (Termination.OVER, "running")


async def test_mutant_whatever_epoch_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that, a run that goes on elsewhere would be ended."""
    change = Rescuing._change

    async def any_epoch(
        self: Rescuing, run_id: str, _: Run, changed: Callable[[Run], Run], done: Termination
    ) -> Termination | None:
        return await change(self, run_id, await self._row(run_id), changed, done)

    monkeypatch.setattr(Rescuing, "_change", any_epoch)
    async with listening(Person()) as (at, _):
        assert await terminated(at) == (Termination.FAILED, "failed")


async def test_with_nobody_to_ask_it_is_told_what_is_left() -> None:
    """No base verifies: what could be put together from the history is said, and nothing is put in its place."""
    async with listening(Nobody()) as (at, told):
        await at.kill("a")
        await read_corrupt(at)
        assert (await told.steps())[2:] == [
            ("escalate_to_human", "failed"),
            ("restore_last_snapshot", "failed"),
            ("emergency_state_rebuild", "available"),
        ]
        at.damage("00000001")
        left = await at.b.rescue.remains(RUN)
        assert (left.base, left.intact, len(left.state.steps), set(left.state.variables)) == (
            None,
            1,
            1,
            {"n2", "tail"},
        )
        # The base, of which nobody tells, and a snapshot, of which the next does.
        assert left.lost == Loss(steps=1, variables=("n1",), snapshots=2, unknown=1)


async def test_with_a_part_of_it_a_person_can_go_on_from_there() -> None:
    """The base verifies and a snapshot behind it does not: the run is left, and it is told what a resume would lose."""
    async with listening(Nobody()) as (at, told):
        await at.kill("a")
        at.damage("00000002")
        assert (await at.b.get(RUN)).lost
        assert await told.steps() == [
            ("terminate_routine", "done"),
            ("notify_swarm_leader", "done"),
            ("escalate_to_human", "failed"),
            ("restore_last_snapshot", "available"),
        ]
        assert at.row().status == "running"
        resumed = await at.b.resume(RUN)
        assert resumed.lost.snapshots == 1


async def unanswered(at: Hall, told: Told) -> list[tuple[str, str]]:
    """What server "b" does about a corrupt run when a person was asked and says nothing for a minute."""
    b = at.servers["b"]
    await b.run_flows.escalation_sweeper.stop()
    await at.kill("a")
    await read_corrupt(at)
    recovery = (await told.data(RECOVERY_COMPLETED))["recoveryId"]
    (asked,) = await b.store.escalations.list()
    document = asked.document
    assert (document.subject, document.run_id, document.swarm_id) == (f"run:{RUN}", RUN, "s1")
    assert [each.step for each in document.tried] == ["terminate_routine", "notify_swarm_leader"]
    at.clock.advance(61.0)
    await b.run_flows.escalation_sweeper.sweep()
    done = await b.store.escalations.get(asked.id)
    assert done is not None
    assert (done.status, done.recovery_id, done.decision) == ("timed_out", recovery, "restore_last_snapshot")

    async def is_recorded() -> bool:
        return not b.recovery._falling_back and not b.recovery_log.waiting

    await until(is_recorded)
    lines = [each.line for each in await MemoryRecoveryLog(at.l3).list(limit=100)]
    assert {each.recovery_id for each in lines} == {recovery}
    steps = [(each.step, each.outcome) for each in lines]
    return steps[steps.index(("completed", "escalated")) + 1 :]


async def test_when_nobody_answers_the_fallbacks_come() -> None:
    """In their order, until one takes effect; all in one recovery, which has one escalation."""
    async with listening() as (at, told):
        assert await unanswered(at, told) == [
            ("restore_last_snapshot", "failed"),
            ("emergency_state_rebuild", "available"),
            ("completed", "degraded"),
        ]


async def test_mutant_nobody_hears_that_nobody_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is done any more, whoever decides."""
    monkeypatch.setattr(RecoveryManager, "decided", lambda *_: None)
    async with listening() as (at, told):
        assert await unanswered(at, told) == []
    async with listening() as (at, told):
        assert await decided(at, told, "emergency_state_rebuild") == []


async def decided(at: Hall, told: Told, decision: str) -> list[tuple[str, str]]:
    """What server "b" does about a corrupt run after a person has decided, in order."""
    b = at.servers["b"]
    await at.kill("a")
    await read_corrupt(at)
    await told.data(RECOVERY_COMPLETED)
    (asked,) = await b.store.escalations.list()
    assert asked.document.options == ["restore_last_snapshot", "emergency_state_rebuild", "leave"]
    assert (asked.document.fallback, asked.document.cost) == ("restore_last_snapshot", "data loss possible")
    await b.store.escalations.resolve(asked.id, decision=decision, by="ann", reason="it is enough")

    async def is_recorded() -> bool:
        return not b.recovery._falling_back and not b.recovery_log.waiting

    await until(is_recorded)
    lines = [each.line for each in await MemoryRecoveryLog(at.l3).list(limit=100)]
    assert {each.recovery_id for each in lines} == {asked.document.recovery_id}
    steps = [(each.step, each.outcome) for each in lines]
    return steps[steps.index(("completed", "escalated")) + 1 :]


async def test_what_a_person_decides_is_done() -> None:
    """In the recovery that asked, and just that: no other fallback comes before or after it."""
    async with listening() as (at, told):
        done = await decided(at, told, "emergency_state_rebuild")
        assert done == [("emergency_state_rebuild", "done"), ("completed", "degraded")]
        (begun,) = [run for run in await at.servers["b"].store.runs.list() if run.id != RUN]
        assert begun.run.owner is None
        async with at.servers["b"].store.runs.resume(begun.id) as resumed:
            assert (resumed.context["n2"], resumed.context["tail"]) == (2, True)
        assert at.row().status == "failed"
    async with listening() as (at, told):
        done = await decided(at, told, "restore_last_snapshot")
        assert done == [("restore_last_snapshot", "failed"), ("completed", "failed")]
        assert [run.id for run in await at.servers["b"].store.runs.list()] == [RUN]


async def rebuilt_for_long(monkeypatch: pytest.MonkeyPatch, seconds: float) -> tuple[str, str]:
    """Outcome and detail of a rebuild that a person decides for, if no other step has any time, and it has so much."""

    async def late(*_: object) -> None:
        raise AssertionError("what is to be begun is read once, not looked at before")

    async with listening() as (at, told):
        with monkeypatch.context() as patch:
            resolve = Escalations.resolve

            async def then_hurry(self: Escalations, *names: Any, **words: Any) -> Escalation:
                patch.setattr(managing, "STEP_SECONDS", 0.0)
                patch.setattr(managing, "DECIDED_SECONDS", seconds)
                patch.setattr(Rescuing, "remains", late)
                return await resolve(self, *names, **words)

            patch.setattr(Escalations, "resolve", then_hurry)
            await decided(at, told, "emergency_state_rebuild")
        lines = [each.line for each in await MemoryRecoveryLog(at.l3).list(limit=100)]
        (line,) = [line for line in lines if line.step == "emergency_state_rebuild"]
        return line.outcome, line.detail


async def test_a_rebuild_that_a_person_decides_for_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says what the run lacks that was begun, not what one would have lacked that was looked for."""
    outcome, detail = await rebuilt_for_long(monkeypatch, 60.0)
    assert outcome == "done"
    assert "was begun, for a server to resume; lost are 1 snapshots" in detail


async def test_mutant_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the log does not say that nothing was begun."""
    outcome, detail = await rebuilt_for_long(monkeypatch, 0.0)
    assert (outcome, detail) == ("failed", "it took longer than 0 s; it may have taken effect")


async def test_what_a_person_leaves_is_left() -> None:
    """No fallback is done."""
    async with listening() as (at, told):
        assert await decided(at, told, "leave") == []


@pytest.mark.parametrize("words", [{"recovery_id": ""}, {"error_type": "mine"}, {"decision": "mine"}])
async def test_what_others_ask_is_left_to_them(words: dict[str, str]) -> None:
    """The fallback of an escalation that no recovery has opened is a word of theirs."""
    async with listening() as (at, _):
        manager = at.servers["b"].recovery
        asked = Escalation(
            subject="bot:b1",
            failed="x",
            recovery_id="rec1",
            error_type="state_corruption",
            decision="read_only_mode",
        )
        manager.decided(msgspec.structs.replace(asked, **words))
        assert not manager._falling_back
        manager.decided(asked)
        assert manager._falling_back


async def test_who_runs_it_ends_it() -> None:
    """However often it is reported: under the same epoch, with all that it knew; others are told by an event."""
    async with listening(Person()) as (at, told):
        before = at.row()
        await read_corrupt(at)
        assert (await told.data(TERMINATE))["runId"] == RUN
        assert (await told.steps())[0] == ("terminate_routine", "done")

        async def is_over() -> bool:
            at.clock.advance(0.1)
            return at.row().status == "failed"

        await until(is_over)
        assert at.row().epoch == before.epoch
        forked = await at.b.fork(RUN)
        assert (dict(forked.context.inputs), forked.context["n2"]) == ({"topic": "ants"}, 2)
        assert forked.context["tail"] is True
        assert not forked.lost
