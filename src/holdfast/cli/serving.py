"""What commands work on: a server of their own, or connections to L3 alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from rich.console import Console

from holdfast.adapters import connection_pool, prepare
from holdfast.kinds import BUILT_IN, Kind
from holdfast.node import Connecting, Node, OpenStore, with_servers
from holdfast.settings import Settings, load_settings
from holdfast.tiers.l3_connections import ConnectionPool

CONNECT_SECONDS_MAX: Final = 3.0
"""So long a command waits for a connection to L3, whatever the setting for servers is: somebody sits before it."""


@asynccontextmanager
async def serving() -> AsyncIterator[OpenStore]:
    """A server as long as the command takes; the schema is for `holdfast migrate` to change.

    It decides nothing that is overdue, and recovers from no fault: it would be gone before what follows from that is
    done. What it meets that is bad is kept in quarantine.
    """
    settings = msgspec.structs.replace(await _settings(), migrate_on_connect=False)
    async with Connecting(Node(settings, (), progress=lambda _: None, sweeps=False)) as state:
        yield state


@asynccontextmanager
async def opened_pool(
    kinds: Iterable[Kind[Any]] = BUILT_IN, *, size_max: int = 1
) -> AsyncIterator[tuple[Settings, ConnectionPool]]:
    """The settings, with both servers named, and connections to L3, whose schema knows these kinds."""
    settings = await _settings()
    pool = connection_pool(settings, size_max=size_max)
    try:
        await prepare(pool, kinds, migrate=False, progress=lambda _: None)
        yield settings, pool
    finally:
        await pool.close()


async def _settings() -> Settings:
    settings = await with_servers(load_settings(environment=os.environ), Console(stderr=True).print)
    seconds = min(settings.l3_connect_timeout_seconds, CONNECT_SECONDS_MAX)
    return msgspec.structs.replace(settings, l3_connect_timeout_seconds=seconds)
