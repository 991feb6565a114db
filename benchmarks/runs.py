"""Runs: what a checkpoint costs early and late in a long run, what L3 writes for it, what resuming and reading cost."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import holdfast
from benchmarks.context import Context
from benchmarks.documents import text
from benchmarks.measuring import Figure, Limit, Result, Side, compare, steady_collector
from holdfast import ActiveRun, Consistency, StateStore
from holdfast.documents import encode
from holdfast.kinds import RUN
from holdfast.protocols import ListedSnapshot
from holdfast.run_context.limits import RunLimits
from holdfast.run_context.snapshots import base_id, base_number, snapshot_id

STEPS = 1_700
WINDOW = STEPS // 10
SAVED = 400
VARIABLES = 40
READS = 20_000
PRUNED = 100
READ = """SELECT id, document FROM holdfast."Run" WHERE id = $1"""
READ_SNAPSHOTS = """SELECT id, document FROM holdfast."RunContextSnapshot" WHERE id = ANY($1) ORDER BY id"""
LONG = "long"


@dataclass(slots=True)
class Walk:
    """A run on its way, each of whose steps changes 1.6 KB.

    That is two of 40 variables of 0.2 KB, with all that is known of them, a record with its result, and one of 20
    pages, of 0.1 KB or, every tenth time, 5 KB, such as tools find.

    Attributes:
        times: of its checkpoints, in seconds.
        rows: bytes of the run's row, of each time that it was written.
    """

    store: StateStore
    run: ActiveRun
    source: random.Random
    times: list[float] = field(default_factory=list)
    rows: int = 0

    @classmethod
    async def begun(cls, store: StateStore, seed: int, run_id: str) -> Walk:
        """At its begin."""
        return cls(store, await store.runs.begin("research", {"topic": "ants"}, run_id=run_id), random.Random(seed))

    async def checkpoint_step(self) -> None:
        """The next step, and a checkpoint behind it."""
        await self._step()
        begun = time.perf_counter()
        await self.run.checkpoint()
        self.times.append(time.perf_counter() - begun)
        await self._count()

    async def flushed_step(self) -> None:
        """The next step, brought to L3 by a flush of its own: as if there was none for two seconds behind it."""
        await self._step()
        assert await self.store.flush() == [], "a step was lost"
        await self._count()

    async def _step(self) -> None:
        context, source = self.run.context, self.source
        number = len(context.steps)
        async with self.run.step(f"step-{number:04d}") as step:
            for _ in range(2):
                finding = {"note": text(source, 20), "score": source.random(), "tags": text(source, 3).split()}
                context[f"finding {source.randrange(VARIABLES)}"] = finding
            context.intermediate[f"page {number % 20}"] = text(source, 800 if number % 10 == 0 else 20)
            step.result = {"note": text(source, 8), "score": source.random()}

    async def _count(self) -> None:
        row = await self.store.collection(RUN).get(self.run.id)
        assert row is not None
        self.rows += len(encode(row))


async def run(context: Context) -> list[Result | Figure]:
    """One long run: written, resumed, read and pruned."""
    store = context.flows.store
    long = await Walk.begun(store, 1, LONG)
    with steady_collector():
        checkpointed = await _bytes(context, long, long.checkpoint_step, STEPS - WINDOW, "checkpointed")
        saved = await Walk.begun(store, 2, "saved")
        flushed = await _bytes(context, saved, saved.flushed_step, SAVED, "only saved, flushed one by one")
        late = await _late(store, long)
    await long.run.release()
    resumed = await _resumed(context)
    return [*late, *checkpointed, *flushed, *resumed, await _read(store), *await _pruned(store)]


async def _bytes(
    context: Context, walk: Walk, step: Callable[[], Awaitable[None]], steps: int, how: str
) -> list[Figure]:
    """What L3 stores, and what its log takes, for each byte that steps change."""
    before = await context.postgres.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    for _ in range(steps):
        await step()
    await walk.run.checkpoint()
    logged = await context.postgres.fetchval(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::float8", before
    )
    snapshots = await _snapshots(walk.store, walk.run.id)
    changed = await _changed(walk.store, [each.id for each in snapshots if base_number(each.id) is None])
    stored = walk.rows + sum(each.bytes for each in snapshots)
    return [
        Figure(f"L3's documents per byte of steps {how}", stored / changed, 3, "bytes"),
        Figure(f"L3's WAL per byte of steps {how}", logged / changed, 3, "bytes"),
    ]


async def _changed(store: StateStore, deltas: Sequence[str]) -> int:
    """Bytes of what deltas set, as JSON: variables with what is known of them, results, records of steps."""
    found = await store.run_snapshots.get_many(deltas)
    sizes = RunLimits().sizes
    return sum(
        sum(sizes(steps=each.step_history, variables=each.variables, intermediate=each.intermediate).values())
        for each in found.values()
        if each is not None
    )


async def _late(store: StateStore, long: Walk) -> list[Figure]:
    """The last checkpoints of the long run in turns with the first of another one: what disturbs one disturbs both."""
    young = await Walk.begun(store, 3, "young")
    for number in range(WINDOW):
        for walk in (long, young) if number % 2 else (young, long):
            await walk.checkpoint_step()
    await young.run.cancel()
    late, early = sorted(long.times[-WINDOW:]), sorted(young.times)
    nearly_all = WINDOW * 99 // 100
    name = f"`checkpoint`, the last {WINDOW} of {STEPS:,} over the first"
    return [
        Figure(f"{name}, p99", late[nearly_all] / early[nearly_all], 1.5, "x"),
        Figure(f"{name}, p50", statistics.median(late) / statistics.median(early), 1.5, "x"),
        Figure(f"`checkpoint`, the last {WINDOW}, p50", statistics.median(late) * 1000, 25, "ms"),
    ]


async def _resumed(context: Context) -> list[Result]:
    """Two servers take the run from each other, and one reads it for the first time: snapshots are in no cache."""
    here = context.flows.store
    async with holdfast.connect(context.settings) as there:
        row = await here.collection(RUN).get(LONG, consistency=Consistency.STRONG)
        assert row is not None
        behind = range(row.base + 1, row.sequence + 1)
        names = [base_id(LONG, row.base), *(snapshot_id(LONG, number) for number in behind)]

        async def resume() -> int:
            run = await there.runs.resume(LONG)
            assert len(run.context.steps) == STEPS, "a step is missing"
            held.append(run)
            return 1

        async def release() -> None:
            while held:
                await held.pop().release()

        async def take() -> int:
            run = await there.runs.resume(LONG, force=True)
            assert len(run.context.steps) == STEPS, "a step is missing"
            return 1

        async def back() -> None:
            await here.runs.resume(LONG, force=True)

        async def fetch() -> list[Any]:
            rows: list[Any] = await context.postgres.fetch(READ, LONG)
            rows += await context.postgres.fetch(READ_SNAPSHOTS, names)
            assert len(rows) == 1 + len(names)
            return rows

        async def fetched() -> int:
            await fetch()
            return 1

        async def parsed() -> int:
            return len([json.loads(document) for _, document in await fetch()]) // (1 + len(names))

        held: list[ActiveRun] = []
        both = f"asyncpg: its row and {len(names)} snapshots"
        cold = Side("`runs.resume`, of a run that nobody runs", resume)
        name = f"resume of {STEPS:,} steps"
        return [
            await compare(
                name,
                "resumes",
                cold,
                Side(f"{both}, and `json.loads`", parsed),
                limit=Limit("at most", 2),
                between=release,
            ),
            await compare(
                f"{name}, rows not parsed", "resumes", cold, Side(both, fetched), limit=Limit("none"), between=release
            ),
            await compare(
                f"{name}, from a live server, rows not parsed",
                "resumes",
                Side("`runs.resume(force=True)`", take),
                Side(both, fetched),
                limit=Limit("none"),
                between=back,
            ),
        ]


async def _read(store: StateStore) -> Figure:
    """A context that this server has read before, and that did not change."""
    held = await store.runs.get(LONG)
    begun = time.perf_counter()
    for _ in range(READS):
        view = await store.runs.get(LONG)
    each = (time.perf_counter() - begun) / READS
    assert view is held, "it was not in memory"
    return Figure("a context read from memory: `runs.get`", each * 1e6, 2, "us")


async def _pruned(store: StateStore) -> list[Figure]:
    """The snapshots of the long run that it needs no more, so many in a call."""
    times, removed = [], 1
    while removed:
        begun = time.perf_counter()
        removed = await store.runs.prune(LONG, limit=PRUNED)
        times.append(time.perf_counter() - begun)
    times.pop()  # it found none
    name = f"`prune` of {PRUNED} of {STEPS:,} snapshots"
    return [
        Figure(f"{name}, p50 of {len(times)} calls", statistics.median(times) * 1000, 100, "ms"),
        Figure(f"{name}, the longest", max(times) * 1000, 250, "ms"),
    ]


async def _snapshots(store: StateStore, run_id: str) -> list[ListedSnapshot]:
    found: list[ListedSnapshot] = []
    while page := await store.runs.history(run_id, after=found[-1].id if found else None):
        found += page
    return found
