"""Reads of a server whose L2 is dead: from memory against one that has L2, and cold ones against bare reads of L3."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

import holdfast
from benchmarks.context import Context
from benchmarks.documents import documents_of
from benchmarks.measuring import Limit, Result, Side, Work, compare
from holdfast import Collection, Swarm
from holdfast.kinds import SWARM
from holdfast.recovery.modes import Mode
from holdfast.testing.server_controls import ServerControls
from holdfast.tiers.l3_statements import quote

BYTES = 1700
WARM = 500
WARM_READS = 20_000
COLD = 3000
"""More than L1 takes: read in turns, each is evicted before it is read again."""
COLD_READS = 512
CONNECTIONS = 20
AWAY_SECONDS = 20.0


async def run(context: Context) -> list[Result]:
    """From memory by one caller; cold ones by one, one read after the other, and by 64 at once."""
    documents = documents_of(BYTES, COLD)
    await context.flows.store.swarms.put_many(documents)
    names = sorted(documents)
    warm, cold = names[:WARM], names[WARM:]
    async with _without_l2(context) as without, _connections(context) as bare:
        results = [
            await compare(
                "L2 dead: a read from memory, p95",
                "reads",
                Side("`get` of a server whose L2 is dead", await _warm(without.swarms, warm)),
                Side("`get` of a server that has L2", await _warm(context.flows.store.swarms, warm)),
                limit=Limit("at most", 2.0),
            )
        ]
        for callers in (1, 64):
            result = await compare(
                f"L2 dead: cold reads by {callers}, 1.7 KB, p95",
                "reads",
                Side("`get` of a server whose L2 is dead", _cold(without.swarms.get, cold, callers)),
                Side(f"asyncpg, `fetchrow` by id, {CONNECTIONS} held connections", _cold(bare, cold, callers)),
                limit=Limit("at most", 3.0),
            )
            results.append(result)
        assert without.health().mode is Mode.L2_BYPASSED
    return results


@asynccontextmanager
async def _without_l2(context: Context) -> AsyncIterator[holdfast.StateStore]:
    """Another server over the same L3, which had an L2 of its own until that was killed."""
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        async with ServerControls(Path(folder) / "servers") as servers:
            nodes = [name for name in servers.names if name.startswith("valkey")]
            settings = msgspec.structs.replace(context.settings, redis_urls=tuple(map(servers.url, nodes)))
            async with holdfast.connect(settings) as store:
                await asyncio.gather(*map(servers.kill, nodes))
                async with asyncio.timeout(AWAY_SECONDS):
                    while store.health().mode is not Mode.L2_BYPASSED:  # noqa: ASYNC110 - a server killed tells nobody
                        await asyncio.sleep(0.05)
                yield store


async def _warm(swarms: Collection[Swarm], names: Sequence[str]) -> Work:
    await swarms.get_many(names)

    async def work() -> list[float]:
        return [await _timed(swarms.get, name) for name in islice(cycle(names), WARM_READS)]

    return work


def _cold(read: Callable[[str], Awaitable[object]], names: Sequence[str], callers: int) -> Work:
    turn: Iterator[str] = cycle(names)

    async def call() -> list[float]:
        return [await _timed(read, name) for name in islice(turn, COLD_READS // callers)]

    async def work() -> list[float]:
        return list(chain.from_iterable(await asyncio.gather(*(call() for _ in range(callers)))))

    return work


@asynccontextmanager
async def _connections(context: Context) -> AsyncIterator[Callable[[str], Awaitable[object]]]:
    """Bare reads, each by one of some held connections, as many as a server of Holdfast has."""
    columns = "id, version, birth, schema, document"
    statement = f"SELECT {columns} FROM holdfast.{quote(SWARM.table)} WHERE id = $1"  # noqa: S608 - a kind's table
    idle: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = await asyncpg.connect(context.settings.postgres_url)
            stack.push_async_callback(connection.close)
            idle.put_nowait(connection)

        async def read(name: str) -> Any:
            connection = await idle.get()
            try:
                return await connection.fetchrow(statement, name)
            finally:
                idle.put_nowait(connection)

        yield read


async def _timed(read: Callable[[str], Awaitable[object]], name: str) -> float:
    begun = time.perf_counter()
    found = await read(name)
    seconds = time.perf_counter() - begun
    assert found is not None, "a read missed L3"
    return seconds
