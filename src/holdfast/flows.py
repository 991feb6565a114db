"""The flows of one server, put together over tiers that are given: real ones by `node`, in memory by `testing`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from holdfast.audit.log import AuditLog
from holdfast.collection import Collection
from holdfast.flights import Flights
from holdfast.given import Given
from holdfast.invalidation.announcing import Announcer
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.bus import EventBus, bus_rules
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.fence_map import FenceMap
from holdfast.invalidation.invalidator import CacheInvalidator
from holdfast.invalidation.key_history import KeyHistory
from holdfast.invalidation.lease import FeedLease
from holdfast.invalidation.relay import Relay
from holdfast.invalidation.sampling import AnswerSampler
from holdfast.invalidation.verifier import Verifier
from holdfast.key_locks import KeyLocks
from holdfast.metrics.counters import Counters
from holdfast.metrics.snapshot import Metrics, snapshot
from holdfast.protocols import Source
from holdfast.reading import Reader
from holdfast.recovery.health import HealthKeeper
from holdfast.recovery.log_reading import RecoveryLog
from holdfast.recovery.pacing import RetryBudget
from holdfast.recovery.quarantine import Quarantine
from holdfast.recovery.reports import FaultReports
from holdfast.recovery_flows import Affected, RecoveryFlows
from holdfast.resolution import Resolver
from holdfast.run_flows import Beneath, RunFlows
from holdfast.scopes import Scopes
from holdfast.scopes.elsewhere import Elsewhere
from holdfast.scopes.session import Session
from holdfast.sensitivity.key_ring import KeyRing
from holdfast.sensitivity.master_keys import MasterKeys
from holdfast.store import Parts, StateStore
from holdfast.tiers.l1_caches import build_caches, staleness_bounds
from holdfast.watching import Watching
from holdfast.write_flows import Read, WriteFlows

DRAIN_SECONDS: Final = 10.0


class Flows:
    """The flows of one server, over tiers that are real or in memory."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self.counters = Counters()
        self.retries = RetryBudget(on_refused=self.counters.recovery.retry_refused)
        self.faults = FaultReports(given.clock.monotonic, self.counters.recovery)
        self.audit = AuditLog(given.audit, server=given.server)
        self._make_memory()
        self._make_reading()
        self._make_writing()
        self._make_relay()
        self._make_health()
        self._make_events()
        self._make_verifier()
        self._open_door()
        self._make_recovery()

    def _make_memory(self) -> None:
        given = self._given
        settings, kinds, clock = given.settings, given.kinds, given.clock
        self.caches = build_caches(settings, kinds, clock)
        self._shelves = {name: cache.shelf(name) for name, cache in self.caches.items()}
        bounds = staleness_bounds(settings, kinds)
        self._flights, self._history = Flights(), KeyHistory(clock.monotonic())
        tagged = frozenset(name for name, kind in kinds.items() if kind.tags is not None)
        self.view = FenceMap(given.coherence, window_seconds=given.window_seconds, tagged=tagged)
        trust_until = {name: shelf.trust_until for name, shelf in self._shelves.items()}
        self.lease = FeedLease(bounds, trust_until, given.untrusted)
        self.applier = ChangeApplier(
            caches=self.caches,
            flights=self._flights,
            view=self.view,
            lease=self.lease,
            clock=clock,
            counters=self.counters,
            history=self._history,
        )
        self.feed = ChangeFeed(given.feed, self.applier.apply, clock=clock, bound_seconds=min(bounds.values()))
        self.feed.on_fault(lambda fault: self.faults.report(fault, Source.FEED))
        self.keys = KeyRing(given.key_rows, MasterKeys.read(settings.master_keys), given.entropy)

    def _make_reading(self) -> None:
        given = self._given
        settings, kinds, clock = given.settings, given.kinds, given.clock
        self._sampler = AnswerSampler(settings.verify_share, room=settings.verify_checks_max, random_=given.random_)
        self.resolver = Resolver(
            kinds=kinds,
            caches=self.caches,
            l2=given.l2,
            l3=given.l3,
            flights=self._flights,
            view=self.view,
            lease=self.lease,
            applier=self.applier,
            clock=clock,
            counters=self.counters,
            l3_batches_max=max(1, settings.l3_connections_max // 2),
            history=self._history,
            sampler=self._sampler,
            faults=self.faults,
            retries=self.retries,
        )
        self.reader = Reader(
            shelves=self._shelves,
            resolver=self.resolver,
            l3=given.l3,
            lease=self.lease,
            feed=self.feed,
            clock=clock,
            max_stale={name: kind.caching.max_stale_seconds for name, kind in kinds.items()},
        )
        self._past = given.past or given.feed
        self.watching = Watching(
            reader=self.reader, feed=self.feed, past=self._past, sleep=given.sleep, untrusted=given.untrusted
        )

    def _make_writing(self) -> None:
        given = self._given
        self._writes = writes = WriteFlows(
            given,
            Read(
                caches=self.caches,
                shelves=self._shelves,
                resolver=self.resolver,
                applier=self.applier,
                history=self._history,
                lease=self.lease,
                feed=self.feed,
                ready=self.reader.ready,
                check_writes=self._check_writes,
                announce=self._announce,
                faults=self.faults,
                counters=self.counters.write_behind,
                retries=self.retries,
            ),
        )
        self.writer, self.transactions, self.invalidator = writes.writer, writes.transactions, writes.invalidator
        self.write_behind, self.takeover = writes.write_behind, writes.takeover
        self.dead_writes, self.handing_over = writes.dead_writes, writes.handing_over

    def _make_relay(self) -> None:
        given, apart = self._given, self._given.rules_l3 or self._given.l3
        self.cache_invalidator = CacheInvalidator(
            given.rules, l3=apart, decode=self.resolver.decode, void=self._writes.void_by(apart)
        )
        relay, first = given.relay, self.cache_invalidator if given.rules else None
        self.relay = Relay(*relay, clock=given.clock, first=first) if relay is not None else None
        if self.relay is not None:
            self.feed.on_changes(self.relay.wake)

    def _make_health(self) -> None:
        given, lease = self._given, self.lease
        self.feed.on_applied(lambda _before, _poll: given.l3_guard.heard())
        self.health = HealthKeeper(
            l2=given.l2_guard,
            l3=given.l3_guard,
            feed_seconds=lambda: given.clock.monotonic() - lease.renewed_at,
            bound_seconds=min(map(lease.bound, given.kinds)),
            buffers=self.write_behind.has_room,
            backlog=self.write_behind.backlog,
            skip_l2=self.resolver.skip_l2,
            announce=self._announce,
            faults=self.faults,
            counters=self.counters.modes,
            clock=given.clock,
            wall=given.wall,
            sleep=given.sleep,
        )

    def _metrics(self) -> Metrics:
        self.health.observe()  # the time in the present mode counts up to now
        return snapshot(self.counters, self._shelves)

    def _check_writes(self) -> None:
        """Asks who is made after the writers."""
        self.health.check_writes()

    def _announce(self, topic: str, data: Any) -> None:
        """Asks for the bus when there is something to tell: it is made after what tells."""
        self.bus.announce(topic, data)

    def _make_events(self) -> None:
        given = self._given
        self.bus = EventBus(
            given.events,
            server=given.new_id(),
            rules=bus_rules(given.settings, self.keys.known.masked),
            clock=given.clock,
            wall=given.wall,
            new_id=given.new_id,
            sleep=given.sleep,
            audit=self.audit,
        )
        self.announcer = Announcer(given.kinds, epoch_ms=lambda: round(given.wall() * 1000))
        self.announcer.on_topic(self.bus.announce, lambda: bool(self.bus.subscriptions))
        self.feed.on_applied(self.announcer.tell)

    def _make_verifier(self) -> None:
        given = self._given
        self.verifier = Verifier(
            share=given.settings.verify_share,
            checks_max=given.settings.verify_checks_max,
            shelves=self._shelves,
            answers=self._sampler,
            l2=given.l2,
            l3=given.l3,
            resolver=self.resolver,
            view=self.view,
            lease=self.lease,
            feed=self.feed,
            applier=self.applier,
            history=self._history,
            clock=given.clock,
            random_=given.random_,
            server=given.server,
            emit=self.bus.announce,
        )

    def _open_door(self) -> None:
        collections = {
            name: Collection(
                kind,
                peek=self._shelves[name].peek,
                reader=self.reader,
                resolver=self.resolver,
                writer=self.writer,
                turns=KeyLocks(),
                invalidator=self.invalidator,
                watching=self.watching,
                write_behind=self.write_behind,
            )
            for name, kind in self._given.kinds.items()
        }
        self.run_flows = self._make_run_flows(collections)
        self.scopes = Scopes(
            collections=collections,
            shelves=self._shelves,
            reader=self.reader,
            resolver=self.resolver,
            writer=self.writer,
            transactions=self.transactions,
            new_session=partial(
                Session,
                feed=self.feed,
                lease=self.lease,
                applier=self.applier,
                clock=self._given.clock,
                own=self.write_behind.lives,
                elsewhere=self._elsewhere(),
            ),
        )
        self.parts = Parts(
            collections=collections,
            transactions=self.transactions,
            scopes=self.scopes,
            consistency=self.verifier.report,
            health=self.health.health,
            metrics=self._metrics,
            invalidator=self.invalidator,
            bus=self.bus,
            write_behind=self.write_behind,
            dead_writes=self.dead_writes,
            runs=self.run_flows.runs,
            reviews=self.run_flows.reviews,
            escalations=self.run_flows.escalations,
            audit=self.audit,
            deliveries=self.run_flows.deliveries,
            quarantine=Quarantine(self._given.quarantine, actor=self._given.server),
            recovery_log=RecoveryLog(self._given.recovery_log),
        )
        self.store = StateStore(self.parts)

    def _make_run_flows(self, collections: Mapping[str, Collection[Any]]) -> RunFlows:
        return RunFlows(
            self._given,
            Beneath(
                collections=collections,
                transactions=self.transactions,
                handing_over=self.handing_over,
                lives=self.write_behind.lives,
                feed=self.feed,
                bus=self.bus,
                audit=self.audit,
                keys=self.keys,
                limits=self.writer.limits,
                counters=self.counters,
                faults=self.faults,
                stored=self.resolver.stored,
            ),
        )

    def _make_recovery(self) -> None:
        given = self._given
        flows = RecoveryFlows(
            given,
            Affected(
                faults=self.faults,
                resolver=self.resolver,
                feed=self.feed,
                view=self.view,
                rescue=self.run_flows.runs.rescue,
                rebuild=self.run_flows.rebuild,
                leaders=self.run_flows.leaders,
                announce=self.bus.announce,
                masked=self.keys.known.masked,
                counters=self.counters.recovery,
                void=self._writes.void_by(given.l3),
                degrading=self.health,
                escalator=self.run_flows.escalations,
                retries=self.retries,
            ),
        )
        self.recovery, self.recovery_log = flows.manager, flows.recorder
        self.run_flows.escalations.on_decided = self.recovery.decided

    def _elsewhere(self) -> Elsewhere:
        given = self._given
        return Elsewhere(
            given.journals,
            given.streams,
            kinds=given.kinds,
            limits=self.writer.limits,
            decode=self.resolver.decode,
            clock=given.clock,
            sleep=given.sleep,
        )

    async def start(self) -> None:
        """Have a key for secrets; begin to follow the change feed, keep the mode, stand by as the relay, and verify.

        Raises:
            KeyMissing, KeyRetired: the master keys of the settings are not what L3 knows.
            TierError: keys, or the feed, could not be read.
        """
        await self.keys.renew()
        self.recovery_log.start()
        if self._given.sweeps:  # else it would be gone before a recovery is over, and has no hooks to tell
            self.recovery.start()
        await self.feed.start()
        self.health.start()
        if self.relay is not None:
            self.relay.start()
        self.verifier.start()
        self.takeover.start()
        self.run_flows.start()
        await self.bus.start()

    async def stop(self) -> None:
        """End watches; let writes and fills end, for a while; stop relay and feed, empty L1. May be called twice.

        Each part is ended, whatever became of those before it; what one raised is raised at the end.
        """
        async with AsyncExitStack() as ends:  # the last named comes first
            ends.callback(self._empty)
            ends.push_async_callback(self.feed.stop)
            ends.push_async_callback(self.health.stop)
            ends.push_async_callback(self._past.close)
            if self.relay is not None:
                ends.push_async_callback(self.relay.stop)
            ends.push_async_callback(self._drain)
            ends.push_async_callback(self.write_behind.lives.stop)
            ends.push_async_callback(self.takeover.stop)
            ends.push_async_callback(self.recovery_log.stop)  # a question is a transaction: before those are closed
            ends.push_async_callback(self.recovery.stop)
            ends.push_async_callback(self.run_flows.stop)  # escalations that are overdue go on to recovery
            ends.callback(self.watching.close)
            ends.push_async_callback(self.verifier.stop)
            ends.push_async_callback(self.bus.stop)  # its handlers may use all the rest

    async def _drain(self) -> None:
        self.resolver.closing = True
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.writer.drain()
                await self.resolver.drain()
        except TimeoutError:
            pass  # a tier that does not answer must not hold up our end; its callers are told when it times out

    def _empty(self) -> None:
        """A closed door answers nothing, not even from memory."""
        for cache in set(self.caches.values()):
            cache.flush()
