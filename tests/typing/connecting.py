"""Checked by mypy, never run: the types a user of `connect` sees."""

from __future__ import annotations

from typing import assert_type

import holdfast
from holdfast import Bot, Watched
from holdfast.node import Connecting, OpenStore

holdfast.connect(l1_swarm_ttl_seconds=60, redis_urls=("redis://localhost",), embedded_postgres_version=16)
holdfast.connect(l1_swarm_ttl=60)  # type: ignore[call-arg]
holdfast.connect(redis_urls="redis://localhost")  # type: ignore[arg-type]
holdfast.connect(embedded_postgres_version=17)  # type: ignore[arg-type]


async def opened(connecting: Connecting) -> None:
    """Both ways in give an open store."""
    assert_type(await connecting, OpenStore)
    async with connecting as state:
        assert_type(state, OpenStore)


async def watched(state: OpenStore) -> None:
    """A watch gives changes of its collection's documents."""
    async for change in state.bots.watch("b1"):
        assert_type(change, Watched[Bot])
        assert_type(change.document, Bot | None)
