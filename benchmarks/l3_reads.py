"""Batched reads of L3 against a bare asyncpg `= ANY` of the same rows."""

from __future__ import annotations

import random

from benchmarks.context import Context
from benchmarks.documents import SIZES, documents_of, kind_of, size_text
from benchmarks.measuring import Limit, Result, Side, compare
from holdfast.keys import Key
from holdfast.tiers.l3_statements import quote

ROWS = 1000
IDS = 100
QUERIES = 40


async def run(context: Context) -> list[Result]:
    """100 ids a query, drawn at random; both over one held connection, the bare one told to fetch the same columns."""
    results = []
    for size in SIZES:
        kind = kind_of(size)
        documents = documents_of(size, ROWS)
        await context.flows.store.collection(kind).put_many(documents)
        source = random.Random(size)
        batches = [source.sample(list(documents), IDS) for _ in range(QUERIES)]
        results.append(await _compare(context, size, kind.name, kind.table, batches))
    return results


async def _compare(context: Context, size: int, kind: str, table: str, batches: list[list[str]]) -> Result:
    columns = "id, version, birth, schema, document"
    statement = f"SELECT {columns} FROM holdfast.{quote(table)} WHERE id = ANY($1::text[])"  # noqa: S608 - a kind's table
    keys = [[Key(kind, identifier) for identifier in batch] for batch in batches]

    async def ours() -> int:
        return sum([len((await context.l3.load(batch)).rows) for batch in keys])

    async def theirs() -> int:
        return sum([len(await context.postgres.fetch(statement, batch)) for batch in batches])

    assert await ours() == await theirs() == IDS * QUERIES, "not every row was read"
    return await compare(
        f"L3 read of 100, {size_text(size)}",
        "rows",
        Side("`PostgresStorage.load`", ours),
        Side("asyncpg, `= ANY($1)`", theirs),
        limit=Limit("at least", 0.6, percent=True),
    )
