"""`JournalStreams`: the same suite on Valkey and in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_journals import MemoryServers
from holdfast.testing.conformance import JournalStreamsSuite, checks

ALL = pytest.mark.parametrize("check", checks(JournalStreamsSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """Journals in memory keep the contract."""
    await check(JournalStreamsSuite(MemoryServers()))
