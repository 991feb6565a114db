"""Holdfast, the state layer for agent swarms: in memory (L1), shared in Redis (L2), held in PostgreSQL (L3).

Importing has no effect; `connect()` begins everything.
"""

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
    InvalidDocument,
    InvalidEvent,
    InvalidKey,
    InvalidTopic,
    NotFound,
    OutcomeUnknown,
    Overloaded,
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
from holdfast.kinds import Caching, Kind
from holdfast.node import connect
from holdfast.protocols import Isolation
from holdfast.settings import Settings
from holdfast.store import StateStore
from holdfast.transactions import Transaction

__all__ = [
    "AppendOnly",
    "Bot",
    "Caching",
    "Closed",
    "Collection",
    "Conflict",
    "Consistency",
    "CorruptDocument",
    "Delivery",
    "Document",
    "DocumentTooDeep",
    "DocumentTooLarge",
    "Durability",
    "Entry",
    "Event",
    "HoldfastError",
    "InvalidDocument",
    "InvalidEvent",
    "InvalidKey",
    "InvalidTopic",
    "Isolation",
    "Kind",
    "Metadata",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "Priority",
    "Receipt",
    "Routine",
    "RunContextSnapshot",
    "SchemaTooNew",
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
    "WrongEventLoop",
    "connect",
]
