"""Batched reads of L2 on the three-node cluster against valkey-glide, one GET for each read, both with 64 callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from benchmarks.context import Context
from benchmarks.documents import SIZES, documents_of, kind_of, size_text
from benchmarks.measuring import Limit, Result, Side, Work, compare
from holdfast.keys import Key, redis_key
from holdfast.protocols import Cached
from holdfast.resolution import BATCH_KEYS_MAX, L2_BATCHES_MAX, L2_LANES, OVERLAP_SECONDS
from holdfast.tiers.batching import Batcher

CALLERS = 64
KEYS = 16  # for each caller, of its own: a key asked for twice at once would be read once
REPEATS = 32  # a round of a third of a second: after a shorter one's change of sides the machine has not settled
TRUST_SECONDS = 20.0

K = TypeVar("K", Key, bytes)


async def run(context: Context) -> list[Result]:
    """The limit holds for documents that are stored as they are; above 1 KB ours are unpacked, and theirs are not."""
    results = []
    for size in SIZES:
        keys = await _fill(context, size)
        names = [redis_key(context.prefix, key) for key in keys]
        unbatched = Side("valkey-glide, `get`", _callers(context.glide.get, names))
        limit = Limit("at least", 2.5) if size == min(SIZES) else Limit("none")
        batched = Side("`RedisCache.read` behind a `Batcher`", _callers(_Reader(context).read, keys))
        name = f"L2 read, {size_text(size)}"
        results.append(await compare(name, "reads", batched, unbatched, limit=limit))
        resolver = context.flows.resolver
        missed = context.flows.counters.l2.misses
        resolved = Side("the resolver, documents made and put into L1", _callers(resolver.load, keys))
        results.append(await compare(f"{name}, to the document", "reads", resolved, unbatched, limit=Limit("none")))
        assert context.flows.counters.l2.misses == missed, "a read missed L2"
    return results


async def _fill(context: Context, size: int) -> list[Key]:
    """Documents in L3 and L2, as reads leave them there: the verifier looks into L3 meanwhile."""
    kind = kind_of(size)
    documents = {f"l2-{size}-{name}": each for name, each in documents_of(size, CALLERS * KEYS).items()}
    await context.flows.store.collection(kind).put_many(documents)
    keys = [Key(kind.name, identifier) for identifier in documents]
    async with asyncio.timeout(TRUST_SECONDS):  # until the relay has fenced the puts, and this server trusts each node
        while not await _all_in_l2(context, keys):
            await asyncio.gather(*map(context.flows.resolver.load, keys))
            await asyncio.sleep(TRUST_SECONDS / 1000)
    return keys


async def _all_in_l2(context: Context, keys: Sequence[Key]) -> bool:
    answers = await context.l2.read(keys, context.flows.view, lease=False)
    return all(type(each) is Cached for each in answers.values())


class _Reader:
    """Reads single keys in batches, the way the resolver does, and goes no further."""

    def __init__(self, context: Context) -> None:
        self._l2 = context.l2
        self._view = context.flows.view
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[tuple[Key, asyncio.Future[Any]]] = Batcher(
            self._answer,
            items_max=BATCH_KEYS_MAX,
            batches_max=L2_BATCHES_MAX,
            overlap_seconds=OVERLAP_SECONDS,
            lanes=L2_LANES,
        )

    def read(self, key: Key) -> asyncio.Future[Any]:
        answered: asyncio.Future[Any] = self._loop.create_future()
        self._batcher.add((key, answered))
        return answered

    async def _answer(self, items: list[tuple[Key, asyncio.Future[Any]]]) -> None:
        answers = await self._l2.read([key for key, _ in items], self._view)
        for key, answered in items:
            answer = answers[key]
            assert type(answer) is Cached, "a read missed L2, or failed"
            answered.set_result(answer)


def _callers(read: Callable[[K], Awaitable[object]], keys: Sequence[K]) -> Work:
    """64 tasks at once, each with keys of its own, one read after the other."""

    async def call(own: Sequence[K]) -> None:
        for _ in range(REPEATS):
            for key in own:
                await read(key)

    async def work() -> int:
        await asyncio.gather(*(call(keys[caller::CALLERS]) for caller in range(CALLERS)))
        return len(keys) * REPEATS

    return work
