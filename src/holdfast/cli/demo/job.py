"""One run of the demo, from the input to the report."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import holdfast
from holdfast import Collection, Settings
from holdfast.cli.demo.corpus import Corpus
from holdfast.cli.demo.fleet import running
from holdfast.cli.demo.killing import Killing
from holdfast.cli.demo.progress import Phases
from holdfast.cli.demo.report import Report, build_report
from holdfast.cli.demo.runner import Runner
from holdfast.cli.demo.stock import Stock, build_stock
from holdfast.documents import Limits

LOAD_BATCH = 200
CONNECTIONS = 60
"""To L3, shared out among the demo's servers: PostgreSQL's own limit is 100 by default."""
TAKEOVER_SECONDS = 2.0


async def run_demo(
    corpus: Corpus, settings: Settings, *, root: Path, count: int, phases: Phases, kill: bool = False
) -> Report:
    """Load an input, take its scenarios through server processes, and compare.

    Args:
        corpus: the input, as read.
        settings: with both servers named.
        root: where the input is, for the report.
        count: of server processes, two or more.
        phases: shows progress and keeps the time.
        kill: one server more is started, and one is killed on the way.

    Raises:
        InputError: no scenario can be run.
        ServerFailedError: a server died, did not answer, or could not do its part.
        HoldfastError: the documents could not be loaded.
    """
    begun = datetime.now(UTC)
    run = f"{begun:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    stock = build_stock(corpus, run, begun, Limits(settings.document_bytes_max, settings.document_depth_max))
    runner = Runner(run, killing=Killing(run, stock.casts) if kill else None)
    await load_stock(stock, settings, phases)
    steps = sum(len(cast.scenario.steps) for cast in stock.casts)
    if kill:
        count += 1
        settings = taken_over_soon(settings)
    environment = server_environment(settings, count + 1)
    async with running([f"server {number}" for number in range(1, count + 1)], environment) as servers:
        what = f"replaying {len(stock.casts)} scenarios, {steps} steps, on {count} servers"
        with phases.phase("replay", what, steps) as advance:
            await runner.take_steps(stock.casts, servers, advance)
        with phases.phase("check", f"reading {len(stock.casts)} swarms on a cold server", len(stock.casts)) as advance:
            async with running(["cold server"], environment) as cold:
                await runner.compare_on(cold[0], stock.casts, advance)
    return build_report(
        root=str(root), servers=count, corpus=corpus, stock=stock, runner=runner, seconds=phases.seconds
    )


async def load_stock(stock: Stock, settings: Settings, phases: Phases) -> None:
    """Put every document, over whatever an earlier run of the demo left under its id."""
    total = sum(stock.sizes.values())
    with phases.phase("load", f"loading {total} documents", total) as advance:
        async with holdfast.connect(settings) as state:
            await _put(state.teams, stock.teams, advance)
            await _put(state.bots, stock.bots, advance)
            await _put(state.routines, stock.routines, advance)
            await _put(state.swarms, stock.swarms, advance)


async def _put(collection: Collection[Any], documents: dict[str, Any], advance: Callable[[int], None]) -> None:
    items = list(documents.items())
    for start in range(0, len(items), LOAD_BATCH):
        batch = dict(items[start : start + LOAD_BATCH])
        await collection.put_many(batch)
        advance(len(batch))


def taken_over_soon(settings: Settings) -> Settings:
    """Settings under which a dead server's work is taken over soon: nobody wants to watch for longer."""
    seconds = min(settings.write_behind_takeover_seconds, TAKEOVER_SECONDS)
    return msgspec.structs.replace(settings, write_behind_takeover_seconds=seconds)


def server_environment(settings: Settings, servers: int) -> dict[str, str]:
    """What names the tiers to the servers, and keeps them all within PostgreSQL's number of connections."""
    connections = min(settings.l3_connections_max, max(CONNECTIONS // servers, 2))
    replicas = settings.journal_replicas
    return {
        "HOLDFAST_POSTGRES_URL": settings.postgres_url,
        "HOLDFAST_REDIS_URLS": ",".join(settings.redis_urls),
        "HOLDFAST_L3_CONNECTIONS_MAX": str(connections),
        "HOLDFAST_WRITE_BEHIND_TAKEOVER_SECONDS": str(settings.write_behind_takeover_seconds),
        **({} if replicas is None else {"HOLDFAST_JOURNAL_REPLICAS": str(replicas)}),
    }
