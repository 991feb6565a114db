"""Fixtures for pytest: faults of the network and of servers.

    pytest_plugins = ["holdfast.testing.fixtures"]           # in a conftest.py or a test module

    async def test_feed_is_held(server_controls, fault_proxy):
        proxy = await fault_proxy(*server_controls.address("postgres"))
        connection = await asyncpg.connect(server_controls.url("postgres", through=proxy))
        with proxy.hold("to_client"):
            ...

They need pytest and pytest-asyncio, in either of its modes.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from holdfast.testing.fault_proxy import FaultProxy, StartProxy
from holdfast.testing.server_controls import ServerControls


@pytest_asyncio.fixture
async def fault_proxy() -> AsyncIterator[StartProxy]:
    """A function that starts a `FaultProxy`; each is closed after the test."""
    async with AsyncExitStack() as proxies:

        async def start(
            host: str | Path, port: int | None = None, *, random_: random.Random | None = None
        ) -> FaultProxy:
            return await proxies.enter_async_context(FaultProxy(host, port, random_=random_))

        yield start


@pytest_asyncio.fixture
async def server_controls(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ServerControls]:
    """Servers of the test's own, started: a `ServerControls`; killed after the test, whatever state they are in.

    `@pytest.mark.parametrize("server_controls", [1], indirect=True)` gives each Valkey primary that many replicas.
    """
    async with ServerControls(tmp_path / "servers", replicas=getattr(request, "param", 0)) as servers:
        yield servers
