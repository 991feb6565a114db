"""Servers of a test's own are killed, frozen and brought back by name, and nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest
import valkey
from valkey.crc import key_slot

from holdfast.embedded.processes import Deadline, find_process
from holdfast.testing.fault_proxy import StartProxy
from holdfast.testing.server_controls import ServerControls

LONG_SECONDS = 30.0
SHORT_SECONDS = 0.2  # to see that there is no answer
NODES = ("valkey-1", "valkey-2", "valkey-3")
ENDLESS = "SELECT count(*) FROM generate_series(1, 1e12::bigint)"


@asynccontextmanager
async def session(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=LONG_SECONDS)
    try:
        yield connection
    finally:
        connection.terminate()


def on_node(url: str, *words: str, seconds: float = LONG_SECONDS) -> str:
    """Ask one node."""
    with valkey.Valkey.from_url(url, decode_responses=True, socket_timeout=seconds) as client:
        return str(client.execute_command(*words))


def on_cluster(url: str, *words: str) -> str:
    with valkey.ValkeyCluster.from_url(url, decode_responses=True) as client:  # type: ignore[no-untyped-call]
        return str(client.execute_command(*words))


async def eventually(condition: Callable[[], bool]) -> None:
    """Ask in a thread until it is so."""
    assert await asyncio.to_thread(Deadline(LONG_SECONDS).wait_for, lambda: condition() or None)


def states(pids: tuple[int, ...]) -> set[str]:
    return {psutil.Process(pid).status() for pid in pids}


async def test_kill_ends_postgres_with_its_sessions_and_restart_brings_the_data_back(
    server_controls: ServerControls,
) -> None:
    """After a kill no process of PostgreSQL is left, busy sessions included; the same URL serves after the restart."""
    url = server_controls.url("postgres")
    async with session(url) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        busy = await connection.fetchval("SELECT pg_backend_pid()")
        endless = asyncio.ensure_future(connection.execute(ENDLESS))
        await eventually(lambda: psutil.Process(busy).cpu_times().user > 0.05)
        before = server_controls.pids("postgres")
        nodes = [server_controls.pids(name) for name in NODES]
        assert busy in before
        await server_controls.kill("postgres")
        assert [find_process(pid) for pid in before] == [None] * len(before)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await endless
    assert server_controls.pids("postgres") == ()
    with pytest.raises(RuntimeError, match=r"postgres in .*servers does not run: restart it first"):
        await server_controls.stop("postgres")
    with pytest.raises(TimeoutError, match=r"postgres is not up after 0\.1 s: it accepts no connections"):
        await server_controls.wait_up("postgres", seconds=0.1)
    await server_controls.restart("postgres")
    await server_controls.wait_up("postgres")
    assert server_controls.url("postgres") == url
    async with session(url) as connection:
        assert await connection.fetchval("SELECT answer FROM kept") == 42
    assert not set(server_controls.pids("postgres")) & set(before)
    assert [server_controls.pids(name) for name in NODES] == nodes


async def test_stopped_postgres_answers_when_it_goes_on(
    server_controls: ServerControls, fault_proxy: StartProxy
) -> None:
    """Frozen, all of PostgreSQL stands still and no answer comes until it goes on; frozen, it can be restarted too."""
    proxy = await fault_proxy(*server_controls.address("postgres"))
    async with session(server_controls.url("postgres", through=proxy)) as connection:
        pids = server_controls.pids("postgres")
        assert await connection.fetchval("SELECT pg_backend_pid()") in pids
        await server_controls.stop("postgres")
        await server_controls.stop("postgres")
        assert states(pids) == {psutil.STATUS_STOPPED}
        answer = asyncio.ensure_future(connection.fetchval("SELECT 42"))
        assert await asyncio.wait([answer], timeout=SHORT_SECONDS) == (set(), {answer})
        await server_controls.cont("postgres")
        async with asyncio.timeout(LONG_SECONDS):
            assert await answer == 42
        assert psutil.STATUS_STOPPED not in states(pids)
        await server_controls.stop("postgres")
    await server_controls.restart("postgres")
    async with session(server_controls.url("postgres")) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_nodes_are_killed_frozen_and_restarted_by_name(server_controls: ServerControls) -> None:
    """A node that is killed comes back with its keys at the same address while another one is frozen throughout."""
    urls = {name: server_controls.url(name) for name in NODES}
    for number in range(20):
        await asyncio.to_thread(on_cluster, urls["valkey-1"], "SET", f"key-{number}", str(number))
    held = await asyncio.to_thread(on_node, urls["valkey-2"], "DBSIZE")
    assert int(held) > 0
    await server_controls.stop("valkey-1")
    with pytest.raises(valkey.TimeoutError):
        await asyncio.to_thread(partial(on_node, urls["valkey-1"], "PING", seconds=SHORT_SECONDS))
    (pid,) = server_controls.pids("valkey-2")
    await server_controls.kill("valkey-2")
    with pytest.raises(valkey.ConnectionError):
        await asyncio.to_thread(on_node, urls["valkey-2"], "PING")
    await server_controls.restart("valkey-2")
    assert server_controls.pids("valkey-2") != (pid,)
    assert await asyncio.to_thread(on_node, urls["valkey-2"], "DBSIZE") == held
    assert states(server_controls.pids("valkey-1")) == {psutil.STATUS_STOPPED}
    await server_controls.cont("valkey-1")
    await server_controls.wait_up("valkey-2")
    assert await asyncio.to_thread(on_node, urls["valkey-1"], "PING") == "True"
    assert await asyncio.to_thread(on_cluster, urls["valkey-2"], "GET", "key-7") == "7"


def replication(url: str) -> dict[str, object]:
    """What a node says of its place in the replication."""
    with valkey.Valkey.from_url(url, decode_responses=True, socket_timeout=LONG_SECONDS) as client:
        return dict(client.info("replication"))


def follows(url: str, port: int) -> bool:
    """Whether a node is a replica of the one at this port, and up to date."""
    said = replication(url)
    return said["role"] == "slave" and said["master_port"] == port and said["master_link_status"] == "up"


@pytest.mark.parametrize("server_controls", [1], indirect=True)
async def test_replica_behind_a_held_link_takes_over_without_the_last_write(
    server_controls: ServerControls, fault_proxy: StartProxy
) -> None:
    """A primary announced at a proxy is replicated through it; what a hold kept back is missing after a takeover."""
    early, late = [f"key-{number}" for number in range(20) if key_slot(f"key-{number}".encode()) < 5461][:2]
    primary = server_controls.url("valkey-1")
    (port,) = {int(str(replication(primary)["slave0"]["port"]))}  # type: ignore[index]
    (replica,) = [url for url in map(server_controls.url, server_controls.names[4:]) if url.endswith(f":{port}")]
    proxy = await fault_proxy(*server_controls.address("valkey-1"))
    await server_controls.announce("valkey-1", proxy)
    await eventually(lambda: follows(replica, proxy.port))
    on_node(primary, "SET", early, "1")
    await eventually(lambda: on_node(replica, "DBSIZE") == "1")
    link = proxy.hold("to_client", where=lambda connection: b"REPLCONF" in connection.first_bytes)
    before = proxy.to_client.delivered
    on_node(primary, "SET", late, "2")
    await eventually(lambda: proxy.to_client.received >= before + len(late))
    assert proxy.to_client.delivered == before
    await server_controls.kill("valkey-1")
    on_node(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
    await eventually(lambda: replication(replica)["role"] == "master")
    assert [on_node(replica, "GET", key) for key in (early, late)] == ["1", "None"]
    link.end()
    await server_controls.restart("valkey-1")
    await eventually(lambda: follows(primary, port))
    await server_controls.wait_up("valkey-1")


async def test_closing_ends_what_is_frozen_and_keeps_the_files(tmp_path: Path) -> None:
    """Closed twice, with every server frozen, no process is left; started again, the data is there."""
    servers = ServerControls(tmp_path / "servers")
    for _ in range(2):
        async with servers:
            async with session(servers.url("postgres")) as connection:
                await connection.execute("CREATE TABLE IF NOT EXISTS kept (at timestamptz DEFAULT now())")
                await connection.execute("INSERT INTO kept DEFAULT VALUES")
                count = await connection.fetchval("SELECT count(*) FROM kept")
            pids = [pid for name in servers.names for pid in servers.pids(name)]
            assert len(pids) > len(servers.names)
            for name in servers.names:
                await servers.stop(name)
            await servers.close()
            assert [find_process(pid) for pid in pids] == [None] * len(pids)
    assert count == 2


async def test_names_and_moments_that_are_wrong_are_refused(tmp_path: Path) -> None:
    """An unknown name is told the known ones, and before the start nothing runs and there is no URL."""
    servers = ServerControls(tmp_path / "servers")
    assert servers.names == ("postgres", *NODES)
    with pytest.raises(ValueError, match="no server 'valkey-4': name one of postgres, valkey-1, valkey-2, valkey-3"):
        await servers.kill("valkey-4")
    with pytest.raises(ValueError, match="only a node can announce an address, not 'postgres'"):
        await servers.announce("postgres", None)
    for name in ("postgres", "valkey-1"):
        with pytest.raises(RuntimeError, match=r"/servers"):
            servers.url(name)
        with pytest.raises(RuntimeError, match=r"does not run"):
            await servers.cont(name)
    await servers.close()
    assert not (tmp_path / "servers").exists()
