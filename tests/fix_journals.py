"""`JournalServers` for the suite of its contract: in memory, and on Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from holdfast import Settings
from holdfast.adapters import redis_connection
from holdfast.clock import SystemClock
from holdfast.testing import JournalHub, MemoryJournals
from holdfast.tiers.l2_journal import RedisJournals
from holdfast.tiers.l2_journal_entries import names_of
from holdfast.tiers.l2_secured import SecuredCalls


class MemoryServers:
    """`JournalServers` in memory."""

    def __init__(self) -> None:
        self.hub = JournalHub()

    def streams(self) -> MemoryJournals:
        return MemoryJournals(self.hub)

    async def lose(self, journal: str, *, back_to: int) -> None:
        self.hub.lose(journal, back_to=back_to)


class RedisServers:
    """`JournalServers` on Valkey.

    Args:
        stack: closes the journals.
        mutation: done to each of them.
    """

    def __init__(
        self, settings: Settings, stack: AsyncExitStack, mutation: Callable[[RedisJournals], None] = lambda _: None
    ) -> None:
        self.settings = settings
        self.stack = stack
        self.mutation = mutation

    def streams(self) -> RedisJournals:
        streams = journals(self.settings, self.stack)
        self.mutation(streams)
        return streams

    async def lose(self, journal: str, *, back_to: int) -> None:
        state, entries = names_of(self.settings.key_prefix.encode(), journal)
        streams = self.streams()
        client = await streams._clients._connection.client()
        found = await streams.read(journal, after=0, limit=1000)
        await client.custom_command(["DEL", entries])
        for seq, body in found:
            if seq <= back_to:
                await client.custom_command(["XADD", entries, f"{seq}-0", "e", body])
        await client.custom_command(["HSET", state, "last", str(back_to)])


def journals(settings: Settings, stack: AsyncExitStack, *, replicas: int = 1) -> RedisJournals:
    """The journals of one more server."""
    ordinary, secured = (redis_connection(settings, SystemClock()) for _ in range(2))
    streams = RedisJournals(
        ordinary,
        SecuredCalls(secured, sleep=asyncio.sleep, replicas=replicas, attempts=10),
        prefix=settings.key_prefix.encode(),
        sleep=asyncio.sleep,
    )
    for close in (ordinary.close, secured.close, streams.close):  # the last one first
        stack.push_async_callback(close)
    return streams
