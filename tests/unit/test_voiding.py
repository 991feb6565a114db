"""Invalidation on demand: what is named is read from L3 again, by every server, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fix_loop import settle
from fix_voids import (
    KEY,
    NEW,
    OLD,
    OTHER,
    change_unnoticed,
    fleet,
    forget_entries,
    forget_l1,
    name_of,
    one_more,
    swarm,
    until_trusted,
)
from holdfast import Bot, InvalidKey, SettingsError, Tier
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Invalidation, Target
from holdfast.tags import TAGS_MAX
from holdfast.testing import PausingStorage

BOT = Key("bot", "b1")
ADA, EVE = swarm(OLD, "ada"), swarm(OLD, "eve")
Invalidate = Callable[[Flows], Awaitable[Invalidation]]


def by_tag(flows: Flows, tag: str = "bot:ada") -> Awaitable[Invalidation]:
    return flows.store.invalidate(tag=tag, reason="a test")


def by_key(flows: Flows) -> Awaitable[Invalidation]:
    return flows.store.swarms.invalidate("s1", reason="a test")


def by_kind(flows: Flows) -> Awaitable[Invalidation]:
    return flows.store.invalidate(kind="swarm", reason="a test")


def everything(flows: Flows) -> Awaitable[Invalidation]:
    return flows.store.invalidate(all=True, reason="a test")


async def names(flows: Flows) -> list[str | None]:
    """What a server reads of the two swarms and the bot."""
    return [await name_of(flows, key) for key in (KEY, OTHER, BOT)]


@pytest.mark.parametrize(
    ("invalidate", "scope", "left"),
    [
        (by_tag, "tag:bot:ada", [NEW, OLD, OLD]),
        (by_key, "swarm:s1", [NEW, OLD, OLD]),
        (by_kind, "kind:swarm", [NEW, NEW, OLD]),
        (everything, "all", [NEW, NEW, NEW]),
    ],
)
async def test_what_is_named_is_read_anew_and_nothing_else(invalidate: Invalidate, scope: str, left: list[str]) -> None:
    """By the server that did it when the call returns, by the others with the next poll, from L1 and from L2."""
    async with fleet((KEY, ADA), (OTHER, EVE), (BOT, Bot(name=OLD))) as servers:
        done = await invalidate(servers.one)
        assert (done.scope, done.reason, done.actor) == (scope, "a test", "a server")
        assert await names(servers.one) == left
        await servers.two.feed.refresh()
        assert await names(servers.two) == left
        async with one_more(servers.l2, servers.l3, servers.clock) as three:
            assert await names(three) == left


async def test_a_tag_sweeps_l1() -> None:
    """L1 answers with no document that has the tag, though nothing of the document changed."""
    async with fleet((KEY, ADA), (OTHER, EVE)) as servers:
        await by_tag(servers.one)
        await servers.two.feed.refresh()
        for flows in (servers.one, servers.two):
            assert flows.store.swarms.peek("s1") is None
            held = flows.store.swarms.peek("s2")
            assert held is not None
            assert held.name == OLD


async def test_l2_answers_with_nothing_that_a_tag_voids() -> None:
    """A server that holds nothing believes only what was filled after the tag was raised; then it does again."""
    async with fleet((KEY, ADA)) as servers:
        await by_tag(servers.one)
        for flows in (servers.two, servers.one):
            await flows.feed.refresh()
            forget_l1(flows)
            assert await name_of(flows) == NEW
            await flows.resolver.drain()
        forget_l1(servers.two)
        await until_trusted(servers.l2, servers.two, servers.clock)
        entry = await servers.two.store.swarms.entry("s1")
        assert entry is not None
        assert (entry.value.name, entry.tier) == (NEW, Tier.L2)


async def test_tags_that_were_forgotten_void_all_that_has_tags() -> None:
    """A server that never heard of a tag, since L3 has forgotten it, believes nothing in L2 that may have it."""
    async with fleet((KEY, ADA), (BOT, Bot(name=OLD)), tags_max=10) as servers:
        await by_tag(servers.one)
        for number in range(30):
            await by_tag(servers.one, f"other {number}")
        async with one_more(servers.l2, servers.l3, servers.clock) as three:
            assert [await name_of(three, key) for key in (KEY, BOT)] == [NEW, OLD]


async def test_a_server_that_missed_a_forgotten_tag_drops_all_that_has_tags() -> None:
    """While its feed was deaf the tag was raised, and forgotten: its L1 must not go on with what has tags."""
    async with fleet((KEY, ADA), (BOT, Bot(name=OLD)), tags_max=10) as servers:
        for tag in ("bot:ada", *(f"other {number}" for number in range(30))):
            servers.l3.void(Target(tag=tag))
        assert "bot:ada" not in servers.l3.log.voids.tags
        await servers.two.feed.refresh()
        assert [await name_of(servers.two, key) for key in (KEY, BOT)] == [NEW, OLD]


async def test_a_load_that_began_before_the_tag_was_raised_fills_nothing() -> None:
    """What was read before and arrives afterwards goes to its callers, and is in no cache after that."""
    async with fleet((KEY, ADA)) as servers:
        slow = PausingStorage(servers.l3)
        async with one_more(servers.l2, servers.l3, servers.clock, slow) as three:
            servers.l2.forget()
            pause = slow.pause_next_load()
            reading = asyncio.ensure_future(three.store.swarms.get("s1"))
            await pause.reached.wait()
            await by_tag(servers.one)
            await three.feed.refresh()
            pause.release()
            assert await reading is not None
            assert three.store.swarms.peek("s1") is None


async def test_a_load_that_tells_of_a_newer_generation_fills_l2_under_it() -> None:
    """A write anywhere may raise one between miss and load; if nothing were filled, all others would wait in vain."""
    async with fleet((KEY, ADA), (OTHER, EVE)) as servers:
        forget_entries(servers.l2)
        forget_l1(servers.two)
        servers.l3.void(Target(tag="bot:ada"))
        assert await name_of(servers.two) == NEW  # its miss is from before it heard of the tag
        await servers.two.resolver.drain()
        await servers.one.feed.refresh()
        forget_l1(servers.one)
        entry = await servers.one.store.swarms.entry("s1")
        assert entry is not None
        assert (entry.value.name, entry.tier) == (NEW, Tier.L2)


@pytest.mark.parametrize("invalidate", [by_tag, by_key, by_kind, everything])
async def test_a_load_from_before_a_generation_fills_l2_with_nothing_that_counts(invalidate: Invalidate) -> None:
    """The entry is of the generations of its own snapshot, whatever its server was told since."""
    async with fleet((KEY, ADA)) as servers:
        slow = PausingStorage(servers.l3)
        async with one_more(servers.l2, servers.l3, servers.clock, slow) as three:
            forget_entries(servers.l2)
            change_unnoticed(servers.l3, KEY, ADA)
            pause = slow.pause_next_load()
            early = asyncio.ensure_future(name_of(three))
            await pause.reached.wait()
            change_unnoticed(servers.l3, KEY, swarm(NEW, "ada"))
            await invalidate(servers.one)
            await three.feed.refresh()
            pause.release()
            assert await early == OLD
            await three.resolver.drain()
            forget_l1(servers.one)
            assert [await name_of(flows) for flows in (three, servers.one)] == [NEW, NEW]


async def test_a_reader_after_the_tag_was_raised_joins_no_load_begun_before_it() -> None:
    """Its own load begins then."""
    async with fleet((KEY, ADA)) as servers:
        slow = PausingStorage(servers.l3)
        async with one_more(servers.l2, servers.l3, servers.clock, slow) as three:
            servers.l2.forget()
            change_unnoticed(servers.l3, KEY, ADA)
            pause = slow.pause_next_load()
            early = asyncio.ensure_future(three.store.swarms.get("s1"))
            await pause.reached.wait()
            change_unnoticed(servers.l3, KEY, swarm(NEW, "ada"))
            await by_tag(three)
            late = asyncio.ensure_future(three.store.swarms.get("s1"))
            await settle()
            pause.release()
            found = [await early, await late]
            assert [each.name for each in found if each is not None] == [OLD, NEW]


async def test_a_newest_tag_that_a_load_told_first_is_still_asked_of_the_feed() -> None:
    """A load tells how new the newest tag is, and not which; the feed's next poll tells that all the same."""
    async with fleet((KEY, ADA), (OTHER, EVE)) as servers:
        number = servers.l3.void(Target(tag="bot:ada")).number
        assert await servers.two.store.swarms.get("none") is None
        assert servers.two.view.coherence.tag == number
        await servers.two.feed.refresh()
        assert [await name_of(servers.two, key) for key in (KEY, OTHER)] == [NEW, OLD]


async def test_a_document_of_very_many_tags_is_void_with_any() -> None:
    """It is not refused, and costs a read more."""
    many = swarm(OLD, *(f"bot {number}" for number in range(TAGS_MAX + 1)))
    async with fleet((KEY, many), (OTHER, EVE)) as servers:
        await by_tag(servers.one, "whatever")
        assert await servers.one.feed.refresh()  # what it wrote itself it asks L2 for again
        forget_l1(servers.one)
        assert [await name_of(servers.one, key) for key in (KEY, OTHER)] == [NEW, OLD]


async def test_a_server_remembers_no_more_tags_than_l3() -> None:
    """However many are raised, each known to it at some time."""
    async with fleet(tags_max=10) as servers:
        for number in range(200):
            await by_tag(servers.one, f"tag {number}")
            await servers.two.feed.refresh()
            assert max(servers.one.view.tags_known, servers.two.view.tags_known, len(servers.l3.log.voids.tags)) <= 11


async def test_a_new_incarnation_empties_the_tags_too() -> None:
    """Their numbers are of a past: tags of the new one are told from its beginning."""
    async with fleet((KEY, ADA)) as servers:
        await by_tag(servers.one, "x")
        servers.l3.crash()
        servers.l3.void(Target(tag="y"))
        await servers.two.feed.refresh()
        assert servers.two.view.void_below(["x"]) == servers.l3.log.voids.tags["x"]
        assert servers.two.view.void_below(["y"]) == servers.l3.log.voids.tags["y"]


async def test_who_did_it_and_why_is_kept() -> None:
    """The newest first; by default it was the server."""
    async with fleet() as servers:
        await servers.one.store.invalidate(kind="bot", reason="a new model", actor="ada@desk")
        await servers.two.store.bots.invalidate("b1", reason="a doubt")
        told = [(each.scope, each.reason, each.actor) for each in await servers.l3.invalidations(10)]
        assert told == [("bot:b1", "a doubt", "a server"), ("kind:bot", "a new model", "ada@desk")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of"),
        ({"kind": "bot", "all": True}, "exactly one of"),
        ({"kind": "bot", "tag": "x"}, "exactly one of"),
        ({"kind": "bott"}, "kind bott is not known here; known are bot, delivery, escalation, export, review, routine"),
        ({"tag": ""}, "a tag must not be empty"),
        ({"tag": "x" * 554}, "554 bytes; at most 553"),
        ({"all": True, "reason": " "}, "reason is a text of 1 to 1000"),
        ({"all": True, "reason": "a\0b"}, "reason holds NUL"),
        ({"all": True, "actor": "x" * 1001}, "actor is a text of 1 to 1000"),
    ],
)
async def test_what_cannot_be_done_is_refused_in_words(arguments: dict[str, Any], words: str) -> None:
    """Before anything is asked of L3."""
    async with fleet() as servers:
        with pytest.raises((SettingsError, InvalidKey), match=words):
            await servers.one.store.invalidate(**{"reason": "a test", **arguments})
        with pytest.raises(InvalidKey, match="an id must not be empty"):
            await servers.one.store.bots.invalidate("", reason="a test")
        assert not await servers.l3.invalidations(10)


async def test_a_cancelled_caller_leaves_nothing_half_told() -> None:
    """What was sent is applied here all the same."""
    async with fleet((KEY, ADA)) as servers:
        calling = asyncio.ensure_future(by_tag(servers.one))
        await asyncio.sleep(0)
        calling.cancel()
        await servers.one.writer.drain()
        assert calling.cancelled()
        assert servers.l3.log.voids.records
        assert await name_of(servers.one) == NEW
