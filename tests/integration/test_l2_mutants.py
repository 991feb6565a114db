"""Each rule of L2, switched off: the check that guards it must then fail.

The checks pass on the healthy code in `tests/conformance`. A mutant is one place of a script, or of the module that
judges the answers, written otherwise; each runs on the real cluster.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fix_l2 import RedisHarness, RedisL2
from fix_races import mutate
from holdfast.testing.conformance import FenceSinkSuite, SharedCacheSuite
from holdfast.tiers import l2_answers, l2_redis
from holdfast.tiers.l2_scripts import Script

Check = Callable[[Any], Awaitable[None]]
KEEP_LEASE = """fence = same and string.sub(fence, 1, 8) .. string.sub(held, 9, 16) .. string.sub(fence, 17) or fence
    redis.call('SET', name, fence,"""

READ: list[tuple[str, str, Check]] = [
    ("if not mark then lease = 0 end", "", SharedCacheSuite.check_without_a_watermark_nothing_counts),
    ("  if held then\n    pcall", "  if false then\n    pcall", SharedCacheSuite.check_one_of_many_loads_a_fenced_key),
    ("if left > 0 and left <= lease", "if false", SharedCacheSuite.check_one_of_many_loads_a_missing_key),
    (
        "if lease == 0 then return left > 0 and left end",
        "",
        SharedCacheSuite.check_nobody_gives_back_a_lease_of_another,
    ),
    ("or (byte(value, 3) == 4 and #value == 68)", "", SharedCacheSuite.check_one_of_many_loads_a_fenced_key),
    ("left = high * 4294967296 + low - now", "left = 100", SharedCacheSuite.check_the_lease_of_one_who_is_gone_ends),
]
FILL: list[tuple[str, str, Check]] = [
    (
        "if not mark or #mark < 32 then return 0 end",
        "mark = mark or 'W_______' .. string.sub(ARGV[3], 9, 16) .. string.sub(ARGV[5], 17, 32)",
        SharedCacheSuite.check_without_a_watermark_nothing_counts,
    ),
    (
        "string.sub(ARGV[3], at + 8, at + 15) == generation",
        "true",
        SharedCacheSuite.check_a_fill_under_an_older_generation_of_the_node_is_refused,
    ),
    (
        "if string.sub(entry, 17, 32) ~= incarnation then return false end",
        "",
        SharedCacheSuite.check_a_fill_of_another_incarnation_is_refused,
    ),
    ("age < 0 or", "", SharedCacheSuite.check_a_fill_from_the_future_is_refused),
    ("or age > age_max", "", SharedCacheSuite.check_a_fill_that_comes_minutes_late_is_refused),
    ("'PX', ttl - age", "'PX', ttl", SharedCacheSuite.check_an_entry_ends_with_its_ttl),
    (
        "if same and above(held, entry) then return false end",
        "",
        SharedCacheSuite.check_an_older_version_never_replaces_a_newer_one,
    ),
    ("and held_low > low", "and false", SharedCacheSuite.check_large_bodies_and_versions),
    (
        "is_ours(held) and string.sub(held, 17, 32) == incarnation",
        "is_ours(held)",
        SharedCacheSuite.check_another_incarnation_is_absent,
    ),
    ("    give_back(name", "    local _ = (name", SharedCacheSuite.check_a_row_that_is_not_there_gives_the_lease_back),
    ("    give_back(name", "    local _ = (name", SharedCacheSuite.check_a_refused_fill_gives_the_lease_back),
    ("~= asked + lease", "== 0", SharedCacheSuite.check_a_lease_given_back_too_late_is_anothers),
    ("~= asked + lease", "== 0", SharedCacheSuite.check_nobody_gives_back_a_lease_of_another),
    ("== nothing then", "~= '' then", SharedCacheSuite.check_a_row_that_is_not_there_gives_the_lease_back),
]
ADVANCE: list[tuple[str, str, Check]] = [
    (
        "if (mark or '') ~= ARGV[1] then return 0 end",
        "",
        FenceSinkSuite.check_only_the_watermark_last_seen_is_moved,
    ),
    ("if (mark or '') ~= ARGV[1] then return 0 end", "", FenceSinkSuite.check_a_node_that_went_back_is_found_out),
    (
        "if (mark or '') ~= ARGV[1] then return 0 end",
        "",
        FenceSinkSuite.check_a_node_that_lost_everything_is_found_out,
    ),
    (
        "(mark or '') ~= ARGV[1]",
        "mark and mark ~= ARGV[1]",
        FenceSinkSuite.check_a_node_that_lost_everything_is_found_out,
    ),
    ("not same or below(held, fence)", "true", FenceSinkSuite.check_a_fence_never_lowers),
    ("and held_low < low", "and false", FenceSinkSuite.check_versions_above_53_bits_are_told_apart),
    (
        "and string.sub(held, 17, 32) == string.sub(fence, 17, 32)",
        "",
        FenceSinkSuite.check_a_fence_of_another_incarnation_stands_over_any_version,
    ),
    ("redis.call('PEXPIRE', name, ARGV[3])", "", FenceSinkSuite.check_a_lower_fence_renews_the_higher_one),
    ("redis.call('SET', name, fence,", KEEP_LEASE, SharedCacheSuite.check_a_fence_ends_the_lease),
    ("redis.call('SET', KEYS[1], ARGV[2])", "", FenceSinkSuite.check_a_watermark_is_read_back),
    ("at = at + 68", "", FenceSinkSuite.check_a_fence_reaches_only_the_node_that_serves_its_key),
]
WITHDRAW: list[tuple[str, str, Check]] = [
    (
        "redis.call('SET', name, fence, 'PX', ARGV[1])",
        "redis.call('DEL', name)",
        SharedCacheSuite.check_a_withdrawn_entry_leaves_a_fence,
    ),
    ("and string.sub(held, 33, 40) == version", "", SharedCacheSuite.check_only_the_version_named_is_withdrawn),
    ("and string.byte(held, 3) ~= 4", "", SharedCacheSuite.check_a_fence_is_not_withdrawn),
    (
        "and string.sub(held, 17, 32) == string.sub(fence, 17, 32)",
        "",
        SharedCacheSuite.check_an_entry_of_another_incarnation_is_not_withdrawn,
    ),
]
ANSWERS: list[tuple[str, str, Check]] = [
    (
        "mark is not None and view.trusts(mark)",
        "mark is not None",
        SharedCacheSuite.check_an_untrusted_watermark_hides_the_node,
    ),
    (
        "        if not self.trusted:\n            return self.nothing\n",
        "",
        SharedCacheSuite.check_an_untrusting_reader_waits_for_nobody,
    ),
    ("or entry.incarnation != self._incarnation", "", SharedCacheSuite.check_another_incarnation_is_absent),
    ("max(self._coherence.shared_floor(kind), ", "max(0, ", SharedCacheSuite.check_an_older_generation_is_absent),
    (
        "floor(kind), self.nothing.generation)",
        "floor(kind), 0)",
        SharedCacheSuite.check_an_entry_below_the_nodes_generation_is_absent,
    ),
    (
        "or entry.version < self._fenced(key)",
        "",
        SharedCacheSuite.check_a_value_below_the_readers_own_fence_is_absent,
    ),
    ("mark.slots != slots", "False", SharedCacheSuite.check_a_watermark_of_other_slots_hides_the_key),
    ("covers(self._mark.slots, slot)", "True", SharedCacheSuite.check_a_watermark_of_other_slots_hides_the_key),
    (
        "left_ms = entry.ttl_ms - age_ms",
        "left_ms = entry.ttl_ms",
        SharedCacheSuite.check_what_is_left_of_the_ttl_is_handed_on,
    ),
]


class Mutated(RedisHarness):
    """L2 with one of its scripts changed."""

    def __init__(self, healthy: RedisHarness, change: Callable[[RedisL2], None]) -> None:
        super().__init__(healthy.connection, healthy.prefix)
        self._change = change

    def open(self, **lifetimes: float) -> RedisL2:
        """Both sides of it."""
        l2 = super().open(**lifetimes)
        self._change(l2)
        return l2


def mutated(name: str, healthy: str, mutant: str) -> Script:
    """A script with one place of it changed."""
    script = Script(name)
    mutate(script, healthy, mutant)
    return script


async def assert_caught(check: Check, harness: RedisHarness) -> None:
    """The check fails under this harness."""
    kind = next(each for each in (SharedCacheSuite, FenceSinkSuite) if hasattr(each, check.__name__))
    with pytest.raises(AssertionError):
        await check(kind(harness))


@pytest.mark.parametrize(("healthy", "mutant", "check"), READ)
async def test_a_rule_of_reading(healthy: str, mutant: str, check: Check, l2_harness: RedisHarness) -> None:
    """Without it, its check fails."""
    mutant_script = mutated("read", healthy, mutant)
    await assert_caught(check, Mutated(l2_harness, lambda l2: setattr(l2.cache, "_read", mutant_script)))


@pytest.mark.parametrize(("healthy", "mutant", "check"), FILL)
async def test_a_rule_of_filling(healthy: str, mutant: str, check: Check, l2_harness: RedisHarness) -> None:
    """Without it, its check fails."""
    mutant_script = mutated("fill", healthy, mutant)
    await assert_caught(check, Mutated(l2_harness, lambda l2: setattr(l2.cache, "_fill", mutant_script)))


@pytest.mark.parametrize(("healthy", "mutant", "check"), ADVANCE)
async def test_a_rule_of_fencing(healthy: str, mutant: str, check: Check, l2_harness: RedisHarness) -> None:
    """Without it, its check fails."""
    mutant_script = mutated("advance", healthy, mutant)
    await assert_caught(check, Mutated(l2_harness, lambda l2: setattr(l2.sink, "_advance", mutant_script)))


@pytest.mark.parametrize(("healthy", "mutant", "check"), WITHDRAW)
async def test_a_rule_of_withdrawing(healthy: str, mutant: str, check: Check, l2_harness: RedisHarness) -> None:
    """Without it, its check fails."""
    mutant_script = mutated("withdraw", healthy, mutant)
    await assert_caught(check, Mutated(l2_harness, lambda l2: setattr(l2.cache, "_withdraw", mutant_script)))


@pytest.mark.parametrize(("healthy", "mutant", "check"), ANSWERS)
async def test_a_rule_of_judging(
    healthy: str, mutant: str, check: Check, l2_harness: RedisHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, its check fails."""
    source = inspect.getsource(l2_answers)
    assert source.count(healthy) == 1, f"the mutation no longer applies: {healthy!r}"
    module = types.ModuleType("mutated")
    exec(compile(source.replace(healthy, mutant), "mutated", "exec"), module.__dict__)  # noqa: S102 - our own source
    monkeypatch.setattr(l2_redis, "Judge", module.Judge)
    await assert_caught(check, l2_harness)


@pytest.mark.parametrize("lost", ["coherence.highest", "fill.absent.generation"])
async def test_an_entry_without_the_highest_generation(
    lost: str, l2_harness: RedisHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C4: an entry that carries only L3's generation, or only the node's, fails the check of both."""
    source = inspect.getsource(l2_redis.RedisCache._entry)
    healthy = "max(coherence.highest, fill.absent.generation)"
    assert source.count(healthy) == 1, "the mutation no longer applies"
    names: dict[str, Any] = dict(vars(l2_redis))
    text = "from __future__ import annotations\nclass Mutant:\n" + source.replace(healthy, healthy.replace(lost, "0"))
    exec(compile(text, "mutated", "exec"), names)  # noqa: S102 - our own source
    monkeypatch.setattr(l2_redis.RedisCache, "_entry", names["Mutant"]._entry)
    await assert_caught(SharedCacheSuite.check_an_entry_carries_the_highest_generation, l2_harness)
