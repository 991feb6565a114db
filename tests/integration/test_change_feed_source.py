"""`PostgresFeed`: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_feed import PostgresFeeds
from holdfast.testing.conformance import ChangeSourceSuite, checks

ALL = pytest.mark.parametrize("check", checks(ChangeSourceSuite), ids=lambda check: check.__name__)


@ALL
async def test_the_feed_of_postgresql(feeds: PostgresFeeds, check: Callable[[Any], Any]) -> None:
    """The change feed of PostgreSQL keeps the contract."""
    await check(ChangeSourceSuite(feeds))
