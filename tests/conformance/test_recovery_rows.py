"""`RecoveryLogRows` and `QuarantineRows`: the same suite on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_recovery import Endless, Flooded, Forgetful, MemoryRecords, PostgresRecords, Repeating, Unrecorded
from holdfast.testing.conformance import RecoveryRowsSuite, checks

ALL = pytest.mark.parametrize("check", checks(RecoveryRowsSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(RecoveryRowsSuite(MemoryRecords()))


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        ({"log": Repeating}, RecoveryRowsSuite.check_a_line_is_added_once),
        ({"log": Endless}, RecoveryRowsSuite.check_the_newest_lines_are_kept),
        ({"quarantine": Flooded}, RecoveryRowsSuite.check_the_same_bytes_are_kept_once),
        ({"quarantine": Forgetful}, RecoveryRowsSuite.check_what_is_kept_again_under_one_name_is_counted_once),
        ({"quarantine": Unrecorded}, RecoveryRowsSuite.check_an_entry_is_discarded_with_a_record),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
async def test_the_suite_catches(mutant: dict[str, Any], check: Callable[[Any], Any]) -> None:
    """With one mechanism switched off a check fails."""
    with pytest.raises(AssertionError):
        await check(RecoveryRowsSuite(MemoryRecords(**mutant)))


@ALL
async def test_postgres(check: Callable[[Any], Any], postgres_records: PostgresRecords) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(RecoveryRowsSuite(postgres_records))
