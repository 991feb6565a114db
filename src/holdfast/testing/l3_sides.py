"""What a server is given of an L3 beside its rows: of one in memory or in PostgreSQL it is known here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from holdfast.clock import Clock
from holdfast.errors import SettingsError
from holdfast.kinds import ESCALATION, REVIEW, Kind
from holdfast.protocols import (
    AuditRows,
    DecisionIndex,
    DeliveryQueue,
    JournalBase,
    KeyRows,
    QuarantineRows,
    RecoveryLogRows,
    RunIndex,
    Storage,
)
from holdfast.settings import Settings
from holdfast.testing.memory_audit import MemoryAudit
from holdfast.testing.memory_decisions import MemoryDecisions
from holdfast.testing.memory_deliveries import MemoryDeliveries
from holdfast.testing.memory_journal_base import MemoryJournalBase
from holdfast.testing.memory_keys import MemoryKeys
from holdfast.testing.memory_recovery import MemoryQuarantine, MemoryRecoveryLog
from holdfast.testing.memory_runs import MemoryRuns
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.tiers.l3_audit import PostgresAudit
from holdfast.tiers.l3_decisions import PostgresDecisions
from holdfast.tiers.l3_deliveries import PostgresDeliveries
from holdfast.tiers.l3_journals import PostgresJournals
from holdfast.tiers.l3_keys import PostgresKeys
from holdfast.tiers.l3_postgres import PostgresStorage
from holdfast.tiers.l3_recovery import PostgresQuarantine, PostgresRecoveryLog
from holdfast.tiers.l3_runs import PostgresRuns


class L3Sides(TypedDict, total=False):
    """The sides of an L3; see `Given`."""

    journals: JournalBase
    runs: RunIndex
    key_rows: KeyRows
    reviews: DecisionIndex
    escalations: DecisionIndex
    audit: AuditRows
    deliveries: DeliveryQueue
    recovery_log: RecoveryLogRows
    quarantine: QuarantineRows


def sides_of(
    storage: Storage, kinds: Mapping[str, Kind[Any]], clock: Clock, settings: Settings, given: L3Sides
) -> L3Sides:
    """All sides: those given, and the others as the L3 has them.

    Raises:
        SettingsError: one is not given, and the L3 is neither in memory nor in PostgreSQL.
    """
    l3 = beneath(storage)
    if isinstance(l3, MemoryStorage):
        return {**_in_memory(l3, clock, settings), **given}
    if isinstance(l3, PostgresStorage):
        return {**_in_postgres(l3, kinds, settings), **given}
    if missing := sorted(L3Sides.__annotations__.keys() - given.keys()):
        raise SettingsError(f"connect_flows: this L3 needs its sides: {'=..., '.join(missing)}=...")
    return given


def beneath(tier: object) -> object:
    """What wrappers of a tier, which show it as `inner`, are around."""
    while (inner := getattr(tier, "inner", None)) is not None:
        tier = inner
    return tier


def _in_memory(l3: MemoryStorage, clock: Clock, settings: Settings) -> L3Sides:
    return L3Sides(
        journals=MemoryJournalBase(l3, clock),
        runs=MemoryRuns(l3, clock, dead_after_seconds=settings.write_behind_takeover_seconds),
        key_rows=MemoryKeys(l3),
        reviews=MemoryDecisions(l3, clock, REVIEW),
        escalations=MemoryDecisions(l3, clock, ESCALATION),
        audit=MemoryAudit(l3),
        deliveries=MemoryDeliveries(l3, clock),
        recovery_log=MemoryRecoveryLog(l3),
        quarantine=MemoryQuarantine(l3),
    )


def _in_postgres(l3: PostgresStorage, kinds: Mapping[str, Kind[Any]], settings: Settings) -> L3Sides:
    return L3Sides(
        journals=PostgresJournals(l3.pool, kinds),
        runs=PostgresRuns(l3.pool, dead_after_seconds=settings.write_behind_takeover_seconds),
        key_rows=PostgresKeys(l3.pool),
        reviews=PostgresDecisions(l3.pool, REVIEW),
        escalations=PostgresDecisions(l3.pool, ESCALATION),
        audit=PostgresAudit(l3.pool),
        deliveries=PostgresDeliveries(l3.pool),
        recovery_log=PostgresRecoveryLog(l3.pool),
        quarantine=PostgresQuarantine(l3.pool),
    )
