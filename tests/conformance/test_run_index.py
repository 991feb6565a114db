"""`RunIndex`: the same suite on PostgreSQL and in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_runs import MemoryIndexes, PostgresIndexes
from holdfast.testing.conformance import RunIndexSuite, checks

ALL = pytest.mark.parametrize("check", checks(RunIndexSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(RunIndexSuite(MemoryIndexes()))


@ALL
async def test_postgres(check: Callable[[Any], Any], postgres_indexes: PostgresIndexes) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(RunIndexSuite(postgres_indexes))
