"""The swarm: one chat with its configuration, its shared scratchpad and where its execution stands.

Times are datetimes, except where the original system counts milliseconds since 1970: those keep doing so, and
say so. Credits are integers, however large; a million of them are a dollar.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from holdfast.documents.base import Document, Part
from holdfast.documents.frozen import EMPTY_DICT, EMPTY_LIST
from holdfast.documents.vocabulary import RunStatus, SubTaskStatus, Visibility


class BlackboardItem(Part, frozen=True, kw_only=True):
    """An item of the scratchpad that all bots of the swarm share.

    Attributes:
        id: unique on the blackboard.
        value: a free value.
    """

    id: str
    value: Any = None
    created_at: dt.datetime | None = None


class SwarmSubTask(Part, frozen=True, kw_only=True):
    """A part of the goal.

    Attributes:
        status: a `SubTaskStatus`.
        depends_on: ids of subtasks to be done before.
        priority: a `Priority`.
    """

    id: str
    description: str = ""
    status: str = SubTaskStatus.TODO.value
    assignee_bot_id: str | None = None
    depends_on: Sequence[str] = EMPTY_LIST
    created_at: dt.datetime | None = None
    priority: str | None = None


class SwarmResource(Part, frozen=True, kw_only=True):
    """Something the swarm made or needs; the thing itself is elsewhere.

    Attributes:
        kind: a `ResourceKind`.
        mime: its media type.
        meta: size, checksum, model and the like; a free mapping.
    """

    id: str
    kind: str
    mime: str | None = None
    creator_bot_id: str | None = None
    created_at: dt.datetime | None = None
    meta: Mapping[str, Any] = EMPTY_DICT


class ToolCallRecord(Part, frozen=True, kw_only=True):
    """A call of a routine or tool that has happened.

    Attributes:
        params: as passed; a free mapping.
        output_resource_ids: of the resources it produced.
    """

    id: str
    routine_id: str
    routine_name: str = ""
    params: Mapping[str, Any] = EMPTY_DICT
    output_resource_ids: Sequence[str] = EMPTY_LIST
    caller_bot_id: str | None = None
    created_at: dt.datetime | None = None


class PendingToolCall(Part, frozen=True, kw_only=True, rename="camel"):
    """A tool call that waits for its time, or for a person's approval.

    Attributes:
        tool_arguments: JSON text, as the model gave it.
        status: a `PendingToolCallStatus`.
        requested_at: milliseconds since 1970, as are all times here.
        result: JSON text; `error` likewise.
        cost: credits.
    """

    pending_id: str
    tool_call_id: str
    tool_name: str
    tool_arguments: str
    caller_bot_id: str
    conversation_id: str
    requested_at: int
    status: str
    status_reason: str | None = None
    scheduled_execution_time: int | None = None
    approval_timeout_at: int | None = None
    user_id_to_approve: str | None = None
    approved_or_rejected_by_user_id: str | None = None
    decision_time: int | None = None
    execution_attempts: int = 0
    last_attempt_time: int | None = None
    result: str | None = None
    error: str | None = None
    cost: int | None = None


class SwarmPolicy(Part, frozen=True, kw_only=True):
    """Who may read, publish and join.

    Attributes:
        visibility: a `Visibility`.
        acl: ids of the users and bots it admits.
    """

    visibility: str = Visibility.OPEN.value
    acl: Sequence[str] = EMPTY_LIST


class SwarmStats(Part, frozen=True, kw_only=True, rename="camel"):
    """What the swarm has used.

    Attributes:
        total_credits: credits; text in schema 1.
        started_at: milliseconds since 1970; `last_processing_cycle_ended_at` likewise.
    """

    total_tool_calls: int = 0
    total_credits: int = 0
    started_at: int | None = None
    last_processing_cycle_ended_at: int | None = None


class SwarmLimits(Part, frozen=True, kw_only=True, rename="camel"):
    """What the swarm may use. Credits were text in schema 1; times are in milliseconds."""

    max_tool_calls_per_bot_response: int = 10
    max_tool_calls: int = 50
    max_credits_per_bot_response: int = 1_000_000
    max_credits: int = 5_000_000
    max_duration_per_bot_response_ms: int = 60_000
    max_duration_ms: int = 600_000
    delay_between_processing_cycles_ms: int = 0


class SwarmScheduling(Part, frozen=True, kw_only=True, rename="camel"):
    """When tool calls run, and which wait for a person.

    Attributes:
        tool_specific_delays: tool name to milliseconds, before `default_delay_ms`.
        requires_approval_tools: tool names, or ``"all"`` or ``"none"``.
    """

    default_delay_ms: int = 0
    tool_specific_delays: Mapping[str, int] = EMPTY_DICT
    requires_approval_tools: Sequence[str] | str = "none"
    approval_timeout_ms: int = 600_000
    auto_reject_on_timeout: bool = True


class BotParticipant(Part, frozen=True, kw_only=True):
    """A bot in the conversation; its configuration is read from the bot itself, and not copied here.

    Attributes:
        meta: role, extraTools, disabledTools, systemPrompt and the like; a free mapping.
    """

    id: str
    name: str = ""
    meta: Mapping[str, Any] = EMPTY_DICT


class SwarmExecution(Part, frozen=True, kw_only=True, rename="camel"):
    """Where the swarm's execution stands.

    Attributes:
        status: a `RunStatus`.
        active_runs: ids of the runs under way.
        active_bot_id: the bot whose turn it is.
    """

    status: str = RunStatus.PENDING.value
    active_runs: Sequence[str] = EMPTY_LIST
    active_bot_id: str | None = None
    last_activity_at: dt.datetime | None = None


class Swarm(Document, frozen=True, kw_only=True, rename="camel"):
    """A swarm: chat metadata, swarm configuration and conversation state.

    Attributes:
        preferred_model: the model to use where a bot names none.
        swarm_leader: id of the leading bot.
        subtask_leaders: subtask id to bot id.
        event_subscriptions: topic to the ids of the bots that answer it.
        participants: the bots in the conversation.
        available_tools: as given to the model; free values.
        metadata: of the chat; a free mapping.
    """

    SCHEMA: ClassVar[int] = 2

    name: str | None = None
    goal: str | None = None
    preferred_model: str | None = None
    subtasks: Sequence[SwarmSubTask] = EMPTY_LIST
    swarm_leader: str | None = None
    subtask_leaders: Mapping[str, str] = EMPTY_DICT
    team_id: str | None = None
    blackboard: Sequence[BlackboardItem] = EMPTY_LIST
    resources: Sequence[SwarmResource] = EMPTY_LIST
    records: Sequence[ToolCallRecord] = EMPTY_LIST
    event_subscriptions: Mapping[str, Sequence[str]] = EMPTY_DICT
    policy: SwarmPolicy | None = None
    stats: SwarmStats = SwarmStats()
    limits: SwarmLimits = SwarmLimits()
    scheduling: SwarmScheduling = SwarmScheduling()
    pending_tool_calls: Sequence[PendingToolCall] = EMPTY_LIST
    participants: Sequence[BotParticipant] = EMPTY_LIST
    available_tools: Sequence[Any] = EMPTY_LIST
    initial_leader_system_message: str | None = None
    execution: SwarmExecution = SwarmExecution()
    metadata: Mapping[str, Any] = EMPTY_DICT

    @classmethod
    def upgrade(cls, fields: dict[str, Any], schema: int) -> dict[str, Any]:
        """From schema 1, where credits were decimal text (JavaScript's numbers end at 2^53), to integers."""
        if schema == 1:
            credit_fields = [
                (fields.get("stats"), ("totalCredits",)),
                (fields.get("limits"), ("maxCredits", "maxCreditsPerBotResponse")),
                *((call, ("cost",)) for call in fields.get("pendingToolCalls") or ()),
            ]
            for part, names in credit_fields:
                _credits_to_int(part, names)
        return fields


def _credits_to_int(part: dict[str, Any] | None, names: tuple[str, ...]) -> None:
    for name in names:
        if part and isinstance(part.get(name), str):
            part[name] = int(part[name])
