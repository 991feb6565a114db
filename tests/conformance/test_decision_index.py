"""`DecisionIndex`: the same suite for reviews and escalations, on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_reviews import Forgetful, MemoryTiers, PostgresTiers, Undecided
from holdfast.kinds import ESCALATION, REVIEW, Kind
from holdfast.testing import MemoryDecisions
from holdfast.testing.conformance import DecisionIndexSuite, checks

ALL = pytest.mark.parametrize("check", checks(DecisionIndexSuite), ids=lambda check: check.__name__)
KINDS = (REVIEW, ESCALATION)


@ALL
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_in_memory(check: Callable[[Any], Any], kind: Kind[Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(DecisionIndexSuite(MemoryTiers(kind)))


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (Undecided, DecisionIndexSuite.check_overdue_ones_are_found_by_the_clock_of_l3),
        (Undecided, DecisionIndexSuite.check_what_was_decided_long_ago_is_removed),
        (Forgetful, DecisionIndexSuite.check_what_a_run_may_need_stays),
    ],
)
async def test_the_suite_catches(mutant: type[MemoryDecisions], check: Callable[[Any], Any]) -> None:
    """A tier that takes what is decided for open, or removes what a run may need."""
    with pytest.raises(AssertionError):
        await check(DecisionIndexSuite(MemoryTiers(decisions=mutant)))


@ALL
@pytest.mark.parametrize("postgres_tiers", KINDS, indirect=True, ids=lambda kind: kind.name)
async def test_postgres(check: Callable[[Any], Any], postgres_tiers: PostgresTiers) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(DecisionIndexSuite(postgres_tiers))
