"""Homes in awkward places, other versions, and the accounts that may run the servers."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest
import valkey

from fix_servers import stopped_after
from holdfast.embedded import postgres, redis
from holdfast.embedded.binaries import valkey_server
from holdfast.embedded.launching import RunAs, start
from holdfast.embedded.layout import SOCKET_PATH_BYTES_MAX, Layout
from holdfast.embedded.privileges import data_area
from holdfast.embedded.processes import Deadline, Process, is_alive
from holdfast.embedded.servers import EmbeddedOptions, ensure_running, ignore, status, stop
from holdfast.embedded.starting import start_postgres
from holdfast.errors import ServerStartError

LONG_SECONDS = 30.0

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for other users")

# Starts PostgreSQL alone in the home given, asks it who runs it, stops it. The second argument stands for the
# folder of the machine that root uses for data. With a third the programs are installed there, out of reach.
START = """
import asyncio, os, sys
from pathlib import Path
import asyncpg
from holdfast.embedded import binaries, postgres, privileges, starting
from holdfast.embedded.layout import Layout
from holdfast.embedded.processes import Deadline
from holdfast.embedded.servers import EmbeddedOptions, stop
from holdfast.embedded.starting import start_postgres

async def main(home, areas, programs=None):
    privileges.SHARED_AREAS = areas
    if programs:
        installed = binaries.postgres_tree(18)
        if not programs.exists():
            programs.mkdir(mode=0o700)
            installed.copy_to(programs)
        starting.postgres_tree = lambda version: installed.moved_to(programs)
    options, layout = EmbeddedOptions(home), Layout.of(home)
    layout.prepare()
    lines = []
    try:
        process = start_postgres(options, layout, None, lines.append)
        area = privileges.data_area(layout)
        connection = await asyncpg.connect(postgres.url(postgres.sockets_of(area)))
        vector = await connection.fetchval("SELECT '[1]'::vector::text")
        await connection.close()
        print(vector, process.uids().real, area, *lines, sep="\\n")
    finally:
        await stop(options)

asyncio.run(main(*map(Path, sys.argv[1:])))
"""


def mode(directory: Path) -> int | None:
    return directory.stat().st_mode & 0o777 if directory.exists() else None


async def version_in(options: EmbeddedOptions) -> str:
    """Start PostgreSQL alone, and ask it for its version through its URL."""
    layout = Layout.of(options.home)
    layout.prepare()
    await asyncio.to_thread(start_postgres, options, layout, None, ignore)
    sockets = postgres.sockets_of(data_area(layout))
    assert sockets is not None
    connection = await asyncpg.connect(postgres.url(sockets))
    try:
        assert await connection.fetchval("SELECT '[1]'::vector::text") == "[1]"
        return str(await connection.fetchval("SHOW server_version_num"))
    finally:
        await connection.close()


async def test_home_with_any_name_under_a_closed_directory(tmp_path: Path) -> None:
    """A home with spaces, quotes and a comma, too deep for a socket, under a closed directory, works."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = closed / 'it\'s a "home", wide & déép' / ("d" * SOCKET_PATH_BYTES_MAX) / "home"
    async with stopped_after(EmbeddedOptions(home)) as options:
        running = await ensure_running(options)
        connection = await asyncpg.connect(running.postgres_url)
        sockets = Path(str(await connection.fetchval("SHOW unix_socket_directories")).strip('"'))
        await connection.close()
        with valkey.Valkey.from_url(running.redis_urls[0], decode_responses=True) as node:
            assert node.config_get("dir") == {"dir": str(home / "valkey-1")}
        assert not sockets.is_relative_to(home)
        assert mode(sockets) == 0o700
        await stop(options)
        assert mode(sockets) is None


async def test_home_that_looks_like_a_pattern(tmp_path: Path) -> None:
    """A home with the signs of a file name pattern gets its own servers, closed to the network, and stops them."""
    home = tmp_path / r"swarm [a-c] *?\x" / "home"
    async with stopped_after(EmbeddedOptions(home)) as options:
        running = await ensure_running(options)
        for url in running.redis_urls:
            with valkey.Valkey.from_url(url, decode_responses=True) as node:
                assert node.config_get("bind", "requirepass") == {
                    "bind": "127.0.0.1",
                    "requirepass": node_password(url),
                }
                assert node.info("server")["process_id"] in [server.pid for server in await status(options)]
        assert {server.state for server in await status(options)} == {"running"}
        assert len(await stop(options)) == 4


def node_password(url: str) -> str:
    return url.split(":")[2].partition("@")[0]


async def test_failed_node_is_ended_whatever_it_calls_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that runs without its configuration is refused, and ended although no search would find it."""
    held: list[Process] = []

    def start_unconfigured(words: Sequence[str], run_as: RunAs, log: Path, *, given: Path) -> Process | None:
        port = words[words.index("--port") + 1]
        unconfigured = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", str(log.parent)]
        held.append(start([words[0], *unconfigured], run_as, log))
        return held[-1]

    monkeypatch.setattr(redis, "start", start_unconfigured)
    layout = Layout.of(tmp_path / "home")
    layout.prepare()
    files = layout.nodes(0)[0]
    with pytest.raises(ServerStartError, match="valkey-1 runs with another password"):
        await asyncio.to_thread(redis.launch, files, valkey_server(), "p" * 30, ignore)
    assert redis.program(files).find() is None
    assert len(held) == 1
    assert not is_alive(held[0])


async def test_postgres_16_runs_too(tmp_path: Path) -> None:
    """PostgreSQL 16 is bundled as well, and has the vector extension."""
    async with stopped_after(EmbeddedOptions(tmp_path / "home", postgres_version=16)) as options:
        assert (await version_in(options)).startswith("16")
        with pytest.raises(ServerStartError, match="made by PostgreSQL 16 and 18 is asked for: ask for 16"):
            await ensure_running(EmbeddedOptions(options.home, postgres_version=18))


async def test_home_over_the_limits_is_one_sentence(tmp_path: Path) -> None:
    """A home whose path PostgreSQL could not hold is refused before anything is made."""
    home = tmp_path.joinpath(*["d" * 200] * 4, "home")
    with pytest.raises(ServerStartError, match="at most 800"):
        await ensure_running(EmbeddedOptions(home))
    assert not home.exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def start_without_namespaces(*paths: Path) -> list[str]:
    """Run START as root of a user namespace in which no further one may be made, as in many containers."""
    script = 'read go; exec sh -c "echo 0 > /proc/sys/user/max_user_namespaces && exec \\"\\$@\\"" sh "$@"'
    start = [sys.executable, "-c", START, *map(str, paths)]
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", script, "sh", *start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        namespace = Path(f"/proc/{starter.pid}/ns/user")
        ours = Path("/proc/self/ns/user").readlink()
        assert Deadline(LONG_SECONDS).wait_for(lambda: namespace.readlink() != ours or None)
        for kind in ("uid", "gid"):
            Path(f"/proc/{starter.pid}/{kind}_map").write_text("0 0 65536\n")
        output, _ = starter.communicate("go\n", timeout=60)
    assert starter.returncode == 0
    return output.splitlines()


def namespaces_work() -> bool:
    """Whether this machine lets root make the namespace that the tests below need."""
    tried = subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True)
    return os.geteuid() == 0 and tried.returncode == 0


in_namespace = pytest.mark.skipif(not namespaces_work(), reason="only root, where it may make user namespaces")


@in_namespace
def test_root_without_namespaces_runs_postgres_as_another_user(open_folder: Path) -> None:
    """Where namespaces are refused, another user runs PostgreSQL, its data in the home, and it is said."""
    home = open_folder / "home"
    vector, uid, area, *lines = start_without_namespaces(home, open_folder / "areas")
    assert (vector, area) == ("[1]", str(home / "postgres"))
    assert int(uid) != 0
    assert any(line.startswith("postgres: running it as user") for line in lines)
    assert home.stat().st_mode & 0o777 == 0o711


@in_namespace
def test_root_without_namespaces_and_with_a_closed_home(tmp_path: Path, open_folder: Path) -> None:
    """What that user cannot reach it gets elsewhere, data and programs; the next start finds it there."""
    tmp_path.chmod(0o700)
    places = (tmp_path / "home", open_folder / "areas", tmp_path / "programs")
    vector, uid, area, *lines = start_without_namespaces(*places)
    assert vector == "[1]"
    assert int(uid) != 0
    assert Path(area).parent == open_folder / "areas"
    assert any(f"its data in {area}" in line for line in lines)
    assert any("copying its programs" in line for line in lines)
    _, _, again, *lines = start_without_namespaces(*places)
    assert again == area
    assert not any("making" in line or "copying" in line for line in lines)


@as_root
def test_user_without_privileges(open_folder: Path) -> None:
    """A normal user starts everything without root and without a namespace of its own."""
    nobody = pwd.getpwnam("nobody")
    os.chown(open_folder, nobody.pw_uid, nobody.pw_gid)
    command = [sys.executable, "-c", START, str(open_folder / "home"), str(open_folder / "areas")]
    try:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, user=nobody.pw_uid, group=nobody.pw_gid
        )
    except PermissionError:
        pytest.skip(f"the interpreter {sys.executable} is closed to other users")
    vector, uid, area, *lines = done.stdout.splitlines()
    assert (vector, area) == ("[1]", str(open_folder / "home" / "postgres"))
    assert int(uid) == nobody.pw_uid
    assert not any("running it as user" in line for line in lines)
