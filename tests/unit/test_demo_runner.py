"""The coordinator's part: who takes which step, and what it notices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import pytest

from holdfast.cli.demo.cast import Cast
from holdfast.cli.demo.fleet import Answer, ServerFailedError
from holdfast.cli.demo.messages import (
    Command,
    Read,
    ReadCommand,
    ReadReply,
    RunReading,
    StepCommand,
    StepReply,
    decode_command,
    decode_reply,
    encode_line,
)
from holdfast.cli.demo.replay import Outcome, replay
from holdfast.cli.demo.runner import Runner
from holdfast.cli.demo.scenario import Change, Operation, RoutineCall, Scenario, Step

AT = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)


class ScriptedServer:
    """A server that keeps count of steps together with others, and says what it is told to.

    Args:
        name: its name.
        steps: the count by swarm, shared by all servers.
        behind: steps by which its first read lags.
        blind: it does not see its own writes.
    """

    def __init__(self, name: str, steps: dict[str, int], *, behind: int = 0, blind: bool = False) -> None:
        self.name = name
        self.commands: list[Command] = []
        self._steps = steps
        self._behind = behind
        self._blind = blind

    async def ask(self, make: Callable[[int], Command], answer: type[Answer]) -> Answer:
        """Count a step."""
        command = make(1)
        self.commands.append(command)
        assert isinstance(command, StepCommand)
        before = self._steps.get(command.swarm, 0)
        self._steps[command.swarm] = before + 1
        seen = before if self._blind else before + 1
        reads = [Read("swarm", "l3", 0.001)]
        reply = StepReply(1, before - self._behind, seen, reads, [0.002], steps_ended=before)
        return cast("Answer", reply)

    def kill(self) -> None:
        """It cannot be."""
        raise AssertionError("a server was killed")


class ReadingServer:
    """A server that reads these outcomes."""

    name = "cold"

    def __init__(self, cached: Outcome, strong: Outcome) -> None:
        execution = RunReading("completed", [("step-1", "completed")], [(1, "completed")], 2, 4)
        self._reply = ReadReply(1, cached, strong, [], execution)

    async def ask(self, make: Callable[[int], Command], answer: type[Answer]) -> Answer:
        """Give the reply."""
        make(1)
        return cast("Answer", self._reply)

    def kill(self) -> None:
        """It cannot be."""
        raise AssertionError("a server was killed")


class FailingServer:
    """A server that is gone."""

    name = "server 9"

    async def ask(self, make: Callable[[int], Command], answer: type[Answer]) -> Answer:
        """Fail."""
        make(1)
        raise ServerFailedError("server 9 ended")

    def kill(self) -> None:
        """It cannot be."""
        raise AssertionError("a server was killed")


def ignore(parts: int) -> None:
    """Take progress and do nothing with it."""


def cast_of(name: str, steps: int) -> Cast:
    """A scenario with so many steps, its bot and routine loaded."""
    step = Step(1, "go", "a", "r", RoutineCall("r"), (Change("n", Operation.INCREMENT, 1),))
    recorded = tuple(Step(number, step.trigger, step.agent, step.action, step.call) for number in range(1, steps + 1))
    scenario = Scenario(name, "s.json", "flow", "", (), (), {}, recorded)
    return Cast(scenario, name, name, frozenset({f"{name}/a"}), frozenset({f"{name}/r"}))


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_no_step_is_taken_by_the_server_of_the_step_before(count: int) -> None:
    """Whatever the number of servers, each step goes to another one, and all of them get some."""
    steps: dict[str, int] = {}
    servers = [ScriptedServer(f"server {number}", steps) for number in range(count)]
    runner = Runner("run-1", lambda: AT)

    await runner.take_steps([cast_of("one", 7), cast_of("two", 6)], servers, ignore)

    for hands in runner.tally.hands.values():
        assert all(left != right for left, right in itertools.pairwise(hands))
    assert {name for hands in runner.tally.hands.values() for name in hands} == {server.name for server in servers}
    assert runner.tally.differences == {"one": [], "two": []}
    assert (len(runner.tally.reads), len(runner.tally.writes)) == (13, 13)


async def test_command_names_the_documents_that_were_loaded() -> None:
    """A step's command carries the ids of its team, bot and routine, and leaves out what was not loaded."""
    server = ScriptedServer("server 1", {})
    loaded = cast_of("one", 1)
    unknown = Cast(loaded.scenario, "one", "one", frozenset(), frozenset())

    await Runner("run-1", lambda: AT).take_steps([loaded], [server], ignore)
    await Runner("run-1", lambda: AT).take_steps([unknown], [server], ignore)

    commands = [cast("StepCommand", command) for command in server.commands]
    assert [(each.team, each.bot, each.routine) for each in commands] == [
        ("one", "one/a", "one/r"),
        ("one", None, None),
    ]
    assert [(each.run, each.at) for each in commands] == [("run-1", AT)] * 2


async def test_stale_read_is_a_difference() -> None:
    """A server that does not see the step before, made on another server, is named with both counts."""
    steps: dict[str, int] = {}
    servers = [ScriptedServer("server 1", steps), ScriptedServer("server 2", steps, behind=1)]
    runner = Runner("run-1", lambda: AT)

    await runner.take_steps([cast_of("one", 2)], servers, ignore)

    assert runner.tally.differences["one"] == ["step 2: server 2 read the swarm after 0 steps, 1 were taken"]


async def test_server_that_misses_its_own_write_is_a_difference() -> None:
    """A server whose caches do not show what it has just written is named."""
    runner = Runner("run-1", lambda: AT)

    await runner.take_steps([cast_of("one", 1)], [ScriptedServer("server 1", {}, blind=True)], ignore)

    assert runner.tally.differences["one"] == ["step 1: server 1 did not see its own write: after 0 steps"]


async def test_caches_and_storage_are_compared_each() -> None:
    """What the cold server reads through its caches and what it reads from L3 must both equal the replay."""
    recorded = cast_of("one", 1)
    right, wrong = replay(recorded.scenario), replay(recorded.scenario)
    wrong.counters["steps"] = 0
    for cached, strong, where in ((wrong, right, "through the caches"), (right, wrong, "from L3")):
        runner = Runner("run-1", lambda: AT)
        runner.tally.differences["one"] = []

        await runner.compare_on(ReadingServer(cached, strong), [recorded], ignore)

        assert runner.tally.differences["one"] == [f"{where}: counter 'steps': the replay has 1, the server has 0"]


async def test_failure_of_a_server_is_raised_as_itself() -> None:
    """The sentence of the server that failed reaches the caller, not a group of exceptions."""
    with pytest.raises(ServerFailedError, match="server 9 ended"):
        await Runner("run-1", lambda: AT).take_steps([cast_of("one", 1), cast_of("two", 1)], [FailingServer()], ignore)


def test_messages_survive_their_line() -> None:
    """Commands and replies come out of a line as they went in, numbers beyond 64 bit and line breaks included."""
    step = Step(1, "go", "a", "r", RoutineCall("r", {"big": 2**80, "text": "a\nb"}), (Change("i", Operation.SET, [1]),))
    command = StepCommand(7, "s", "run-1", step, AT, "s", "run-1.s", "s", "s/a", "s/r")
    outcome = Outcome([("i", [1, None])], [], ["e"], {"steps": 1})
    execution = RunReading("completed", [("step-1", "completed")], [(1, "completed")], 2, 4)
    reply = ReadReply(7, outcome, outcome, [Read("swarm", None, 0.5, strong=True)], execution)

    assert encode_line(command).count(b"\n") == 1
    assert decode_command(encode_line(command)) == command
    assert decode_command(encode_line(ReadCommand(1, "s", "r", "r.s"))) == ReadCommand(1, "s", "r", "r.s")
    assert decode_reply(encode_line(reply)) == reply


@pytest.mark.parametrize("line", [b"{}\n", b"not json\n", b'{"type": "step"}\n', b"[1]\n"])
def test_line_that_is_no_message_is_a_value_error(line: bytes) -> None:
    """Anything else on the pipe is refused."""
    with pytest.raises(ValueError, match=r".+"):
        decode_reply(line)
