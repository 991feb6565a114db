"""A server's part of the demo, over tiers in memory: what of a step goes through write-behind."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from holdfast import Increment, Refused, StateStore, Team
from holdfast.cli.demo.compare import compare
from holdfast.cli.demo.messages import Failure, StepCommand, StepReply
from holdfast.cli.demo.meter import Meter
from holdfast.cli.demo.replay import replay
from holdfast.cli.demo.scenario import Change, Operation, RoutineCall, Scenario, Step
from holdfast.cli.demo.server import answer
from holdfast.cli.demo.swarms import new_swarm, outcome_of
from holdfast.keys import Key
from holdfast.testing import JournalHub, MemoryStorage, connect

AT = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)
STEPS = (
    Step(1, events=("go",), changes=(Change("n", Operation.INCREMENT, 2), Change("log", Operation.SET, "a"))),
    Step(2, call=RoutineCall("r"), changes=(Change("log", Operation.APPEND, "b"), Change("n", Operation.INCREMENT, 1))),
    Step(3, changes=(Change("log", Operation.APPEND, ["c", "d"]), Change("", Operation.SET, 1))),
)
SCENARIO = Scenario("s", "s.json", "flow", "", (), (), {"n": 1}, STEPS)


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def hub() -> JournalHub:
    return JournalHub()


@pytest.fixture
async def state(l3: MemoryStorage, hub: JournalHub) -> AsyncIterator[StateStore]:
    """A server with the swarm before its first step."""
    async with connect(l3=l3, journals=hub) as state:
        await state.teams.put("s", Team(name="s"))
        await state.swarms.put("s", new_swarm("s", SCENARIO, "run-1", AT))
        yield state


async def replies_of(state: StateStore) -> list[StepReply]:
    """All steps taken."""
    replies = []
    for step in STEPS:
        reply = await answer(state, command_of(step), time.perf_counter, never)
        assert isinstance(reply, StepReply), reply
        replies.append(reply)
    return replies


def command_of(step: Step, *, hold: bool = False) -> StepCommand:
    """The command to take a step."""
    last = step is STEPS[-1]
    return StepCommand(step.number, "s", "run-1", step, AT, "s", "run-1.s", "s", last=last, hold=hold)


async def never(_: int) -> None:
    """No step is held."""
    raise AssertionError("a step was held")


async def test_a_step_ends_when_its_writes_are_in_l3(state: StateStore, l3: MemoryStorage) -> None:
    """They were journaled, went there together, and what is no operation was an update."""
    first, second, third = [reply.behind for reply in await replies_of(state)]
    assert (first.accepted, first.journaled, first.commits) == (3, 3, [3])
    assert (second.accepted, second.journaled, sum(second.commits)) == (2, 2, 2)  # "a" becomes a list by an update
    assert (third.accepted, third.journaled) == (2, 2)  # no operation names an item without an id
    assert all(each.window_seconds > 0 for each in (first, second, third))
    async with connect(l3=l3) as cold:
        swarm = await cold.swarms.get("s")
        assert swarm is not None
        assert compare(replay(SCENARIO), outcome_of("s", swarm)) == []


async def test_without_a_journal_all_is_committed_at_once(state: StateStore, hub: JournalHub) -> None:
    """The demo says so, and ends equal all the same."""
    hub.away = True
    behind = [reply.behind for reply in await replies_of(state)]
    assert [(each.accepted, each.journaled) for each in behind] == [(3, 0), (2, 0), (2, 0)]
    assert all(size == 1 for each in behind for size in each.commits)


async def test_a_refused_write_is_a_failure(state: StateStore, l3: MemoryStorage) -> None:
    """Not a step that counts as taken."""
    meter = Meter(state, time.perf_counter)
    swarm = await state.swarms.get("s")
    assert swarm is not None
    await meter.write("s", (Increment("stats", "total_tool_calls"),), lambda swarm: swarm)
    assert meter.behind.accepted == 1
    await l3.delete(Key("swarm", "s"))
    with pytest.raises(Refused, match="gone"):
        await meter.flush()
    reply = await answer(state, command_of(STEPS[0]), time.perf_counter, never)
    assert isinstance(reply, Failure)
