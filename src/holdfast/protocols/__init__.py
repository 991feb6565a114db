"""The contracts between the flows and the tiers, in words.

`Storage` is L3: `tiers.l3_postgres.PostgresStorage` and `testing.memory_storage.MemoryStorage`. `ChangeSource` is
L3's feed: `tiers.l3_feed.PostgresFeed` and `testing.memory_feed.MemoryFeed`. `SharedCache` and `FenceSink` are L2:
`tiers.l2_redis.RedisCache`, `tiers.l2_fences.RedisFences` and `testing.memory_cache.MemoryCache`. `EventTransport`
carries events: `tiers.l2_events.RedisEvents` and `testing.memory_events.MemoryEvents`. `JournalStreams` is the journal
of write-behind in L2: `tiers.l2_journal.RedisJournals` and `testing.memory_journals.MemoryJournals`. `JournalBase` is
what L3 knows of it: `tiers.l3_journals.PostgresJournals` and `testing.memory_journal_base.MemoryJournalBase`.
`RunIndex` is L3's side of run contexts: `tiers.l3_runs.PostgresRuns` and `testing.memory_runs.MemoryRuns`. `KeyRows`
is what L3 knows of data keys: `tiers.l3_keys.PostgresKeys` and `testing.memory_keys.MemoryKeys`. `DecisionIndex` is
L3's side of what is decided once, such as reviews: `tiers.l3_decisions.PostgresDecisions` and
`testing.memory_decisions.MemoryDecisions`. `AuditRows` is the audit log: `tiers.l3_audit.PostgresAudit` and
`testing.memory_audit.MemoryAudit`. `DeliveryQueue` is what L3 knows of deliveries:
`tiers.l3_deliveries.PostgresDeliveries` and `testing.memory_deliveries.MemoryDeliveries`. `RecoveryLogRows` and
`QuarantineRows` are recovery's records there: `tiers.l3_recovery` and `testing.memory_recovery`. The suites in
`holdfast.testing.conformance` run on all of them. `TierGuard` (in `guards`) knows whether a tier answers:
`tiers.l2_guard.RedisGuard`, `tiers.l3_guard.PostgresGuard` and `testing.memory_guard.MemoryGuard`. `Reviewer` has
conflicts decided that no strategy may resolve, `LateReviews` knows what was decided after a run had gone on,
`FaultSink` is told of faults of state, and `FaultEscalator` (in `escalations`) asks a person about them.
"""

from holdfast.protocols.audit import AuditRows
from holdfast.protocols.coherence import ANY_VERSION, SHARED_SCOPE, Coherence
from holdfast.protocols.data_keys import DataKeyRow, KeyRows, MasterKeyUse, NewestKey
from holdfast.protocols.decisions import DecisionIndex, Due
from holdfast.protocols.deliveries import DeliveryQueue, DeliveryRow
from holdfast.protocols.events import Append, Dead, DeadLetter, EventTransport, Exchange, Exchanged, Handed, Replayed
from holdfast.protocols.faults import FaultSink, Source
from holdfast.protocols.feed import Change, ChangeSource, Cursor, Poll, Snapshot
from holdfast.protocols.journals import (
    Appended,
    DeadWrite,
    FlushTransaction,
    JournalBase,
    JournalBehind,
    JournalRecord,
    JournalSealed,
    JournalState,
    JournalStreams,
    Letter,
)
from holdfast.protocols.recovery import (
    Evidence,
    LineFilter,
    LoggedLine,
    Quarantined,
    QuarantineRows,
    RecoveryLine,
    RecoveryLogRows,
)
from holdfast.protocols.reviews import LateDecision, LateReviews, Reviewer, Settled
from holdfast.protocols.runs import ListedSnapshot, Retained, RunFilter, RunIndex
from holdfast.protocols.shared_cache import (
    Absent,
    Cached,
    Failed,
    FenceSink,
    FenceTarget,
    Fill,
    SharedCache,
    View,
    Watermark,
    Withdrawal,
)
from holdfast.protocols.storage import Affected, Isolation, Loaded, Row, Storage, StorageTransaction, Write
from holdfast.protocols.voids import Invalidation, Target

__all__ = [
    "ANY_VERSION",
    "SHARED_SCOPE",
    "Absent",
    "Affected",
    "Append",
    "Appended",
    "AuditRows",
    "Cached",
    "Change",
    "ChangeSource",
    "Coherence",
    "Cursor",
    "DataKeyRow",
    "Dead",
    "DeadLetter",
    "DeadWrite",
    "DecisionIndex",
    "DeliveryQueue",
    "DeliveryRow",
    "Due",
    "EventTransport",
    "Evidence",
    "Exchange",
    "Exchanged",
    "Failed",
    "FaultSink",
    "FenceSink",
    "FenceTarget",
    "Fill",
    "FlushTransaction",
    "Handed",
    "Invalidation",
    "Isolation",
    "JournalBase",
    "JournalBehind",
    "JournalRecord",
    "JournalSealed",
    "JournalState",
    "JournalStreams",
    "KeyRows",
    "LateDecision",
    "LateReviews",
    "Letter",
    "LineFilter",
    "ListedSnapshot",
    "Loaded",
    "LoggedLine",
    "MasterKeyUse",
    "NewestKey",
    "Poll",
    "QuarantineRows",
    "Quarantined",
    "RecoveryLine",
    "RecoveryLogRows",
    "Replayed",
    "Retained",
    "Reviewer",
    "Row",
    "RunFilter",
    "RunIndex",
    "Settled",
    "SharedCache",
    "Snapshot",
    "Source",
    "Storage",
    "StorageTransaction",
    "Target",
    "View",
    "Watermark",
    "Withdrawal",
    "Write",
]
