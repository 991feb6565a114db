"""For tests of code that uses Holdfast.

The same door over tiers in memory, a clock that is set by hand, and the suites that every tier must pass.

Nothing in the package imports this.
"""

from holdfast.testing.clock import ManualClock
from holdfast.testing.door import connect
from holdfast.testing.memory_audit import MemoryAudit
from holdfast.testing.memory_cache import MemoryCache
from holdfast.testing.memory_decisions import MemoryDecisions
from holdfast.testing.memory_deliveries import MemoryDeliveries
from holdfast.testing.memory_events import EventHub, MemoryEvents
from holdfast.testing.memory_feed import MemoryFeed
from holdfast.testing.memory_journal_base import MemoryJournalBase
from holdfast.testing.memory_journals import JournalHub, MemoryJournals
from holdfast.testing.memory_keys import MemoryKeys
from holdfast.testing.memory_recovery import MemoryQuarantine, MemoryRecoveryLog
from holdfast.testing.memory_runs import MemoryRuns
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.testing.pauses import PausingCache, PausingStorage

__all__ = [
    "EventHub",
    "JournalHub",
    "ManualClock",
    "MemoryAudit",
    "MemoryCache",
    "MemoryDecisions",
    "MemoryDeliveries",
    "MemoryEvents",
    "MemoryFeed",
    "MemoryJournalBase",
    "MemoryJournals",
    "MemoryKeys",
    "MemoryQuarantine",
    "MemoryRecoveryLog",
    "MemoryRuns",
    "MemoryStorage",
    "PausingCache",
    "PausingStorage",
    "connect",
]
