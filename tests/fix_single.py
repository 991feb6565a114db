"""A single Valkey of a test's own, with an ACL user: it can be killed, and it is no cluster."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from holdfast.embedded.binaries import valkey_server

USER, PASSWORD = "app", "p@ss/w:rd"
RULES = f"on >{PASSWORD} ~vrooli:* &vrooli:* +@all -@admin"
"""What an application's user needs; keys and channels of other prefixes are closed to it."""


@dataclass
class Single:
    """One server process.

    Attributes:
        options: beside those of every one, as on its command line.
    """

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    urls: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.urls = (f"redis://{USER}:p%40ss%2Fw%3Ard@127.0.0.1:{self.port}",)

    def start(self) -> None:
        """Start, and return when it listens."""
        (self.folder / "users.acl").write_text(f"user default off\nuser {USER} {RULES}\n")
        self.process = subprocess.Popen(
            [
                valkey_server(),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--aclfile",
                "users.acl",
                *self.options,
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except ConnectionRefusedError:
                assert self.process.poll() is None, "the server ended"
            else:
                return

    def kill(self) -> None:
        """Kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Single]:
    """A running single server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Single(tmp_path, port)
    server.start()
    yield server
    server.kill()
