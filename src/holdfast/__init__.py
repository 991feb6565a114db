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
    InvalidToken,
    InvalidTopic,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RowRefused,
    SchemaTooNew,
    SerializationFailure,
    ServerStartError,
    SettingsError,
    StaleUnavailable,
    StorageNotReady,
    TierError,
    TierUnavailable,
    WrongEventLoop,
)
from holdfast.events import Delivery, Event, Metadata, Priority
from holdfast.invalidation.rules import RULES, Dependents, Impact, Rule
from holdfast.kinds import Caching, Kind
from holdfast.node import connect
from holdfast.protocols import Invalidation, Isolation, Replayed
from holdfast.scopes import Scope
from holdfast.settings import Settings
from holdfast.store import StateStore
from holdfast.transactions import Transaction
from holdfast.watching import Watch

__all__ = [
    "RULES",
    "AppendOnly",
    "Bot",
    "Caching",
    "ChangeOperation",
    "Closed",
    "Collection",
    "Conflict",
    "Consistency",
    "CorruptDocument",
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
    "InvalidDocument",
    "InvalidEvent",
    "InvalidKey",
    "InvalidToken",
    "InvalidTopic",
    "Invalidation",
    "Isolation",
    "Kind",
    "Metadata",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "Priority",
    "Receipt",
    "Replayed",
    "Routine",
    "RowRefused",
    "Rule",
    "RunContextSnapshot",
    "SchemaTooNew",
    "Scope",
    "SerializationFailure",
    "ServerStartError",
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
    "Watch",
    "Watched",
    "WrongEventLoop",
    "connect",
]
