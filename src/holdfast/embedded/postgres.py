"""PostgreSQL: made, started, asked and stopped through its own programs. It listens on a Unix socket only."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

from holdfast.embedded.binaries import PostgresTree
from holdfast.embedded.launching import RESTART, RUNNING_SECONDS, RunAs, await_answer, failure, run, start
from holdfast.embedded.layout import SOCKET_NAME
from holdfast.embedded.logs import appending, rotate, size, summary
from holdfast.embedded.privileges import DATA, Site
from holdfast.embedded.processes import Process, Program, end, is_alive, titled_processes_in
from holdfast.errors import ServerStartError

NAME = "postgres"
USER = "holdfast"
DATABASE = "holdfast"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": "5432",  # only the name of the socket
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# In template1, so that every database made later has the extension too.
_FIRST_STATEMENTS = f"CREATE EXTENSION vector;\nCREATE DATABASE {DATABASE};\n"

_INITDB = ("-U", USER, "--auth=trust", "--encoding=UTF8", "--data-checksums", "--no-sync")
_SINGLE = ("-c", "exit_on_error=on", "-c", "fsync=off", "template1")  # all of it is synchronised at the end

# Bytewise order everywhere; from 17 on the builtin provider also knows the case of letters.
_LOCALES: Mapping[int, tuple[str, ...]] = {
    16: ("--no-locale",),
    18: ("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
}

# Above every number that a process can have, and what PostgreSQL's parser still takes.
_NO_PID = b"2147483647"

ASK_SECONDS = "2"  # for an answer of pg_isready

_STOP_SIGNALS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
_ORPHAN_SIGNALS = ((signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


def program(area: Path) -> Program:
    """What the postmaster of an area is recognised by."""
    data = area / DATA
    return Program("postgres", str(data), data / "postmaster.pid")


def url(sockets: Path) -> str:
    """The connection URL for a server whose socket is in this directory."""
    return f"postgresql://{USER}@/{DATABASE}?host={quote(str(sockets), safe='')}"


def sockets_of(area: Path) -> Path | None:
    """The directory of the running server's socket, as the server wrote it down."""
    try:
        lines = os.fsdecode((area / DATA / "postmaster.pid").read_bytes()).splitlines()
    except OSError:
        return None
    return Path(lines[4]) if len(lines) > 4 and lines[4] else None


def trouble(tree: PostgresTree, sockets: Path | None) -> str | None:
    """Why no connection is accepted there; None when one is."""
    if sockets is None:
        return "has no socket"
    asked = ["-t", ASK_SECONDS, "-h", str(sockets), "-p", SETTINGS["port"], "-U", USER, "-d", DATABASE]
    done = run([tree.program("pg_isready"), *asked], RunAs())
    return None if done.returncode == 0 else f"accepts no connections ({summary(done.stdout.splitlines())})"


def exists(area: Path, version: int) -> bool:
    """Whether there is data of this major version.

    Raises:
        ServerStartError: there is data, but of another version or damaged.
    """
    data = area / DATA
    if not data.is_dir():
        return False
    file = data / "PG_VERSION"
    found = file.read_text("utf-8", "replace").strip() if file.exists() else "nothing"
    if found.isdigit() and int(found) != version:
        raise ServerStartError(
            f"postgres: the data in {data} was made by PostgreSQL {found} and {version} is asked for: "
            f"ask for {found}, or use another home"
        )
    if not found.isdigit():
        raise ServerStartError(
            f"postgres: the data in {data} is damaged, its PG_VERSION holds {found[:20]!r}: "
            "restore it from a copy, or use another home"
        )
    return True


def create(site: Site, version: int, log: Path) -> None:
    """Make the data directory with its database, all or nothing.

    It is made under another name and renamed when complete, so that one cut short is never taken for data.

    Raises:
        ServerStartError: initdb or the first statements failed.
    """
    for leftover in site.area.glob("making-*"):
        # Errors are ignored since an initdb whose starter was killed may still be writing there.
        shutil.rmtree(leftover, ignore_errors=True)
    making = site.area / f"making-{secrets.token_hex(4)}"
    initdb = [site.tree.program("initdb"), "-D", str(making)]
    options = [*_INITDB, *_LOCALES[version]]
    single = [site.tree.program("postgres"), "--single", "-D", str(making), *_SINGLE]
    _step(site, [*initdb, *options], log)
    _step(site, single, log, given=_FIRST_STATEMENTS)
    _step(site, [*initdb, "--sync-only"], log)
    making.rename(site.data)


def launch(site: Site, sockets: Path, log: Path) -> Process:
    """Start the server on its data and wait until it accepts connections.

    Raises:
        ServerStartError: it ended, or did not answer within START_SECONDS.
    """
    if (earlier := program(site.area).find()) is not None:  # its starter was killed just before us
        return adopt(site.tree, site.area, earlier, log)
    _clear_traces(site, sockets)
    since = rotate(log)
    quoted = str(sockets).replace('"', '""')
    settings = {**SETTINGS, "unix_socket_directories": f'"{quoted}"'}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    process = start([site.tree.program("postgres"), "-D", str(site.data), *options], site.run_as, log)
    try:
        await_answer(NAME, process, partial(_trouble_of, site.tree, site.area, process), log, since=since)
    except ServerStartError:
        if is_alive(process):
            halt(process)  # the one we hold, however it can be found
        raise
    return process


def adopt(tree: PostgresTree, area: Path, process: Process, log: Path) -> Process:
    """Wait until a server that runs already accepts connections; another process may just have started it.

    Raises:
        ServerStartError: it does not within RUNNING_SECONDS.
    """
    asked = partial(_trouble_of, tree, area, process)
    await_answer(NAME, process, asked, log, since=size(log), seconds=RUNNING_SECONDS, remedy=RESTART)
    return process


def halt(process: Process) -> None:
    """Stop the server: ends connections and writes everything out; harder when that takes over a minute."""
    end(process, _STOP_SIGNALS)


def end_orphans(area: Path) -> None:
    """End the sessions of a postmaster that was killed: those that compute notice its death late, or never.

    To be called only when it is known not to run.
    """
    for orphan in titled_processes_in(area / DATA, "postgres:"):
        end(orphan, _ORPHAN_SIGNALS)


def _trouble_of(tree: PostgresTree, area: Path, process: Process | None) -> str | None:
    """Why this very process accepts no connection. It writes down what it is, and where, as it starts."""
    if process is None or program(area).written_pid() != process.pid:
        return "has not taken its data directory"
    return trouble(tree, sockets_of(area))


def _step(site: Site, command: list[str], log: Path, *, given: str = "") -> None:
    done = run(command, site.run_as, given=given)
    with appending(log) as file:
        file.write(done.stdout.encode())
    if done.returncode != 0:
        raise failure(NAME, summary(done.stdout.splitlines()), log)


def _clear_traces(site: Site, sockets: Path) -> None:
    """Remove what a postmaster that was killed left behind; to be called only when it is known not to run."""
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (sockets / name).unlink(missing_ok=True)
    end_orphans(site.area)
    pid_file = site.data / "postmaster.pid"
    if not pid_file.exists():
        return
    first, newline, rest = pid_file.read_bytes().partition(b"\n")
    if not first.strip().isdigit():
        pid_file.unlink()
        return
    # Its number may belong to another process by now, or to a zombie, and PostgreSQL would refuse to start.
    # The rest of the file stays: by it the server makes sure that no session of its predecessor still runs.
    pid_file.write_bytes(_NO_PID + newline + rest)
