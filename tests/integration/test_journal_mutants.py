"""Each rule of the scripts that keep a journal, switched off: the check that guards it must then fail.

The checks pass on the healthy scripts in `tests/conformance`; each mutant runs on the real cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fix_journals import RedisServers
from fix_races import mutate
from holdfast import Settings, TierError
from holdfast.protocols import JournalBehind, JournalSealed
from holdfast.testing.conformance import JournalStreamsSuite as Suite
from holdfast.tiers.l2_journal import RedisJournals

Check = Callable[[Any], Awaitable[None]]

MUTANTS: list[tuple[str, str, str, Check]] = [
    ("append", "if held[3] then return {node, 'sealed', last} end", "", Suite.check_a_sealed_journal_takes_nothing),
    (
        "append",
        "return {node, 'sealed', last}",
        "return {node, 'sealed', '0'}",
        Suite.check_a_sealed_journal_takes_nothing,
    ),
    (
        "append",
        "if tonumber(last) < tonumber(ARGV[1]) then return {node, 'behind', last} end",
        "",
        Suite.check_a_lost_tail_is_told,
    ),
    (
        "append",
        "if lost and not held[3] and ARGV[1] ~= '0' then return {node, 'behind', last} end",
        "if lost then last = ARGV[1] end",
        Suite.check_a_journal_that_is_lost_altogether_is_told,
    ),
    (
        "append",
        "if tonumber(seq) > tonumber(last) then",
        "if true then",
        Suite.check_an_append_repeated_is_there_once,
    ),
    ("append", "return {node, 'hole', seq}", "local _ = seq", Suite.check_no_number_is_put_below_one_that_is_there),
    (
        "append",
        "elseif tonumber(seq) >= tonumber(kept) and",
        "elseif",
        Suite.check_a_stream_that_is_empty_knows_its_end,
    ),
    ("append", "    last = seq\n", "    last = tostring(tonumber(seq))\n", Suite.check_the_highest_numbers_are_exact),
    ("append", "'last', last, 'kept', kept)", "'kept', kept)", Suite.check_an_append_repeated_is_there_once),
    ("append", "ARGV[2] .. '-0')", "ARGV[2] .. '-1')", Suite.check_what_may_be_dropped_is_dropped),
    (
        "append",
        "redis.call('XTRIM'",
        "redis.call('XLEN', KEYS[2]) local _ = (",
        Suite.check_what_may_be_dropped_is_dropped,
    ),
    ("seal", "redis.call('HSETNX', KEYS[1], 'seal', 'sealed')", "", Suite.check_a_sealed_journal_takes_nothing),
    ("seal", "redis.call('HGET', KEYS[1], 'last') or '0'", "'0'", Suite.check_a_sealed_journal_takes_nothing),
    ("drop", "redis.call('DEL', KEYS[2])", "", Suite.check_what_is_dropped_is_gone),
    ("drop", "redis.call('HSET', KEYS[1], 'seal', 'dropped')", "", Suite.check_what_is_dropped_is_gone),
    ("drop", "'DEL', KEYS[2]", "'DEL', KEYS[2], KEYS[1]", Suite.check_what_is_dropped_is_gone),
    (
        "read",
        "redis.call('HEXISTS', KEYS[1], 'seal')",
        "1",
        Suite.check_only_who_knows_of_the_seal_is_read_from,
    ),
]


@pytest.mark.parametrize(("script", "healthy", "mutant", "check"), MUTANTS)
async def test_a_mutant_is_caught(settings: Settings, script: str, healthy: str, mutant: str, check: Check) -> None:
    """The check fails on the mutant, be it by an error of the script."""

    def mutation(streams: RedisJournals) -> None:
        mutate(getattr(streams, f"_{script}"), healthy, mutant)
        if script == "append":
            mutate(streams._trim, healthy, mutant)

    async with AsyncExitStack() as stack:
        suite = Suite(RedisServers(settings, stack, mutation))
        with pytest.raises((AssertionError, TierError, JournalBehind, JournalSealed)):
            await check(suite)
