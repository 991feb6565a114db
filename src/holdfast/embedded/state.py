"""What a home remembers of its running servers, and the lock under which that changes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast.embedded.layout import write_privately
from holdfast.embedded.processes import Deadline, Identity
from holdfast.errors import ServerStartError

FORMAT = 1

# Longer than any start: it waits for PostgreSQL and for the cluster, each with its own limit.
LOCK_SECONDS = 300.0


class State(msgspec.Struct, frozen=True):
    """The running set.

    Attributes:
        format: of this file.
        postgres_version: major.
        replicas: for each primary.
        sockets: the directory of PostgreSQL's socket.
        servers: the process of each, by the server's name.
    """

    format: int
    postgres_version: int
    replicas: int
    sockets: str
    servers: dict[str, Identity]


def parse(text: bytes) -> State | None:
    """Read a state file; None for one that is damaged or of another format.

    Nothing is lost with it: servers that run are found by their pid files.
    """
    try:
        state = msgspec.json.decode(text, type=State)
    except msgspec.DecodeError:
        return None
    return state if state.format == FORMAT else None


def read(file: Path) -> State | None:
    """The state of a home; None when nothing is known to run."""
    try:
        return parse(file.read_bytes())
    except FileNotFoundError:
        return None


def write(file: Path, state: State) -> None:
    """Replace the state of a home."""
    write_privately(file, msgspec.json.encode(state))


def identity_of(state: State | None, server: str) -> Identity | None:
    """The recorded process of a server."""
    return state.servers.get(server) if state else None


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a home's lock; the kernel takes it back from a process that dies.

    Raises:
        ServerStartError: others held it for LOCK_SECONDS.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if Deadline(LOCK_SECONDS).wait_for(lambda: _try_lock(descriptor)) is None:
            raise ServerStartError(
                f"another process has held {lock} for {LOCK_SECONDS:g} s: it starts or stops servers"
            )
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return True
