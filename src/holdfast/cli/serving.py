"""A server for a command that needs one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from rich.console import Console

from holdfast.node import OpenStore, connect, with_servers
from holdfast.settings import load_settings


@asynccontextmanager
async def serving() -> AsyncIterator[OpenStore]:
    """A server as long as the command takes; the schema is for `holdfast migrate` to change."""
    settings = await with_servers(load_settings(environment=os.environ), Console(stderr=True).print)
    async with connect(msgspec.structs.replace(settings, migrate_on_connect=False)) as state:
        yield state
