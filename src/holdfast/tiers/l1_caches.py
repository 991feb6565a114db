"""L1's caches of one server, as its kinds and settings ask (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.clock import Clock
from holdfast.errors import SettingsError
from holdfast.kinds import Kind
from holdfast.settings import Settings
from holdfast.tiers.l1_local import LocalCache


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
