"""Signals to a server's process and to those it has started, as one.

They need not be one process group: each session of PostgreSQL is in its own.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import psutil  # type: ignore[import-untyped]  # it ships no types

from holdfast.embedded.processes import Deadline, Process, is_alive

SIGNAL_SECONDS = 10.0


def members(leader: Process) -> list[Process]:
    """A process and all that it has started, itself first; empty when it has ended."""
    try:
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def freeze(leader: Process) -> list[Process]:
    """Stop the family with SIGSTOP, wait until it stands still, and return it.

    Raises:
        TimeoutError: one goes on after SIGNAL_SECONDS.
    """
    _send(signal.SIGSTOP, [leader], _stands)
    family = members(leader)  # complete only now: while it ran, it could start more
    _send(signal.SIGSTOP, family, _stands)
    return family


def thaw(leader: Process) -> None:
    """Let the family go on with SIGCONT.

    Raises:
        TimeoutError: one still stands after SIGNAL_SECONDS.
    """
    _send(signal.SIGCONT, members(leader), lambda process: not _is_stopped(process))


def kill(leader: Process) -> None:
    """End the family with SIGKILL, and wait until it is gone.

    It is frozen before: a session that outlived the others, or was begun meanwhile, would be no crash.

    Raises:
        TimeoutError: one is there after SIGNAL_SECONDS.
    """
    _send(signal.SIGKILL, freeze(leader), lambda process: not is_alive(process))


def _send(number: signal.Signals, processes: Sequence[Process], done: Callable[[Process], bool]) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue  # it has ended by itself
    if Deadline(SIGNAL_SECONDS).wait_for(lambda: all(map(done, processes)) or None) is None:
        late = ", ".join(str(process.pid) for process in processes if not done(process))
        raise TimeoutError(f"{number.name} had no effect on process {late} within {SIGNAL_SECONDS:g} s")


def _stands(process: Process) -> bool:
    return not is_alive(process) or _is_stopped(process)


def _is_stopped(process: Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
