"""`SharedCache`: the same suite on Valkey and in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_l2 import MemoryHarness, RedisHarness, by_links, without_links
from holdfast.testing.conformance import SharedCacheSuite, checks

ALL = pytest.mark.parametrize("check", checks(SharedCacheSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(SharedCacheSuite(MemoryHarness()))


@ALL
async def test_redis(check: Callable[[Any], Any], l2_harness: RedisHarness) -> None:
    """The tier over a real three-node Valkey cluster keeps the contract."""
    await by_links(l2_harness.connection)
    await check(SharedCacheSuite(l2_harness))


@ALL
async def test_redis_by_the_client(check: Callable[[Any], Any], l2_harness: RedisHarness) -> None:
    """And so it does where no link leads to a node."""
    without_links(l2_harness.connection)
    await check(SharedCacheSuite(l2_harness))
