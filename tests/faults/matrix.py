"""The fault matrix: cells, the servers they are tried on, and one run of a cell with its figures.

A cell names a fault, how it begins and ends, and what its callers may see. A run holds two servers of Holdfast under a
steady load before, during and after the fault, and judges all that was answered and acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg

import holdfast
from faults.figures import Figures
from faults.recorded import Episode, lines_of_recovery, unrecorded
from faults.test_relay_killed import announced
from faults.test_writes_killed import Line
from faults.workload import WARM_READ, Seen, Workload
from fix_races import until, watermarks
from fix_tiers import flows_of
from fix_write_behind import quick
from holdfast import Durability, Settings
from holdfast.clock import SystemClock
from holdfast.node import OpenStore
from holdfast.recovery.modes import Mode
from holdfast.testing.fault_proxy import FaultProxy
from holdfast.testing.server_controls import ServerControls

NODES: Final = ("valkey-1", "valkey-2", "valkey-3")
L3: Final = "postgres"
BOUND_SECONDS = 0.25
BEFORE_SECONDS = AFTER_SECONDS = 0.5
LOOK_SECONDS = 0.02
FLUSH_SECONDS = 60.0

OF_L3_AWAY: Final = frozenset({"TierUnavailable", "StaleUnavailable", "OutcomeUnknown", "Undecided", "Overloaded"})
"""Errors that callers may see while L3 is away; each says so."""


NO_L2: Final = frozenset({Mode.L2_BYPASSED.value})
NO_L3: Final = frozenset({Mode.READ_ONLY.value, Mode.WRITE_BUFFERING.value})
NEITHER: Final = frozenset({Mode.MEMORY_ONLY.value})
SHOWN_SECONDS = 20.0
"""So long a fault goes on at most, until its mode shows on a busy machine."""
"""From a fault's begin until every server shows its mode, at most."""
COMMIT_SECONDS = 3.0
"""So long a call waits for its durability, by the settings."""
PATIENT: Final = frozenset({"patch accepted", "patch journaled", "patch committed", "save"})
"""Calls that may wait for one; if what was accepted waits for L3 for half a minute already, each does."""


class SteppedClock(SystemClock):
    """The machine's clock, whose time of day can be set.

    Attributes:
        offset_seconds: by how much it is wrong.
    """

    def __init__(self) -> None:
        self.offset_seconds = 0.0
        self.wall = lambda: time.time() + self.offset_seconds


@dataclass
class Ground:
    """What a fault is done to.

    Attributes:
        l2: a proxy in front of each node, by its name; `l3`: the one in front of L3.
        folder: for files of processes.
        clocks: of the servers, by name.
        servers: by name; empty until they are connected.
        began: when the fault did, monotonic seconds; a fault that prepares something first says so itself.
        settled: what must be so, beside working servers, before all is normal again.
        lines: what processes of the fault had acknowledged.
    """

    controls: ServerControls
    l2: Mapping[str, FaultProxy]
    l3: FaultProxy
    settings: Settings
    folder: Path
    clocks: Mapping[str, SteppedClock] = field(default_factory=lambda: {name: SteppedClock() for name in "ab"})
    servers: dict[str, OpenStore] = field(default_factory=dict)
    workload: Workload = field(init=False)
    began: float = 0.0
    settled: list[Callable[[], Awaitable[bool]]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workload = Workload(self.servers, BOUND_SECONDS)

    async def connect(self) -> None:
        """Start the servers."""
        for name, clock in self.clocks.items():
            connecting = holdfast.connect(self.settings)
            connecting._node._clock = clock
            self.servers[name] = await connecting

    async def close(self) -> None:
        """Stop them."""
        for store in self.servers.values():
            await store.close()
        self.servers.clear()

    async def revive(self, *names: str) -> None:
        """Restart servers that were killed, all at once; a node is reached through its proxy again."""
        await asyncio.gather(*map(self.controls.restart, names))
        for name in names:
            await self.controls.wait_up(name)
            if name in self.l2:
                await self.controls.announce(name, self.l2[name])

    async def trouble(self) -> str | None:
        """What is in the way of all being normal, in words; None: nothing is."""
        found = {
            name: trouble
            for name, trouble in zip(self.servers, await asyncio.gather(*map(self._trouble, self.servers)), strict=True)
            if trouble is not None
        }
        if not found and not all([await settled() for settled in self.settled]):
            return "what the fault left is not settled"
        return str(found) if found else None

    async def _trouble(self, name: str) -> str | None:
        store = self.servers[name]
        if (refused := await self.workload.probe(name)) is not None:
            return refused
        flows = flows_of(store)
        if flows.feed.fault is not None:
            return f"does not follow the feed: {flows.feed.fault}"
        marks = [None] if flows.relay is None else await watermarks(flows.relay._sink)
        if not all(mark is not None and flows.view.trusts(mark) for mark in marks):
            return "does not believe all of L2"
        health = store.health()
        return None if health.mode is Mode.NORMAL else f"works in mode {health.mode}: {health.why}"


@dataclass
class Course:
    """How a run went.

    Attributes:
        shown: when each server first said that it works in a mode other than `normal`, monotonic seconds.
        late_seconds: by how much this process came to itself later than it wanted, at most: it shares its machine.
        normal_after: from the fault's end until all was normal again, seconds.
        episodes: the faults.
    """

    shown: dict[tuple[str, str], float] = field(default_factory=dict)
    late_seconds: float = 0.0
    normal_after: float = 0.0
    episodes: list[Episode] = field(default_factory=list)

    async def look_on(self, servers: Mapping[str, OpenStore]) -> None:
        """Look for ever."""
        while True:
            now = time.monotonic()
            for name, store in servers.items():
                if (mode := store.health().mode) is not Mode.NORMAL:
                    self.shown.setdefault((name, mode.value), now)
            await asyncio.sleep(LOOK_SECONDS)
            self.late_seconds = max(self.late_seconds, time.monotonic() - now - LOOK_SECONDS)

    def shown_at(self, servers: Iterable[str], modes: frozenset[str]) -> float | None:
        """When every server had shown one of some modes, monotonic seconds; None: not all did, or none is asked for."""
        first = [
            min([at for (of, mode), at in self.shown.items() if of == each and mode in modes], default=None)
            for each in servers
        ]
        known = [at for at in first if at is not None]
        return max(known) if known and len(known) == len(first) else None

    async def until_shown(self, servers: Iterable[str], modes: frozenset[str]) -> None:
        """Wait until every server has shown one of some modes, for a while: it is judged later who has not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_SECONDS):
                while modes and self.shown_at(servers, modes) is None:  # noqa: ASYNC110 - looks are what is judged
                    await asyncio.sleep(LOOK_SECONDS)


Harm = Callable[[Ground], AbstractAsyncContextManager[None]]
"""The fault is on inside the block, and its end is asked for at the end of it."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        layer: what is broken, and the part of `make faults` that runs it: l2, l3, outage, feed or process.
        harm: the fault.
        long_seconds: how long it lasts in the long form.
        errors: types that callers may see while it lasts.
        longest_seconds: no call may take longer; `patient_seconds`: nor one that waits for a durability.
        normal_seconds: all must be normal again so soon after its end.
        modes: one of them must show at every server within `mode_seconds`; none need be. Beside them those of `passing`
            may.
        ground: made ready around the servers' life, before they connect.
        subjects: of each recovery that it gives rise to, how its subject may begin.
        short: it is in `make test` too.
    """

    name: str
    layer: str
    harm: Harm
    long_seconds: float = 10.0
    errors: frozenset[str] = frozenset()
    longest_seconds: float = 1.0
    patient_seconds: float = 2.0
    normal_seconds: float = 20.0
    modes: frozenset[str] = frozenset()
    mode_seconds: float = 2.0
    passing: frozenset[str] = frozenset()
    ground: Harm | None = None
    subjects: tuple[tuple[str, ...], ...] = ()
    short: bool = False


@asynccontextmanager
async def proxied(controls: ServerControls, prefix: str, folder: Path) -> AsyncIterator[Ground]:
    """An empty L3 and an L2 behind proxies; the servers are not connected."""
    async with AsyncExitStack() as stack:
        l2 = {name: await stack.enter_async_context(FaultProxy(*controls.address(name))) for name in NODES}
        l3 = await stack.enter_async_context(FaultProxy(*controls.address(L3)))
        for name, proxy in l2.items():
            await controls.announce(name, proxy)
            stack.push_async_callback(controls.announce, name, None)
        await execute(controls, "DROP SCHEMA IF EXISTS holdfast CASCADE")
        await until(partial(announced, controls, {name: proxy.port for name, proxy in l2.items()}))
        settings = quick(
            Settings(
                postgres_url=controls.url(L3, through=l3),
                redis_urls=tuple(controls.url(name, through=proxy) for name, proxy in l2.items()),
                key_prefix=prefix,
            ),
            l3_connect_timeout_seconds=2.0,
            l3_statement_timeout_seconds=2.0,
            write_behind_commit_seconds=COMMIT_SECONDS,
            write_behind_takeover_seconds=2.0,
        )
        yield Ground(controls, l2, l3, settings, folder)


async def execute(controls: ServerControls, *statements: str) -> None:
    """Run statements in L3, each for itself."""
    connection = await asyncpg.connect(controls.url(L3))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def working(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let something go on in this block; its own fault is raised at the end."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_normal(ground: Ground, seconds: float = 60.0) -> float:
    """Look until nothing is in the way; how long that took, seconds.

    Raises:
        TimeoutError: something is by then; the message says what.
    """
    began, trouble = time.monotonic(), "no look has ended"
    try:
        async with asyncio.timeout(seconds):
            while (found := await ground.trouble()) is not None:
                trouble = found
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"not all is normal after {seconds:g} s: {trouble}") from None
    return time.monotonic() - began


async def run_cell(cell: Cell, ground: Ground, seconds: float) -> Figures:
    """One run: what was seen, promised and lost.

    Raises:
        TimeoutError: not all is normal again in time.
    """
    course = Course()
    async with AsyncExitStack() as stack:
        if cell.ground is not None:
            await stack.enter_async_context(cell.ground(ground))
        stack.push_async_callback(ground.close)
        await ground.connect()
        await until_normal(ground)
        async with ground.workload.running(), working(course.look_on(ground.servers)):
            await asyncio.sleep(BEFORE_SECONDS)
            await broken(cell, ground, seconds, course)
            await asyncio.sleep(AFTER_SECONDS)
        figures = await judged(cell, ground, seconds, course)
        figures.unrecorded = unrecorded(course.episodes, await lines_of_recovery(ground.servers))
        return figures


async def broken(cell: Cell, ground: Ground, seconds: float, course: Course) -> None:
    """Let the fault last so long, and wait until all is normal again."""
    ground.settled.clear()
    ground.began = time.monotonic()
    ground.workload.phase = "during"
    async with cell.harm(ground):
        await asyncio.sleep(seconds)
        await course.until_shown(ground.servers, cell.modes)
        began = time.time() - (time.monotonic() - ground.began)
    course.episodes += [Episode(cell.name, each, began, time.time()) for each in cell.subjects]
    course.normal_after = await until_normal(ground, cell.normal_seconds)
    ground.workload.phase = "after"


async def judged(cell: Cell, ground: Ground, seconds: float, course: Course) -> Figures:
    """The figures, once all that was accepted is decided."""
    workload, seen = ground.workload, ground.workload.seen
    shown_at = course.shown_at(ground.servers, cell.modes)
    for line in ground.lines:
        workload.owed[line.asked][line.key].add(line.name)
    unwritten = sum([len(await store.flush(timeout=FLUSH_SECONDS)) for store in ground.servers.values()])
    errors: Counter[str] = sum((each.errors for each in seen.values()), Counter())
    lasted: dict[str, list[float]] = defaultdict(list)
    for each in seen.values():
        for what, took in each.seconds.items():
            lasted[what] += took
    return Figures(
        cell=cell.name,
        layer=cell.layer,
        fault_seconds=seconds,
        calls=sum(sum(each.calls.values()) for each in seen.values()),
        calls_during=sum(seen["during"].calls.values()),
        errors=dict(errors),
        errors_outside=dict(seen["before"].errors + seen["after"].errors),
        said=seen["before"].said | seen["after"].said,
        oldest_seconds=workload.oldest_seconds,
        bound_seconds=BOUND_SECONDS,
        labelled=sum(each.labelled for each in seen.values()),
        oldest_labelled_seconds=workload.oldest_labelled_seconds,
        acknowledged=workload.acknowledged(),
        lost=await workload.lost(ground.servers["a"]),
        unwritten=unwritten,
        longest_seconds={what: max(took) for what, took in lasted.items()},
        warm_p95_seconds=(p95(seen["before"], seen["after"]), p95(seen["during"])),
        normal_after_seconds=course.normal_after,
        late_seconds=course.late_seconds,
        modes=sorted({mode for _, mode in course.shown}),
        mode_after_seconds=None if shown_at is None else shown_at - ground.began,
        violations=workload.violations(),
    )


def p95(*phases: Seen) -> float:
    """How long 95 of 100 reads of what is in memory took at most, seconds; 0.0: there were none."""
    took = sorted(seconds for seen in phases for seconds in seen.seconds[WARM_READ])
    return took[len(took) * 95 // 100] if took else 0.0


def check(cell: Cell, figures: Figures) -> None:
    """What every run of the cell must keep to."""
    assert figures.violations == []
    assert figures.oldest_seconds <= figures.bound_seconds
    assert (figures.lost[Durability.COMMITTED.value], figures.lost[Durability.JOURNALED.value]) == (0, 0)
    assert figures.unwritten == 0
    assert figures.errors_outside == {}, figures.said
    assert not any(each.startswith(WARM_READ) for each in figures.errors), "what is in memory was not answered"
    assert {each.rpartition(" ")[2] for each in figures.errors} <= cell.errors
    assert {what: took for what, took in figures.longest_seconds.items() if took > longest(cell, figures, what)} == {}
    assert all(figures.acknowledged.values()), "nothing was tried"
    assert figures.unrecorded == []
    if cell.modes:
        assert set(figures.modes) <= cell.modes | cell.passing
        assert figures.mode_after_seconds is not None, "not every server has shown its mode"
        assert figures.mode_after_seconds <= cell.mode_seconds + figures.late_seconds


def longest(cell: Cell, figures: Figures, what: str) -> float:
    """How long a call may take; that this process could not go on is not the call's fault."""
    return (cell.patient_seconds if what in PATIENT else cell.longest_seconds) + figures.late_seconds
