"""Upserts of 1000 rows, through the tier and through the door, against a bare unnest upsert of asyncpg.

All rows exist already, as in a server that has run for a while. The bare side gets its documents encoded, makes no
versions and tells no cache.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bare_table import BareTable
from benchmarks.context import Context
from benchmarks.documents import SIZES, documents_of, kind_of, size_text
from benchmarks.measuring import Limit, Result, Side, compare
from holdfast.documents import encode
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import Write

ROWS = 1000
REPEATS = dict(zip(SIZES, (6, 4, 2), strict=True))
SINGLES = 200
TIER_LIMIT = 0.55
SINGLE_LIMIT = 0.75
DOOR_LIMITS = dict(zip(SIZES, (0.15, 0.35, 0.55), strict=True))


async def run(context: Context) -> list[Result]:
    """Each size: the tier, whose trigger draws versions; the door, which encodes, and fences L1 and L2 after COMMIT."""
    results = []
    for size in SIZES:
        kind: Kind[Any] = kind_of(size)
        documents = documents_of(size, ROWS)
        await context.flows.store.collection(kind).put_many(documents)
        bare = BareTable(context, kind.table, documents, repeats=REPEATS[size])
        await bare.create()
        await bare.upsert()
        results.append(await _tier(context, size, kind, documents, bare))
        if size == min(SIZES):
            results.extend(await _single(context, kind, documents, bare))
        results.append(await _door(context, size, kind, documents, bare))
    return results


async def _tier(context: Context, size: int, kind: Kind[Any], documents: dict[str, Any], bare: BareTable) -> Result:
    writes = [Write(Key(kind.name, name), each.SCHEMA, encode(each)) for name, each in documents.items()]

    async def ours() -> int:
        return sum([len(await context.l3.save(writes)) for _ in range(REPEATS[size])])

    return await compare(
        f"upsert through the tier, {size_text(size)}",
        "rows",
        Side("`PostgresStorage.save`", ours),
        bare.side,
        limit=Limit("at least", TIER_LIMIT, percent=True),
        between=bare.vacuum,
    )


async def _single(context: Context, kind: Kind[Any], documents: dict[str, Any], bare: BareTable) -> list[Result]:
    """One row a statement: what triggers and feed cost, by the same statement, and what the tier adds."""
    names = list(documents)[:SINGLES]
    writes = [[Write(Key(kind.name, name), documents[name].SCHEMA, encode(documents[name]))] for name in names]
    theirs = Side("asyncpg, one row, no trigger", lambda: bare.upsert_singly(SINGLES))

    async def ours() -> int:
        return sum([len(await context.l3.save(write)) for write in writes])

    return [
        await compare(
            f"single upsert, triggers and feed, {size_text(min(SIZES))}",
            "rows",
            Side("the same by asyncpg into the managed table", lambda: bare.upsert_singly(SINGLES, managed=True)),
            theirs,
            limit=Limit("at least", SINGLE_LIMIT, percent=True),
            between=bare.vacuum,
        ),
        await compare(
            f"single upsert through the tier, {size_text(min(SIZES))}",
            "rows",
            Side("`PostgresStorage.save` of one", ours),
            theirs,
            limit=Limit("none", percent=True),
            between=bare.vacuum,
        ),
    ]


async def _door(context: Context, size: int, kind: Kind[Any], documents: dict[str, Any], bare: BareTable) -> Result:
    collection = context.flows.store.collection(kind)

    async def ours() -> int:
        return sum([len(await collection.put_many(documents)) for _ in range(REPEATS[size])])

    result = await compare(
        f"upsert through the door, {size_text(size)}",
        "rows",
        Side("`put_many`", ours),
        bare.side,
        limit=Limit("at least", DOOR_LIMITS[size], percent=True),
        between=bare.vacuum,
    )
    assert context.flows.relay is not None
    assert context.flows.relay.fenced, "no change reached L2"
    return result
