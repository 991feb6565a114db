"""Golden bytes: the stored form of each built-in document, which every version must go on reading.

A change here is a change of the schema: raise `SCHEMA`, add an upgrade, and keep the old bytes as a test of it.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from holdfast.documents import (
    BlackboardItem,
    Bot,
    BotParticipant,
    ConfigResource,
    ContextChange,
    ContextVariable,
    Delivery,
    Document,
    Escalation,
    ExportDeclaration,
    ExportedValue,
    FrozenDict,
    InputSpec,
    OutputSpec,
    PendingToolCall,
    RefusedExport,
    ResourceRequirements,
    ResourceTranslation,
    Review,
    Routine,
    RoutineMetadata,
    RoutineStep,
    Run,
    RunContextSnapshot,
    SnapshotSummary,
    StepRecord,
    Swarm,
    SwarmExecution,
    SwarmLimits,
    SwarmPolicy,
    SwarmResource,
    SwarmScheduling,
    SwarmStats,
    SwarmSubTask,
    Team,
    TeamMember,
    TeamObjective,
    TeamStructure,
    ToolCallRecord,
    TriedStep,
    decode,
    encode,
)
from holdfast.run_context.snapshots import UNLIMITED, sealed, snapshot_in

NOON = dt.datetime(2025, 6, 5, 12, 0, tzinfo=dt.UTC)

SWARM = Swarm(
    name="Bicycle market",
    goal="Find what sells",
    preferred_model="m-1",
    subtasks=[
        SwarmSubTask(
            id="t1",
            description="Collect prices",
            status="in_progress",
            assignee_bot_id="b1",
            depends_on=["t0"],
            created_at=NOON,
            priority="high",
        )
    ],
    swarm_leader="b1",
    subtask_leaders={"t1": "b1"},
    team_id="team1",
    blackboard=[BlackboardItem(id="price", value={"eur": Decimal("12.50"), "$ref": "x"}, created_at=NOON)],
    resources=[
        SwarmResource(id="r1", kind="URL", mime="text/html", creator_bot_id="b1", created_at=NOON, meta={"size": 7})
    ],
    records=[
        ToolCallRecord(
            id="c1",
            routine_id="search",
            routine_name="Search",
            params={"q": "bicycle"},
            output_resource_ids=["r1"],
            caller_bot_id="b1",
            created_at=NOON,
        )
    ],
    event_subscriptions={"swarm/user_message": ["b1"]},
    policy=SwarmPolicy(visibility="restricted", acl=["u1"]),
    stats=SwarmStats(
        total_tool_calls=1, total_credits=2**63, started_at=1749124800000, last_processing_cycle_ended_at=1749124860000
    ),
    limits=SwarmLimits(max_tool_calls=100),
    scheduling=SwarmScheduling(tool_specific_delays={"search": 500}, requires_approval_tools=["send_mail"]),
    pending_tool_calls=[
        PendingToolCall(
            pending_id="p1",
            tool_call_id="tc1",
            tool_name="send_mail",
            tool_arguments="{}",
            caller_bot_id="b1",
            conversation_id="s1",
            requested_at=1749124800000,
            status="PENDING_APPROVAL",
            status_reason="asks a person",
            scheduled_execution_time=1,
            approval_timeout_at=2,
            user_id_to_approve="u1",
            approved_or_rejected_by_user_id="u2",
            decision_time=3,
            execution_attempts=1,
            last_attempt_time=4,
            result="{}",
            error="{}",
            cost=12,
        )
    ],
    participants=[BotParticipant(id="b1", name="Ada", meta={"role": "leader"})],
    available_tools=["search", {"name": "send_mail"}],
    initial_leader_system_message="You lead.",
    execution=SwarmExecution(status="running", active_runs=["run1"], active_bot_id="b1", last_activity_at=NOON),
    metadata={"tags": {"a", "b"}},
    extra=FrozenDict(secrets={"*": "pii"}),
)

BOT = Bot(
    name="Ada",
    handle="ada",
    resources=[
        ConfigResource(
            link="https://example.com",
            used_for="Learning",
            translations=[ResourceTranslation(language="en", name="Docs", description="The docs")],
        )
    ],
    model="m-1",
    max_tokens=2048,
    persona={"occupation": "analyst", "creativity": 0.5},
    agent_spec={"goal": "analyse", "subscriptions": ["swarm/started"]},
    capabilities=["search"],
    metadata={"owner": "u1"},
)

TEAM = Team(
    name="Market",
    description="Looks at markets",
    members=[TeamMember(id="b1", role="leader", is_admin=True, joined_at=NOON)],
    objectives=[TeamObjective(id="o1", description="Know prices", status="todo", priority="high", due_at=NOON)],
    structure=TeamStructure(content="structure Market { }"),
    resources=[ConfigResource(link="https://example.com")],
    metadata={"region": "eu"},
)

ROUTINE = Routine(
    name="Search",
    version="1.2.0",
    description="Searches",
    navigator_type="bpmn",
    steps=[
        RoutineStep(
            step_id="s1",
            name="Ask",
            step_type="input",
            description="Asks",
            input_mappings={"q": "query"},
            output_mappings={"hits": "results"},
            configuration={"retries": 2},
            strategy="deterministic",
            required=False,
            timeout_ms=5000,
        )
    ],
    inputs=[
        InputSpec(
            name="query", type="text", required=True, default_value="x", description="What", validation=[{"max": 9}]
        )
    ],
    outputs=[OutputSpec(name="results", type="list", description="Hits", sensitivity="public")],
    resource_requirements=ResourceRequirements(
        min_credits=1,
        estimated_credits=2,
        max_credits=3,
        estimated_duration_ms=4,
        max_duration_ms=5,
        memory_mb=6,
        concurrency_level=7,
        tools_required=["search"],
    ),
    default_strategy="reasoning",
    config={"graph": {"nodes": []}},
    metadata=RoutineMetadata(
        created_by="u1", created_at=NOON, updated_at=NOON, tags=["web"], category="research", is_public=True
    ),
)

STEP = StepRecord(step_id="s0", status="completed", started_at=NOON, ended_at=NOON, result=(1, 2), error="none")
SUMMARY = SnapshotSummary(sequence=2, sha256="cd34", steps=5, variables=["budget"], at=NOON)

SNAPSHOT = RunContextSnapshot(
    run_id="run1",
    routine_id="search",
    sequence=3,
    parent_run_id="run0",
    status="paused",
    current_step="s1",
    inputs={"query": "bicycle"},
    variables={
        "budget": ContextVariable(
            key="budget",
            value=Decimal("99.90"),
            source="user",
            timestamp=NOON,
            sensitivity="confidential",
            mutable=False,
            clock="0197.0000.n1",
        )
    },
    intermediate={"page": 2},
    exports={
        "budget": [
            ExportDeclaration(key="budget", destination="blackboard", sensitivity="internal", transformation="round"),
            ExportDeclaration(key="budget", destination="external_system", exporter="crm"),
        ]
    },
    step_history=[STEP],
    created_at=NOON,
    is_base=False,
    previous=SUMMARY,
    previous_base=0,
    sha256="ab12",
    removed_variables=["old"],
    removed_intermediate=["page0"],
    removed_exports=["old"],
    strategies={"budget": "keep_latest"},
    merged=7,
)

RUN = Run(
    routine_id="search",
    swarm_id="swarm1",
    parent_run_id="run0",
    depth=1,
    status="paused",
    critical=True,
    owner="server1",
    journal="j1",
    epoch=2,
    handed_over=7,
    children=3,
    sequence=3,
    base=1,
    newest=SUMMARY,
    base_bytes=100,
    delta_bytes=200,
    changes=[
        ContextChange(
            at=NOON,
            variables={"budget": ContextVariable(key="budget", value=5, timestamp=NOON, clock="0197.0000.n1")},
            intermediate={"page": 2},
            exports={"budget": [ExportDeclaration(key="budget")]},
            removed_variables=["old"],
            removed_intermediate=["page0"],
            removed_exports=["old"],
            steps=[STEP],
            current_step="s1",
            snapshot=True,
            strategies={"budget": "keep_latest"},
            merged=7,
        ),
        ContextChange(variables={"page": ContextVariable(key="page", mutable=False)}),
    ],
    started_at=NOON,
    ended_at=NOON,
    error="no route",
    terminate="no base verifies",
    on_conflict="child_wins",
    exported={"budget": ContextVariable(key="budget", value=5, ancestor="0196.0000.n1")},
    refused_exports=[
        RefusedExport(key="token", destination="external_system", reason="secret", exporter="crm", masked=True),
    ],
)

EXPORTED = ExportedValue(
    run_id="run1",
    routine_id="search",
    key="budget",
    value=Decimal("99.90"),
    swarm_id="swarm1",
    sensitivity="public",
    transformation="round",
    exported_at=NOON,
)

DELIVERY = Delivery(
    run_id="run1",
    routine_id="search",
    key="budget",
    exporter="crm",
    value=(1, 2),
    swarm_id="swarm1",
    sensitivity="public",
    transformation="round",
    exported_at=NOON,
)

REVIEW = Review(
    run_id="run1",
    child_run_id="run2",
    variable="budget",
    parent=ContextVariable(key="budget", value=5, timestamp=NOON, clock="0197.0000.n1"),
    child=ContextVariable(key="budget", value=6, timestamp=NOON, clock="0198.0000.n2"),
    status="resolved",
    policy="go_on",
    fallback="child_wins",
    opened_at=NOON,
    opened_by="server1",
    deadline=NOON,
    choice="child",
    resolved=ContextVariable(key="budget", value=6, timestamp=NOON, clock="0198.0000.n2"),
    resolved_by="ada",
    resolved_at=NOON,
    reason="she knows",
    applied=True,
    overtaken=True,
    left_out=True,
)

ESCALATION = Escalation(
    subject="run:run1",
    failed="the context of a run cannot be restored as it was",
    error_type="context_corruption",
    severity="CRITICAL",
    recovery_id="rec1",
    swarm_id="swarm1",
    run_id="run1",
    tried=[TriedStep(step="terminate_routine", outcome="done", detail="it has failed")],
    evidence="ab12",
    further=3,
    options=["restore_last_snapshot", "leave"],
    fallback="restore_last_snapshot",
    cost="data loss possible",
    hooks=["leader", "webhook"],
    status="resolved",
    opened_at=NOON,
    opened_by="server1",
    deadline=NOON,
    decision="leave",
    resolved_by="ada",
    resolved_at=NOON,
    reason="she knows",
)

GOLDEN: dict[str, tuple[Document, str]] = {
    "swarm": (
        SWARM,
        (
            '{"__version":2,"name":"Bicycle market","goal":"Find what sells","preferredModel":"m-1",'
            '"subtasks":[{"id":"t1","description":"Collect prices","status":"in_progress","assignee_bot_id":"b1",'
            '"depends_on":["t0"],"created_at":"2025-06-05T12:00:00Z","priority":"high"}],"swarmLeader":"b1",'
            '"subtaskLeaders":{"t1":"b1"},"teamId":"team1","blackboard":[{"id":"price",'
            '"value":{"eur":{"$decimal":"12.50"},"$ref":"x"},"created_at":"2025-06-05T12:00:00Z"}],'
            '"resources":[{"id":"r1","kind":"URL","mime":"text/html","creator_bot_id":"b1",'
            '"created_at":"2025-06-05T12:00:00Z","meta":{"size":7}}],"records":[{"id":"c1","routine_id":"search",'
            '"routine_name":"Search","params":{"q":"bicycle"},"output_resource_ids":["r1"],"caller_bot_id":"b1",'
            '"created_at":"2025-06-05T12:00:00Z"}],"eventSubscriptions":{"swarm/user_message":["b1"]},'
            '"policy":{"visibility":"restricted","acl":["u1"]},"stats":{"totalToolCalls":1,'
            '"totalCredits":9223372036854775808,"startedAt":1749124800000,'
            '"lastProcessingCycleEndedAt":1749124860000},"limits":{"maxToolCallsPerBotResponse":10,'
            '"maxToolCalls":100,"maxCreditsPerBotResponse":1000000,"maxCredits":5000000,'
            '"maxDurationPerBotResponseMs":60000,"maxDurationMs":600000,"delayBetweenProcessingCyclesMs":0},'
            '"scheduling":{"defaultDelayMs":0,"toolSpecificDelays":{"search":500},'
            '"requiresApprovalTools":["send_mail"],"approvalTimeoutMs":600000,"autoRejectOnTimeout":true},'
            '"pendingToolCalls":[{"pendingId":"p1","toolCallId":"tc1","toolName":"send_mail",'
            '"toolArguments":"{}","callerBotId":"b1","conversationId":"s1","requestedAt":1749124800000,'
            '"status":"PENDING_APPROVAL","statusReason":"asks a person","scheduledExecutionTime":1,'
            '"approvalTimeoutAt":2,"userIdToApprove":"u1","approvedOrRejectedByUserId":"u2","decisionTime":3,'
            '"executionAttempts":1,"lastAttemptTime":4,"result":"{}","error":"{}","cost":12}],'
            '"participants":[{"id":"b1","name":"Ada","meta":{"role":"leader"}}],"availableTools":["search",'
            '{"name":"send_mail"}],"initialLeaderSystemMessage":"You lead.","execution":{"status":"running",'
            '"activeRuns":["run1"],"activeBotId":"b1","lastActivityAt":"2025-06-05T12:00:00Z"},'
            '"metadata":{"tags":{"$set":["a","b"]}},"secrets":{"*":"pii"}}'
        ),
    ),
    "bot": (
        BOT,
        (
            '{"__version":1,"name":"Ada","handle":"ada","resources":[{"link":"https://example.com",'
            '"usedFor":"Learning","translations":[{"language":"en","name":"Docs","description":"The docs"}]}],'
            '"model":"m-1","maxTokens":2048,"persona":{"occupation":"analyst","creativity":0.5},'
            '"agentSpec":{"goal":"analyse","subscriptions":["swarm/started"]},"capabilities":["search"],'
            '"metadata":{"owner":"u1"}}'
        ),
    ),
    "team": (
        TEAM,
        (
            '{"__version":1,"name":"Market","description":"Looks at markets","members":[{"id":"b1",'
            '"role":"leader","isAdmin":true,"joinedAt":"2025-06-05T12:00:00Z"}],"objectives":[{"id":"o1",'
            '"description":"Know prices","status":"todo","priority":"high","dueAt":"2025-06-05T12:00:00Z"}],'
            '"structure":{"type":"MOISE+","version":"1.0","content":"structure Market { }"},'
            '"resources":[{"link":"https://example.com","translations":[]}],"metadata":{"region":"eu"}}'
        ),
    ),
    "routine": (
        ROUTINE,
        (
            '{"__version":1,"name":"Search","version":"1.2.0","description":"Searches","navigatorType":"bpmn",'
            '"steps":[{"stepId":"s1","name":"Ask","stepType":"input","description":"Asks",'
            '"inputMappings":{"q":"query"},"outputMappings":{"hits":"results"},"configuration":{"retries":2},'
            '"strategy":"deterministic","required":false,"timeout":5000}],"inputs":[{"name":"query",'
            '"type":"text","required":true,"defaultValue":"x","description":"What","validation":[{"max":9}]}],'
            '"outputs":[{"name":"results","type":"list","description":"Hits","sensitivity":"public"}],'
            '"resourceRequirements":{"minCredits":1,"estimatedCredits":2,"maxCredits":3,"estimatedDurationMs":4,'
            '"maxDurationMs":5,"memoryMB":6,"concurrencyLevel":7,"toolsRequired":["search"]},'
            '"defaultStrategy":"reasoning","config":{"graph":{"nodes":[]}},"metadata":{"createdBy":"u1",'
            '"createdAt":"2025-06-05T12:00:00Z","updatedAt":"2025-06-05T12:00:00Z","tags":["web"],'
            '"category":"research","isPublic":true}}'
        ),
    ),
    "run": (
        RUN,
        (
            '{"__version":1,"routineId":"search","swarmId":"swarm1","parentRunId":"run0","depth":1,'
            '"status":"paused","critical":true,"owner":"server1","journal":"j1","epoch":2,"handedOver":7,'
            '"children":3,"sequence":3,"base":1,"newest":{"sequence":2,"sha256":"cd34","steps":5,'
            '"variables":["budget"],"more":0,"at":"2025-06-05T12:00:00Z"},"baseBytes":100,"deltaBytes":200,'
            '"changes":[{"at":"2025-06-05T12:00:00Z","variables":{"budget":{"key":"budget","value":5,'
            '"source":"step","timestamp":"2025-06-05T12:00:00Z","clock":"0197.0000.n1",'
            '"sensitivity":"internal"}},"intermediate":{"page":2},"exports":{"budget":[{"key":"budget",'
            '"destination":"parent_context","sensitivity":"internal"}]},"removedVariables":["old"],'
            '"removedIntermediate":["page0"],"removedExports":["old"],"steps":[{"stepId":"s0",'
            '"status":"completed","startedAt":"2025-06-05T12:00:00Z","endedAt":"2025-06-05T12:00:00Z",'
            '"result":{"$tuple":[1,2]},"error":"none"}],"currentStep":"s1","snapshot":true,'
            '"strategies":{"budget":"keep_latest"},"merged":7},'
            '{"variables":{"page":{"key":"page","source":"step","clock":"","sensitivity":"internal",'
            '"mutable":false}}}],"startedAt":"2025-06-05T12:00:00Z","endedAt":"2025-06-05T12:00:00Z",'
            '"error":"no route","terminate":"no base verifies",'
            '"onConflict":"child_wins","exported":{"budget":{"key":"budget","value":5,'
            '"source":"step","clock":"","sensitivity":"internal","ancestor":"0196.0000.n1"}},'
            '"refusedExports":[{"key":"token","destination":"external_system","reason":"secret",'
            '"exporter":"crm","masked":true}]}'
        ),
    ),
    "export": (
        EXPORTED,
        (
            '{"__version":1,"runId":"run1","routineId":"search","key":"budget","value":{"$decimal":"99.90"},'
            '"swarmId":"swarm1","sensitivity":"public","transformation":"round","exportedAt":"2025-06-05T12:00:00Z"}'
        ),
    ),
    "delivery": (
        DELIVERY,
        (
            '{"__version":1,"runId":"run1","routineId":"search","key":"budget","exporter":"crm",'
            '"value":{"$tuple":[1,2]},"swarmId":"swarm1","sensitivity":"public","transformation":"round",'
            '"exportedAt":"2025-06-05T12:00:00Z"}'
        ),
    ),
    "review": (
        REVIEW,
        (
            '{"__version":1,"runId":"run1","childRunId":"run2","variable":"budget","parent":{"key":"budget","value":5,'
            '"source":"step","timestamp":"2025-06-05T12:00:00Z","clock":"0197.0000.n1","sensitivity":"internal"},'
            '"child":{"key":"budget","value":6,"source":"step","timestamp":"2025-06-05T12:00:00Z",'
            '"clock":"0198.0000.n2","sensitivity":"internal"},"status":"resolved","policy":"go_on",'
            '"fallback":"child_wins","openedAt":"2025-06-05T12:00:00Z","openedBy":"server1",'
            '"deadline":"2025-06-05T12:00:00Z","choice":"child","resolved":{"key":"budget","value":6,"source":"step",'
            '"timestamp":"2025-06-05T12:00:00Z","clock":"0198.0000.n2","sensitivity":"internal"},"resolvedBy":"ada",'
            '"resolvedAt":"2025-06-05T12:00:00Z","reason":"she knows","applied":true,'
            '"overtaken":true,"leftOut":true}'
        ),
    ),
    "escalation": (
        ESCALATION,
        (
            '{"__version":1,"subject":"run:run1","failed":"the context of a run cannot be restored as it was",'
            '"errorType":"context_corruption","severity":"CRITICAL","recoveryId":"rec1","swarmId":"swarm1",'
            '"runId":"run1","tried":[{"step":"terminate_routine","outcome":"done","detail":"it has failed"}],'
            '"evidence":"ab12","further":3,"options":["restore_last_snapshot","leave"],'
            '"fallback":"restore_last_snapshot","cost":"data loss possible",'
            '"hooks":["leader","webhook"],"status":"resolved","openedAt":"2025-06-05T12:00:00Z",'
            '"openedBy":"server1","deadline":"2025-06-05T12:00:00Z","decision":"leave","resolvedBy":"ada",'
            '"resolvedAt":"2025-06-05T12:00:00Z","reason":"she knows"}'
        ),
    ),
    "run_snapshot": (
        SNAPSHOT,
        (
            '{"__version":2,"sha256":"ab12","runId":"run1","routineId":"search","sequence":3,"parentRunId":"run0",'
            '"isBase":false,"previous":{"sequence":2,"sha256":"cd34","steps":5,"variables":["budget"],'
            '"more":0,"at":"2025-06-05T12:00:00Z"},"previousBase":0,"status":"paused",'
            '"currentStep":"s1","inputs":{"query":"bicycle"},"variables":{"budget":{"key":"budget",'
            '"value":{"$decimal":"99.90"},"source":"user","timestamp":"2025-06-05T12:00:00Z",'
            '"clock":"0197.0000.n1","sensitivity":"confidential","mutable":false}},"intermediate":{"page":2},'
            '"exports":{"budget":[{"key":"budget","destination":"blackboard","sensitivity":"internal",'
            '"transformation":"round"},{"key":"budget","destination":"external_system",'
            '"sensitivity":"internal","exporter":"crm"}]},"stepHistory":[{"stepId":"s0","status":"completed",'
            '"startedAt":"2025-06-05T12:00:00Z","endedAt":"2025-06-05T12:00:00Z","result":{"$tuple":[1,2]},'
            '"error":"none"}],"removedVariables":["old"],"removedIntermediate":["page0"],'
            '"removedExports":["old"],"strategies":{"budget":"keep_latest"},"merged":7,'
            '"createdAt":"2025-06-05T12:00:00Z"}'
        ),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_document_is_stored_in_these_bytes(name: str) -> None:
    """Every field, under its stored name, in this order; and the bytes read back as the document."""
    document, stored = GOLDEN[name]
    assert encode(document).decode() == stored
    assert decode(type(document), stored.encode()) == document


@pytest.mark.parametrize(
    "document",
    [SWARM, BOT, TEAM, ROUTINE, RUN, SNAPSHOT, EXPORTED, DELIVERY, REVIEW],
    ids=lambda each: type(each).__name__,
)
def test_the_golden_documents_leave_no_field_out(document: Document) -> None:
    """Each field differs from its default, so that its stored name stands in the bytes above."""
    required: dict[str, Any] = {"run_id": "", "routine_id": "", "sequence": 0, "key": "", "exporter": ""}
    required |= {"child_run_id": "", "variable": ""}
    required["child"] = ContextVariable(key="")
    blank = type(document)(**{name: required[name] for name in required if hasattr(document, name)})
    for name in document.__struct_fields__:
        if name != "extra":
            assert getattr(document, name) != getattr(blank, name), name


SCHEMA_1 = {
    "run_snapshot": (
        '{"__version":1,"runId":"run1","routineId":"search","sequence":3,"parentRunId":"run0",'
        '"status":"paused","currentStep":"s1","inputs":{"query":"bicycle"},'
        '"variables":{"budget":{"key":"budget","value":{"$decimal":"99.90"},"source":"user",'
        '"timestamp":"2025-06-05T12:00:00Z","sensitivity":"confidential","mutable":false}},'
        '"intermediate":{"page":2},"exports":{"budget":{"key":"budget","destination":"blackboard",'
        '"sensitivity":"internal","transformation":"round"}},"stepHistory":[{"stepId":"s0",'
        '"status":"completed","startedAt":"2025-06-05T12:00:00Z","endedAt":"2025-06-05T12:00:00Z",'
        '"result":{"$tuple":[1,2]},"error":"none"}],"createdAt":"2025-06-05T12:00:00Z"}'
    ),
}
"""What schema 1 stored, which is read for ever."""


def test_a_snapshot_of_schema_1_is_a_base() -> None:
    """It knew no others; and it has no checksum, so no chain begins with it unseen."""
    snapshot = decode(RunContextSnapshot, SCHEMA_1["run_snapshot"].encode())
    assert (snapshot.is_base, snapshot.sequence, snapshot.sha256) == (True, 3, "")
    assert (snapshot.variables["budget"].value, snapshot.step_history[0]) == (Decimal("99.90"), STEP)
    assert [each.destination for each in snapshot.exports["budget"]] == ["blackboard"]


def test_the_checksum_of_a_snapshot() -> None:
    """What it is taken over must not change either: else all snapshots that are stored count as damaged."""
    assert sealed(SNAPSHOT).sha256 == "f316879af2466f44a75f82a7085b4ee7698dbf65b38eac3dd3cef86f625fc8f3"
    assert snapshot_in(encode(sealed(SNAPSHOT), UNLIMITED)) == sealed(SNAPSHOT)
