"""Holdfast, the state layer for agent swarms: in memory (L1), shared in Redis (L2), held in PostgreSQL (L3).

Importing has no effect; `connect()` begins everything.
"""

from holdfast.changes import ChangeOperation, Watched
from holdfast.collection import Collection
from holdfast.documents import (
    Bot,
    Document,
    Routine,
    RunContextSnapshot,
    Swarm,
    Team,
)
from holdfast.entry import Consistency, Durability, Entry, Receipt, Tier
from holdfast.errors import (
    AppendOnly,
    Closed,
    Conflict,
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
    NotFound,
    NotOwner,
    OutcomeUnknown,
    Overloaded,
    Refused,
    RowRefused,
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
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.scopes import Scope
from holdfast.settings import Settings
from holdfast.store import StateStore
from holdfast.transactions import Transaction
from holdfast.watching import Watch
from holdfast.write_behind.accepting import Backlog, Unwritten
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Set

__all__ = [
    "RULES",
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
    "Merge",
    "Metadata",
    "NotFound",
    "NotOwner",
    "OutcomeUnknown",
    "Overloaded",
    "Priority",
    "Receipt",
    "Refused",
    "Replayed",
    "Routine",
    "RowRefused",
    "Rule",
    "RunContextSnapshot",
    "SchemaTooNew",
    "Scope",
    "SerializationFailure",
    "ServerStartError",
    "Set",
    "Settings",
    "SettingsError",
    "StaleUnavailable",
    "StateStore",
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
    "Watch",
    "Watched",
    "WrongEventLoop",
    "connect",
]
