"""The contracts between the flows and the tiers, in words.

`Storage` is L3: `tiers.l3_postgres.PostgresStorage` and `testing.memory_storage.MemoryStorage`. `ChangeSource` is
L3's feed: `tiers.l3_feed.PostgresFeed` and `testing.memory_feed.MemoryFeed`. `SharedCache` and `FenceSink` are L2:
`tiers.l2_redis.RedisCache`, `tiers.l2_fences.RedisFences` and `testing.memory_cache.MemoryCache`. `EventTransport`
carries events: `tiers.l2_events.RedisEvents` and `testing.memory_events.MemoryEvents`. The suites in
`holdfast.testing.conformance` run on all of them.
"""

from holdfast.protocols.coherence import ANY_VERSION, SHARED_SCOPE, Coherence
from holdfast.protocols.events import Append, Dead, DeadLetter, EventTransport, Exchange, Exchanged, Handed, Replayed
from holdfast.protocols.feed import Change, ChangeSource, Cursor, Poll, Snapshot
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
    "Cached",
    "Change",
    "ChangeSource",
    "Coherence",
    "Cursor",
    "Dead",
    "DeadLetter",
    "EventTransport",
    "Exchange",
    "Exchanged",
    "Failed",
    "FenceSink",
    "FenceTarget",
    "Fill",
    "Handed",
    "Invalidation",
    "Isolation",
    "Loaded",
    "Poll",
    "Replayed",
    "Row",
    "SharedCache",
    "Snapshot",
    "Storage",
    "StorageTransaction",
    "Target",
    "View",
    "Watermark",
    "Withdrawal",
    "Write",
]
