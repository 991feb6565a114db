"""What a recorded scenario says, in one form for both shapes of recording. Pure data."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from holdfast.cli.demo.oddities import Oddity

ALTERNATIVES = " OR "
"""What stands between the events of a step that may have emitted one or the other."""


class Operation(enum.Enum):
    """How a step changes one blackboard item."""

    SET = "set"
    APPEND = "append"
    INCREMENT = "increment"
    MERGE = "merge"


class Change(msgspec.Struct, frozen=True):
    """One step's change to one blackboard item.

    Attributes:
        item: the item's id.
        operation: what is done to it.
        value: the new value, what is appended or merged, or the number added.
    """

    item: str
    operation: Operation
    value: Any


class RoutineCall(msgspec.Struct, frozen=True):
    """A routine that a step ran.

    Attributes:
        name: as the scenario calls it.
        response: what the recording says the routine answered; None without a mock.
    """

    name: str
    response: Any = None


class Step(msgspec.Struct, frozen=True):
    """One step of a recording.

    Attributes:
        number: its place, from 1.
        trigger: the event that caused it.
        agent: who acted; None where the recording does not say.
        action: "emit", "invoke" or the routine's name; None where the recording does not say.
        call: the routine that ran, if one did.
        changes: to the blackboard, in the order in which they are applied.
        events: emitted, word for word.
        remark: the recording's own words about the step.
    """

    number: int
    trigger: str | None = None
    agent: str | None = None
    action: str | None = None
    call: RoutineCall | None = None
    changes: tuple[Change, ...] = ()
    events: tuple[str, ...] = ()
    remark: str = ""


class ScenarioBot(msgspec.Struct, frozen=True):
    """An agent that the scenario brings with it.

    Attributes:
        config: the agent as recorded, whole.
    """

    name: str
    role: str
    goal: str
    subscriptions: tuple[str, ...]
    config: dict[str, Any]


class ScenarioRoutine(msgspec.Struct, frozen=True):
    """A routine that the scenario brings with it, or only calls by name.

    Attributes:
        form: "generate", "code" ...; empty where only the name is known.
        config: the routine as recorded.
    """

    name: str
    form: str = ""
    config: dict[str, Any] = {}


class Scenario(msgspec.Struct, frozen=True):
    """A recorded swarm.

    Attributes:
        source: the file, relative to the input directory.
        shape: "flow" (steps with their blackboard updates) or "sequence" (events with expected responses).
        opening: the event that started it, and its data.
        blackboard: item id to value, before the first step.
        success: the scenario's own conditions, as recorded.
        limits: credits, duration and quotas, as recorded.
    """

    name: str
    source: str
    shape: str
    goal: str
    bots: tuple[ScenarioBot, ...]
    routines: tuple[ScenarioRoutine, ...]
    blackboard: dict[str, Any]
    steps: tuple[Step, ...]
    opening: str | None = None
    opening_data: Any = None
    success: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    oddities: tuple[Oddity, ...] = ()


def alternatives(event: str) -> tuple[str, ...]:
    """The events that an emitted event's words allow: one, or several where they read "A OR B"."""
    return tuple(part.strip() for part in event.split(ALTERNATIVES))
