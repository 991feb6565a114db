"""What dies is noticed and brought back, with its data."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
import valkey

from fix_servers import stopped_after
from holdfast.embedded import postgres
from holdfast.embedded.layout import Layout
from holdfast.embedded.options import EmbeddedOptions
from holdfast.embedded.processes import Deadline, Identity, Process, find_process, is_alive
from holdfast.embedded.redis_config import ports_of
from holdfast.embedded.running_set import halt
from holdfast.embedded.servers import Running, ensure_running, ignore, status, stop
from holdfast.embedded.starting import start_postgres
from holdfast.embedded.state import read, write
from holdfast.errors import ServerStartError

NODES = ("valkey-1", "valkey-2", "valkey-3")
LONG_SECONDS = 30.0

# Starts servers and is killed before it is done.
START = """
import asyncio, sys
from pathlib import Path
from holdfast.embedded.servers import EmbeddedOptions, ensure_running
asyncio.run(ensure_running(EmbeddedOptions(Path(sys.argv[1]))))
"""


@pytest.fixture
def options(tmp_path: Path) -> EmbeddedOptions:
    """A home of the test's own."""
    return EmbeddedOptions(tmp_path / "home")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedOptions]:
    """A home for the tests that break something and see it healed, one after the other."""
    options = EmbeddedOptions(tmp_path_factory.mktemp("used") / "home")
    yield options
    asyncio.run(stop(options))
    shutil.rmtree(options.home)


async def kill(options: EmbeddedOptions, *names: str) -> None:
    """Kill servers without notice, and wait until they are gone."""
    victims = [find_process(server.pid) for server in await status(options) if server.name in names]
    assert len(victims) == len(names)
    for victim in victims:
        assert victim is not None
        victim.kill()
    gone = Deadline(LONG_SECONDS).wait_for(lambda: None if any(is_alive(victim) for victim in victims) else True)
    assert gone


async def query(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def with_cluster(running: Running, work: Callable[[valkey.ValkeyCluster], Any]) -> Any:
    url = running.redis_urls[0]
    with valkey.ValkeyCluster.from_url(url, decode_responses=True) as client:  # type: ignore[no-untyped-call]
        return work(client)


def fill(client: valkey.ValkeyCluster) -> None:
    for index in range(50):
        client.set(f"key-{index}", index)


def held(client: valkey.ValkeyCluster) -> list[int]:
    return [int(str(client.get(f"key-{index}"))) for index in range(50)]


def ports(options: EmbeddedOptions) -> dict[str, int]:
    found = {files.name: ports_of(files) for files in Layout.of(options.home).nodes(0)}
    return {name: both.client for name, both in found.items() if both}


async def test_killed_servers_come_back_with_their_data(used: EmbeddedOptions) -> None:
    """Killed, a primary and PostgreSQL are seen to be dead, and the next start brings only them back."""
    first = await ensure_running(used)
    await query(first.postgres_url, "CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")
    with_cluster(first, fill)
    await kill(used, "valkey-2", "postgres")
    states = {server.name: server.state for server in await status(used)}
    assert states == {
        "postgres": "dead",
        "valkey-1": "running",
        "valkey-2": "dead",
        "valkey-3": "running",
    }
    second = await ensure_running(used)
    assert second.started == ("postgres", "valkey-2")
    assert second.redis_urls == first.redis_urls
    assert await query(second.postgres_url, "SELECT answer FROM kept") == 42
    assert with_cluster(second, held) == list(range(50))


@contextmanager
def occupied(ports: Iterable[int]) -> Iterator[None]:
    """Listen on ports, as another program would."""
    with ExitStack() as stack:
        for port in ports:
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
        yield


async def test_nodes_whose_ports_were_taken_move_and_find_each_other(used: EmbeddedOptions) -> None:
    """When other programs took the ports of all nodes meanwhile, they start on others and keep their data."""
    first = await ensure_running(used)
    with_cluster(first, fill)
    before = ports(used)
    await kill(used, *NODES)
    lines: list[str] = []
    with occupied(before.values()):
        second = await ensure_running(used, progress=lines.append)
        assert second.started == NODES
        assert not set(ports(used).values()) & set(before.values())
        assert with_cluster(second, held) == list(range(50))
    assert sum("another program uses port" in line for line in lines) == 3


async def test_node_that_lost_its_folder_gets_its_slots_again(used: EmbeddedOptions) -> None:
    """A node whose files were deleted rejoins as a new one, and the cluster serves every slot again."""
    running = await ensure_running(used)
    with_cluster(running, fill)
    await kill(used, "valkey-2")
    await asyncio.to_thread(shutil.rmtree, used.home / "valkey-2")
    again = await ensure_running(used)
    assert again.started == ("valkey-2",)
    kept = with_cluster(again, lambda client: [client.get(f"key-{index}") for index in range(50)])
    assert 0 < kept.count(None) < 50
    with_cluster(again, fill)
    assert with_cluster(again, held) == list(range(50))


async def test_replicas_are_added_to_a_home_without(options: EmbeddedOptions) -> None:
    """Asked for one replica each, a home with none gets three, one for each primary, with the data."""
    more = EmbeddedOptions(options.home, replicas=1)
    async with stopped_after(more):
        with_cluster(await ensure_running(options), fill)
        running = await ensure_running(more)
        assert running.started == ("valkey-4", "valkey-5", "valkey-6")
        copies: list[str] = []
        for url in running.redis_urls[3:]:
            with valkey.Valkey.from_url(url, decode_responses=True) as node:
                replication = node.info("replication")
                assert isinstance(replication, dict)
                assert replication["role"] == "slave"
                copies.append(f"{replication['master_host']}:{replication['master_port']}")
                assert node.dbsize() > 0
        assert sorted(copies) == sorted(url.rpartition("@")[2] for url in running.redis_urls[:3])
        with pytest.raises(ServerStartError, match="ask for 1, or use another home"):
            await ensure_running(options)


async def test_start_cut_short_is_taken_up_by_the_next(options: EmbeddedOptions) -> None:
    """A starter killed in the middle leaves nothing in the way of the next, and no server behind."""
    async with stopped_after(options):
        starter = await asyncio.create_subprocess_exec(sys.executable, "-c", START, str(options.home))

        def begun() -> bool | None:
            return bool([*options.home.glob("postgres/making-*/PG_VERSION")]) or None

        assert await asyncio.to_thread(Deadline(LONG_SECONDS).wait_for, begun)
        starter.kill()
        await starter.wait()
        running = await ensure_running(options)
        assert "postgres" in running.started
        assert await query(running.postgres_url, "SELECT '[1]'::vector::text") == "[1]"
        assert [*options.home.glob("postgres/making-*")] == []
        await stop(options)
        assert processes_of(options.home) == []


def processes_of(home: Path) -> list[int]:
    """The processes that have anything in this home among their arguments."""
    everything = psutil.process_iter(["cmdline"], ad_value=None)
    return [process.pid for process in everything if str(home) in " ".join(process.info["cmdline"] or [])]


async def test_damaged_state_file_costs_nothing(servers: Running, server_options: EmbeddedOptions) -> None:
    """Without a readable state file the running servers are found by their pid files and reused."""
    Layout.of(server_options.home).state.write_bytes(b'{"format": 1, "serv')
    assert [server.state for server in await status(server_options)] == ["running"] * 4
    again = await ensure_running(server_options)
    assert (again.started, again.redis_urls) == ((), servers.redis_urls)


async def test_recycled_numbers_are_neither_believed_nor_killed(used: EmbeddedOptions) -> None:
    """Where a dead server's number is now another process's, that one lives on and the server starts."""
    layout = Layout.of(used.home)
    await ensure_running(used)
    await kill(used, "postgres", "valkey-1")
    bystander = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        impersonate(layout, bystander.pid)
        assert {server.state for server in await status(used)} == {"running", "dead"}
        assert await stop(used) == ("valkey-3", "valkey-2")
        assert find_process(bystander.pid) is not None
        assert set((await ensure_running(used)).started) == {"postgres", *NODES}
        assert find_process(bystander.pid) is not None
    finally:
        bystander.send_signal(signal.SIGKILL)
        await bystander.wait()


def impersonate(layout: Layout, pid: int) -> None:
    """Write the number of another process wherever those of PostgreSQL and valkey-1 are written down."""
    pid_file = layout.postgres / "data" / "postmaster.pid"
    if pid_file.exists():
        pid_file.write_bytes(str(pid).encode() + b"\n" + pid_file.read_bytes().partition(b"\n")[2])
    layout.nodes(0)[0].pid_file.write_text(f"{pid}\n")
    known = read(layout.state)
    process = find_process(pid)
    assert known is not None
    assert process is not None
    servers = known.servers | dict.fromkeys(("postgres", "valkey-1"), Identity.of(process))
    write(
        layout.state,
        type(known)(known.format, known.postgres_version, known.replicas, known.sockets, servers),
    )


async def test_frozen_nodes_are_named_soon_and_can_be_stopped(used: EmbeddedOptions) -> None:
    """Nodes that run and do not answer cost a start and a look seconds, not minutes, and `stop` ends them."""
    await ensure_running(used)
    frozen = {server.name: server.pid for server in await status(used) if server.name in NODES}
    for pid in frozen.values():
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(8.0):
        assert [server.state for server in await status(used)] == ["running", "dead", "dead", "dead"]
    async with asyncio.timeout(25.0):
        with pytest.raises(
            ServerStartError, match=r"valkey-\d runs as process (\d+), but after 10 s .*holdfast down"
        ) as failed:
            await ensure_running(used)
    assert any(f"{name} runs as process {pid}, " in str(failed.value) for name, pid in frozen.items())
    async with asyncio.timeout(LONG_SECONDS):
        assert set(await stop(used)) == {"postgres", *NODES}
    assert not any(find_process(pid) for pid in frozen.values())


def computes(process: Process) -> bool | None:
    """Whether it has used a processor for a while."""
    return process.cpu_times().user > 0.05 or None


async def test_sessions_that_outlive_the_postmaster_are_ended(options: EmbeddedOptions) -> None:
    """A session that computes on after the postmaster was killed is in the way of neither start nor stop."""
    layout = Layout.of(options.home)
    layout.prepare()
    async with stopped_after(options):
        for act in (partial(start_postgres, options, layout, None, ignore), partial(halt, options, ignore)):
            process = await asyncio.to_thread(start_postgres, options, layout, None, ignore)
            sockets = postgres.sockets_of(layout.postgres)
            assert sockets is not None
            busy = await asyncpg.connect(postgres.url(sockets))
            session: Process = find_process(await busy.fetchval("SELECT pg_backend_pid()"))
            endless = asyncio.create_task(busy.execute("SELECT count(*) FROM generate_series(1, 1e12::bigint)"))
            assert await asyncio.to_thread(Deadline(LONG_SECONDS).wait_for, partial(computes, session))
            process.kill()
            await asyncio.to_thread(act)
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await endless
            assert not is_alive(session)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"postgres/data/PG_VERSION": "?"}, "postgres: the data in .* is damaged"),
        (
            {"postgres/data/PG_VERSION": "18", "postgres/data/postgresql.conf": "no setting"},
            r"postgres did not start: .*unrecognized configuration parameter.*its log: .*/postgres\.log",
        ),
        (
            {"valkey-2/nodes.conf": "no node"},
            r"valkey-2 did not start: .*corrupted cluster config.*its log: .*/valkey-2\.log",
        ),
    ],
)
async def test_failed_start_names_server_reason_and_log(
    options: EmbeddedOptions, files: dict[str, str], words: str
) -> None:
    """A server that cannot start is named, with its own reason and its log, and nothing is left running."""
    for name, content in files.items():
        file = options.home / name
        await asyncio.to_thread(file.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    async with stopped_after(options):
        with pytest.raises(ServerStartError, match=words):
            await ensure_running(options)
        assert {server.state for server in await status(options)} == {"stopped"}


async def test_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A home that cannot be made is an error that names it, not a traceback of the operating system."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServerStartError, match=r"Not a directory: .*file"):
        await ensure_running(EmbeddedOptions(tmp_path / "file" / "home"))
    assert (tmp_path / "file").read_text() == "in the way"
