"""Write-behind: what a patch costs its caller, what the journal costs, and how fast L3 takes what was accepted."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from glide import SlotKeyRoute, SlotType

import holdfast
from benchmarks.bare_table import BARE, BareTable
from benchmarks.context import Context, open_context
from benchmarks.documents import documents_of
from benchmarks.measuring import Figure, Limit, Result, Side, compare, steady_collector
from holdfast import Append, Collection, Durability, Increment, Set
from holdfast.documents import Swarm, ToolCallRecord
from holdfast.kinds import SWARM

BYTES = 1700
SWARMS = 1000
PATCHES = 20_000
CALLERS = 64
CALLS = 10
RECORDS = 20
REPLICATED_SECONDS = 20.0
READ = f"SELECT id, document FROM {BARE} WHERE id = ANY($1) ORDER BY id FOR UPDATE"  # noqa: S608 - our own name
WRITE = f"""UPDATE {BARE} t SET document = u.document FROM unnest($1::text[], $2::json[]) AS u (id, document)
WHERE t.id = u.id"""  # noqa: S608 - our own name


async def run(context: Context) -> list[Result | Figure]:
    """A patch on its own, then the flush, then the journal on nodes with a replica each."""
    await context.flows.store.swarms.put_many(documents_of(BYTES, SWARMS))
    accepted = await _accepted(context)
    flushed = await _flushed(context)
    written = await _bytes_written(context)
    elsewhere = await _seen_elsewhere(context)
    async with open_context(replicas=1) as replicated:
        journaled = await _journaled(replicated)
    return [*accepted, *flushed, written, elsewhere, *journaled]


async def _accepted(context: Context) -> list[Figure]:
    """Each patch timed alone, while the flushes of those before go on."""
    swarms, times = context.flows.store.swarms, []
    names = list(documents_of(BYTES, SWARMS))[: SWARMS // 4]
    await swarms.get_many(names)
    with steady_collector():
        for number in range(PATCHES):
            begun = time.perf_counter()
            await swarms.patch(names[number % len(names)], Increment("stats", "total_tool_calls"), durability=ACCEPTED)
            times.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(0)
    assert await context.flows.store.flush() == [], "a patch was lost"
    times.sort()
    return [
        Figure("`patch` at ACCEPTED, 1.7 KB, p50", times[len(times) // 2], 0.05, "ms"),
        Figure("`patch` at ACCEPTED, 1.7 KB, p95", times[len(times) * 95 // 100], 0.5, "ms"),
    ]


async def _flushed(context: Context) -> list[Result]:
    """One small change a swarm: read, changed, checked, encoded, written and told, against the same by hand."""
    store, documents = context.flows.store, documents_of(BYTES, SWARMS)
    bare = BareTable(context, SWARM.table, documents, repeats=1)
    await bare.create()
    await bare.upsert()
    names = sorted(documents)

    async def accept() -> None:
        await bare.vacuum()
        for name in names:
            await store.swarms.patch(name, Increment("stats", "total_tool_calls"), durability=ACCEPTED)

    async def ours() -> int:
        assert await store.flush() == [], "a patch was lost"
        return len(names)

    async def theirs() -> int:
        for start in range(0, len(names), 500):
            async with context.postgres.transaction():
                await _change(context, names[start : start + 500])
        return len(names)

    result = await compare(
        "flush of one change a swarm, 1.7 KB",
        "states",
        Side("`flush()`", ours),
        Side("asyncpg: SELECT FOR UPDATE, json, UPDATE, 500 a transaction", theirs),
        limit=Limit("at least", 0.4, percent=True),
        between=accept,
    )
    return [result]


async def _change(context: Context, names: list[str]) -> None:
    ids, bodies = [], []
    for identifier, document in await context.postgres.fetch(READ, names):
        body = json.loads(document)
        body["stats"]["totalToolCalls"] = body["stats"].get("totalToolCalls", 0) + 1
        ids.append(identifier)
        bodies.append(json.dumps(body))
    await context.postgres.execute(WRITE, ids, bodies)


async def _bytes_written(context: Context) -> Figure:
    """WAL for records appended one by one, over their own bytes: what debouncing leaves of writing it all each time."""
    store = context.flows.store
    names, appended = sorted(documents_of(BYTES, SWARMS))[:100], 0
    before = await context.postgres.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    for number in range(RECORDS):
        for name in names:
            record = ToolCallRecord(id=f"call-{number}", routine_id="r1", params={"query": "write-behind " * 8})
            receipt = await store.swarms.patch(name, Append("records", record), durability=ACCEPTED)
            appended += receipt.size  # type: ignore[attr-defined]  # of its entry
    assert await store.flush() == [], "a patch was lost"
    written = await context.postgres.fetchval(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::float8", before
    )
    return Figure(f"L3's WAL per byte changed, {RECORDS} patches a swarm", written / appended, 4, "bytes")


async def _seen_elsewhere(context: Context) -> Figure:
    """With a scope's token another server reads what was accepted and not flushed: from the token to the value."""
    store, times = context.flows.store, []
    names = list(documents_of(BYTES, SWARMS))
    async with holdfast.connect(context.settings) as other:
        for name in names:
            async with store.scope() as scope:
                await scope.swarms.patch(name, Set("goal", f"{name} elsewhere"), durability=ACCEPTED)
                token = scope.token
            begun = time.perf_counter()
            async with other.scope(token) as there:
                swarm = await there.swarms.get(name)
            times.append((time.perf_counter() - begun) * 1000)
            assert swarm is not None
            assert swarm.goal == f"{name} elsewhere", "an accepted write was not seen"
    assert await store.flush() == [], "a patch was lost"
    times.sort()
    return Figure("unflushed write read elsewhere by a scope's token, p95", times[len(times) * 95 // 100], 20, "ms")


async def _journaled(context: Context) -> list[Result]:
    """Callers who each wait until a replica has their write, one write after the other."""
    swarms = context.flows.store.swarms
    documents = documents_of(BYTES, CALLERS)
    await swarms.put_many(documents)
    names = list(documents)
    entry = bytes(200)
    await _until_replicated(swarms, names[0])

    async def ours() -> int:
        async def call(name: str) -> None:
            for _ in range(CALLS):
                receipt = await swarms.patch(
                    name, Increment("stats", "total_tool_calls"), durability=Durability.JOURNALED
                )
                assert receipt.replicas == 1

        await asyncio.gather(*map(call, names))
        return CALLERS * CALLS

    async def theirs() -> int:
        await asyncio.gather(*(_append_and_wait(context, number, entry) for number in range(CALLERS)))
        return CALLERS * CALLS

    result = await compare(
        f"`patch` at JOURNALED, {CALLERS} callers",
        "writes",
        Side("one replica has it, checked", ours),
        Side("glide: XADD, then WAIT 1", theirs),
        limit=Limit("at most", 2),
        between=context.flows.store.flush,
    )
    return [result]


async def _until_replicated(swarms: Collection[Swarm], name: str) -> None:
    """The replicas of servers that were just started copy their primaries first."""
    async with asyncio.timeout(REPLICATED_SECONDS):
        replicas = 0
        while not replicas:
            await asyncio.sleep(REPLICATED_SECONDS / 1000)
            operation = Increment("stats", "total_tool_calls")
            replicas = (await swarms.patch(name, operation, durability=Durability.JOURNALED)).replicas


async def _append_and_wait(context: Context, number: int, entry: bytes) -> None:
    """What one of them does by hand: on one stream, as ours."""
    name = context.prefix.decode() + "bare"
    route: Any = SlotKeyRoute(SlotType.PRIMARY, name)
    for _ in range(CALLS):
        await context.glide.custom_command(["XADD", name, "*", "entry", entry])
        replicas = await context.glide.custom_command(["WAIT", "1", "1000"], route)
        assert replicas == 1, f"caller {number}: no replica has it"


ACCEPTED = Durability.ACCEPTED
