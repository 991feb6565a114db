"""`EventTransport`: the same suite on Valkey and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from holdfast import Settings
from holdfast.clock import SystemClock
from holdfast.node import event_transport
from holdfast.testing import EventHub, ManualClock, MemoryEvents
from holdfast.testing.conformance import EventTransportSuite, checks
from holdfast.testing.conformance.event_transport import BACKLOG_MAX
from holdfast.tiers.l2_events import RedisEvents

ALL = pytest.mark.parametrize("check", checks(EventTransportSuite), ids=lambda check: check.__name__)


class MemoryServers:
    """`EventServers` in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hub = EventHub(self.clock, backlog_max=BACKLOG_MAX)

    def transport(self) -> MemoryEvents:
        return MemoryEvents(self.hub)

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


class RedisServers:
    """`EventServers` on Valkey."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self.settings = msgspec.structs.replace(settings, event_backlog_max=BACKLOG_MAX)
        self.stack = stack

    def transport(self) -> RedisEvents:
        transport = event_transport(self.settings, SystemClock(), self.stack)
        self.stack.push_async_callback(transport.close)
        return transport

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture
async def redis_servers(settings: Settings) -> AsyncIterator[RedisServers]:
    """Servers on the session's cluster."""
    async with AsyncExitStack() as stack:
        yield RedisServers(settings, stack)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """Events in memory keep the contract."""
    await check(EventTransportSuite(MemoryServers()))


@ALL
async def test_redis(check: Callable[[Any], Any], redis_servers: RedisServers) -> None:
    """Events over a real three-node Valkey cluster keep the contract."""
    await check(EventTransportSuite(redis_servers))
