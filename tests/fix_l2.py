"""L2 for the suites of its contract: in memory, and on Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from fix_races import until
from holdfast.clock import SystemClock
from holdfast.keys import redis_key
from holdfast.testing import ManualClock, MemoryCache
from holdfast.testing.conformance.l2_harness import KEY, L2Suite
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import RedisConnector
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_watermarks import watermark_key


class MemoryL2(NamedTuple):
    """Both sides of L2 in memory: one object."""

    cache: MemoryCache
    sink: MemoryCache


class MemoryHarness:
    """L2 in memory, of three nodes."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cache = MemoryCache(self.clock)

    def open(self, *, fence_lifetime_seconds: float = 60.0, lease_seconds: float = 30.0) -> MemoryL2:
        """Both sides of it."""
        self.cache = MemoryCache(
            self.clock, fence_lifetime_seconds=fence_lifetime_seconds, lease_seconds=lease_seconds, nodes=3
        )
        return MemoryL2(self.cache, self.cache)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    async def damage(self) -> bytes:
        """Damage the entry of the suites' key."""
        self.cache.damage(KEY, b"damaged")
        return b"damaged"

    async def dump(self) -> Any:
        """A copy of all nodes."""
        return self.cache.dump()

    async def restore(self, copy: Any) -> None:
        """Go back to it."""
        self.cache.restore(copy)


class RedisL2(NamedTuple):
    """Both sides of L2 on Valkey."""

    cache: RedisCache
    sink: RedisFences


class RedisHarness:
    """L2 on Valkey; only keys of the prefix are touched.

    Args:
        connection: closed by whoever opened it.
    """

    def __init__(self, connection: RedisConnection, prefix: bytes) -> None:
        self.connection = connection
        self.prefix = prefix

    def open(self, *, fence_lifetime_seconds: float = 60.0, lease_seconds: float = 30.0) -> RedisL2:
        """Both sides of it."""
        cache = RedisCache(
            self.connection,
            Codec(),
            prefix=self.prefix,
            fence_lifetime_seconds=fence_lifetime_seconds,
            lease_seconds=lease_seconds,
        )
        sink = RedisFences(self.connection, Codec(), prefix=self.prefix, fence_lifetime_seconds=fence_lifetime_seconds)
        return RedisL2(cache, sink)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    async def damage(self) -> bytes:
        """Flip bits of the entry's version."""
        held: bytes = await self.command("GET", self.name)
        damaged = held[:32] + b"\x7f" + held[33:]
        await self.command("SET", self.name, damaged)
        return damaged

    async def dump(self) -> Mapping[bytes, tuple[bytes | None, int]]:
        """The serialised values and lifetimes of all watermarks and of the suites' key."""
        return {name: await self._dumped(name) for name in await self._names()}

    async def restore(self, copy: Any) -> None:
        """Put them back, and remove what was not there."""
        for name, (value, lifetime_ms) in copy.items():
            await self.command("DEL", name)
            if value is not None:
                await self.command("RESTORE", name, str(max(0, lifetime_ms)), value)

    async def command(self, *words: str | bytes) -> Any:
        """Send a command to the node that serves its first key."""
        await self.connection.topology()
        return await self.connection.command(list(words))

    async def watermark_keys(self) -> list[bytes]:
        """The names of the nodes' watermarks."""
        nodes = (await self.connection.topology()).nodes
        return [watermark_key(self.prefix, node.slots[0][0]) for node in nodes]

    @property
    def name(self) -> bytes:
        """What the suites' key is called in L2."""
        return redis_key(self.prefix, KEY)

    async def _names(self) -> list[bytes]:
        return [self.name, *await self.watermark_keys()]

    async def _dumped(self, name: bytes) -> tuple[bytes | None, int]:
        return await self.command("DUMP", name), await self.command("PTTL", name)


def connection_to(
    *urls: str, clock: ManualClock | None = None, request_timeout: float = 5.0, connect_timeout: float = 5.0
) -> RedisConnection:
    """A connection, not yet made."""
    connector = RedisConnector(urls, request_timeout_seconds=request_timeout, connect_timeout_seconds=connect_timeout)
    return RedisConnection(connector, monotonic=(clock or SystemClock()).monotonic)


async def by_links(connection: RedisConnection) -> None:
    """Until links lead to all nodes."""
    script = Script("read")

    async def open_to_all() -> bool:
        nodes = (await connection.topology()).nodes
        await connection.run(script, {node: [watermark_key(b"vrooli:", node.slots[0][0]), b"0"] for node in nodes})
        return {node.name for node in nodes} == connection._links._open.keys()

    await until(open_to_all)


def without_links(connection: RedisConnection) -> None:
    """Have a connection that was not used yet open none."""
    connection._connector.linked = lambda topology: frozenset()  # type: ignore[method-assign]


async def started(harness: RedisHarness) -> tuple[L2Suite, RedisL2]:
    """An L2 whose nodes all have a watermark, and the suites' ways to use it."""
    suite, l2 = L2Suite(harness), harness.open()
    await suite.begin_anew(l2, 90)
    return suite, l2
