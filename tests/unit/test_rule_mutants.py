"""Mechanisms that few seeded worlds need: with one switched off, the test of its rule fails."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Final

import pytest

from fix_l2 import MemoryHarness
from fix_relay import begun
from holdfast import Bot
from holdfast.testing import ManualClock, MemoryFeed, MemoryStorage
from holdfast.testing.conformance import FenceSinkSuite, SharedCacheSuite
from holdfast.testing.door import connect_flows
from simulation.mutants import MUTANTS
from simulation.test_exports import CAUGHT as CAUGHT_BY_EXPORTS
from simulation.test_owners import CAUGHT as CAUGHT_BY_OWNERS
from simulation.test_runs import CAUGHT as CAUGHT_BY_RUNS
from simulation.test_scopes import CAUGHT as CAUGHT_BY_SCOPES
from simulation.test_worlds import CAUGHT_IN
from simulation.test_write_behind import CAUGHT_IN as CAUGHT_BY_WRITES
from unit import (
    test_fence_map,
    test_memory_feed,
    test_reading,
    test_relay,
    test_scopes,
    test_transactions,
    test_voiding,
)

CAUGHT_BY: Final[dict[str, Callable[..., Any]]] = {
    "R1-C3-own_writes_are_not_noted": (
        test_relay.test_before_the_fence_arrives_the_writer_does_not_believe_the_old_value
    ),
    "R4-changes_leave_flights": test_reading.test_a_reader_after_a_change_joins_no_load_begun_before_it,
    "C2-plain_set": SharedCacheSuite.check_an_older_version_never_replaces_a_newer_one,
    "C2-no_age_check": SharedCacheSuite.check_a_fill_that_comes_minutes_late_is_refused,
    "C2-C3-fill_under_an_older_generation": (
        SharedCacheSuite.check_a_fill_under_an_older_generation_of_the_node_is_refused
    ),
    "C3-fence_that_lowers": FenceSinkSuite.check_a_fence_never_lowers,
    "C3-advance_without_compare": test_relay.test_an_old_relay_that_goes_on_does_no_harm,
    "C3-generation_before_its_snapshot": test_relay.test_nodes_begin_with_a_generation_drawn_after_their_snapshot,
    "C3-F1-relay_goes_on_over_a_start": test_relay.test_after_a_restart_of_l3_nodes_begin_anew,
    "C3-mark_of_another_start_is_believed": test_fence_map.test_a_mark_of_another_start_of_l3_is_not_trusted,
    "C4-tags_leave_l1": test_voiding.test_a_tag_sweeps_l1,
    "C4-tags_refuse_no_fill": test_voiding.test_a_load_that_began_before_the_tag_was_raised_fills_nothing,
    "C4-tags_leave_flights": test_voiding.test_a_reader_after_the_tag_was_raised_joins_no_load_begun_before_it,
    "C4-tags_come_with_loads": test_voiding.test_a_newest_tag_that_a_load_told_first_is_still_asked_of_the_feed,
    "C4-reader_ignores_tags": test_voiding.test_l2_answers_with_nothing_that_a_tag_voids,
    "C4-forgotten_tags_raise_no_floor": test_voiding.test_tags_that_were_forgotten_void_all_that_has_tags,
    "C4-forgotten_tags_leave_l1": test_voiding.test_a_server_that_missed_a_forgotten_tag_drops_all_that_has_tags,
    "C4-entries_without_tags_count": (
        SharedCacheSuite.check_an_entry_that_tells_no_tags_is_absent_where_its_kind_has_some
    ),
    "F1-anchor_is_not_checked": test_memory_feed.test_a_restored_copy_is_caught_by_the_anchor,
    "F1-end_of_a_life_is_not_doubted": (
        test_reading.test_what_was_read_after_the_last_poll_is_doubted_when_l3_was_started_anew
    ),
    "F3-horizon_is_ignored": test_memory_feed.test_a_cursor_older_than_the_outbox_is_not_continued,
    "S1-transaction_does_not_wait": test_transactions.test_what_others_wrote_inside_it_is_known_when_it_returns,
    "S1-transaction_is_not_held": test_transactions.test_a_feed_that_cannot_be_read_costs_the_cache_not_the_truth,
}


async def run(test: Callable[..., Any]) -> None:
    """Run a test with what it asks for."""
    l3, clock = MemoryStorage(), ManualClock()
    source = MemoryFeed(l3)
    given: dict[str, Any] = {"l3": l3, "clock": clock, "source": source}
    wanted = inspect.signature(test).parameters.keys()
    async with contextlib.AsyncExitStack() as stack:
        if "self" in wanted:
            suite = SharedCacheSuite if hasattr(SharedCacheSuite, test.__name__) else FenceSinkSuite
            given["self"] = suite(MemoryHarness())
        if "bench" in wanted:
            given["bench"] = await begun()
        if "flows" in wanted:
            on_clock: dict[str, Any] = {"feed": source, "clock": clock} if "clock" in wanted else {}
            given["flows"] = await stack.enter_async_context(connect_flows(l3=l3, **on_clock))
            await given["flows"].store.bots.put("b1", Bot(name="Ada"))
        if (running := test(**{name: given[name] for name in wanted})) is not None:
            await running


@pytest.mark.parametrize("name", CAUGHT_BY)
async def test_the_test_passes_and_its_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test, with the mechanism and without."""
    await run(CAUGHT_BY[name])
    MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError):
        await run(CAUGHT_BY[name])


def test_no_mutant_is_left_out() -> None:
    """Worlds or a test of its own catch each."""
    by_worlds = CAUGHT_IN.keys() | CAUGHT_BY_WRITES.keys()
    by_others = {*CAUGHT_BY_SCOPES, *test_scopes.CAUGHT_HERE, *CAUGHT_BY_OWNERS, *CAUGHT_BY_RUNS, *CAUGHT_BY_EXPORTS}
    assert CAUGHT_BY.keys() | by_worlds | by_others == MUTANTS.keys()
