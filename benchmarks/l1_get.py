"""A hit of L1 through the door, awaited, against the memory backend of cashews."""

from __future__ import annotations

from cashews import Cache

from benchmarks.context import Context
from benchmarks.documents import documents_of
from benchmarks.measuring import Limit, Result, Side, compare

BYTES = 2000
DOCUMENTS = 256
REPEATS = 200
TTL_SECONDS = 300


async def run(context: Context) -> list[Result]:
    """Both hold the same documents for the same time and are asked for the same ids in the same order.

    Hits never let the event loop run, so the feed lease is renewed before each of our turns.
    """
    swarms = context.flows.store.swarms
    documents = documents_of(BYTES, DOCUMENTS)
    await swarms.put_many(documents)
    cashews = Cache()
    cashews.setup("mem://")
    for identifier, document in documents.items():
        await cashews.set(identifier, document, expire=TTL_SECONDS)
    order = list(documents) * REPEATS

    async def ours() -> int:
        for identifier in order:
            await swarms.get(identifier)
        return len(order)

    async def theirs() -> int:
        for identifier in order:
            await cashews.get(identifier)
        return len(order)

    asked = context.flows.counters.l2.round_trips
    result = await compare(
        "awaited L1 hit, 2 KB",
        "reads",
        Side("`await swarms.get(id)`", ours, ready=context.flows.feed.refresh),
        Side("cashews, `mem://`: `await cache.get(id)`", theirs),
        limit=Limit("at least", 10),
    )
    assert context.flows.counters.l2.round_trips == asked, "a read went past L1"
    assert await cashews.get(order[0]) == documents[order[0]], "cashews lost what it was given"
    await cashews.close()
    return [result]
