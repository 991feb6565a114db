"""Pruning the snapshots of one long run among those of many others, while another run writes its own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.context import Context
from benchmarks.measuring import Figure
from holdfast.keys import Key
from holdfast.protocols import Write
from holdfast.protocols.runs import PRUNED_MAX
from holdfast.tiers.l3_runs import PostgresRuns

OTHERS = 200
OF_EACH = 1_000
PRUNED_RUN = "pruned"
PRUNED = 10_000
ALONE = 500
BODY = b'{"runId": "r", "routineId": "x", "sequence": 1, "isBase": false}'
FILL = """INSERT INTO holdfast."RunContextSnapshot" (id, document) SELECT
    format('%s/%s', $1::text, to_char(number, 'FM00000000')), $2::text::json FROM generate_series(1, $3::int) number"""


async def run(context: Context) -> Sequence[Figure]:
    """Time the calls of a pruning, and the writes beside it."""
    runs, connection = PostgresRuns(context.l3.pool), context.postgres
    await connection.execute('TRUNCATE holdfast."RunContextSnapshot", holdfast."RunContextSnapshot_ids"')
    for number in range(OTHERS):
        await connection.execute(FILL, f"other{number}", BODY.decode(), OF_EACH)
    await connection.execute(FILL, PRUNED_RUN, BODY.decode(), PRUNED)
    await context.l3.save([Write(Key("run_snapshot", f"{PRUNED_RUN}/{PRUNED:08}.base"), 1, BODY)])
    numbers = itertools.count(1)
    alone = [await _written(context, numbers) for _ in range(ALONE)]
    calls = []
    async with _writing(context, numbers) as beside:
        while True:
            begun = time.perf_counter()
            if not await runs.prune(PRUNED_RUN, PRUNED, PRUNED_MAX):
                break
            calls.append(time.perf_counter() - begun)
    middle = len(calls) // 2
    growth = min(calls[middle:]) / min(calls[:middle])  # what grows with what is erased makes each of them longer
    return [
        Figure(f"Pruning {PRUNED:,} of {OTHERS * OF_EACH + PRUNED:,} snapshots", sum(calls) * 1000, 10_000, "ms"),
        Figure("Pruning: later calls over earlier ones", growth, 4.0, "x"),
        Figure("A snapshot's write beside pruning over alone, median", _ratio(beside, alone, 50), 4.0, "x"),
        Figure("A snapshot's write beside pruning, 99 of 100 within", _percentile(beside, 99) * 1000, 250, "ms"),
    ]


@asynccontextmanager
async def _writing(context: Context, numbers: Iterator[int]) -> AsyncIterator[list[float]]:
    """Write one snapshot after the other; the list is of their times."""
    times: list[float] = []

    async def write() -> None:
        while True:
            times.append(await _written(context, numbers))

    writer = asyncio.create_task(write())
    try:
        yield times
    finally:
        writer.cancel()
        await asyncio.wait([writer])


async def _written(context: Context, numbers: Iterator[int]) -> float:
    """Write a snapshot of another run; seconds."""
    begun = time.perf_counter()
    await context.l3.save([Write(Key("run_snapshot", f"writer/{next(numbers):08}"), 1, BODY)])
    return time.perf_counter() - begun


def _percentile(times: Sequence[float], percent: int) -> float:
    return sorted(times)[len(times) * percent // 100 - 1]


def _ratio(times: Sequence[float], others: Sequence[float], percent: int) -> float:
    return _percentile(times, percent) / _percentile(others, percent)
