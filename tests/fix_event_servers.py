"""`EventServers` for the suite of its contract: in memory, and on Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec

from holdfast import Settings
from holdfast.adapters import event_transport
from holdfast.clock import SystemClock
from holdfast.testing import EventHub, ManualClock, MemoryEvents
from holdfast.testing.conformance.event_transport import BACKLOG_MAX
from holdfast.tiers.l2_events import STREAMS, RedisEvents


class MemoryServers:
    """`EventServers` in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hub = EventHub(self.clock, backlog_max=BACKLOG_MAX)

    def transport(self) -> MemoryEvents:
        return MemoryEvents(self.hub)

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def lose_stream(self, partition: int, rank: int) -> None:
        self.hub.lose_stream(partition, rank)


class RedisServers:
    """`EventServers` on Valkey.

    Args:
        stack: closes the transports.
        mutation: done to each of them.
    """

    def __init__(
        self, settings: Settings, stack: AsyncExitStack, mutation: Callable[[RedisEvents], None] = lambda _: None
    ) -> None:
        self.settings = msgspec.structs.replace(settings, event_backlog_max=BACKLOG_MAX)
        self.stack = stack
        self.mutation = mutation

    def transport(self) -> RedisEvents:
        transport = event_transport(self.settings, SystemClock(), self.stack)
        self.stack.push_async_callback(transport.close)
        self.mutation(transport)
        return transport

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def lose_stream(self, partition: int, rank: int) -> None:
        transport = self.transport()
        await transport._command(["DEL", transport._bases[partition] + f":{STREAMS[rank]}".encode()])
