"""The flows of one server, put together over tiers that are given: real ones by `node`, in memory by `testing`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from holdfast.clock import Clock
from holdfast.collection import Collection
from holdfast.documents import Limits
from holdfast.errors import SettingsError
from holdfast.events import EventLimits
from holdfast.flights import Flights
from holdfast.invalidation.announcing import Announcer
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.bus import BusRules, EventBus
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.fence_map import WINDOW_SECONDS, FenceMap
from holdfast.invalidation.invalidator import CacheInvalidator
from holdfast.invalidation.key_history import KeyHistory
from holdfast.invalidation.lease import FeedLease
from holdfast.invalidation.relay import Relay
from holdfast.invalidation.rules import Rule
from holdfast.invalidation.sampling import AnswerSampler
from holdfast.invalidation.subscription import HandlerRules
from holdfast.invalidation.verifier import Verifier
from holdfast.key_locks import KeyLocks
from holdfast.kinds import Kind
from holdfast.metrics.counters import Counters
from holdfast.protocols import ChangeSource, Coherence, EventTransport, FenceSink, SharedCache, Storage
from holdfast.reading import Reader
from holdfast.resolution import Resolver
from holdfast.scopes import Scopes
from holdfast.settings import Settings
from holdfast.store import Parts, StateStore
from holdfast.tiers.l1_local import LocalCache
from holdfast.transactions import Transactions
from holdfast.voiding import Invalidator
from holdfast.watching import Watching
from holdfast.writing import Writer

DRAIN_SECONDS: Final = 10.0
UPDATE_BACKOFF_SECONDS: Final = 0.002
UPDATE_BACKOFF_MAX_SECONDS: Final = 0.25


class Flows:
    """The flows over given tiers, real or in memory.

    Args:
        feed: where this server's change feed reads.
        relay: where it reads while it is the one that fences L2; None: it never is.
        past: where watchers that come back read what they missed; None: where the feed reads, which waits meanwhile.
        events: what carries events between servers.
        new_id: a unique id.
        wall: the time of day, seconds since 1970.
        coherence: what L3 said when it was connected.
        untrusted: kinds that no cache may answer for, with the reason.
        window_seconds: how long this server remembers a change, to judge L2 by.
        sleep: pauses, seconds.
        random_: for jitter, and to choose which answers are verified.
        server: this one's name, for what it finds and what it makes void.
        rules: what goes with a document that changed; acted on by the server that fences L2.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Mapping[str, Kind[Any]],
        *,
        l2: SharedCache,
        l3: Storage,
        feed: ChangeSource,
        relay: tuple[ChangeSource, FenceSink] | None,
        events: EventTransport,
        new_id: Callable[[], str],
        wall: Callable[[], float],
        coherence: Coherence,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        random_: random.Random,
        past: ChangeSource | None = None,
        untrusted: Mapping[str, str] = MappingProxyType({}),
        window_seconds: float = WINDOW_SECONDS,
        server: str = "a server",
        rules: Iterable[Rule] = (),
    ) -> None:
        # Long, for it is the one place where all parts of a server are made and joined: names, and no decisions.
        self.counters = Counters()
        self.caches = build_caches(settings, kinds, clock)
        shelves = {name: cache.shelf(name) for name, cache in self.caches.items()}
        bounds = staleness_bounds(settings, kinds)
        flights, history = Flights(), KeyHistory(clock.monotonic())
        sampler = AnswerSampler(settings.verify_share, room=settings.verify_checks_max, random_=random_)
        tagged = frozenset(name for name, kind in kinds.items() if kind.tags is not None)
        self.view = FenceMap(coherence, window_seconds=window_seconds, tagged=tagged)
        self.lease = FeedLease(bounds, {name: shelf.trust_until for name, shelf in shelves.items()}, untrusted)
        self.applier = ChangeApplier(
            caches=self.caches,
            flights=flights,
            view=self.view,
            lease=self.lease,
            clock=clock,
            counters=self.counters,
            history=history,
        )
        self.feed = ChangeFeed(feed, self.applier.apply, clock=clock, bound_seconds=min(bounds.values()))
        self.resolver = Resolver(
            kinds=kinds,
            caches=self.caches,
            l2=l2,
            l3=l3,
            flights=flights,
            view=self.view,
            lease=self.lease,
            applier=self.applier,
            clock=clock,
            counters=self.counters,
            l3_batches_max=max(1, settings.l3_connections_max // 2),
            history=history,
            sampler=sampler,
        )
        self.reader = Reader(
            shelves=shelves,
            resolver=self.resolver,
            l3=l3,
            lease=self.lease,
            feed=self.feed,
            clock=clock,
            max_stale={name: kind.caching.max_stale_seconds for name, kind in kinds.items()},
        )
        self.announcer = Announcer(kinds, epoch_ms=lambda: round(wall() * 1000))
        self.feed.on_applied(self.announcer.tell)
        self._past = past or feed
        self.watching = Watching(reader=self.reader, feed=self.feed, past=self._past, sleep=sleep, untrusted=untrusted)
        self.writer = Writer(
            l3=l3,
            resolver=self.resolver,
            applier=self.applier,
            committed=self.feed.committed,
            caches=self.caches,
            limits=Limits(settings.document_bytes_max, settings.document_depth_max),
            backoff=lambda attempt: random_.uniform(
                0, min(UPDATE_BACKOFF_MAX_SECONDS, UPDATE_BACKOFF_SECONDS * 2 ** min(attempt, 10))
            ),
            sleep=sleep,
            history=history,
        )
        self.invalidator = Invalidator(l3=l3, kinds=kinds, writer=self.writer, applier=self.applier, actor=server)
        self.cache_invalidator = CacheInvalidator(rules, l3=l3, decode=self.resolver.decode, void=self.invalidator.void)
        self.relay = Relay(*relay, clock=clock, follow=self.cache_invalidator.follow) if relay is not None else None
        if self.relay is not None:
            self.feed.on_changes(self.relay.wake)
        self.transactions = Transactions(
            kinds=kinds,
            l3=l3,
            resolver=self.resolver,
            writer=self.writer,
            applier=self.applier,
            lease=self.lease,
            feed=self.feed,
        )
        self.bus = EventBus(
            events,
            server=new_id(),
            rules=bus_rules(settings),
            clock=clock,
            wall=wall,
            new_id=new_id,
            sleep=sleep,
        )
        self.announcer.on_topic(self.bus.announce, lambda: bool(self.bus.subscriptions))
        self.verifier = Verifier(
            share=settings.verify_share,
            checks_max=settings.verify_checks_max,
            shelves=shelves,
            answers=sampler,
            l2=l2,
            l3=l3,
            resolver=self.resolver,
            view=self.view,
            lease=self.lease,
            feed=self.feed,
            applier=self.applier,
            history=history,
            clock=clock,
            random_=random_,
            server=server,
            emit=self.bus.announce,
        )
        collections = {
            name: Collection(
                kind,
                peek=shelves[name].peek,
                reader=self.reader,
                resolver=self.resolver,
                writer=self.writer,
                turns=KeyLocks(),
                invalidator=self.invalidator,
                watching=self.watching,
            )
            for name, kind in kinds.items()
        }
        self.scopes = Scopes(
            collections=collections,
            shelves=shelves,
            reader=self.reader,
            resolver=self.resolver,
            writer=self.writer,
            transactions=self.transactions,
            feed=self.feed,
            lease=self.lease,
            applier=self.applier,
            clock=clock,
        )
        self.parts = Parts(
            collections=collections,
            transactions=self.transactions,
            scopes=self.scopes,
            consistency=self.verifier.report,
            invalidator=self.invalidator,
            bus=self.bus,
        )
        self.store = StateStore(self.parts)

    async def start(self) -> None:
        """Begin to follow the change feed, to stand by as the relay, and to verify.

        Raises:
            TierError: the feed could not be read.
        """
        await self.feed.start()
        if self.relay is not None:
            self.relay.start()
        self.verifier.start()
        await self.bus.start()

    async def stop(self) -> None:
        """End watches; let writes and fills end, for a while; stop relay and feed, empty L1. May be called twice."""
        await self.bus.stop()  # its handlers may use all the rest
        await self.verifier.stop()
        self.resolver.closing = True
        self.watching.close()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.writer.drain()
                await self.resolver.drain()
        except TimeoutError:
            pass  # a tier that does not answer must not hold up our end; its callers are told when it times out
        if self.relay is not None:
            await self.relay.stop()
        await self._past.close()
        await self.feed.stop()
        for cache in set(self.caches.values()):
            cache.flush()  # a closed door answers nothing, not even from memory


def bus_rules(settings: Settings) -> BusRules:
    """The limits of the event bus."""
    return BusRules(
        limits=EventLimits(settings.event_bytes_max, settings.document_depth_max),
        handlers=HandlerRules(
            timeout_seconds=settings.event_handler_timeout_seconds,
            attempts_max=settings.event_attempts_max,
            queue_max=settings.event_queue_max,
        ),
        publish_seconds=settings.event_publish_timeout_seconds,
        lease_seconds=settings.event_lease_seconds,
        group_idle_seconds=settings.event_group_idle_seconds,
    )


def staleness_bounds(settings: Settings, kinds: Mapping[str, Kind[Any]]) -> dict[str, float]:
    """The staleness bound of each kind, seconds: its own, else the setting."""
    return {
        name: kind.caching.staleness_bound_seconds or settings.staleness_bound_seconds for name, kind in kinds.items()
    }


def build_caches(settings: Settings, kinds: Mapping[str, Kind[Any]], clock: Clock) -> dict[str, LocalCache]:
    """The L1 cache of each kind: the seed's three are shared, own kinds may have their own.

    Raises:
        SettingsError: a kind names a cache that does not exist, or its TTL in L2 is shorter than a fence's
            life.
    """
    shared = {
        name: LocalCache(
            entries_max=getattr(settings, f"l1_{name}_entries_max"),
            ttl_seconds=getattr(settings, f"l1_{name}_ttl_seconds"),
            clock=clock.monotonic,
        )
        for name in ("swarm", "run", "config")
    }
    caches = {}
    for kind in kinds.values():
        caching = kind.caching
        if caching.cache is not None and caching.cache not in shared:
            raise SettingsError(
                f"kind {kind.name}: there is no L1 cache {caching.cache}; use one of {sorted(shared)} or None"
            )
        if caching.l2_ttl_seconds < settings.l2_fence_lifetime_seconds:
            raise SettingsError(
                f"kind {kind.name}: l2_ttl_seconds {caching.l2_ttl_seconds:g} is below "
                f"l2_fence_lifetime_seconds {settings.l2_fence_lifetime_seconds:g}"
            )
        if caching.cache is not None:
            caches[kind.name] = shared[caching.cache]
        else:
            caches[kind.name] = LocalCache(
                entries_max=caching.l1_entries_max, ttl_seconds=caching.l1_ttl_seconds, clock=clock.monotonic
            )
    return caches
