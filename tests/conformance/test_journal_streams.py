"""`JournalStreams`: the same suite on Valkey and in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fix_journals import MemoryServers, RedisServers
from holdfast import Settings
from holdfast.testing.conformance import JournalStreamsSuite, checks

ALL = pytest.mark.parametrize("check", checks(JournalStreamsSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """Journals in memory keep the contract."""
    await check(JournalStreamsSuite(MemoryServers()))


@ALL
async def test_redis(check: Callable[[Any], Any], settings: Settings) -> None:
    """Journals on a real three-node Valkey cluster keep the contract."""
    async with AsyncExitStack() as stack:
        await check(JournalStreamsSuite(RedisServers(settings, stack)))
