"""Running the servers' programs under the account that may, and waiting until they answer."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.embedded.logs import appending, complaints
from holdfast.embedded.processes import Deadline, Process, find_process, is_alive
from holdfast.errors import ServerStartError

# Nothing of the user's environment reaches the servers: PG* would redirect initdb, LANG choose its locale.
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}

RESTART = "end it with `holdfast down`, then start again"

START_SECONDS = 120.0  # a start may have a crash to recover from, and a long journal to read
RUNNING_SECONDS = 30.0  # for one that runs already: its starter may have been killed while it read its journal

# The shell leaves at once, so the server belongs to init: it outlives us, and does not become our zombie.
_DETACH = '"$@" <"$0" >&2 & echo $!'


@dataclass(frozen=True, slots=True)
class RunAs:
    """The account that programs run under.

    Attributes:
        prefix: a command that runs the program, empty for none.
        uid: user to become before, None to stay; `gid` likewise.
    """

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None

    def options(self) -> dict[str, Any]:
        """How `subprocess` is to start a program under this account."""
        groups: list[int] | None = None if self.uid is None else []
        # The account may not be allowed in our working directory, hence the root.
        return {
            "cwd": "/",
            "env": ENVIRONMENT,
            "umask": 0o077,
            "user": self.uid,
            "group": self.gid,
            "extra_groups": groups,
        }


def run(
    command: Sequence[str], run_as: RunAs, *, given: str = "", seconds: float = START_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed, errors included, as `stdout`.

    Raises:
        ServerStartError: it did not end in time, and was killed.
    """
    try:
        return subprocess.run(  # noqa: S603 - our programs and our paths, and no shell reads them
            [*run_as.prefix, *command],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
            **run_as.options(),
        )
    except subprocess.TimeoutExpired as fault:
        raise ServerStartError(f"{command[0]} did not end within {seconds:g} s") from fault


def start(command: Sequence[str], run_as: RunAs, log: Path, *, given: Path = Path(os.devnull)) -> Process | None:
    """Start a server in a session of its own; None if it has already ended.

    Args:
        command: the program and its arguments.
        run_as: the account.
        log: its output is added there.
        given: the file that it reads as its standard input.

    Raises:
        ServerStartError: there is no process.
    """
    with appending(log) as output:
        shell = subprocess.run(  # noqa: S603 - our programs; the shell gets them as arguments, not as text
            ["/bin/sh", "-c", _DETACH, str(given), *run_as.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            check=False,
            start_new_session=True,  # the terminal's Ctrl-C is not for the servers
            **run_as.options(),
        )
    if not shell.stdout.strip().isdigit():
        raise ServerStartError(f"{command[0]} could not be started: the shell ended with {shell.returncode}")
    return find_process(int(shell.stdout))


def await_answer(
    server: str,
    process: Process | None,
    trouble: Callable[[], str | None],
    log: Path,
    *,
    since: int,
    seconds: float = START_SECONDS,
    remedy: str = "it was ended again",
) -> None:
    """Wait until a server answers.

    Args:
        server: its name.
        process: where it runs.
        trouble: says why it does not answer; None when it does.
        log: the error quotes what it complains of there.
        since: the byte of the log where that may begin.
        seconds: how long to wait.
        remedy: what is to be done about one that runs and does not answer.

    Raises:
        ServerStartError: it ended, or did not answer in time.
    """
    reasons: deque[str] = deque(maxlen=1)

    def outcome() -> str | None:
        reason = trouble()
        if reason is None:
            return "answers"
        reasons.append(reason)
        return None if is_alive(process) else "ended"

    match Deadline(seconds).wait_for(outcome):
        case "ended":
            raise failure(server, complaints(log, since), log)
        case None:
            pid = process.pid if process else "unknown"
            raise ServerStartError(
                f"embedded server {server} runs as process {pid}, but after {seconds:g} s it {reasons[-1]}: "
                f"{remedy} (its log: {log})"
            )


def failure(server: str, reason: str, log: Path) -> ServerStartError:
    """The error for a server that did not start: which one, why, and where its log is."""
    return ServerStartError(f"embedded server {server} did not start: {reason} (its log: {log})")
