"""The cells of the fault matrix: how each fault begins and ends, and what its callers may see."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import valkey

from faults.damage import KINDS, damaged, flipped, foreign, truncated
from faults.damaged_rows import DAMAGED, l3_rows_damaged
from faults.matrix import (
    COMMIT_SECONDS,
    L3,
    NEITHER,
    NO_L2,
    NO_L3,
    NODES,
    OF_L3_AWAY,
    Cell,
    Ground,
    Harm,
    working,
)
from faults.small_disk import l3_disk_full, on_small_disk
from faults.test_writes_killed import lines_of
from fix_races import until
from fix_tiers import flows_of
from fix_write_behind import Process, until_lines
from holdfast import Durability
from holdfast.embedded.redis_config import MAXMEMORY
from holdfast.protocols import JournalState

LINES = 100
"""Acknowledgements of a process before it is harmed, and after it goes on."""
HOARD_PAUSE_SECONDS = 0.1
HOARD_MAX = 400
"""More connections than the embedded PostgreSQL gives."""
TERMINATE: Final = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND NOT (pid = ANY ($1))"""


def killed(*names: str) -> Harm:
    """Servers are killed, and restarted on their data."""

    @asynccontextmanager
    async def harm(ground: Ground) -> AsyncIterator[None]:
        await asyncio.gather(*map(ground.controls.kill, names))
        try:
            yield
        finally:
            await ground.revive(*names)

    return harm


def paused(*names: str) -> Harm:
    """Servers stand still by SIGSTOP."""

    @asynccontextmanager
    async def harm(ground: Ground) -> AsyncIterator[None]:
        await asyncio.gather(*map(ground.controls.stop, names))
        try:
            yield
        finally:
            await asyncio.gather(*map(ground.controls.cont, names))

    return harm


@asynccontextmanager
async def l2_partitioned(ground: Ground) -> AsyncIterator[None]:
    """No byte to or from any node passes; the connections stay open."""
    with ExitStack() as held:
        for proxy in ground.l2.values():
            held.enter_context(proxy.hold())
        yield


@asynccontextmanager
async def l3_partitioned(ground: Ground) -> AsyncIterator[None]:
    """The same with L3."""
    with ground.l3.hold():
        yield


@asynccontextmanager
async def feed_held(ground: Ground) -> AsyncIterator[None]:
    """The connections that follow the feed say nothing; all others work."""
    with ground.l3.hold("to_client", where=lambda connection: b"holdfast feed" in connection.first_bytes):
        yield


@asynccontextmanager
async def l2_full(ground: Ground) -> AsyncIterator[None]:
    """Every node refuses what needs memory."""
    await asyncio.gather(*(tell(ground, name, "CONFIG", "SET", "maxmemory", "1") for name in NODES))
    try:
        yield
    finally:
        await asyncio.gather(*(tell(ground, name, "CONFIG", "SET", "maxmemory", MAXMEMORY) for name in NODES))


async def tell(ground: Ground, name: str, *words: str) -> None:
    """Send a command to a node itself."""

    def send() -> None:
        with valkey.Valkey.from_url(ground.controls.url(name)) as client:
            client.execute_command(*words)

    await asyncio.to_thread(send)


@asynccontextmanager
async def l3_out_of_connections(ground: Ground) -> AsyncIterator[None]:
    """Others hold every connection that L3 gives, those kept for administrators too; the servers' own are ended."""
    hoard: list[asyncpg.Connection[Any]] = []
    try:
        await take_all(ground, hoard)
        ground.began = time.monotonic()
        async with working(take_on(ground, hoard)):
            yield
    finally:
        for connection in hoard:
            connection.terminate()


async def take_on(ground: Ground, hoard: list[asyncpg.Connection[Any]]) -> None:
    """Take again what the servers got meanwhile."""
    while True:
        await asyncio.sleep(HOARD_PAUSE_SECONDS)
        await take_all(ground, hoard)


async def take_all(ground: Ground, hoard: list[asyncpg.Connection[Any]]) -> None:
    """End all connections but ours, and open new ones until none is given."""
    if hoard:
        await hoard[0].execute(TERMINATE, [each.get_server_pid() for each in hoard])
    with suppress(asyncpg.TooManyConnectionsError):
        while len(hoard) < HOARD_MAX:
            hoard.append(await asyncpg.connect(ground.controls.url(L3)))
            if len(hoard) == 1:
                await hoard[0].execute(TERMINATE, [hoard[0].get_server_pid()])


def process_killed(*changes: str) -> Harm:
    """A third server, in a process of its own, is killed while it writes; another takes over what it left.

    Args:
        changes: of how it works; see `write_behind_child`.
    """

    @asynccontextmanager
    async def harm(ground: Ground) -> AsyncIterator[None]:
        async with writing_process(ground, *changes) as (process, file):
            flows = flows_of(ground.servers["a"])
            journal = await process.journal(flows)
            ground.began = time.monotonic()
            await process.kill()
            yield

            async def drained() -> bool:
                records = await flows._given.journals.records()
                return any(each.journal == journal and each.state is JournalState.DRAINED for each in records)

            ground.settled.append(drained)
            ground.lines += lines_of(file)

    return harm


@asynccontextmanager
async def process_paused(ground: Ground) -> AsyncIterator[None]:
    """A third server, in a process of its own, stands still while it writes, and goes on."""
    async with writing_process(ground) as (process, file):
        ground.began = time.monotonic()
        process.send(signal.SIGSTOP)
        await process.until_stopped()
        yield
        before = len(lines_of(file))
        process.send(signal.SIGCONT)
        await until_lines(file, before + LINES)
        process.send(signal.SIGTERM)
        await process.told("closed")
        ground.lines += lines_of(file)


@asynccontextmanager
async def writing_process(ground: Ground, *changes: str) -> AsyncIterator[tuple[Process, Path]]:
    """A third server that writes, with all sorts acknowledged, and the file of these; killed at the end."""
    name = f"c{len(ground.lines)}"
    file = ground.folder / f"lines-{name}"
    process = await Process.start(ground.settings, ground.folder / f"log-{name}", *changes)
    try:
        await process.told("ready")
        process.order("Write", file=str(file), prefix=name)
        await until_lines(file, LINES)

        async def acknowledged() -> bool:
            return {line.reached for line in lines_of(file)} == set(Durability)

        await until(acknowledged)
        yield process, file
    finally:
        await process.kill()


def stepped(seconds: float) -> Harm:
    """The time of day of one server is another, and then right again."""

    @asynccontextmanager
    async def harm(ground: Ground) -> AsyncIterator[None]:
        clock = ground.clocks["a"]
        clock.offset_seconds = seconds
        try:
            yield
        finally:
            clock.offset_seconds = 0.0

    return harm


OF_L2: Final = (("tier:l2",),)
OF_L3: Final = (("tier:l3",),)
OF_FEED: Final = (("tier:feed",),)
READ: Final = (tuple(f"{kind}:" for kind in KINDS.values()),)

OF_L3_FULL: Final = frozenset({"StorageFull", "Undecided"})

l2_away = partial(Cell, layer="l2", patient_seconds=1.0, modes=NO_L2, subjects=OF_L2)
l3_away = partial(
    Cell,
    layer="l3",
    errors=OF_L3_AWAY,
    longest_seconds=1.5,  # calls that L3 was sent are given up when it was silent for 0.8 s
    patient_seconds=COMMIT_SECONDS + 1.5,
    modes=NO_L3,
    subjects=OF_L3,
)

beside = partial(Cell, layer="process", longest_seconds=3.0, patient_seconds=3.0)
"""A third server begins on the same cores, which is slow for all."""

CELLS: Final = (
    Cell("one node of L2 killed", "l2", killed(NODES[1]), 15.0, subjects=OF_L2),
    l2_away("all of L2 killed", harm=killed(*NODES), long_seconds=15.0),
    l2_away("L2 paused", harm=paused(*NODES), long_seconds=30.0, short=True),
    l2_away("L2 partitioned, bytes held", harm=l2_partitioned, long_seconds=30.0),
    Cell("L2 out of memory", "l2", l2_full, subjects=OF_L2),
    Cell("bits of L2 flipped", "l2", damaged(flipped), subjects=READ, short=True),
    Cell("values of L2 truncated", "l2", damaged(truncated), subjects=READ),
    Cell("foreign values in L2", "l2", damaged(foreign), subjects=READ),
    l3_away("L3 killed and restarted", harm=killed(L3), short=True),
    l3_away("L3 paused", harm=paused(L3), long_seconds=30.0),
    l3_away("L3 partitioned, bytes held", harm=l3_partitioned, long_seconds=30.0),
    l3_away("L3 out of connections", harm=l3_out_of_connections, errors=OF_L3_AWAY - {"Overloaded"}),
    l3_away("L3's disk full", harm=l3_disk_full, ground=on_small_disk, modes=frozenset(), errors=OF_L3_FULL),
    l3_away("L2 and L3 killed", harm=killed(L3, *NODES), modes=NEITHER, passing=NO_L2 | NO_L3, subjects=OF_L2 + OF_L3),
    l3_away("L3 away for 5 minutes", layer="outage", harm=killed(L3), long_seconds=300.0),
    Cell("rows of L3 damaged", "l3", l3_rows_damaged, subjects=((f"bot:{DAMAGED}",),)),
    Cell("feed held", "feed", feed_held, subjects=OF_FEED, short=True),
    beside("a server killed", harm=process_killed()),
    beside("a server paused", harm=process_paused),
    Cell("clock one hour ahead", "process", stepped(3600.0)),
    Cell("clock one hour behind", "process", stepped(-3600.0)),
)
"""All of them; those of one layer are one part of `make faults`."""
