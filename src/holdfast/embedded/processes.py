"""Recognising the servers' processes, waiting for them and ending them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types

from holdfast.clock import Clock, SystemClock
from holdfast.errors import ServerStartError

T = TypeVar("T")

# psutil ships no types. It compares start times before it signals, so a number used again is left alone.
Process: TypeAlias = psutil.Process

# A start time is derived from the boot time, which moves a little when the machine's clock is corrected.
CREATED_TOLERANCE_SECONDS = 2.0

_POLL_SECONDS = 0.02


class Identity(msgspec.Struct, frozen=True):
    """A process that cannot be confused with a later one of the same number.

    Attributes:
        pid: its number.
        created: when it started, seconds since the epoch.
    """

    pid: int
    created: float

    @classmethod
    def of(cls, process: Process) -> Identity:
        """The identity of a running process."""
        return cls(process.pid, process.create_time())


@dataclass(frozen=True, slots=True)
class Program:
    """What a server's process is recognised by.

    Attributes:
        name: of the program.
        argument: a path that only this server has among its arguments, or one below it.
        pid_file: its first line is the number of the process.
    """

    name: str
    argument: str
    pid_file: Path

    def find(self, known: Identity | None = None) -> Process | None:
        """The running process of this server, if there is one: as recorded, by its pid file, or among all.

        Numbers are used again, so none is believed alone: a record must have the start time right, and each
        the command. A server whose starter was killed may not have written its number down yet.
        """
        process = find_process(known.pid) if known else None
        if known and process and abs(process.create_time() - known.created) > CREATED_TOLERANCE_SECONDS:
            process = None
        for candidate in (process, find_process(self.written_pid())):
            if candidate and self._is(_words(candidate)):
                return candidate
        found = [process for process in psutil.process_iter() if self._is(_words(process))]
        return min(found, key=lambda process: float(process.create_time()), default=None)  # not one that it forked

    def _is(self, words: Sequence[str]) -> bool:
        if not any(word == self.argument or word.startswith(f"{self.argument}/") for word in words):
            return False
        if Path(words[0]).name == "sh":  # the shell that starts it
            return False
        return any(Path(word).name == self.name for word in words)

    def written_pid(self) -> int | None:
        """The number in the pid file, whether or not it is still this server's."""
        try:
            first = self.pid_file.read_text("utf-8", "replace").partition("\n")[0].strip()
        except OSError:
            return None
        return int(first) if first.isascii() and first.isdigit() else None


@dataclass(slots=True)
class Deadline:
    """So many seconds from now."""

    seconds: float
    clock: Clock = field(default_factory=SystemClock)
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = self.clock.monotonic() + self.seconds

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self.clock.monotonic() >= self._end

    def wait_for(self, condition: Callable[[], T | None]) -> T | None:
        """Ask until the condition answers with something other than None; None when the time is over."""
        while (found := condition()) is None and not self.passed:
            time.sleep(_POLL_SECONDS)
        return found


def is_alive(process: Process | None) -> bool:
    """Whether it still runs."""
    return process is not None and find_process(process.pid) == process


def find_process(pid: int | None) -> Process | None:
    """A running process by number.

    A zombie, which nobody may ever reap in a container, does not run; unless it has threads, which still hold
    its ports and locks.
    """
    try:
        process = psutil.Process(pid) if pid else None
        if process is None or (process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1):
            return None
    except (psutil.Error, ValueError, OverflowError):
        return None
    return process


def _words(process: Process) -> Sequence[str]:
    """The command line of a process; empty for one that has ended meanwhile."""
    try:
        words: Sequence[str] = process.cmdline()
    except psutil.Error:
        return ()
    return words


def titled_processes_in(directory: Path, title: str) -> list[Process]:
    """The processes that work in a directory and whose title begins like this."""
    found = psutil.process_iter(["cwd", "cmdline"], ad_value=None)
    return [
        process
        for process in found
        if process.info["cwd"] == str(directory) and (process.info["cmdline"] or [""])[0].startswith(title)
    ]


def end(process: Process, signals: Sequence[tuple[int, float]]) -> None:
    """Send each signal in turn, and wait so many seconds after it for the process to end.

    Raises:
        ServerStartError: the process is not ours to signal, or does not end.
    """
    for number, seconds in signals:
        try:
            process.send_signal(number)
            if process.status() == psutil.STATUS_STOPPED:
                process.resume()  # frozen, it would hear of nothing but SIGKILL, and write nothing out
        except psutil.NoSuchProcess:
            return
        except psutil.AccessDenied as fault:
            owner = process.username()
            raise ServerStartError(f"process {process.pid} runs as {owner}, and only {owner} can stop it") from fault
        if Deadline(seconds).wait_for(lambda: None if is_alive(process) else True):
            return
    raise ServerStartError(f"process {process.pid} does not end")
