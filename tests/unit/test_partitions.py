"""Partitions of history are looked after at start and daily, whatever L3 says."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fix_run_index import MemoryIndexes
from holdfast.clock import SystemClock
from holdfast.errors import SettingsError
from holdfast.keys import Key
from holdfast.metrics.counters import PartitionCounters
from holdfast.protocols import Retained
from holdfast.run_context.partitions import PERIOD_SECONDS, RETRY_SECONDS, Partitions
from holdfast.settings import Settings
from holdfast.testing import MemoryRuns
from holdfast.testing.conformance.run_index import ago
from holdfast.testing.door import connect_flows

BODY = b'{"runId": "r1", "routineId": "x", "sequence": 1}'
OLD = Key("run_snapshot", "r1/00000001")


class Days:
    """What stands for sleep: a pause lasts until it is told to end.

    Attributes:
        lengths: of the pauses begun.
    """

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self._begun = asyncio.Semaphore(0)
        self._over = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.lengths.append(seconds)
        self._begun.release()
        await self._over.acquire()

    async def begun(self) -> None:
        """Until the next pause has begun."""
        await self._begun.acquire()

    def pass_by(self) -> None:
        """End the pause."""
        self._over.release()


class Broken(MemoryRuns):
    """An index with a fault of its own."""

    async def make_ahead(self, months: int) -> int:
        raise RuntimeError("broken")


@asynccontextmanager
async def looked_after(
    indexes: MemoryIndexes, months_kept: int | None = None
) -> AsyncIterator[tuple[Partitions, PartitionCounters, Days]]:
    """Partitions that were looked after once."""
    counters, days = PartitionCounters(), Days()
    partitions = Partitions(indexes.index(), months_kept, counters, days)
    partitions.start()
    try:
        await days.begun()
        yield partitions, counters, days
    finally:
        await partitions.stop()
        await partitions.stop()


async def test_months_are_made_at_start_and_daily() -> None:
    """This month and two ahead, once; the next day there is nothing to do."""
    indexes = MemoryIndexes()
    async with looked_after(indexes) as (partitions, counters, days):
        assert counters.made == 3
        assert await indexes.index().make_ahead(2) == 3  # of another index in memory, which made none
        days.pass_by()
        await days.begun()
        assert counters == PartitionCounters(made=3)
        assert days.lengths == [PERIOD_SECONDS] * 2
        assert partitions.fault is None


@pytest.mark.parametrize(("months_kept", "left"), [(None, 1), (3, 1), (2, 0)])
async def test_old_months_are_dropped_only_if_that_is_set(months_kept: int | None, left: int) -> None:
    """By default everything is kept; otherwise so many months beside the current one."""
    indexes = MemoryIndexes()
    await indexes.put_old(OLD, BODY, months=3)
    async with looked_after(indexes, months_kept) as (_, counters, _days):
        assert len(await indexes.index().snapshots("r1", limit=10)) == left
        assert counters.dropped == 1 - left


async def test_what_is_kept_though_old_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """With the reason: a person may want to end that run."""
    indexes = MemoryIndexes()
    await indexes.put_old(OLD, BODY, months=3)
    await indexes.storage.raw_put(Key("run", "r1"), b'{"routineId": "x", "status": "paused"}')
    with caplog.at_level(logging.INFO, "holdfast"):
        async with looked_after(indexes, 1):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshots of {ago(3):%Y-%m} are kept, though old: run r1 is not ended"
    ]


async def test_a_failure_is_told_and_tried_again_sooner(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, by a counter and by an attribute, until an attempt succeeds."""
    indexes = MemoryIndexes()
    indexes.storage.away = True
    async with looked_after(indexes) as (partitions, counters, days):
        assert (counters.failures, str(partitions.fault)) == (1, "L3 in memory is away")
        assert "could not be looked after" in caplog.text
        indexes.storage.away = False
        days.pass_by()
        await days.begun()
        assert (counters.failures, counters.made, partitions.fault) == (1, 3, None)
        assert days.lengths == [RETRY_SECONDS, PERIOD_SECONDS]


async def test_no_fault_ends_the_loop() -> None:
    """One that nobody thought of goes to the event loop's handler, and the next attempt is made."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    async with looked_after(MemoryIndexes(Broken)) as (_, counters, days):
        days.pass_by()
        await days.begun()
        assert counters.failures == 2
    assert told == ["holdfast: looking after partitions failed"] * 2


async def test_a_server_looks_after_them_while_it_runs() -> None:
    """By its setting, from its start to its end."""

    class Told(MemoryRuns):
        months = asyncio.get_running_loop().create_future()

        async def retain(self, months: int) -> Retained:
            self.months.set_result(months)
            return Retained((dt.date(2000, 1, 1),), {})

    runs = Told(MemoryIndexes().storage, SystemClock())
    async with connect_flows(runs=runs, settings=Settings(run_snapshot_months=6)) as flows:
        assert await asyncio.wait_for(Told.months, 10) == 6
    assert flows.run_flows.partitions._loop._task is None
    assert flows.counters.partitions.dropped == 1


@pytest.mark.parametrize("months", [0, -1, 1201, 1.5])
def test_no_setting_drops_the_month_that_is_written(months: float) -> None:
    """At least one month beside the current one is kept: a run of the last night of a month is not old."""
    with pytest.raises(SettingsError, match="run_snapshot_months"):
        Settings(run_snapshot_months=months)  # type: ignore[arg-type]
