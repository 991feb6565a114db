"""`Storage`: the same suite on PostgreSQL and in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.testing import MemoryStorage
from holdfast.testing.conformance import StorageSuite, checks
from holdfast.tiers.l3_postgres import PostgresStorage

ALL = pytest.mark.parametrize("check", checks(StorageSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(StorageSuite(MemoryStorage()))


@ALL
async def test_postgres(check: Callable[[Any], Any], l3: PostgresStorage) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(StorageSuite(l3))
