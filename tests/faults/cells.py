"""The cells of the fault matrix: how each fault begins and ends, and what its callers may see."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import valkey

from faults.matrix import L3, NODES, OF_L3_AWAY, Cell, Ground, Harm, execute, until_soon
from faults.test_writes_killed import lines_of
from fix_tiers import flows_of
from fix_write_behind import Process, until_lines
from holdfast import Durability
from holdfast.embedded.redis_config import MAXMEMORY
from holdfast.keys import Key, redis_key
from holdfast.protocols import JournalState

LINES = 100
"""Acknowledgements of a process before it is harmed, and after it goes on."""
DAMAGE_PAUSE_SECONDS = 0.05
HOARD_PAUSE_SECONDS = 0.1
HOARD_MAX = 400
"""More connections than the embedded PostgreSQL gives."""
DISK_BYTES = 32 << 20
KINDS: Final = {"bots": "bot", "teams": "team"}
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


Damage = Callable[[Any, bytes, bytes, random.Random], object]
"""Changes what a key of the cluster holds: by a client, its name, what it holds, and a source of randomness."""


def flipped(client: Any, name: bytes, held: bytes, source: random.Random) -> None:
    """One bit is another."""
    bits = bytearray(held)
    bits[source.randrange(len(bits))] ^= 1 << source.randrange(8)
    client.set(name, bytes(bits), keepttl=True)


def truncated(client: Any, name: bytes, held: bytes, source: random.Random) -> None:
    """The end is missing, or all of it."""
    client.set(name, held[: source.randrange(len(held))], keepttl=True)


def foreign(client: Any, name: bytes, _held: bytes, source: random.Random) -> None:
    """Another program has put there what it likes, also of another type."""
    others = (
        b"",
        b"{}",
        pickle.dumps({"name": "1"}),
        b'{"name":"1"}',
        source.randbytes(200),
        b"H\x01" + bytes(66),
        None,
    )
    other = source.choice(others)
    if other is None:
        client.delete(name)
        client.lpush(name, b"x")
    else:
        client.set(name, other)


def damaged(damage: Damage) -> Harm:
    """What L2 holds of what is read is damaged as fast as it is put there, and L1 holds nothing."""

    async def damage_on(ground: Ground) -> None:
        source, prefix = random.Random(1), ground.settings.key_prefix.encode()
        while True:
            names = [redis_key(prefix, Key(KINDS[sort], each)) for sort, each in set(ground.workload.documents())]
            await asyncio.to_thread(damage_all, ground.controls.url(NODES[0]), names, damage, source)
            for store in ground.servers.values():
                for kind in KINDS.values():
                    flows_of(store).caches[kind].flush()
            await asyncio.sleep(DAMAGE_PAUSE_SECONDS)

    @asynccontextmanager
    async def harm(ground: Ground) -> AsyncIterator[None]:
        before = errors_of_l2(ground)
        async with working(damage_on(ground)):
            yield
        met = errors_of_l2(ground) - before
        assert met or damage is foreign, "no damaged entry was met"

    return harm


def damage_all(url: str, names: list[bytes], damage: Damage, source: random.Random) -> None:
    """Damage what these keys hold; blocks."""
    with valkey.ValkeyCluster.from_url(url) as client:  # type: ignore[no-untyped-call]
        for name in names:
            with suppress(valkey.ResponseError):  # it holds no string any more
                if held := client.get(name):
                    damage(client, name, held, source)


def errors_of_l2(ground: Ground) -> int:
    """Keys whose entry was unreadable, or whose node failed, at all servers so far."""
    return sum(flows_of(store).counters.l2.errors for store in ground.servers.values())


async def tell(ground: Ground, name: str, *words: str) -> None:
    """Send a command to a node itself."""

    def send() -> None:
        with valkey.Valkey.from_url(ground.controls.url(name)) as client:
            client.execute_command(*words)

    await asyncio.to_thread(send)


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


class Disk:
    """A small disk, in memory, on which L3 keeps all of Holdfast's tables.

    Args:
        path: where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def tables(self) -> Path:
        """The folder of the tablespace."""
        return self._path / "tables"

    def mount(self, files: Path) -> None:
        """Mount it; its folder belongs to the owner of L3's files.

        Raises:
            OSError: it may not be mounted here.
        """
        options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(self._path)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"no tmpfs may be mounted here: {done.stderr.strip()}")
        owner = files.stat()
        self.tables.mkdir(mode=0o700)
        os.chown(self.tables, owner.st_uid, owner.st_gid)

    def unmount(self) -> None:
        """Remove it, with what it holds."""
        subprocess.run(["umount", str(self._path)], check=True)

    def fill(self) -> None:
        """Leave no room."""
        with suppress(OSError), (self._path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 16))

    def empty(self) -> None:
        """Leave room again."""
        (self._path / "filler").unlink(missing_ok=True)


DISK: Final = Disk(Path(tempfile.gettempdir()) / f"small-disk-{os.getpid()}")


@asynccontextmanager
async def on_small_disk(ground: Ground) -> AsyncIterator[None]:
    """Tables made from now on are on a small disk; the test is skipped where there can be none."""
    connection = await asyncpg.connect(ground.controls.url(L3))
    files = Path(await connection.fetchval("SHOW data_directory"))
    await connection.close()
    DISK._path.mkdir()
    try:
        try:
            await asyncio.to_thread(DISK.mount, files)
        except OSError as fault:
            pytest.skip(str(fault))
        try:
            await execute(
                ground.controls,
                f"CREATE TABLESPACE small LOCATION '{DISK.tables}'",
                "ALTER DATABASE holdfast SET default_tablespace = small",
            )
            yield
        finally:
            await execute(
                ground.controls,
                "ALTER DATABASE holdfast RESET default_tablespace",
                "DROP SCHEMA IF EXISTS holdfast CASCADE",
                "CHECKPOINT",
                "DROP TABLESPACE IF EXISTS small",
            )
            DISK.unmount()
    finally:
        DISK._path.rmdir()


@asynccontextmanager
async def l3_disk_full(_ground: Ground) -> AsyncIterator[None]:
    """The disk of Holdfast's tables is full."""
    await asyncio.to_thread(DISK.fill)
    try:
        yield
    finally:
        DISK.empty()


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

        await until_soon(acknowledged)
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


CELLS: Final = (
    Cell("one node of L2 killed", "l2", killed(NODES[1]), 15.0),
    Cell("all of L2 killed", "l2", killed(*NODES), 15.0),
    Cell("L2 paused", "l2", paused(*NODES), 30.0, short=True),
    Cell("L2 partitioned, bytes held", "l2", l2_partitioned, 30.0),
    Cell("L2 out of memory", "l2", l2_full),
    Cell("bits of L2 flipped", "l2", damaged(flipped), short=True),
    Cell("values of L2 truncated", "l2", damaged(truncated)),
    Cell("foreign values in L2", "l2", damaged(foreign)),
    Cell("L3 killed and restarted", "l3", killed(L3), errors=OF_L3_AWAY, longest_seconds=8.0, short=True),
    Cell("L3 paused", "l3", paused(L3), 30.0, errors=OF_L3_AWAY, longest_seconds=8.0),
    Cell("L3 partitioned, bytes held", "l3", l3_partitioned, 30.0, errors=OF_L3_AWAY, longest_seconds=8.0),
    Cell("L3 out of connections", "l3", l3_out_of_connections, errors=OF_L3_AWAY, longest_seconds=8.0),
    Cell("L3's disk full", "l3", l3_disk_full, errors=OF_L3_AWAY, longest_seconds=8.0, ground=on_small_disk),
    Cell("L2 and L3 killed", "l3", killed(L3, *NODES), errors=OF_L3_AWAY, longest_seconds=8.0),
    Cell("L3 away for 5 minutes", "outage", killed(L3), 300.0, errors=OF_L3_AWAY, longest_seconds=8.0),
    Cell("feed held", "feed", feed_held, short=True),
    Cell("a server killed", "process", process_killed()),
    Cell("a server paused", "process", process_paused),
    Cell("clock one hour ahead", "process", stepped(3600.0)),
    Cell("clock one hour behind", "process", stepped(-3600.0)),
)
"""All of them; those of one layer are one part of `make faults`."""
