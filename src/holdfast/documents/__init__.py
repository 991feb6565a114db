"""The typed documents: immutable values, their JSON, and the way from an older schema to the current one.

A document is a frozen struct, immutable to the leaf, and derives from `Document`; the structs inside it
derive from `Part`, or are any frozen `msgspec.Struct`; of the latter, unknown fields are not kept. `encode`
and `decode` are the only ways to bytes and back.
"""

from holdfast.documents.base import Document, Part
from holdfast.documents.bot import Bot, ConfigResource, ResourceTranslation
from holdfast.documents.decoding import decode
from holdfast.documents.encoding import Limits, encode
from holdfast.documents.frozen import FreeValue, FrozenDict, FrozenList, freeze, thaw
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
    "Document",
    "ExportDeclaration",
    "ExportDestination",
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
    "ResourceKind",
    "ResourceRequirements",
    "ResourceTranslation",
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
    "UnknownTag",
    "VariableSource",
    "Visibility",
    "decode",
    "encode",
    "freeze",
    "thaw",
]
