"""The change feed: how soon a commit on one server is visible on another, and what idle readers cost PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.context import Context
from benchmarks.measuring import Figure
from holdfast.adapters import change_source, connector
from holdfast.clock import SystemClock
from holdfast.documents import Bot
from holdfast.flows import Flows
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.protocols import Poll
from holdfast.testing.door import connect_flows
from holdfast.tiers.l3_feed import PostgresFeed

COMMITS = 300
READERS = 48
IDLE_SECONDS = 5.0
PAUSE_SECONDS = 0.003


class Unhinted(PostgresFeed):
    """A feed to which no hint arrives."""

    def on_hint(self, wake: Callable[[], None]) -> None:
        """Take note of nothing."""


async def run(context: Context) -> list[Figure]:
    """Commit after commit on one server, each awaited on another; then many readers of nothing."""
    hinted = await _visible(context, change_source(context.settings))
    unhinted = await _visible(
        context, Unhinted(connector(context.settings), poll_timeout_seconds=0.5), commits=COMMITS // 3
    )
    return [
        Figure("commit on A to visible on B, p50", _percentile(hinted, 50), 5, "ms"),
        Figure("commit on A to visible on B, p99", _percentile(hinted, 99), 25, "ms"),
        Figure("the same with all hints lost, p50", _percentile(unhinted, 50), 150, "ms"),
        Figure("the same with all hints lost, p99", _percentile(unhinted, 99), 150, "ms"),
        Figure(f"{READERS} idle readers, PostgreSQL's share of a core", await _idle(context), 10, "%"),
    ]


async def _visible(context: Context, source: PostgresFeed, *, commits: int = COMMITS) -> list[float]:
    """Milliseconds from the return of `put` here to the first `get` there that answers with it."""
    here = context.flows
    async with connect_flows(
        l2=context.l2, l3=context.l3, feed=source, clock=SystemClock(), settings=context.settings
    ) as there:
        return [await _commit_and_wait(here, there, number) for number in range(commits)]


async def _commit_and_wait(here: Flows, there: Flows, number: int) -> float:
    await there.store.bots.get("seen")
    await asyncio.sleep(PAUSE_SECONDS)
    await here.store.bots.put("seen", bot := Bot(name=str(number)))
    committed = time.perf_counter()
    while await there.store.bots.get("seen") != bot:  # noqa: ASYNC110 - the moment itself is measured
        await asyncio.sleep(0)
    return (time.perf_counter() - committed) * 1000


async def _idle(context: Context) -> float:
    """Percent of a core that the sessions of idle readers use."""
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            feed = ChangeFeed(
                change_source(context.settings),
                _ignore,
                clock=SystemClock(),
                bound_seconds=context.settings.staleness_bound_seconds,
            )
            stack.push_async_callback(feed.stop)
            await feed.start()
        pids = await context.postgres.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'holdfast feed' AND datname = current_database()"
        )
        before, begun = sum(_cpu_seconds(row["pid"]) for row in pids), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)
        used = sum(_cpu_seconds(row["pid"]) for row in pids) - before
        return 100 * used / (time.perf_counter() - begun)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _ignore(poll: Poll, began: float) -> None:
    """Nobody is told."""
