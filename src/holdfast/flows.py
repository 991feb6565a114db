"""The flows of one server, put together over tiers that are given: real ones by `node`, in memory by `testing`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from holdfast.audit.log import AuditLog
from holdfast.collection import Collection
from holdfast.documents import Limits
from holdfast.events import EventLimits
from holdfast.flights import Flights
from holdfast.given import Given
from holdfast.invalidation.announcing import Announcer
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.bus import BusRules, EventBus
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.fence_map import FenceMap
from holdfast.invalidation.invalidator import CacheInvalidator
from holdfast.invalidation.key_history import KeyHistory
from holdfast.invalidation.lease import FeedLease
from holdfast.invalidation.relay import Relay
from holdfast.invalidation.sampling import AnswerSampler
from holdfast.invalidation.subscription import HandlerRules
from holdfast.invalidation.verifier import Verifier
from holdfast.key_locks import KeyLocks
from holdfast.metrics.counters import Counters
from holdfast.reading import Reader
from holdfast.resolution import Resolver
from holdfast.run_flows import Beneath, RunFlows
from holdfast.scopes import Scopes
from holdfast.scopes.elsewhere import Elsewhere
from holdfast.scopes.session import Session
from holdfast.sensitivity.key_ring import KeyRing
from holdfast.sensitivity.master_keys import MasterKeys
from holdfast.settings import Settings
from holdfast.store import Parts, StateStore
from holdfast.tiers.l1_caches import build_caches, staleness_bounds
from holdfast.transactions import Transactions
from holdfast.voiding import Invalidator
from holdfast.watching import Watching
from holdfast.write_behind.making import Ground, Making
from holdfast.writing import Writer

DRAIN_SECONDS: Final = 10.0
UPDATE_BACKOFF_SECONDS: Final = 0.002
UPDATE_BACKOFF_MAX_SECONDS: Final = 0.25


class Flows:
    """The flows of one server, over tiers that are real or in memory."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self.counters = Counters()
        self.audit = AuditLog(given.audit, server=given.server)
        self._make_memory()
        self._make_reading()
        self._make_writing()
        self._make_events()
        self._make_verifier()
        self._open_door()

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
        self.writer = Writer(
            l3=given.l3,
            resolver=self.resolver,
            applier=self.applier,
            committed=self.feed.committed,
            caches=self.caches,
            kinds=given.kinds,
            limits=Limits(given.settings.document_bytes_max, given.settings.document_depth_max),
            backoff=lambda attempt: given.random_.uniform(
                0, min(UPDATE_BACKOFF_MAX_SECONDS, UPDATE_BACKOFF_SECONDS * 2 ** min(attempt, 10))
            ),
            sleep=given.sleep,
            history=self._history,
        )
        making = Making(self._ground())
        self.write_behind, self.takeover = making.write_behind(), making.takeover()
        self.dead_writes = making.dead_writes(self.write_behind)
        self.handing_over = making.handing_over()
        self.transactions = Transactions(
            kinds=given.kinds,
            l3=given.l3,
            resolver=self.resolver,
            writer=self.writer,
            applier=self.applier,
            lease=self.lease,
            feed=self.feed,
            settle=self.write_behind.settle,
        )
        self.invalidator = Invalidator(
            l3=given.l3, kinds=given.kinds, writer=self.writer, applier=self.applier, actor=given.server
        )
        apart = given.rules_l3 or given.l3
        void = Invalidator(
            l3=apart, kinds=given.kinds, writer=self.writer, applier=self.applier, actor=given.server, audited=False
        ).void
        self.cache_invalidator = CacheInvalidator(given.rules, l3=apart, decode=self.resolver.decode, void=void)
        relay, first = given.relay, self.cache_invalidator if given.rules else None
        self.relay = Relay(*relay, clock=given.clock, first=first) if relay is not None else None
        if self.relay is not None:
            self.feed.on_changes(self.relay.wake)

    def _ground(self) -> Ground:
        given = self._given
        return Ground(
            settings=given.settings,
            kinds=given.kinds,
            base=given.journals,
            streams=given.streams,
            l3=given.l3,
            shelves=self._shelves,
            untrusted=given.untrusted,
            ready=self.reader.ready,
            writer=self.writer,
            new_id=given.new_id,
            server=given.server,
            clock=given.clock,
            wall=given.wall,
            sleep=given.sleep,
            random_=given.random_,
            counters=self.counters.write_behind,
            announce=self._announce,
        )

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
            invalidator=self.invalidator,
            bus=self.bus,
            write_behind=self.write_behind,
            dead_writes=self.dead_writes,
            runs=self.run_flows.runs,
            reviews=self.run_flows.reviews,
            escalations=self.run_flows.escalations,
            audit=self.audit,
            deliveries=self.run_flows.deliveries,
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
            ),
        )

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
        """Have a key for secrets; begin to follow the change feed, to stand by as the relay, and to verify.

        Raises:
            KeyMissing, KeyRetired: the master keys of the settings are not what L3 knows.
            TierError: keys, or the feed, could not be read.
        """
        await self.keys.start()
        await self.feed.start()
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
            ends.push_async_callback(self._past.close)
            if self.relay is not None:
                ends.push_async_callback(self.relay.stop)
            ends.push_async_callback(self._drain)
            ends.push_async_callback(self.write_behind.lives.stop)
            ends.push_async_callback(self.takeover.stop)
            ends.push_async_callback(self.run_flows.stop)
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


def bus_rules(settings: Settings, masked: Callable[[str], str] = str) -> BusRules:
    """The limits of the event bus.

    Args:
        masked: takes secrets out of what handlers have raised.
    """
    return BusRules(
        limits=EventLimits(settings.event_bytes_max, settings.document_depth_max),
        handlers=HandlerRules(
            timeout_seconds=settings.event_handler_timeout_seconds,
            attempts_max=settings.event_attempts_max,
            queue_max=settings.event_queue_max,
            masked=masked,
        ),
        publish_seconds=settings.event_publish_timeout_seconds,
        lease_seconds=settings.event_lease_seconds,
        group_idle_seconds=settings.event_group_idle_seconds,
    )
