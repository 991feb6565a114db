"""`JournalBase`: the same suite on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fix_journal_bases import AnyEpoch, DecidesApart, MemoryBases, NeverIdle, NoLock, PostgresBases, WaitsForRows
from holdfast.testing import MemoryJournalBase
from holdfast.testing.conformance import JournalBaseSuite, checks

ALL = pytest.mark.parametrize("check", checks(JournalBaseSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(JournalBaseSuite(MemoryBases()))


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (AnyEpoch, JournalBaseSuite.check_only_the_owner_decides),
        (AnyEpoch, JournalBaseSuite.check_a_flush_that_waited_while_it_was_replaced),
        (NoLock, JournalBaseSuite.check_a_flush_under_way_is_waited_for),
        (NoLock, JournalBaseSuite.check_flushes_of_a_journal_follow_each_other),
        (DecidesApart, JournalBaseSuite.check_rows_and_what_is_decided_commit_together),
        (DecidesApart, JournalBaseSuite.check_rows_and_marks_are_of_one_moment),
        (NeverIdle, JournalBaseSuite.check_an_idle_flush_is_ended),
        (WaitsForRows, JournalBaseSuite.check_a_locked_row_is_not_waited_for_long),
    ],
    ids=lambda each: each.__name__,
)
async def test_the_suite_catches(mutant: type[MemoryJournalBase], check: Callable[[Any], Any]) -> None:
    """With one mechanism switched off a check fails, or never ends."""
    with pytest.raises((AssertionError, TimeoutError)):
        async with asyncio.timeout(1.0):
            await check(JournalBaseSuite(MemoryBases(mutant)))


@ALL
async def test_postgres(check: Callable[[Any], Any], postgres_bases: PostgresBases) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(JournalBaseSuite(postgres_bases))
