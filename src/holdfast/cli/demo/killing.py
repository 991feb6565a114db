"""One server killed with -9 in the middle of a step, and what came of the runs that it had in hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from holdfast.cli.demo.cast import Cast
from holdfast.cli.demo.files import InputError
from holdfast.cli.demo.fleet import Server, ServerFailedError
from holdfast.cli.demo.messages import HeldReply, Lost, OrphansCommand, OrphansReply, StepReply
from holdfast.cli.demo.scenario import Step
from holdfast.cli.demo.swarms import execution_id, writes_in

FOUND_SECONDS_MAX: Final = 60.0
LOOK_SECONDS: Final = 0.1


class KillReport(msgspec.Struct, frozen=True):
    """What a kill did.

    Attributes:
        run: id of the run that was held in the middle of its `step` when its `server` was killed.
        resumed_by: the server that took the step up.
        found_seconds: from the kill until the run was found as one that no live server runs, and `resumed_seconds`
            until another server had it in hand.
        orphans: ids of all runs that were found so.
        taken_again: steps that were under way on the killed server, this one included.
        acknowledged_steps: of all swarms, when it was killed; `missing_steps`: those that no context had afterwards.
        writes: that the held step makes; `acknowledged_writes`: when the server was killed; `found_writes`: that were
            in the swarm when the other server took the step up.
        lost: by the contexts' own word.
    """

    server: str
    swarm: str
    step: int
    run: str
    resumed_by: str
    found_seconds: float
    resumed_seconds: float
    orphans: list[str]
    taken_again: int
    acknowledged_steps: int
    missing_steps: int
    writes: int
    acknowledged_writes: int
    found_writes: int
    lost: Lost

    @property
    def is_whole(self) -> bool:
        """Nothing that was acknowledged is missing."""
        missing = self.missing_steps + max(self.acknowledged_writes - self.found_writes, 0)
        return missing == 0 and self.lost == Lost()


def middle_step(steps: Sequence[Step]) -> Step:
    """The middle one of the steps that make more than one write, or of all; there must be one."""
    several = [step for step in steps if step.changes] or steps
    return several[len(several) // 2]


class Killing:
    """Kills the server that takes the middle step of the longest scenario, once it has stopped in its middle.

    What else that server is doing at that moment is cut off wherever it is.

    Args:
        run: label of this run of the demo.
        clock: seconds, monotonic.

    Attributes:
        killed: the server; None: not yet.

    Raises:
        InputError: no scenario has a step.
    """

    def __init__(
        self,
        run: str,
        casts: Sequence[Cast],
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        longest = max(casts, key=lambda cast: len(cast.scenario.steps), default=None)
        if longest is None or not longest.scenario.steps:
            raise InputError("--kill: no scenario has a step in whose middle a server could be killed")
        self.killed: Server | None = None
        self._run = run
        self._cast = longest
        self._step = middle_step(longest.scenario.steps)
        self._clock = clock
        self._sleep = sleep
        self._found = asyncio.Event()
        self._killed_at = 0.0
        self._found_at = 0.0
        self._held_writes = 0
        self._orphans: list[str] = []
        self._ended = 0
        self._acknowledged = 0
        self._missing = 0
        self._taken_again = 0
        self._lost = Lost()
        self._resumed: tuple[str, float, int] | None = None

    def is_due(self, cast: Cast, step: Step) -> bool:
        """Whether the server that takes this step is to be held in its middle, and killed."""
        return self.killed is None and cast is self._cast and step is self._step

    async def kill(self, server: Server, held: HeldReply, others: Sequence[Server]) -> None:
        """Kill a server, and wait until another one finds the run that it had in hand.

        Raises:
            ServerFailedError: none does within a minute.
        """
        self.killed, self._held_writes, self._acknowledged = server, held.writes, self._ended
        server.kill()
        self._killed_at = self._clock()
        execution = execution_id(self._run, self._cast.swarm)
        while execution not in self._orphans:
            if self._clock() - self._killed_at > FOUND_SECONDS_MAX:
                raise ServerFailedError(f"run {execution} of the killed {server.name} was not found as orphaned")
            await self._sleep(LOOK_SECONDS)
            reply = await others[0].ask(lambda identifier: OrphansCommand(identifier, self._run), OrphansReply)
            self._orphans = reply.runs
        self._found_at = self._clock()
        self._found.set()

    async def wait(self) -> None:
        """Wait until the killed server's runs can be resumed."""
        await self._found.wait()

    def note(self, taken: int, reply: StepReply) -> None:
        """A step was taken, after so many of its swarm."""
        self._ended += 1
        if self.killed is not None:
            self._missing += max(taken - reply.steps_ended, 0)
            self._lost = Lost(
                self._lost.steps + reply.lost.steps,
                self._lost.variables + reply.lost.variables,
                max(self._lost.seconds, reply.lost.seconds),
            )

    def note_resumed(self, cast: Cast, server: Server, reply: StepReply) -> None:
        """A step that the killed server had in hand was taken by another, which was asked as soon as it could be."""
        self._taken_again += 1
        if cast is self._cast:
            seconds = self._found_at - self._killed_at + reply.taken_up_seconds
            self._resumed = (server.name, seconds, reply.writes_found or 0)

    def report(self) -> KillReport:
        """What came of it; to be asked for when all steps were taken."""
        if self.killed is None or self._resumed is None:
            raise ServerFailedError("--kill: no server was killed")
        name, seconds, writes = self._resumed
        return KillReport(
            server=self.killed.name,
            swarm=self._cast.swarm,
            step=self._step.number,
            run=execution_id(self._run, self._cast.swarm),
            resumed_by=name,
            found_seconds=self._found_at - self._killed_at,
            resumed_seconds=seconds,
            orphans=self._orphans,
            taken_again=self._taken_again,
            acknowledged_steps=self._acknowledged,
            missing_steps=self._missing,
            writes=writes_in(self._step),
            acknowledged_writes=self._held_writes,
            found_writes=writes,
            lost=self._lost,
        )
