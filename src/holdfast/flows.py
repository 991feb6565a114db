"""The flows of one server, put together over tiers that are given: real ones by `node`, in memory by `testing`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from holdfast.clock import Clock
from holdfast.documents import Limits
from holdfast.errors import SettingsError
from holdfast.invalidation.fences import FenceSender
from holdfast.kinds import Kind
from holdfast.metrics.counters import Counters
from holdfast.protocols import Coherence, SharedCache, Storage
from holdfast.resolution import Resolver
from holdfast.settings import Settings
from holdfast.store import Collection, StateStore
from holdfast.tiers.l1_local import LocalCache
from holdfast.writing import Writer

DRAIN_SECONDS: Final = 10.0
UPDATE_BACKOFF_SECONDS: Final = 0.002
UPDATE_BACKOFF_MAX_SECONDS: Final = 0.25


class Flows:
    """The flows over given tiers, real or in memory.

    Args:
        coherence: what L3 said when it was connected.
        sleep: pauses, seconds.
        random_: for jitter.
    """

    def __init__(
        self,
        settings: Settings,
        kinds: Mapping[str, Kind[Any]],
        *,
        l2: SharedCache,
        l3: Storage,
        coherence: Coherence,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        random_: random.Random,
    ) -> None:
        self.counters = Counters()
        self.caches = build_caches(settings, kinds, clock)
        self.fences = FenceSender(l2, lambda: self.resolver.coherence, sleep=sleep)
        self.resolver = Resolver(
            kinds=kinds,
            caches=self.caches,
            l2=l2,
            l3=l3,
            fences=self.fences,
            coherence=coherence,
            clock=clock,
            counters=self.counters,
            l3_batches_max=max(1, settings.l3_connections_max // 2),
        )
        self.writer = Writer(
            l3=l3,
            resolver=self.resolver,
            fences=self.fences,
            caches=self.caches,
            limits=Limits(settings.document_bytes_max, settings.document_depth_max),
            backoff=lambda attempt: random_.uniform(
                0, min(UPDATE_BACKOFF_MAX_SECONDS, UPDATE_BACKOFF_SECONDS * 2 ** min(attempt, 10))
            ),
            sleep=sleep,
        )
        self.store = StateStore(
            {
                name: Collection(kind, cache=self.caches[name], resolver=self.resolver, l3=l3, writer=self.writer)
                for name, kind in kinds.items()
            }
        )

    async def stop(self) -> None:
        """Let writes and fills under way end, for a while; stop repeating fences, empty L1. May be called twice."""
        self.resolver.closing = True
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.writer.drain()
                await self.resolver.drain()
        except TimeoutError:
            pass  # a tier that does not answer must not hold up our end; its callers are told when it times out
        await self.fences.stop()
        for cache in set(self.caches.values()):
            cache.flush()  # a closed door answers nothing, not even from memory


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
