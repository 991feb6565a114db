"""Documents that changed though nothing told of it, so that only an invalidation brings the new ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import msgspec

from fix_clock import Ticking
from fix_races import until
from holdfast.documents import BotParticipant, Swarm, encode
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Storage
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_cache import Contents

OLD, NEW = "old", "new"
KEY, OTHER = Key("swarm", "s1"), Key("swarm", "s2")


def swarm(name: str, *bots: str) -> Swarm:
    """A swarm of these bots."""
    return Swarm(name=name, participants=[BotParticipant(id=bot) for bot in bots])


def change_unnoticed(l3: MemoryStorage, key: Key, document: Any) -> None:
    """Have L3 hold another document at the same version, as if no trigger had fired."""
    l3.log.rows[key] = msgspec.structs.replace(l3.log.rows[key], body=encode(document))


async def name_of(flows: Flows, key: Key = KEY) -> str | None:
    """The name in the document, as a server reads it."""
    found = await flows.store.collections[key.kind].get(key.id)
    return None if found is None else str(found.name)


def forget_l1(flows: Flows) -> None:
    """Let the next reads ask L2."""
    for cache in set(flows.caches.values()):
        cache.flush()


def forget_entries(l2: MemoryCache) -> None:
    """Let L2 hold no entry; its nodes keep their watermarks, so they take fills."""
    l2.restore({name: Contents({}, contents.mark) for name, contents in l2.dump().items()})


class Fleet(NamedTuple):
    """Two servers over one L2 and one L3 in memory."""

    l2: MemoryCache
    l3: MemoryStorage
    clock: ManualClock
    one: Flows
    two: Flows


@asynccontextmanager
async def one_more(
    l2: MemoryCache, l3: MemoryStorage, clock: ManualClock, via: Storage | None = None
) -> AsyncIterator[Flows]:
    """One more server.

    Args:
        via: how it reaches L3.
    """
    async with connect_flows(l2=l2, l3=via or l3, feed=MemoryFeed(l3), clock=clock) as flows:
        await until_trusted(l2, flows, clock)
        yield flows


async def until_trusted(l2: MemoryCache, flows: Flows, clock: ManualClock) -> None:
    """Until a server believes all nodes of L2; time goes on, so that the relay moves their watermarks."""

    async def trusted() -> bool:
        clock.advance(0.1)
        await flows.feed.refresh()
        marks = [contents.mark for contents in l2.dump().values()]
        return all(mark is not None and flows.view.trusts(mark) for mark in marks)

    await until(trusted)


@asynccontextmanager
async def fleet(*documents: tuple[Key, Any], tags_max: int = 100) -> AsyncIterator[Fleet]:
    """Two servers that hold documents in L1, as L2 does; L3 holds them anew, and nobody was told."""
    clock, l3 = Ticking(), MemoryStorage(tags_max=tags_max)
    l2 = MemoryCache(clock)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(one_more(l2, l3, clock)) for _ in range(2)]
        for key, document in documents:
            await servers[0].store.collections[key.kind].put(key.id, document)
        for flows in servers:
            await flows.feed.refresh()
            forget_l1(flows)
            for key, _ in documents:
                assert await name_of(flows, key) == OLD
            await flows.resolver.drain()
        for key, document in documents:
            change_unnoticed(l3, key, msgspec.structs.replace(document, name=NEW))
        yield Fleet(l2, l3, clock, *servers)
