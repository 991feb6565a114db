"""`ChangeSource`: the suite in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.testing.conformance import ChangeSourceSuite, checks
from holdfast.testing.memory_feed import MemoryFeed
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.testing.memory_transaction import MemoryTransaction

ALL = pytest.mark.parametrize("check", checks(ChangeSourceSuite), ids=lambda check: check.__name__)


class MemoryFeeds:
    """`Feeds` over an L3 in memory."""

    def __init__(self) -> None:
        self.storage = MemoryStorage()

    def source(self) -> MemoryFeed:
        return MemoryFeed(self.storage)

    async def begin(self) -> MemoryTransaction:
        return self.storage.begin()

    async def truncate(self, kind: str) -> int:
        return await self.storage.truncate(kind)

    async def become_another(self) -> None:
        self.storage.crash()


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The feed in memory keeps the contract."""
    await check(ChangeSourceSuite(MemoryFeeds()))
