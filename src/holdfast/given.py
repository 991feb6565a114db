"""What the flows of one server are given: its tiers, its kinds, its clock and its chance."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.clock import Clock
from holdfast.invalidation.fence_map import WINDOW_SECONDS
from holdfast.invalidation.rules import Rule
from holdfast.kinds import Kind
from holdfast.protocols import (
    AuditRows,
    ChangeSource,
    Coherence,
    DecisionIndex,
    DeliveryQueue,
    EventTransport,
    FenceSink,
    JournalBase,
    JournalStreams,
    KeyRows,
    QuarantineRows,
    RecoveryLogRows,
    RunIndex,
    SharedCache,
    Storage,
)
from holdfast.protocols.guards import StorageGuard, TierGuard
from holdfast.recovery.escalation_hooks import EscalationHook
from holdfast.recovery.strategies import StateRecoveryStrategy
from holdfast.run_context.exports import Exporter, Transformation
from holdfast.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one server's flows are put together from.

    Attributes:
        feed: where this server's change feed reads.
        relay: where it reads while it is the one that fences L2; None: it never is.
        past: where watchers that come back read what they missed; None: where the feed reads, which waits meanwhile.
        events: what carries events between servers.
        key_rows: L3's data keys.
        new_id: a unique id.
        entropy: so many random bytes, for keys and nonces.
        wall: the time of day, seconds since 1970.
        coherence: what L3 said when it was connected.
        untrusted: kinds that no cache may answer for, with the reason.
        window_seconds: how long this server remembers a change, to judge L2 by.
        sleep: pauses, seconds.
        random_: for jitter, and to choose which answers are verified.
        server: this one's name, for what it finds and what it makes void.
        rules: what goes with a document that changed; acted on by the server that fences L2.
        rules_l3: by which it does: apart from the others, who may keep all connections busy; None: as all.
        transformations: of what leaves runs, and `exporters`: who bring it to external systems, by name.
        escalation_hooks: who are told of escalations, by name, beside the leaders of swarms.
        recovery: rows that take the place of those of `RECOVERY_STRATEGIES`.
        journals: what L3 knows of write-behind's journals; `streams`: these in L2; `runs`: L3's side of run contexts;
            `deliveries`: what L3 knows of what is to leave them.
        l2_guard, l3_guard: know whether these tiers answer, and cut them off if they do not.
        reviews: L3's side of reviews, `escalations`: of escalations; `audit`: the audit log there.
        recovery_log, quarantine: recovery's records there.
        sweeps: it decides reviews and escalations that are overdue, and recovers from faults that it meets.
    """

    settings: Settings
    kinds: Mapping[str, Kind[Any]]
    l2: SharedCache
    l3: Storage
    feed: ChangeSource
    relay: tuple[ChangeSource, FenceSink] | None
    events: EventTransport
    journals: JournalBase
    streams: JournalStreams
    runs: RunIndex
    key_rows: KeyRows
    reviews: DecisionIndex
    escalations: DecisionIndex
    audit: AuditRows
    deliveries: DeliveryQueue
    l2_guard: TierGuard
    l3_guard: StorageGuard
    new_id: Callable[[], str]
    entropy: Callable[[int], bytes]
    wall: Callable[[], float]
    recovery_log: RecoveryLogRows
    quarantine: QuarantineRows
    coherence: Coherence
    clock: Clock
    sleep: Callable[[float], Awaitable[object]]
    random_: random.Random
    past: ChangeSource | None = None
    untrusted: Mapping[str, str] = field(default_factory=dict)
    window_seconds: float = WINDOW_SECONDS
    server: str = "a server"
    rules: tuple[Rule, ...] = ()
    rules_l3: Storage | None = None
    transformations: Mapping[str, Transformation] = field(default_factory=dict)
    exporters: Mapping[str, Exporter] = field(default_factory=dict)
    escalation_hooks: Mapping[str, EscalationHook] = field(default_factory=dict)
    recovery: tuple[StateRecoveryStrategy, ...] = ()
    sweeps: bool = True
