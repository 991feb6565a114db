"""Each rule of the scripts that carry events, switched off: the check that guards it must then fail.

The checks pass on the healthy scripts in `tests/conformance`; each mutant runs on the real cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fix_event_servers import RedisServers
from fix_races import mutate
from holdfast import Settings, TierError
from holdfast.testing.conformance import EventTransportSuite as Suite
from holdfast.tiers.l2_events import RedisEvents

Check = Callable[[Any], Awaitable[None]]

MUTANTS: list[tuple[str, str, str, Check]] = [
    ("append", "elseif lengths[stream] >= ask.max then", "elseif false then", Suite.check_a_full_backlog_refuses),
    (
        "append",
        "if wanted then redis.call(",
        "if false then redis.call(",
        Suite.check_all_that_listen_hear_what_is_sent,
    ),
    (
        "exchange",
        "local goes_on = mine and epoch == ask.epoch",
        "local goes_on = epoch == ask.epoch or ask.owner == 'a'",
        Suite.check_an_owner_that_was_replaced_settles_nothing,
    ),
    (
        "exchange",
        "local is_free = not held[1] or held[1] == '' or tonumber(held[3]) <= now",
        "local is_free = true",
        Suite.check_only_one_owner_at_a_time,
    ),
    ("exchange", "or tonumber(held[3]) <= now", "", Suite.check_a_lease_ends),
    ("exchange", "or held[1] == '' ", "", Suite.check_leaving_lets_another_own_it_at_once),
    ("exchange", "is_anew = not goes_on or ask.renewed", "is_anew = ask.renewed", Suite.check_a_lease_ends),
    (
        "exchange",
        "is_anew = not goes_on or ask.renewed",
        "is_anew = not goes_on",
        Suite.check_what_is_not_settled_is_handed_out_anew_when_asked,
    ),
    (
        "exchange",
        "if goes_on then settle() end",
        "",
        Suite.check_what_is_not_settled_is_handed_out_anew_when_asked,
    ),
    ("exchange", "times[row[1]] or 1", "1", Suite.check_what_is_not_settled_is_handed_out_anew_when_asked),
    ("exchange", "== 1 and found then", "and found then", Suite.check_a_dead_letter_told_twice_is_one),
    (
        "exchange",
        "group, '$', 'MKSTREAM'",
        "group, '0', 'MKSTREAM'",
        Suite.check_what_was_appended_before_a_reader_is_not_for_it,
    ),
    (
        "exchange",
        "'XREADGROUP', 'GROUP', group",
        "'XREADGROUP', 'GROUP', 'one'",
        Suite.check_each_reader_gets_everything,
    ),
    (
        "exchange",
        "redis.call('ZREMRANGEBYSCORE', members, '-inf', now)",
        "",
        Suite.check_one_who_is_gone_is_no_longer_counted,
    ),
    (
        "exchange",
        "for rank = 1, #ask.streams do",
        "for rank = #ask.streams, 1, -1 do",
        Suite.check_events_are_handed_out_by_priority_and_in_order,
    ),
    (
        "exchange",
        "if is_place_lost() then created, is_anew = 1, true end",
        "",
        Suite.check_a_reader_whose_place_is_lost_goes_on,
    ),
    (
        "exchange",
        "created, is_anew = 1, true",
        "created = 1",
        Suite.check_a_reader_whose_place_is_lost_goes_on,
    ),
    (
        "exchange",
        "group, '0', 'MKSTREAM'",
        "group, '$', 'MKSTREAM'",
        Suite.check_a_reader_whose_place_is_lost_goes_on,
    ),
    (
        "sweep",
        "if groups and #groups >= readers then",
        "if groups then",
        Suite.check_what_a_lost_place_needs_is_not_swept,
    ),
    (
        "leave",
        "elseif redis.call('HGET', state, 'owner') == ask.owner then",
        "else",
        Suite.check_one_who_does_not_own_it_cannot_give_it_up,
    ),
    ("leave", "redis.call('DEL', state, members)", "", Suite.check_a_reader_that_ends_is_forgotten),
    ("sweep", "'-inf', now)) do", "'-inf', 0)) do", Suite.check_an_idle_reader_is_forgotten),
    ("sweep", "if group.pending > 0 then", "if false then", Suite.check_a_full_backlog_refuses),
    (
        "sweep",
        "if not low or first < low",
        "if not low or first > low",
        Suite.check_only_what_all_are_done_with_makes_room,
    ),
    ("replay", "'only', letter.reader", "'only', ''", Suite.check_dead_letters_are_kept_replayed_and_discarded),
    ("replay", "if not ends or", "if ends and", Suite.check_a_dead_letter_whose_reader_ended_is_kept),
    ("replay", "or tonumber(ends) <=", "and tonumber(ends) <=", Suite.check_a_dead_letter_whose_reader_ended_is_kept),
    (
        "replay",
        "tonumber(ends) <= time",
        "tonumber(ends) < 0 * time",
        Suite.check_a_dead_letter_whose_reader_was_idle_too_long_is_kept,
    ),
    ("replay", "redis.call('XLEN', stream) >= ask.max", "false", Suite.check_a_dead_letter_without_room_is_kept),
    (
        "replay",
        "redis.call('XDEL', ask.base .. ':dead', ask.letter)",
        "",
        Suite.check_dead_letters_are_kept_replayed_and_discarded,
    ),
]


@pytest.mark.parametrize(("script", "healthy", "mutant", "check"), MUTANTS)
async def test_a_mutant_is_caught(settings: Settings, script: str, healthy: str, mutant: str, check: Check) -> None:
    """The check fails on the mutant, be it by an error of the script."""

    def mutation(transport: RedisEvents) -> None:
        mutate(getattr(transport, f"_{script}"), healthy, mutant)

    async with AsyncExitStack() as stack:
        suite = Suite(RedisServers(settings, stack, mutation))
        suite.deadline_seconds = 1.0
        with pytest.raises((AssertionError, TimeoutError, ValueError, TierError)):
            await check(suite)
