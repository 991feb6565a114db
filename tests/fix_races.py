"""Servers over given tiers, and mutants of the mechanisms that close races."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from holdfast.keys import Key
from holdfast.tiers.l1_local import LocalCache
from holdfast.tiers.l2_client import Script
from holdfast.tiers.l2_redis import RedisCache

KEY = Key("bot", "b1")


class NoTickets(LocalCache):
    """Mutant: a fill counts as begun just now, so no fence refuses it."""

    def fill(self, key, value, version, *, ticket, read_at, ttl_seconds):  # type: ignore[no-untyped-def]
        return super().fill(key, value, version, ticket=self.ticket(), read_at=read_at, ttl_seconds=ttl_seconds)


def mutate(script: Script, healthy: str, mutant: str) -> None:
    """Change one place of a Lua script."""
    source = script.source.decode()
    assert source.count(healthy) == 1, f"the mutation no longer applies: {healthy!r}"
    script.source = source.replace(healthy, mutant).encode()
    script.digest = hashlib.sha1(script.source, usedforsecurity=False).hexdigest()


def plain_set(cache: RedisCache) -> None:
    """Mutant: a fill overwrites whatever is there."""
    mutate(cache._fill, "if not (same and above(held, entry)) then", "if true then")


def no_age_check(cache: RedisCache) -> None:
    """Mutant: a fill may be as old as it likes."""
    mutate(cache._fill, "age >= 0 and age <= age_max", "age >= 0")


def fences_lower(cache: RedisCache) -> None:
    """Mutant: a late fence of an old version replaces a newer one."""
    mutate(cache._fence, "if not same or below(held, fence) then", "if true then")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so; the test's own timeout is the deadline."""
    while not await condition():
        pass
