"""The door: `StateStore`, one typed collection per kind, and what spans them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast.audit.log import AuditLog
from holdfast.choosing import chosen
from holdfast.collection import Collection
from holdfast.documents import Document
from holdfast.invalidation.bus import EventBus
from holdfast.invalidation.consistency import ConsistencyReport
from holdfast.kinds import BOT, ROUTINE, RUN_SNAPSHOT, SWARM, TEAM, Kind
from holdfast.metrics.snapshot import Metrics
from holdfast.recovery.escalations import Escalations
from holdfast.recovery.health import Health
from holdfast.recovery.log_reading import RecoveryLog
from holdfast.recovery.quarantine import Quarantine
from holdfast.reviews.reviews import Reviews
from holdfast.run_context.deliveries import Deliveries
from holdfast.run_context.runs import Runs
from holdfast.scopes import Scopes
from holdfast.transactions import Transactions
from holdfast.voiding import Invalidator
from holdfast.write_behind.accepting import WriteBehind
from holdfast.write_behind.dead_writes import DeadWrites

D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a door is made of."""

    collections: Mapping[str, Collection[Any]]
    transactions: Transactions
    scopes: Scopes
    consistency: Callable[[], ConsistencyReport]
    health: Callable[[], Health]
    metrics: Callable[[], Metrics]
    invalidator: Invalidator
    bus: EventBus
    write_behind: WriteBehind
    dead_writes: DeadWrites
    runs: Runs
    reviews: Reviews
    escalations: Escalations
    audit: AuditLog
    deliveries: Deliveries
    quarantine: Quarantine
    recovery_log: RecoveryLog


class StateStore:
    """The door to the state: one typed collection per kind.

    Attributes:
        collections: all of them, by the kind's name.
        swarms, bots, teams, routines, run_snapshots: the built-in collections.
        transaction: ``async with state.transaction() as tx:``; see `Transactions.open`.
        scope: ``async with state.scope() as scope:``; see `Scopes.open`.
        publish, subscribe: events; see `EventBus.publish` and `EventBus.subscribe`.
        dead_letters: reliable events that were given up; see `DeadLetters`.
        dead_writes: accepted writes that were given up; see `DeadWrites`.
        runs: runs of routines: begun, found, resumed, forked; see `Runs`.
        reviews: conflicts that a person decides; see `Reviews`.
        escalations: faults that a person is asked about; see `Escalations`.
        quarantine: what did not verify, in L2 or L3; see `Quarantine`.
        recovery_log: what was done about faults of state; see `RecoveryLog`.
        audit: who did what, why and when; see `AuditLog`.
        deliveries: what is on its way from completed runs to external systems, or was given up; see `Deliveries`.
        transact: run an operation in a transaction, again when others were in the way; see `Transactions.transact`.
        consistency: what the verifier has found so far: of L1's and L2's answers how many were judged and how many were
            stale, and the last findings with their causes.
        health: how this server is: its mode, its tiers, and what waits; see `Health`.
        metrics: what this server has counted since it was opened: of each tier, of modes, of recovery; see `Metrics`.
        flush: bring all accepted writes to L3; see `WriteBehind.flush`.
        backlog: what this server has accepted and not yet decided; see `WriteBehind.backlog`.
        invalidate: make void what caches hold of a kind, a tag or everything; see `Invalidator.invalidate`.
    """

    def __init__(self, parts: Parts) -> None:
        self.collections = parts.collections
        self.transactions = parts.transactions
        self.scopes = parts.scopes
        self.scope = parts.scopes.open
        self.transaction = parts.transactions.open
        self.transact = parts.transactions.transact
        self.consistency = parts.consistency
        self.health = parts.health
        self.metrics = parts.metrics
        self.invalidate = parts.invalidator.invalidate
        self.flush = parts.write_behind.flush
        self.backlog = parts.write_behind.backlog
        self.dead_writes = parts.dead_writes
        self.runs = parts.runs
        self.reviews = parts.reviews
        self.escalations = parts.escalations
        self.audit = parts.audit
        self.deliveries = parts.deliveries
        self.quarantine = parts.quarantine
        self.recovery_log = parts.recovery_log
        self.bus = parts.bus
        self.publish = parts.bus.publish
        self.subscribe = parts.bus.subscribe
        self.dead_letters = parts.bus.dead_letters
        self.swarms = self.collection(SWARM)
        self.bots = self.collection(BOT)
        self.teams = self.collection(TEAM)
        self.routines = self.collection(ROUTINE)
        self.run_snapshots = self.collection(RUN_SNAPSHOT)

    def collection(self, kind: Kind[D]) -> Collection[D]:
        """The collection of a kind that was given to `connect(kinds=[...])`, or of a built-in one.

        Raises:
            SettingsError: the kind is not known to this store, or it is another one of that name.
        """
        return chosen(self.collections, kind)
