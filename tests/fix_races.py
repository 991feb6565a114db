"""Waiting for what L2 was told, and mutants of the mechanisms that close races."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from glide import RequestError

from holdfast.errors import TierError
from holdfast.flows import Flows
from holdfast.keys import Key, redis_key
from holdfast.protocols import FenceSink, Watermark
from holdfast.protocols.guards import TierState
from holdfast.tiers.codec import WireEntry
from holdfast.tiers.l1_local import LocalCache
from holdfast.tiers.l2_fences import RedisFences
from holdfast.tiers.l2_redis import RedisCache
from holdfast.tiers.l2_scripts import Script

KEY = Key("bot", "b1")
DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.002
"""Between two looks, so that those who are waited for get their turn."""


class NoTickets(LocalCache):
    """Mutant: a fill counts as begun just now, so no fence refuses it."""

    def fill(self, key, value, version, *, ticket, **facts):  # type: ignore[no-untyped-def]
        return super().fill(key, value, version, ticket=self.ticket(), **facts)


def mutate(script: Script, healthy: str, mutant: str) -> None:
    """Change one place of a Lua script."""
    source = script.source.decode()
    assert source.count(healthy) == 1, f"the mutation no longer applies: {healthy!r}"
    script.source = source.replace(healthy, mutant).encode()
    script.digest = hashlib.sha1(script.source, usedforsecurity=False).hexdigest()


def healthy(_cache: RedisCache, _fences: RedisFences) -> None:
    """Not a mutant."""


def plain_set(cache: RedisCache, _fences: RedisFences) -> None:
    """Mutant: a fill overwrites whatever is there."""
    mutate(cache._fill, "if same and above(held, entry) then return false end", "")


def no_age_check(cache: RedisCache, _fences: RedisFences) -> None:
    """Mutant: a fill may be as old as it likes."""
    mutate(cache._fill, "age < 0 or age > age_max", "age < 0")


def fences_lower(_cache: RedisCache, fences: RedisFences) -> None:
    """Mutant: a late fence of an old version replaces a newer one."""
    mutate(fences._advance, "if not same or below(held, fence) then", "if true then")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - there is no event: what is waited for is elsewhere
            await asyncio.sleep(LOOK_SECONDS)


async def until_new(is_new: Callable[[], Awaitable[bool]], committed_at: float, bound_seconds: float = 0.25) -> None:
    """Read until the answer is new; no old one may have been asked for later than the bound after the commit.

    Args:
        committed_at: seconds of the running loop's clock.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            began = loop.time()
            if await is_new():
                return
            assert began <= committed_at + bound_seconds, f"the past, {began - committed_at:.3f} s after the commit"
            await asyncio.sleep(0)


async def until_l2_is_trusted(*servers: Flows) -> None:
    """Wait until each of these servers would believe every node of L2; one of them must be able to lead."""
    sink = next(flows.relay._sink for flows in servers if flows.relay is not None)

    async def trusted() -> bool:
        marks = await watermarks(sink)
        is_there = all(flows.health.health().l2.state is TierState.THERE for flows in servers)
        return is_there and all(
            mark is not None and all(flows.view.trusts(mark) for flows in servers) for mark in marks
        )

    await until(trusted)


async def watermarks(sink: FenceSink) -> list[Watermark | None]:
    """Those of all nodes; None for a node that has none, or does not answer."""
    try:
        return [await sink.watermark(target) for target in await sink.targets()]
    except TierError:
        return [None]


async def until_l2_was_told(cache: RedisCache, version: int, key: Key = KEY) -> None:
    """Wait until L2 holds a fence, or a value, of at least this version."""

    async def told() -> bool:
        held = await stored(cache, key)
        return held is not None and held.version >= version

    await until(told)


async def stored(cache: RedisCache, key: Key = KEY) -> WireEntry | None:
    """What L2 holds for a key, whether it counts or not; a fence has no row. A mere lease, or a list, is nothing."""
    name = redis_key(cache._prefix, key)
    await cache._connection.topology()
    try:
        data: bytes | None = await cache._connection.command(["GET", name])
    except RequestError:
        return None
    return None if data is None or data[32:40] == bytes(8) else cache._codec.decode(name, data)
