"""`peek` against reading a bare dict."""

from __future__ import annotations

from benchmarks.context import Context
from benchmarks.documents import documents_of
from benchmarks.measuring import Limit, Result, Side, compare

BYTES = 2000
DOCUMENTS = 256
REPEATS = 500


async def run(context: Context) -> list[Result]:
    """The same ids in the same order; the loop around the reads is part of both.

    The reads never let the event loop run, so the feed lease is renewed before each of our turns.
    """
    swarms = context.flows.store.swarms
    documents = documents_of(BYTES, DOCUMENTS)
    await swarms.put_many(documents)
    order = list(documents) * REPEATS

    async def ours() -> int:
        peek = swarms.peek
        for identifier in order:
            peek(identifier)
        return len(order)

    async def theirs() -> int:
        bare = documents
        for identifier in order:
            bare[identifier]
        return len(order)

    result = await compare(
        "peek, 2 KB",
        "reads",
        Side("`swarms.peek(id)`", ours, ready=context.flows.feed.refresh),
        Side("`documents[id]` of a dict", theirs),
        limit=Limit("at most", 12),
    )
    await context.flows.feed.refresh()
    assert swarms.peek(order[0]) is documents[order[0]], "L1 lost what it was given"
    return [result]
