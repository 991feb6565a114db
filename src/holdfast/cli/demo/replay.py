"""The replay in plain Python: what every server together must end up with. No Holdfast, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from holdfast.cli.demo.scenario import Change, Operation, Scenario, Step

STEPS = "steps"
TOOL_CALLS = "tool_calls"
EVENTS = "events"


class ChangeRefusedError(ValueError):
    """A change does not fit the item it is applied to; the message names both."""


class Record(msgspec.Struct, frozen=True):
    """A routine call, as the swarm keeps it.

    Attributes:
        step: the step that made it.
        outputs: ids of the blackboard items that the step wrote.
        response: the recorded answer; None without a mock.
    """

    step: int
    routine: str
    bot: str | None
    outputs: list[str]
    response: Any = None


class Outcome(msgspec.Struct):
    """A swarm at the end, in plain values.

    Attributes:
        blackboard: item id and value, in the order in which the items appeared.
        records: of routine calls, oldest first.
        events: noted, oldest first.
        counters: steps, tool calls and events, as counted one by one.
    """

    blackboard: list[tuple[str, Any]]
    records: list[Record]
    events: list[str]
    counters: dict[str, int]


def replay(scenario: Scenario) -> Outcome:
    """Apply every step in order.

    Raises:
        ChangeRefusedError: a step's change does not fit; says which.
    """
    blackboard: dict[str, object] = dict(scenario.blackboard)
    outcome = Outcome([], [], [], dict.fromkeys((STEPS, TOOL_CALLS, EVENTS), 0))
    for step in scenario.steps:
        for change in step.changes:
            try:
                blackboard[change.item] = changed(blackboard, change)
            except ChangeRefusedError as refusal:
                raise ChangeRefusedError(f"step {step.number}: {refusal}") from refusal
        if step.call:
            outcome.records.append(record_of(step))
        outcome.events += step.events
        for counter, by in increments(step).items():
            outcome.counters[counter] += by
    outcome.blackboard = list(blackboard.items())
    return outcome


def changed(items: Mapping[str, object], change: Change) -> object:
    """The item's new value: a function of the items before, which it leaves alone.

    `append` extends a list by a list, adds anything else as one element, and begins an absent item as a list;
    `increment` begins at 0; `merge` is shallow and begins with an empty object.

    Raises:
        ChangeRefusedError: adding to what is no number or beyond all, merging with what is no object.
    """
    old = items.get(change.item)
    match change.operation:
        case Operation.SET:
            return change.value
        case Operation.APPEND:
            before = old if isinstance(old, list) else [] if change.item not in items else [old]
            return [*before, *(change.value if isinstance(change.value, list) else [change.value])]
        case Operation.INCREMENT:
            return _sum(change, _number(change, 0 if old is None else old), _number(change, change.value))
        case Operation.MERGE:
            return {**_object(change, {} if old is None else old), **_object(change, change.value)}


def _sum(change: Change, old: float, by: float) -> float:
    try:
        return old + by
    except OverflowError as fault:  # of an int that no float can hold, and a float
        raise ChangeRefusedError(f"{change.item}: cannot add {clipped(by)} to {clipped(old)}: {fault}") from fault


def _number(change: Change, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ChangeRefusedError(f"{change.item}: cannot add {type(value).__name__} {clipped(value)}")
    return value


def _object(change: Change, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ChangeRefusedError(f"{change.item}: cannot merge {type(value).__name__} {clipped(value)}")
    return value


def record_of(step: Step) -> Record:
    """The record of the step's routine call. The step must have one."""
    if step.call is None:
        raise ValueError(f"step {step.number} runs no routine")
    outputs = list(dict.fromkeys(change.item for change in step.changes))
    return Record(step.number, step.call.name, step.agent, outputs, step.call.response)


def increments(step: Step) -> dict[str, int]:
    """What the step adds to each counter."""
    return {STEPS: 1, TOOL_CALLS: int(step.call is not None), EVENTS: len(step.events)}


def occurred(scenario: Scenario) -> set[str]:
    """Events that the recording shows: the opening one, every step's trigger, every one emitted."""
    seen: Iterable[str | None] = (
        scenario.opening,
        *(step.trigger for step in scenario.steps),
        *(event for step in scenario.steps for event in step.events),
    )
    return {event for event in seen if event}


def clipped(value: object, limit: int = 100) -> str:
    """The value's text, cut off for messages."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
