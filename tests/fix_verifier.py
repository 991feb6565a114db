"""Stale entries, planted as a bug would leave them."""

from __future__ import annotations

import math

from fix_races import KEY
from holdfast import Bot
from holdfast.documents import Document
from holdfast.entry import Missing
from holdfast.flows import Flows
from holdfast.keys import Key, redis_key
from holdfast.protocols import Coherence, Row
from holdfast.testing import MemoryCache
from holdfast.testing.memory_cache import Held
from holdfast.tiers.codec import WireEntry
from holdfast.tiers.l1_local import LocalEntry
from holdfast.tiers.l2_redis import RedisCache

TTL_MS = 900_000
ADA, EVE = Bot(name="Ada"), Bot(name="Eve")
AGE_SECONDS = 30.0
"""How long ago they seem to have been read from L3, where a tier notes that."""


def plant_in_l1(flows: Flows, key: Key, value: Document | Missing, version: int) -> LocalEntry:
    """L1 holds a value whatever its rules say."""
    now = flows.resolver.now()
    entry = LocalEntry(value, version, now, math.inf, now)
    flows.caches[key.kind].shelf(key.kind).entries[key.id] = entry
    return entry


def plant_in_memory_l2(l2: MemoryCache, key: Key, row: Row, coherence: Coherence, *, generation: int) -> None:
    """L2 in memory holds a row whatever its rules say."""
    now_ms = l2._now_ms()
    read_at_ms = now_ms - round(AGE_SECONDS * 1000)
    entry = WireEntry(row, row.version, coherence.incarnation.bytes, generation, read_at_ms, TTL_MS)
    l2._store(key, Held(entry, now_ms + TTL_MS))


async def plant_in_redis(l2: RedisCache, key: Key, row: Row, coherence: Coherence, *, generation: int) -> None:
    """A node of L2 holds a row, with a valid checksum, whatever the scripts say."""
    name = redis_key(l2._prefix, key)
    await l2._connection.topology()
    seconds, microseconds = await l2._connection.command(["TIME"])
    data = l2._codec.encode(
        name,
        row,
        incarnation=coherence.incarnation,
        generation=generation,
        read_at_ms=int(seconds) * 1000 + int(microseconds) // 1000 - round(AGE_SECONDS * 1000),
        ttl_ms=TTL_MS,
    )
    await l2._connection.command(["SET", name, data, "PX", str(TTL_MS)])


async def put_twice(flows: Flows) -> tuple[int, int]:
    """Ada, then Eve, of which the feed has told; their versions."""
    versions = [(await flows.store.bots.put(KEY.id, each)).version for each in (ADA, EVE)]
    assert await flows.feed.refresh()
    return versions[0], versions[1]
