"""A step of the demo in whose middle its server stops for good, taken up by another one; tiers in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast import Consistency, StateStore, Team
from holdfast.cli.demo import stepping
from holdfast.cli.demo.compare import compare, compare_execution
from holdfast.cli.demo.executions import read_execution
from holdfast.cli.demo.messages import Failure, Lost, Reply, StepCommand, StepReply
from holdfast.cli.demo.replay import replay
from holdfast.cli.demo.scenario import Change, Operation, RoutineCall, Scenario, Step
from holdfast.cli.demo.server import answer
from holdfast.cli.demo.swarms import new_swarm, outcome_of
from holdfast.keys import Key
from holdfast.run_context.opening import Opening
from holdfast.run_context.runs import Runs
from holdfast.testing import JournalHub, MemoryStorage, connect
from holdfast.write_behind.handing_over import HandingOver

AT = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)
STEPS = (
    Step(1, events=("go",), changes=(Change("n", Operation.INCREMENT, 2), Change("log", Operation.SET, ["a"]))),
    Step(2, call=RoutineCall("r"), changes=(Change("log", Operation.APPEND, "b"), Change("n", Operation.INCREMENT, 1))),
    Step(3, call=RoutineCall("r"), events=("gone",)),
)
SCENARIO = Scenario("s", "s.json", "flow", "", (), (), {"n": 1}, STEPS)


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[StateStore, StateStore]]:
    """Two servers and a swarm before its first step; nothing is brought to L3 that is not told to be.

    A run can be taken over at once, as if its server had given no sign for long.
    """
    resume = Runs.resume

    def taken_over(self: Runs, run_id: str, *, force: bool = True) -> Opening:
        return resume(self, run_id, force=force)

    monkeypatch.setattr(Runs, "resume", taken_over)
    l3, hub = MemoryStorage(), JournalHub()
    async with connect(l3=l3, journals=hub) as one, connect(l3=l3, journals=hub) as two:
        await one.teams.put("s", Team(name="s"))
        await one.swarms.put("s", new_swarm("s", SCENARIO, "run-1", AT))
        yield one, two


def command_of(step: Step, *, hold: bool = False) -> StepCommand:
    """The command to take a step."""
    return StepCommand(step.number, "s", "run-1", step, AT, "s", "run-1.s", "s", last=step is STEPS[-1], hold=hold)


async def taken(state: StateStore, step: Step) -> StepReply:
    """A step, taken to its end."""
    reply = await answered(state, step)
    assert isinstance(reply, StepReply), reply
    return reply


async def answered(state: StateStore, step: Step) -> Reply:
    """What a server says to the command to take a step."""

    async def never(_: int) -> None:
        raise AssertionError("a step was held")

    return await answer(state, command_of(step), time.perf_counter, never)


@contextlib.asynccontextmanager
async def stopped_in(state: StateStore, step: Step) -> AsyncIterator[int]:
    """A server stands still in the middle of a step, for as long as the block; gives the number of writes made."""
    held: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hold(writes: int) -> None:
        held.set_result(writes)
        await asyncio.Event().wait()

    taking = asyncio.create_task(answer(state, command_of(step, hold=True), time.perf_counter, hold))
    try:
        yield await held
    finally:
        taking.cancel()
        await asyncio.wait([taking])


async def differences(state: StateStore, steps: int) -> list[str]:
    """What differs from the replay, in the swarm and in the runs."""
    swarm = await state.swarms.get("s", consistency=Consistency.STRONG)
    assert swarm is not None
    execution = await read_execution(state, "run-1.s")
    return [*compare(replay(SCENARIO), outcome_of("s", swarm)), *compare_execution(steps, execution)]


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_each_write_of_the_step_is_made_once(pair: tuple[StateStore, StateStore], at: int) -> None:
    """What the one had journaled is found, the rest is made, and what the one still has in hand changes nothing."""
    one, two = pair
    for step in STEPS[:at]:
        await taken(two, step)
    async with stopped_in(one, STEPS[at]) as made:
        reply = await taken(two, STEPS[at])
        assert made == 1
        assert (reply.steps_ended, reply.writes_found, reply.lost) == (at, made, Lost())
        assert len(reply.writes) == len(STEPS[at].changes) + 1 - made
        for step in STEPS[at + 1 :]:
            await taken(two, step)
    await one.flush()
    assert await differences(two, 3) == []


async def test_a_step_that_has_ended_is_not_taken_again(pair: tuple[StateStore, StateStore]) -> None:
    """Whoever asks for it again, as its answer was not heard, is told that it has, also of the last."""
    one, two = pair
    for step in STEPS:
        first = await taken(one, step)
        again = await taken(two, step)
        assert (again.steps_before, again.steps_after) == (first.steps_before, first.steps_after)
        assert (again.steps_ended, again.writes_found) == (first.steps_ended, len(step.changes) + 1)
        assert (first.writes_found, again.writes) == (None, [])
    assert await differences(two, 3) == []


async def test_a_server_that_does_not_look_makes_writes_twice(
    pair: tuple[StateStore, StateStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: without the count of what was made the swarm differs from the replay."""
    one, two = pair
    monkeypatch.setattr(stepping, "_writes_made", lambda *_: 0)
    async with stopped_in(one, STEPS[0]):
        for step in STEPS:
            await taken(two, step)
    assert "blackboard item 'n': the replay has 4, the server has 6" in await differences(two, 3)


async def test_a_run_that_is_taken_over_without_its_swarm_is_noticed(
    pair: tuple[StateStore, StateStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: if what its server did to the swarm is not decided first, the context knows more than the swarm."""
    one, two = pair
    decide_for: Callable[..., Any] = HandingOver.decide_for

    async def of_runs_only(self: HandingOver, key: Key, server: str) -> int:
        return 0 if key.kind == "swarm" else int(await decide_for(self, key, server))

    monkeypatch.setattr(HandingOver, "decide_for", of_runs_only)
    async with stopped_in(one, STEPS[0]):
        reply = await answered(two, STEPS[0])
    assert isinstance(reply, Failure)
    assert "swarm s has 0 writes of step 1; by the contexts of its runs it has 1 to 3" in reply.reason
