"""`EventTransport`: the same suite on Valkey and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fix_event_servers import MemoryServers, RedisServers
from holdfast import Settings
from holdfast.testing.conformance import EventTransportSuite, checks

ALL = pytest.mark.parametrize("check", checks(EventTransportSuite), ids=lambda check: check.__name__)


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
