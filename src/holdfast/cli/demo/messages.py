"""What the coordinator and its servers say to each other: one JSON object a line, over the server's pipes."""

from __future__ import annotations

import json
from datetime import datetime

import msgspec

from holdfast.cli.demo.replay import Outcome
from holdfast.cli.demo.scenario import Step

LINE_BYTES_MAX = 16 * 1024 * 1024


class StepCommand(msgspec.Struct, tag="step", frozen=True):
    """Take one step of a swarm.

    Attributes:
        id: of the command; the reply carries it.
        swarm: the swarm's id.
        run: label of this run of the demo; a swarm of another run is left alone.
        at: when the step is taken.
        team: id of the swarm's team.
        execution: id of the scenario's run, of which this is a step.
        scenario: its name, which is the routine of that run.
        bot: id of the bot that acts, if there is one.
        routine: id of the routine that runs, if one does.
        last: the run is completed behind this step.
        hold: stop in the middle of the step, and say so: the server is about to be killed.
    """

    id: int
    swarm: str
    run: str
    step: Step
    at: datetime
    team: str
    execution: str
    scenario: str
    bot: str | None = None
    routine: str | None = None
    last: bool = False
    hold: bool = False


class ReadCommand(msgspec.Struct, tag="read", frozen=True):
    """Read a whole swarm, through the caches and past them, and the run that made it what it is."""

    id: int
    swarm: str
    run: str
    execution: str


class OrphansCommand(msgspec.Struct, tag="orphans", frozen=True):
    """Find the runs of this run of the demo that no live server runs."""

    id: int
    run: str


class Read(msgspec.Struct, frozen=True):
    """One read that a server made.

    Attributes:
        tier: that answered; None if there is no such document.
        seconds: that the call took.
        strong: it asked L3 past the caches.
    """

    kind: str
    tier: str | None
    seconds: float
    strong: bool = False


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The server is connected to its tiers. It says this once, first."""

    process: int


class Behind(msgspec.Struct, frozen=True):
    """What became of a step's writes that write-behind accepted.

    Attributes:
        accepted: how many there were.
        journaled: how many of them were in the journal when their call returned; the others were committed by then.
        commits: how many of them each commit brought to L3.
        window_seconds: the longest time from the acceptance of one to its commit.
    """

    accepted: int = 0
    journaled: int = 0
    commits: list[int] = []
    window_seconds: float = 0.0


class Lost(msgspec.Struct, frozen=True):
    """What the contexts that a step goes on from have lost, by their own word."""

    steps: int = 0
    variables: int = 0
    seconds: float = 0.0


class StepReply(msgspec.Struct, tag="step", frozen=True):
    """A step was taken.

    Attributes:
        steps_ended: steps that had ended by the context of the scenario's run, when this server took it up; without
            this one, if another server had taken it.
        writes_found: how many writes of this step another server had made already; None: it had not begun.
        taken_up_seconds: from the command to having both runs.
        lost: what was missing from their contexts then.
        steps_before: the swarm's count of steps as this server read it before its own writes; without this step, if
            another server had taken it.
        steps_after: the same as this server read it through its caches after them.
        writes: seconds that each write took.
        behind: what became of those that write-behind accepted.
    """

    id: int
    steps_before: int
    steps_after: int
    reads: list[Read]
    writes: list[float]
    behind: Behind = Behind()
    steps_ended: int = 0
    writes_found: int | None = None
    taken_up_seconds: float = 0.0
    lost: Lost = Lost()


class HeldReply(msgspec.Struct, tag="held", frozen=True):
    """The server has stopped in the middle of a step, and stays so.

    Attributes:
        writes: of the step that were acknowledged, in the journal or in L3.
    """

    id: int
    writes: int


class OrphansReply(msgspec.Struct, tag="orphans", frozen=True):
    """Ids of runs that no live server runs."""

    id: int
    runs: list[str]


class RunReading(msgspec.Struct, frozen=True):
    """A scenario's run at the end, and the runs of its steps.

    Attributes:
        steps: id and status of each step in its context, in the order they were entered.
        children: number of the step and status of each run below it, by number.
        checkpoints: snapshots that were asked for, of all of these runs, and `snapshots`: those with the bases.
    """

    status: str
    steps: list[tuple[str, str]]
    children: list[tuple[int, str]]
    checkpoints: int
    snapshots: int


class ReadReply(msgspec.Struct, tag="read", frozen=True):
    """A swarm as this server sees it.

    Attributes:
        execution: the scenario's run; None: there is none.
        cached: through L1 and L2.
        strong: from L3.
    """

    id: int
    cached: Outcome
    strong: Outcome
    reads: list[Read]
    execution: RunReading | None = None


class Failure(msgspec.Struct, tag="failure", frozen=True):
    """The command could not be carried out."""

    id: int
    reason: str


Command = StepCommand | ReadCommand | OrphansCommand
Reply = Ready | StepReply | HeldReply | ReadReply | OrphansReply | Failure


def encode_line(message: Command | Reply) -> bytes:
    """The message as one line. Python's own encoder: integers may have any size."""
    return json.dumps(msgspec.to_builtins(message)).encode() + b"\n"


def decode_command(line: bytes) -> Command:
    """A command from its line.

    Raises:
        ValueError: it is none.
    """
    command: Command = msgspec.convert(json.loads(line), Command)
    return command


def decode_reply(line: bytes) -> Reply:
    """A reply from its line.

    Raises:
        ValueError: it is none.
    """
    reply: Reply = msgspec.convert(json.loads(line), Reply)
    return reply
