"""`RunIndex`: the same suite on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_run_index import (
    AnyPlace,
    ByServer,
    ByState,
    DeltasToo,
    DropsAll,
    FreesIds,
    MemoryIndexes,
    NeedsNoBase,
    NewestFirst,
    PostgresIndexes,
)
from holdfast.testing import MemoryRuns
from holdfast.testing.conformance import RunIndexSuite, checks

ALL = pytest.mark.parametrize("check", checks(RunIndexSuite), ids=lambda check: check.__name__)


@ALL
async def test_in_memory(check: Callable[[Any], Any]) -> None:
    """The tier in memory keeps the contract."""
    await check(RunIndexSuite(MemoryIndexes()))


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (AnyPlace, RunIndexSuite.check_runs_do_not_take_each_others_snapshots),
        (NewestFirst, RunIndexSuite.check_children_come_in_the_order_of_their_births),
        (ByServer, RunIndexSuite.check_a_server_of_the_same_name_does_not_hide_orphans),
        (ByState, RunIndexSuite.check_a_server_that_does_not_beat_is_dead),
        (DeltasToo, RunIndexSuite.check_bases_are_listed_from_the_highest),
        (NeedsNoBase, RunIndexSuite.check_a_base_must_be_there),
        (DropsAll, RunIndexSuite.check_what_a_run_may_need_is_never_dropped),
        (FreesIds, RunIndexSuite.check_what_was_pruned_is_told_and_never_written_again),
    ],
    ids=lambda each: each.__name__,
)
async def test_the_suite_catches(mutant: type[MemoryRuns], check: Callable[[Any], Any]) -> None:
    """With one mechanism switched off a check fails."""
    with pytest.raises(AssertionError):
        await check(RunIndexSuite(MemoryIndexes(mutant)))


@ALL
async def test_postgres(check: Callable[[Any], Any], postgres_indexes: PostgresIndexes) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(RunIndexSuite(postgres_indexes))
