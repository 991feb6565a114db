"""What a step does to its swarm, as operations of a `patch`; where it is no operation, it stays an `update`. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from holdfast import Append, Increment, Merge, Set, Swarm
from holdfast.cli.demo.replay import EVENTS, STEPS, TOOL_CALLS, changed, increments
from holdfast.cli.demo.scenario import Change, Operation, Step
from holdfast.cli.demo.swarms import DEMO, WRITES, part_id, record_of_step
from holdfast.documents import BlackboardItem, thaw
from holdfast.write_behind.operations import Operation as Patch

BLACKBOARD = "blackboard"
_INSIDE = ("value",)


def change_operations(swarm: Swarm, change: Change, at: datetime) -> tuple[Patch, ...] | None:
    """The operations that change one item of the blackboard as `with_change` does; None: none do.

    An operation says what is done, whatever the value is by then. What begins with a value that the recording leaves
    open (an element that becomes a list, a number out of nothing) depends on it, and is none.

    Raises:
        ChangeRefusedError: the change does not fit the item.
    """
    item = next((item for item in swarm.blackboard if item.id == change.item), None)
    if item is None:
        new = BlackboardItem(id=change.item, value=changed({}, change), created_at=at)
        return (Set(BLACKBOARD, new, item=change.item),)
    old, given = thaw(item.value), change.value
    changed({change.item: old}, change)  # refused here, as an update would be
    match change.operation:
        case Operation.SET:
            return (Set(BLACKBOARD, given, item=change.item, inside=_INSIDE),)
        case Operation.APPEND if isinstance(old, list):
            values = given if isinstance(given, list) else [given]
            return tuple(Append(BLACKBOARD, value, item=change.item, inside=_INSIDE) for value in values)
        case Operation.INCREMENT if old is not None:
            return (Increment(BLACKBOARD, by=given, item=change.item, inside=_INSIDE),)
        case Operation.MERGE if isinstance(old, dict) and not _nested(old, given):
            return (Merge(BLACKBOARD, given, item=change.item, inside=_INSIDE),)
    return None


def _nested(old: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether a merge meets an object in an object: the recording replaces it there, and `Merge` goes into it."""
    return any(isinstance(value, dict) and isinstance(old.get(name), dict) for name, value in given.items())


def count_operation() -> Patch:
    """The operation that counts a write as `with_write_counted` does."""
    return Increment("metadata", DEMO, WRITES, by=1)


def note_operations(identifier: str, step: Step, at: datetime) -> tuple[Patch, ...]:
    """The operations that note a step as `with_step_noted` does."""
    counts = increments(step)
    bot = part_id(identifier, step.agent) if step.agent else None
    return (
        *([Append("records", record_of_step(identifier, step, at))] if step.call else []),
        Increment("stats", "total_tool_calls", by=counts[TOOL_CALLS]),
        Set("stats", "last_processing_cycle_ended_at", int(at.timestamp() * 1000)),
        Set("execution", "active_bot_id", bot),
        Set("execution", "last_activity_at", at),
        Increment("metadata", DEMO, STEPS, by=counts[STEPS]),
        Increment("metadata", DEMO, EVENTS, by=counts[EVENTS]),
        *(Append("metadata", DEMO, "noted", event) for event in step.events),
    )
