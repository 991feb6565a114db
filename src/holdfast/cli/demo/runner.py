"""The coordinator: has the servers take the steps, then compares what a cold one reads with the replay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime

from holdfast.cli.demo.cast import Cast
from holdfast.cli.demo.compare import compare, compare_execution
from holdfast.cli.demo.fleet import Server, ServerFailedError
from holdfast.cli.demo.killing import Killing
from holdfast.cli.demo.messages import (
    Behind,
    HeldReply,
    Read,
    ReadCommand,
    ReadReply,
    RunReading,
    StepCommand,
    StepReply,
)
from holdfast.cli.demo.progress import Advance
from holdfast.cli.demo.replay import replay
from holdfast.cli.demo.scenario import Step
from holdfast.cli.demo.swarms import execution_id


class Tally:
    """What the run adds up to.

    Attributes:
        reads: that the servers made.
        writes: seconds that each of their writes took.
        behind: what became of those that write-behind accepted, by step.
        hands: swarm id to the name of the server that took each step.
        differences: swarm id to what differs from the replay, one sentence each.
        executions: the scenarios' runs at the end.
    """

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.writes: list[float] = []
        self.behind: list[Behind] = []
        self.hands: dict[str, list[str]] = {}
        self.differences: dict[str, list[str]] = {}
        self.executions: list[RunReading] = []


class Turns:
    """Whose turn it is: each step of a scenario is another server's than the one before, as long as there are two.

    Args:
        first: place of the one that begins.
    """

    def __init__(self, servers: Sequence[Server], first: int) -> None:
        self._servers = servers
        self._place = first - 1

    def next(self, killed: Server | None) -> Server:
        """The one behind the last; never the one that was killed."""
        self._place += 1
        if self._servers[self._place % len(self._servers)] is killed:
            self._place += 1
        return self._servers[self._place % len(self._servers)]


class Runner:
    """Takes scenarios through server processes.

    Args:
        run: label that this run's swarms carry.
        now: the time of a step, for its records.
        killing: of a server on the way; None: none is killed.
    """

    def __init__(
        self, run: str, now: Callable[[], datetime] = lambda: datetime.now(UTC), *, killing: Killing | None = None
    ) -> None:
        self.tally = Tally()
        self.run = run
        self.killing = killing
        self._now = now

    async def take_steps(self, casts: Sequence[Cast], servers: Sequence[Server], advance: Advance) -> None:
        """Take all scenarios at once, each step of one on another server than the step before.

        Args:
            casts: the scenarios.
            servers: two or more; if one is killed, three or more.
            advance: called with 1 after each step.

        Raises:
            ServerFailedError: a server died, did not answer, or could not take a step.
        """
        await _all(
            self._take_scenario(cast, Turns(servers, first), servers, advance) for first, cast in enumerate(casts)
        )

    async def _take_scenario(self, cast: Cast, turns: Turns, servers: Sequence[Server], advance: Advance) -> None:
        hands = self.tally.hands[cast.swarm] = []
        stale = self.tally.differences[cast.swarm] = []
        for taken, step in enumerate(cast.scenario.steps):
            server, reply = await self._taken(cast, step, turns, servers)
            self.tally.reads += reply.reads
            self.tally.writes += reply.writes
            self.tally.behind.append(reply.behind)
            hands.append(server.name)
            where = f"step {step.number}: {server.name}"
            if reply.steps_before != taken:
                stale.append(f"{where} read the swarm after {reply.steps_before} steps, {taken} were taken")
            if reply.steps_after != taken + 1:
                stale.append(f"{where} did not see its own write: after {reply.steps_after} steps")
            if reply.steps_ended != taken:
                stale.append(f"{where} found {reply.steps_ended} steps in the run's context, {taken} were taken")
            if self.killing is not None:
                self.killing.note(taken, reply)
            advance(1)

    async def _taken(self, cast: Cast, step: Step, turns: Turns, servers: Sequence[Server]) -> tuple[Server, StepReply]:
        """Have a step taken; if the server is killed meanwhile, by another one that resumes its run."""
        killing = self.killing
        server = turns.next(None if killing is None else killing.killed)
        if killing is None:
            return server, await server.ask(self._step_command(cast, step), StepReply)
        if killing.is_due(cast, step):
            held = await server.ask(self._step_command(cast, step, hold=True), HeldReply)
            await killing.kill(server, held, [each for each in servers if each is not server])
        else:
            try:
                return server, await server.ask(self._step_command(cast, step), StepReply)
            except ServerFailedError:
                if server is not killing.killed:
                    raise
            await killing.wait()
        server = turns.next(killing.killed)
        reply = await server.ask(self._step_command(cast, step), StepReply)
        killing.note_resumed(cast, server, reply)
        return server, reply

    def _step_command(self, cast: Cast, step: Step, *, hold: bool = False) -> Callable[[int], StepCommand]:
        return lambda identifier: StepCommand(
            id=identifier,
            swarm=cast.swarm,
            run=self.run,
            step=step,
            at=self._now(),
            team=cast.team,
            execution=execution_id(self.run, cast.swarm),
            scenario=cast.scenario.name,
            bot=cast.loaded_bot(step),
            routine=cast.loaded_routine(step),
            last=step is cast.scenario.steps[-1],
            hold=hold,
        )

    async def compare_on(self, server: Server, casts: Sequence[Cast], advance: Advance) -> None:
        """Read every swarm on this server, through its caches and past them, and compare with the replay.

        Raises:
            ServerFailedError: the server died, did not answer, or could not read.
        """
        await _all(self._compare(server, cast, advance) for cast in casts)

    async def _compare(self, server: Server, cast: Cast, advance: Advance) -> None:
        execution = execution_id(self.run, cast.swarm)
        reply = await server.ask(lambda identifier: ReadCommand(identifier, cast.swarm, self.run, execution), ReadReply)
        self.tally.reads += reply.reads
        if reply.execution is not None:
            self.tally.executions.append(reply.execution)
        expected = replay(cast.scenario)
        self.tally.differences[cast.swarm] += [
            *(f"through the caches: {difference}" for difference in compare(expected, reply.cached)),
            *(f"from L3: {difference}" for difference in compare(expected, reply.strong)),
            *compare_execution(len(cast.scenario.steps), reply.execution),
        ]
        advance(1)


async def _all(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Do all at once; the first failure ends the others and is raised itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as failures:
        failed = failures.subgroup(ServerFailedError)
        if failed is None:
            raise
        raise failed.exceptions[0] from None
