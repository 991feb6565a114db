"""`AuditRows`: the same suite on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_reviews import Cut, MemoryTiers, PostgresTiers, Unnumbered
from holdfast.testing import MemoryAudit
from holdfast.testing.conformance import AuditRowsSuite, checks

ALL = pytest.mark.parametrize("check", checks(AuditRowsSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(AuditRowsSuite(MemoryTiers()))


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (Unnumbered, AuditRowsSuite.check_many_at_once_leave_no_gap),
        (Cut, AuditRowsSuite.check_entries_come_as_they_were_given),
    ],
    ids=lambda each: each.__name__,
)
async def test_the_suite_catches(mutant: type[MemoryAudit], check: Callable[[Any], Any]) -> None:
    """With one mechanism switched off a check fails."""
    with pytest.raises(AssertionError):
        await check(AuditRowsSuite(MemoryTiers(audit=mutant)))


@ALL
async def test_postgres(check: Callable[[Any], Any], postgres_tiers: PostgresTiers) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(AuditRowsSuite(postgres_tiers))
