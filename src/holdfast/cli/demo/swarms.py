"""A recorded swarm as a `Swarm`: how it begins, how a step changes it, what it is at the end. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from holdfast.cli.demo.replay import (
    EVENTS,
    STEPS,
    TOOL_CALLS,
    Outcome,
    Record,
    changed,
    increments,
    record_of,
)
from holdfast.cli.demo.scenario import Change, Scenario, Step
from holdfast.documents import (
    BlackboardItem,
    BotParticipant,
    FrozenDict,
    RunStatus,
    Swarm,
    SwarmExecution,
    SwarmLimits,
    SwarmStats,
    ToolCallRecord,
    thaw,
)

DEMO = "demo"
"""Where the swarm's metadata keeps what the demo notes."""
WRITES = "writes"
"""How many of the demo's writes are in the swarm: each counts itself, so whoever goes on knows which were made."""


def part_id(swarm: str, name: str) -> str:
    """The id of a bot or routine that a scenario brings with it."""
    return f"{swarm}/{name}"


def execution_id(run: str, swarm: str) -> str:
    """The id of a scenario's run in this run of the demo."""
    return f"{run}.{swarm}"


def step_run_id(execution: str, number: int) -> str:
    """The id of a step's run."""
    return f"{execution}.{number}"


def step_id(number: int) -> str:
    """What the context of a scenario's run calls a step."""
    return f"step-{number}"


def new_swarm(identifier: str, scenario: Scenario, run: str, at: datetime) -> Swarm:
    """The swarm before its first step.

    Args:
        identifier: the swarm's own id, and that of its team.
        scenario: the recording.
        run: label of this run of the demo.
        at: when the run began.
    """
    subscribers: dict[str, list[str]] = {}
    for bot in scenario.bots:
        for topic in dict.fromkeys(bot.subscriptions):
            subscribers.setdefault(topic, []).append(part_id(identifier, bot.name))
    return Swarm(
        name=scenario.name,
        goal=scenario.goal,
        team_id=identifier,
        blackboard=[BlackboardItem(id=item, value=value, created_at=at) for item, value in scenario.blackboard.items()],
        event_subscriptions=subscribers,
        participants=[
            BotParticipant(id=part_id(identifier, bot.name), name=bot.name, meta={"role": bot.role})
            for bot in scenario.bots
        ],
        stats=SwarmStats(started_at=int(at.timestamp() * 1000)),
        limits=_limits(scenario.limits),
        execution=SwarmExecution(status=RunStatus.RUNNING.value),
        metadata={
            DEMO: {
                "run": run,
                "source": scenario.source,
                "opening": {"topic": scenario.opening, "data": scenario.opening_data},
                "limits": scenario.limits,
                STEPS: 0,
                EVENTS: 0,
                WRITES: 0,
                "noted": [],
            }
        },
    )


def _limits(recorded: Mapping[str, Any]) -> SwarmLimits:
    """Limits from either shape; what is not recorded as a whole number keeps its default."""
    defaults = SwarmLimits()
    duration = recorded.get("maxDurationMs", recorded.get("maxDuration"))
    return SwarmLimits(
        max_credits=_whole(recorded.get("maxCredits"), defaults.max_credits),
        max_duration_ms=_whole(duration, defaults.max_duration_ms),
    )


def _whole(value: object, default: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def with_change(swarm: Swarm, change: Change, at: datetime) -> Swarm:
    """The swarm with one item of its blackboard changed; a new item goes to the end.

    Raises:
        ChangeRefusedError: the change does not fit the item.
    """
    items = list(swarm.blackboard)
    place = next((place for place, item in enumerate(items) if item.id == change.item), None)
    if place is None:
        items.append(BlackboardItem(id=change.item, value=changed({}, change), created_at=at))
    else:
        value = changed({change.item: thaw(items[place].value)}, change)
        items[place] = msgspec.structs.replace(items[place], value=value)
    return msgspec.structs.replace(swarm, blackboard=items)


def with_step_noted(swarm: Swarm, identifier: str, step: Step, at: datetime) -> Swarm:
    """The swarm with a step's routine call recorded, its events noted, and all of it counted."""
    notes = thaw(swarm.metadata[DEMO])
    counts = increments(step)
    bot = part_id(identifier, step.agent) if step.agent else None
    return msgspec.structs.replace(
        swarm,
        records=[*swarm.records, *([record_of_step(identifier, step, at)] if step.call else [])],
        stats=msgspec.structs.replace(
            swarm.stats,
            total_tool_calls=swarm.stats.total_tool_calls + counts[TOOL_CALLS],
            last_processing_cycle_ended_at=int(at.timestamp() * 1000),
        ),
        execution=msgspec.structs.replace(swarm.execution, active_bot_id=bot, last_activity_at=at),
        metadata={
            **swarm.metadata,
            DEMO: {
                **notes,
                STEPS: notes[STEPS] + counts[STEPS],
                EVENTS: notes[EVENTS] + counts[EVENTS],
                "noted": [*notes["noted"], *step.events],
            },
        },
    )


def with_write_counted(swarm: Swarm) -> Swarm:
    """The swarm with one write more counted."""
    notes = swarm.metadata[DEMO]
    return msgspec.structs.replace(swarm, metadata={**swarm.metadata, DEMO: {**notes, WRITES: notes[WRITES] + 1}})


def record_of_step(identifier: str, step: Step, at: datetime) -> ToolCallRecord:
    """The record of the step's routine call. The step must have one."""
    record = record_of(step)
    return ToolCallRecord(
        id=f"{identifier}/{step.number}",
        routine_id=part_id(identifier, record.routine),
        routine_name=record.routine,
        params={"step": record.step, "trigger": step.trigger},
        output_resource_ids=record.outputs,
        caller_bot_id=part_id(identifier, step.agent) if step.agent else None,
        created_at=at,
        extra=FrozenDict({"response": record.response}),
    )


def run_of(swarm: Swarm) -> str:
    """Label of the run of the demo that the swarm belongs to; empty if the demo did not make it."""
    return str(swarm.metadata.get(DEMO, {}).get("run", ""))


def steps_of(swarm: Swarm) -> int:
    """How many steps the swarm has taken."""
    return int(swarm.metadata[DEMO][STEPS])


def writes_in(step: Step) -> int:
    """How many writes a step makes: its changes, one by one, and the note that it was taken."""
    return len(step.changes) + 1


def writes_of(swarm: Swarm) -> int:
    """How many of the demo's writes are in the swarm."""
    return int(swarm.metadata[DEMO][WRITES])


def outcome_of(identifier: str, swarm: Swarm) -> Outcome:
    """The swarm in plain values, to be compared with the replay."""
    notes = thaw(swarm.metadata[DEMO])
    return Outcome(
        blackboard=[(item.id, thaw(item.value)) for item in swarm.blackboard],
        records=[_plain_record(identifier, record) for record in swarm.records],
        events=notes["noted"],
        counters={STEPS: notes[STEPS], TOOL_CALLS: swarm.stats.total_tool_calls, EVENTS: notes[EVENTS]},
    )


def _plain_record(identifier: str, record: ToolCallRecord) -> Record:
    bot = record.caller_bot_id
    return Record(
        step=record.params["step"],
        routine=record.routine_name,
        bot=bot.removeprefix(part_id(identifier, "")) if bot else None,
        outputs=list(record.output_resource_ids),
        response=thaw(record.extra.get("response")),
    )
