"""The typed documents: immutable values, their JSON, and the way from an older schema to the current one.

A document is a frozen struct, immutable to the leaf, and derives from `Document`; the structs inside it
derive from `Part`, or are any frozen `msgspec.Struct`; of the latter, unknown fields are not kept. `encode`
and `decode` are the only ways to bytes and back.
"""

from holdfast.documents.base import Document, Part
from holdfast.documents.bot import Bot, ConfigResource, ResourceTranslation
from holdfast.documents.decoding import decode
from holdfast.documents.encoding import Limits, encode
from holdfast.documents.escalation import Escalation, EscalationStatus, TriedStep
from holdfast.documents.exports import Delivery, ExportedValue
from holdfast.documents.frozen import FreeValue, FrozenDict, FrozenList, freeze, thaw
from holdfast.documents.review import Review, ReviewChoice, ReviewPolicy, ReviewStatus
from holdfast.documents.routine import (
    InputSpec,
    OutputSpec,
    ResourceRequirements,
    Routine,
    RoutineMetadata,
    RoutineStep,
)
from holdfast.documents.run import ContextChange, Run
from holdfast.documents.run_snapshot import (
    ContextVariable,
    ExportDeclaration,
    RefusedExport,
    RunContextSnapshot,
    SnapshotSummary,
    StepRecord,
)
from holdfast.documents.sealed import Sealed
from holdfast.documents.swarm import (
    BlackboardItem,
    BotParticipant,
    PendingToolCall,
    Swarm,
    SwarmExecution,
    SwarmLimits,
    SwarmPolicy,
    SwarmResource,
    SwarmScheduling,
    SwarmStats,
    SwarmSubTask,
    ToolCallRecord,
)
from holdfast.documents.tagging import UnknownTag
from holdfast.documents.team import Team, TeamMember, TeamObjective, TeamStructure
from holdfast.documents.vocabulary import (
    DataSensitivity,
    ExportDestination,
    NavigatorType,
    PendingToolCallStatus,
    Priority,
    ResourceKind,
    RunStatus,
    StepStatus,
    StepType,
    StrategyType,
    SubTaskStatus,
    VariableSource,
    Visibility,
)

__all__ = [
    "BlackboardItem",
    "Bot",
    "BotParticipant",
    "ConfigResource",
    "ContextChange",
    "ContextVariable",
    "DataSensitivity",
    "Delivery",
    "Document",
    "Escalation",
    "EscalationStatus",
    "ExportDeclaration",
    "ExportDestination",
    "ExportedValue",
    "FreeValue",
    "FrozenDict",
    "FrozenList",
    "InputSpec",
    "Limits",
    "NavigatorType",
    "OutputSpec",
    "Part",
    "PendingToolCall",
    "PendingToolCallStatus",
    "Priority",
    "RefusedExport",
    "ResourceKind",
    "ResourceRequirements",
    "ResourceTranslation",
    "Review",
    "ReviewChoice",
    "ReviewPolicy",
    "ReviewStatus",
    "Routine",
    "RoutineMetadata",
    "RoutineStep",
    "Run",
    "RunContextSnapshot",
    "RunStatus",
    "Sealed",
    "SnapshotSummary",
    "StepRecord",
    "StepStatus",
    "StepType",
    "StrategyType",
    "SubTaskStatus",
    "Swarm",
    "SwarmExecution",
    "SwarmLimits",
    "SwarmPolicy",
    "SwarmResource",
    "SwarmScheduling",
    "SwarmStats",
    "SwarmSubTask",
    "Team",
    "TeamMember",
    "TeamObjective",
    "TeamStructure",
    "ToolCallRecord",
    "TriedStep",
    "UnknownTag",
    "VariableSource",
    "Visibility",
    "decode",
    "encode",
    "freeze",
    "thaw",
]
