"""Servers that these tests break: one set for all of them, since each test leaves it running."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from fix_feed import run
from holdfast.testing.server_controls import ServerControls


@pytest.fixture(scope="session")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerControls]:
    """A PostgreSQL and three nodes, killed when the session ends."""
    servers = ServerControls(tmp_path_factory.mktemp("faults") / "servers")
    yield servers
    run(servers.close())


@pytest.fixture
async def controls(breakable: ServerControls) -> ServerControls:
    """The set, with all of it running."""
    await breakable.start()
    return breakable


@pytest.fixture
def prefix() -> str:
    """A prefix for the keys of one test."""
    return f"test-{uuid.uuid4().hex}:"
