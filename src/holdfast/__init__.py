"""Holdfast, the state layer for agent swarms: in memory (L1), shared in Redis (L2), held in PostgreSQL (L3).

Importing has no effect; `connect()` begins everything.
"""

from holdfast.changes import ChangeOperation, Watched
from holdfast.collection import Collection
from holdfast.documents import (
    Bot,
    ContextVariable,
    Document,
    ExportDeclaration,
    Routine,
    Run,
    RunContextSnapshot,
    StepRecord,
    Swarm,
    Team,
)
from holdfast.entry import Consistency, Durability, Entry, Receipt, Tier
from holdfast.errors import (
    AppendOnly,
    Closed,
    Conflict,
    ContextCorrupt,
    CorruptDocument,
    DocumentTooDeep,
    DocumentTooLarge,
    HoldfastError,
    IncarnationChanged,
    InvalidDocument,
    InvalidEvent,
    InvalidKey,
    InvalidOperation,
    InvalidToken,
    InvalidTopic,
    LimitExceeded,
    NotFound,
    NotOwner,
    OutcomeUnknown,
    Overloaded,
    ReadOnlyVariable,
    Refused,
    RowRefused,
    RunOver,
    SchemaTooNew,
    SerializationFailure,
    ServerStartError,
    SettingsError,
    StaleUnavailable,
    StorageNotReady,
    TierError,
    TierUnavailable,
    Undecided,
    UnknownKind,
    WrongEventLoop,
)
from holdfast.events import Delivery, Event, Metadata, Priority
from holdfast.invalidation.rules import RULES, Dependents, Impact, Rule
from holdfast.kinds import Caching, Kind
from holdfast.node import connect
from holdfast.protocols import Invalidation, Isolation, Replayed
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.conflicts import ConflictStrategy, Resolution, VariableConflict
from holdfast.run_context.context import RunContext
from holdfast.run_context.contexts import RunView
from holdfast.run_context.restoring import Loss
from holdfast.scopes import Scope
from holdfast.settings import Settings
from holdfast.store import StateStore
from holdfast.transactions import Transaction
from holdfast.watching import Watch
from holdfast.write_behind.accepting import Backlog, Unwritten
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Set

__all__ = [
    "RULES",
    "ActiveRun",
    "Append",
    "AppendOnly",
    "Backlog",
    "Bot",
    "Caching",
    "ChangeOperation",
    "Closed",
    "Collection",
    "Conflict",
    "ConflictStrategy",
    "Consistency",
    "ContextCorrupt",
    "ContextVariable",
    "CorruptDocument",
    "Delete",
    "Delivery",
    "Dependents",
    "Document",
    "DocumentTooDeep",
    "DocumentTooLarge",
    "Durability",
    "Entry",
    "Event",
    "ExportDeclaration",
    "HoldfastError",
    "Impact",
    "IncarnationChanged",
    "Increment",
    "InvalidDocument",
    "InvalidEvent",
    "InvalidKey",
    "InvalidOperation",
    "InvalidToken",
    "InvalidTopic",
    "Invalidation",
    "Isolation",
    "Kind",
    "LimitExceeded",
    "Loss",
    "Merge",
    "Metadata",
    "NotFound",
    "NotOwner",
    "OutcomeUnknown",
    "Overloaded",
    "Priority",
    "ReadOnlyVariable",
    "Receipt",
    "Refused",
    "Replayed",
    "Resolution",
    "Routine",
    "RowRefused",
    "Rule",
    "Run",
    "RunContext",
    "RunContextSnapshot",
    "RunOver",
    "RunView",
    "SchemaTooNew",
    "Scope",
    "SerializationFailure",
    "ServerStartError",
    "Set",
    "Settings",
    "SettingsError",
    "StaleUnavailable",
    "StateStore",
    "StepRecord",
    "StorageNotReady",
    "Swarm",
    "Team",
    "Tier",
    "TierError",
    "TierUnavailable",
    "Transaction",
    "Undecided",
    "UnknownKind",
    "Unwritten",
    "VariableConflict",
    "Watch",
    "Watched",
    "WrongEventLoop",
    "connect",
]
