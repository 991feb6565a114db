"""What one server runs for runs: partitions of their snapshots, their exports, what a person decides, and its keys."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from holdfast.audit.log import AuditLog
from holdfast.collection import Collection
from holdfast.decisions.sweeper import OverdueSweeper, Retention
from holdfast.documents import ContextVariable, Limits
from holdfast.entry import Consistency
from holdfast.given import Given
from holdfast.invalidation.bus import EventBus
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.keys import Key
from holdfast.kinds import ESCALATION, REVIEW, RUN, SWARM
from holdfast.metrics.counters import Counters
from holdfast.protocols import Cursor, FaultSink, Poll
from holdfast.recovery.escalation_hooks import LEADER, EscalationHook, exporters_of
from holdfast.recovery.escalations import Escalations
from holdfast.recovery.leaders import Leaders
from holdfast.reviews.reviewer import MergeReviewer, ReviewChanges
from holdfast.reviews.reviews import Reviews
from holdfast.reviews.rules import review_rules
from holdfast.row_decoding import Stored
from holdfast.run_context import ground as runs_ground
from holdfast.run_context.conflicts import ConflictStrategy
from holdfast.run_context.deliveries import Deliveries
from holdfast.run_context.delivering import DeliveryRules, DeliveryWorker
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.run_context.opening import Leaving
from holdfast.run_context.partitions import Partitions
from holdfast.run_context.restoring import Loss
from holdfast.run_context.runs import Runs
from holdfast.run_context.secrets import protected
from holdfast.sensitivity.key_keeper import KeyKeeper
from holdfast.sensitivity.key_ring import KeyRing
from holdfast.transactions import Transactions
from holdfast.write_behind.handing_over import HandingOver
from holdfast.write_behind.lives import Lives

DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beneath:
    """What of a server's flows runs stand on."""

    collections: Mapping[str, Collection[Any]]
    transactions: Transactions
    handing_over: HandingOver
    lives: Lives
    feed: ChangeFeed
    bus: EventBus
    audit: AuditLog
    keys: KeyRing
    limits: Limits
    counters: Counters
    faults: FaultSink
    stored: Stored


class RunFlows:
    """The flows of runs, and what works for them in the background while it is started.

    Attributes:
        runs, reviews, escalations, deliveries: the doors.
        leaders: tells those of swarms of faults.
    """

    def __init__(self, given: Given, beneath: Beneath) -> None:
        self._given = given
        self._beneath = beneath
        self._hybrid = HybridClock(given.wall, given.server)
        self.review_changes = ReviewChanges()
        self.reviews = self._make_reviews()
        self.leaders = Leaders(beneath.bus, beneath.collections[SWARM.name])
        self._hooks = self._make_hooks()
        self.escalations = self._make_escalations()
        self.deliveries = Deliveries(given.deliveries, actor=given.server)
        self._leaving = Leaving()
        self.runs = Runs(self._ground(), beneath.audit, self._leaving)
        self._make_background()
        beneath.feed.on_applied(self._hear)

    def start(self) -> None:
        """Begin in the background."""
        for each in self._background:
            each.start()

    async def stop(self) -> None:
        """End; may be called twice. Each is ended, whatever became of the others."""
        async with AsyncExitStack() as ends:  # the last named comes first
            for each in (*self._background, self._leaving):
                ends.push_async_callback(each.stop)

    async def rebuild(self, run_id: str) -> tuple[str, Loss]:
        """Begin a run with all that verifies of another one, for any server to resume; its id, and what it lacks.

        Raises:
            ContextCorrupt, NotFound, TierError: as `Runs.rebuild`.
        """
        rebuilt = await self.runs.rebuild(run_id)
        await rebuilt.release()
        return rebuilt.id, rebuilt.lost

    def _hear(self, before: Cursor | None, poll: Poll) -> None:
        self.review_changes.hear(before, poll)
        for change in poll.changes:
            if change.key.kind == RUN.name:
                self.runs.changed(change.key.id)
        if poll.reset is not None:  # L3 may have lost a key, and changes are not told
            self.key_keeper.look()
            self.runs.changed("")

    def _make_background(self) -> None:
        given, counters = self._given, self._beneath.counters
        settings = given.settings
        self.partitions = Partitions(given.runs, settings.run_snapshot_months, counters.partitions, given.sleep)
        self.review_sweeper = OverdueSweeper(
            self.reviews,
            given.sleep,
            "review",
            retention=Retention(settings.review_keep_days * DAY_SECONDS, of_ended_runs=True),
        )
        self.escalation_sweeper = OverdueSweeper(
            self.escalations,
            given.sleep,
            "escalation",
            also=self.escalations.observe_oldest,
            retention=Retention(settings.escalation_keep_days * DAY_SECONDS, of_ended_runs=False),
        )
        self.key_keeper = KeyKeeper(self._beneath.keys, self._beneath.audit, given.sleep)
        self.delivery_worker = DeliveryWorker(
            given.deliveries,
            {**given.exporters, **exporters_of(self._hooks)},
            DeliveryRules(settings.delivery_attempts_max, settings.delivery_timeout_seconds),
            counters.deliveries,
            sleep=given.sleep,
            random_=given.random_,
            masked=self._beneath.keys.known.masked,
            announce=self._beneath.bus.announce,
            faults=self._beneath.faults,
        )
        self._background = (
            self.partitions,
            *((self.review_sweeper, self.escalation_sweeper) if given.sweeps else ()),
            self.delivery_worker,
            self.key_keeper,
        )

    def _make_reviews(self) -> Reviews:
        given, beneath = self._given, self._beneath
        return Reviews(
            beneath.collections[REVIEW.name],
            beneath.transactions,
            given.reviews,
            beneath.audit,
            beneath.bus,
            opening=review_rules(given.settings),
            hybrid=self._hybrid,
            server=given.server,
            seal=lambda run_id, variable: protected(variable, run_id, beneath.keys.known),
            held=self._held,
            stored=beneath.stored,
            limits=beneath.limits,
        )

    async def _held(self, run_id: str, key: str) -> ContextVariable | None:
        run = await self._beneath.collections[RUN.name].get(run_id, consistency=Consistency.STRONG)
        # What its owner has saved may be in that one's journal alone, which no other server reads.
        if run is not None and run.owner is not None and run.owner != self._given.server:
            await self._beneath.handing_over.decide_for(Key(RUN.name, run_id), run.owner)
        view = await self.runs.get(run_id, consistency=Consistency.STRONG)
        return None if view is None else view.state.variables.get(key)

    def _make_hooks(self) -> dict[str, EscalationHook]:
        return {LEADER: self.leaders.tell_escalation, **self._given.escalation_hooks}

    def _make_escalations(self) -> Escalations:
        given, beneath = self._given, self._beneath
        return Escalations(
            beneath.collections[ESCALATION.name],
            beneath.transactions,
            given.escalations,
            beneath.audit,
            beneath.counters.escalations,
            timeout_seconds=given.settings.escalation_timeout_seconds,
            hooks=tuple(self._hooks),
            new_id=given.new_id,
            server=given.server,
            masked=beneath.keys.known.masked,
            stored=beneath.stored,
        )

    def _ground(self) -> runs_ground.Ground:
        given, beneath = self._given, self._beneath
        settings = given.settings
        return runs_ground.Ground(
            collections=beneath.collections,
            transactions=beneath.transactions,
            l3=given.l3,
            index=given.runs,
            journals=given.journals,
            handing_over=beneath.handing_over,
            lives=beneath.lives,
            bus=beneath.bus,
            clock=given.clock,
            hybrid=self._hybrid,
            keys=beneath.keys,
            new_id=given.new_id,
            server=given.server,
            limits=runs_ground.run_limits(settings),
            deltas_per_base=settings.run_deltas_per_base,
            takeover_seconds=settings.write_behind_takeover_seconds,
            terms=runs_ground.run_terms(settings, given.transformations, given.exporters),
            on_conflict=ConflictStrategy(settings.run_on_conflict),
            skew_ms_max=settings.clock_skew_ms_max,
            reviewer=lambda epoch: MergeReviewer(self.reviews, self.review_changes, epoch),
            late_reviews=self.reviews,
            faults=beneath.faults,
            stored=beneath.stored,
        )
