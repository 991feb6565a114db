"""The coordinator: has the servers take the steps, then compares what a cold one reads with the replay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from holdfast.cli.demo.compare import compare
from holdfast.cli.demo.fleet import Answer, ServerFailedError
from holdfast.cli.demo.messages import Behind, Command, Read, ReadCommand, ReadReply, StepCommand, StepReply
from holdfast.cli.demo.progress import Advance
from holdfast.cli.demo.replay import replay
from holdfast.cli.demo.scenario import Scenario, Step
from holdfast.cli.demo.swarms import part_id


class Server(Protocol):
    """What the coordinator needs of a server process."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    async def ask(self, make: Callable[[int], Command], answer: type[Answer]) -> Answer:
        """Send a command and return its reply; `ServerFailedError` if there is none."""
        ...


class Cast(msgspec.Struct, frozen=True):
    """A scenario and the ids under which its documents were loaded.

    Attributes:
        swarm: id of the swarm.
        team: id of its team.
        bots: ids of its bots.
        routines: ids of its routines.
    """

    scenario: Scenario
    swarm: str
    team: str
    bots: frozenset[str]
    routines: frozenset[str]

    def loaded_bot(self, step: Step) -> str | None:
        """The id of the bot that acts, if it was loaded."""
        return self._loaded(step.agent, self.bots)

    def loaded_routine(self, step: Step) -> str | None:
        """The id of the routine that runs, if it was loaded."""
        return self._loaded(step.call.name if step.call else None, self.routines)

    def _loaded(self, name: str | None, among: frozenset[str]) -> str | None:
        identifier = part_id(self.swarm, name) if name else None
        return identifier if identifier in among else None


class Tally:
    """What the run adds up to.

    Attributes:
        reads: that the servers made.
        writes: seconds that each of their writes took.
        behind: what became of those that write-behind accepted, by step.
        hands: swarm id to the name of the server that took each step.
        differences: swarm id to what differs from the replay, one sentence each.
    """

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.writes: list[float] = []
        self.behind: list[Behind] = []
        self.hands: dict[str, list[str]] = {}
        self.differences: dict[str, list[str]] = {}


class Runner:
    """Takes scenarios through server processes.

    Args:
        run: label that this run's swarms carry.
        now: the time of a step, for its records.
    """

    def __init__(self, run: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.tally = Tally()
        self.run = run
        self._now = now

    async def take_steps(self, casts: Sequence[Cast], servers: Sequence[Server], advance: Advance) -> None:
        """Take all scenarios at once, each step of one on another server than the step before.

        Args:
            casts: the scenarios.
            servers: two or more.
            advance: called with 1 after each step.

        Raises:
            ServerFailedError: a server died, did not answer, or could not take a step.
        """
        count = len(servers)
        await _all(
            self._take_scenario(cast, [servers[(first + next_) % count] for next_ in range(count)], advance)
            for first, cast in enumerate(casts)
        )

    async def _take_scenario(self, cast: Cast, servers: Sequence[Server], advance: Advance) -> None:
        hands = self.tally.hands[cast.swarm] = []
        stale = self.tally.differences[cast.swarm] = []
        for taken, step in enumerate(cast.scenario.steps):
            server = servers[taken % len(servers)]
            reply = await server.ask(self._step_command(cast, step), StepReply)
            self.tally.reads += reply.reads
            self.tally.writes += reply.writes
            self.tally.behind.append(reply.behind)
            hands.append(server.name)
            where = f"step {step.number}: {server.name}"
            if reply.steps_before != taken:
                stale.append(f"{where} read the swarm after {reply.steps_before} steps, {taken} were taken")
            if reply.steps_after != taken + 1:
                stale.append(f"{where} did not see its own write: after {reply.steps_after} steps")
            advance(1)

    def _step_command(self, cast: Cast, step: Step) -> Callable[[int], StepCommand]:
        return lambda identifier: StepCommand(
            id=identifier,
            swarm=cast.swarm,
            run=self.run,
            step=step,
            at=self._now(),
            team=cast.team,
            bot=cast.loaded_bot(step),
            routine=cast.loaded_routine(step),
        )

    async def compare_on(self, server: Server, casts: Sequence[Cast], advance: Advance) -> None:
        """Read every swarm on this server, through its caches and past them, and compare with the replay.

        Raises:
            ServerFailedError: the server died, did not answer, or could not read.
        """
        await _all(self._compare(server, cast, advance) for cast in casts)

    async def _compare(self, server: Server, cast: Cast, advance: Advance) -> None:
        reply = await server.ask(lambda identifier: ReadCommand(identifier, cast.swarm, self.run), ReadReply)
        self.tally.reads += reply.reads
        expected = replay(cast.scenario)
        self.tally.differences[cast.swarm] += [
            *(f"through the caches: {difference}" for difference in compare(expected, reply.cached)),
            *(f"from L3: {difference}" for difference in compare(expected, reply.strong)),
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
