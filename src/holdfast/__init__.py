"""Holdfast, the state layer for agent swarms: in memory (L1), shared in Redis (L2), held in PostgreSQL (L3).

Importing has no effect; `connect()` begins everything.
"""

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
    InvalidKey,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    SchemaTooNew,
    ServerStartError,
    SettingsError,
    StorageNotReady,
    TierError,
    TierUnavailable,
    WrongEventLoop,
)
from holdfast.kinds import Caching, Kind
from holdfast.node import connect
from holdfast.settings import Settings
from holdfast.store import Collection, StateStore

__all__ = [
    "AppendOnly",
    "Bot",
    "Caching",
    "Closed",
    "Collection",
    "Conflict",
    "Consistency",
    "CorruptDocument",
    "Document",
    "DocumentTooDeep",
    "DocumentTooLarge",
    "Durability",
    "Entry",
    "HoldfastError",
    "InvalidDocument",
    "InvalidKey",
    "Kind",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "Receipt",
    "Routine",
    "RunContextSnapshot",
    "SchemaTooNew",
    "ServerStartError",
    "Settings",
    "SettingsError",
    "StateStore",
    "StorageNotReady",
    "Swarm",
    "Team",
    "Tier",
    "TierError",
    "TierUnavailable",
    "WrongEventLoop",
    "connect",
]
