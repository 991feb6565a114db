"""Two servers for scopes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from fix_clock import Ticking
from fix_loop import settle
from fix_races import until
from holdfast import Bot, Caching, Kind
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN
from holdfast.settings import Settings
from holdfast.testing import MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows

OLD, NEW = Bot(name="old"), Bot(name="new")
KEY = Key("bot", "b1")
SMALL = Kind("small", Bot, caching=Caching(l1_entries_max=1))


class Pair:
    """Two servers.

    Attributes:
        a, b: their insides.
        hearing: the feed of each.
    """

    def __init__(self) -> None:
        self.clock = Ticking()
        self.l3 = MemoryStorage([*BUILT_IN, SMALL])
        self.l2 = MemoryCache(self.clock)
        self.hearing = [MemoryFeed(self.l3), MemoryFeed(self.l3)]
        self.a: Flows
        self.b: Flows

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect both."""
        self.a, self.b = [
            await stack.enter_async_context(
                connect_flows(kinds=[SMALL], l2=self.l2, l3=self.l3, feed=feed, clock=self.clock, settings=Settings())
            )
            for feed in self.hearing
        ]

    async def hold(self, server: int) -> None:
        """Let a server hear nothing from now on; its lease holds."""
        await until((self.a, self.b)[server].feed.refresh)
        self.hearing[server].hold()
        await settle()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        found = Pair()
        await found.start(stack)
        await found.a.store.bots.put("b1", OLD)
        assert await found.b.store.bots.get("b1") == OLD
        yield found
        for feed in found.hearing:
            feed.release()
