"""Runs: what a checkpoint costs early and late in a long run, what L3 writes for it, what resuming and reading cost."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

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
VARIABLES = 40
READS = 20_000
PRUNED = 100
READ = """SELECT id, document FROM holdfast."Run" WHERE id = $1"""
READ_SNAPSHOTS = """SELECT id, document FROM holdfast."RunContextSnapshot" WHERE id = ANY($1) ORDER BY id"""


@dataclass(slots=True)
class Walk:
    """A run on its way: each step sets two of 40 variables and one of 20 intermediate results, and is checkpointed.

    Attributes:
        times: of its checkpoints, in seconds.
    """

    run: ActiveRun
    source: random.Random
    times: list[float] = field(default_factory=list)

    async def step(self) -> None:
        """The next one."""
        context, number = self.run.context, len(self.times)
        async with self.run.step(f"step-{number:04d}") as step:
            for _ in range(2):
                context[f"finding {self.source.randrange(VARIABLES)}"] = _finding(self.source)
            context.intermediate[f"page {number % 20}"] = text(self.source, 20)
            step.result = {"note": text(self.source, 8), "score": self.source.random()}
        begun = time.perf_counter()
        await self.run.checkpoint()
        self.times.append(time.perf_counter() - begun)


async def run(context: Context) -> list[Result | Figure]:
    """One long run: written, resumed, read and pruned."""
    store = context.flows.store
    long = Walk(await store.runs.begin("research", {"topic": "ants"}, run_id="long"), random.Random(1))
    with steady_collector():
        written = await _written(context, long)
        late = await _late(store, long)
    await long.run.release()
    resumed = await _resumed(context)
    return [*late, *written, resumed, await _read(store), *await _pruned(store)]


async def _written(context: Context, long: Walk) -> list[Figure]:
    """What L3 stores, and what its log takes, for each byte that steps change; all steps but the last are made here."""
    store, rows = context.flows.store, 0
    before = await context.postgres.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    for _ in range(STEPS - WINDOW):
        await long.step()
        row = await store.collection(RUN).get(long.run.id)
        assert row is not None
        rows += len(encode(row))  # written with each checkpoint
    logged = await context.postgres.fetchval(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::float8", before
    )
    snapshots = await _snapshots(store, long.run.id)
    changed = await _changed(store, [each.id for each in snapshots if base_number(each.id) is None])
    stored = rows + sum(each.bytes for each in snapshots)
    return [
        Figure("L3's documents per byte that steps change", stored / changed, 3, "bytes"),
        Figure("L3's WAL per byte that steps change", logged / changed, 3, "bytes"),
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
    young = Walk(await store.runs.begin("research", {"topic": "ants"}), random.Random(2))
    begun = len(long.times)
    for number in range(WINDOW):
        for walk in (long, young) if number % 2 else (young, long):
            await walk.step()
    await young.run.cancel()
    late, early = sorted(long.times[begun:]), sorted(young.times)
    nearly_all = WINDOW * 99 // 100
    return [
        Figure(
            f"`checkpoint`: the last {WINDOW} of {STEPS:,} steps over the first, p99",
            late[nearly_all] / early[nearly_all],
            1.5,
            "x",
        ),
        Figure("the same, median", statistics.median(late) / statistics.median(early), 1.5, "x"),
        Figure("`checkpoint` of a run's last steps, p99", late[nearly_all] * 1000, 50, "ms"),
    ]


async def _resumed(context: Context) -> Result:
    """Two servers take the run from each other; nothing of its snapshots is in a cache for that."""
    run_id = "long"
    async with holdfast.connect(context.settings) as other:
        here, there = context.flows.store, other
        row = await here.collection(RUN).get(run_id, consistency=Consistency.STRONG)
        assert row is not None
        names = [
            base_id(run_id, row.base),
            *(snapshot_id(run_id, each) for each in range(row.base + 1, row.sequence + 1)),
        ]

        async def ours() -> int:
            run = await there.runs.resume(run_id, force=True)
            assert len(run.context.steps) == STEPS, "a step is missing"
            return 1

        async def theirs() -> int:
            found = await context.postgres.fetch(READ, run_id)
            found += await context.postgres.fetch(READ_SNAPSHOTS, names)
            assert len(found) == 1 + len(names)
            return 1

        async def back() -> None:
            await here.runs.resume(run_id, force=True)

        return await compare(
            f"cold resume of {STEPS:,} steps, from a live server",
            "resumes",
            Side(f"`runs.resume`: taken over, {len(names)} snapshots verified and applied", ours),
            Side("asyncpg: the same rows, not even parsed", theirs),
            limit=Limit("at most", 2),
            between=back,
        )


async def _read(store: StateStore) -> Figure:
    """A context that this server has read before, and that did not change."""
    runs, held = store.runs, await store.runs.get("long")
    begun = time.perf_counter()
    for _ in range(READS):
        view = await runs.get("long")
    each = (time.perf_counter() - begun) / READS
    assert view is held, "it was not in memory"
    return Figure("a context read from memory", each * 1e6, 2, "us")


async def _pruned(store: StateStore) -> list[Figure]:
    """The snapshots of the long run that it needs no more, so many in a call."""
    times, removed = [], 1
    while removed:
        begun = time.perf_counter()
        removed = await store.runs.prune("long", limit=PRUNED)
        times.append(time.perf_counter() - begun)
    return [Figure(f"`prune` of {PRUNED} of {STEPS:,} snapshots, the longest call", max(times) * 1000, 250, "ms")]


async def _snapshots(store: StateStore, run_id: str) -> list[ListedSnapshot]:
    found: list[ListedSnapshot] = []
    while page := await store.runs.history(run_id, after=found[-1].id if found else None):
        found += page
    return found


def _finding(source: random.Random) -> dict[str, object]:
    return {"note": text(source, 20), "score": source.random(), "tags": text(source, 3).split()}
