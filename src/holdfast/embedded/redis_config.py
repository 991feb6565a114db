"""A Valkey node's configuration: its ports and password, and the text of its file."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import NamedTuple

from holdfast.embedded.layout import NodeFiles, write_privately
from holdfast.errors import ServerStartError

ADDRESS = "127.0.0.1"
MAXMEMORY = "512mb"

_PASSWORD = re.compile(r"[A-Za-z0-9_-]{20,200}")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 /._+-@~")
_PORTS = re.compile(rb"port (\d{1,5})\ncluster-port (\d{1,5})\n")


class Ports(NamedTuple):
    """Where a node listens: for clients, and for the other nodes."""

    client: int
    bus: int


def url(ports: Ports, password: str) -> str:
    """The connection URL of a node."""
    return f"redis://:{password}@{ADDRESS}:{ports.client}"


def quoted(path: Path) -> bytes:
    """A path as Valkey's configuration reads it; spaces, quotes and any byte survive."""
    escaped = (b"%c" % byte if byte in _PLAIN else b"\\x%02x" % byte for byte in os.fsencode(path))
    return b'"' + b"".join(escaped) + b'"'


def configuration(files: NodeFiles, ports: Ports, password: str) -> bytes:
    """The text of a node's configuration file."""
    return b"\n".join(
        (
            b"port %d" % ports.client,
            b"cluster-port %d" % ports.bus,
            b"bind " + ADDRESS.encode(),
            b"cluster-announce-ip " + ADDRESS.encode(),
            b"pidfile " + quoted(files.pid_file),
            b"cluster-enabled yes",
            b"cluster-config-file nodes.conf",
            b"cluster-node-timeout 5000",
            b"cluster-require-full-coverage no",  # one dead node takes a third of the slots, not all
            b"appendonly yes",
            b'save ""',
            b"maxmemory " + MAXMEMORY.encode(),
            b"maxmemory-policy noeviction",
            b"repl-diskless-sync-delay 0",
            b"requirepass " + password.encode(),
            b"primaryauth " + password.encode(),
            b"",
        )
    )


def command(server: str, files: NodeFiles, ports: Ports) -> list[str]:
    """What starts a node. Its configuration is its standard input.

    The path of a configuration file would not do: the server takes `[`, `*` and `?` in it for a pattern, and where
    nothing matches it runs with its defaults, open to every network. What is repeated here closes it in any case;
    the password is not, since every user sees the arguments.
    """
    closed = ["--port", str(ports.client), "--bind", ADDRESS, "--protected-mode", "yes"]
    recognised = ["--set-proc-title", "no", "--dir", str(files.folder)]
    return [server, "-", *closed, *recognised]


def ports_in(text: bytes) -> Ports | None:
    """The ports that the text of a configuration file names."""
    found = _PORTS.match(text)
    return Ports(int(found[1]), int(found[2])) if found else None


def ports_of(files: NodeFiles) -> Ports | None:
    """The ports of a node as it was last configured; None if it never was."""
    try:
        return ports_in(files.configuration.read_bytes())
    except FileNotFoundError:
        return None


def read_password(file: Path) -> str:
    """The home's password; made at random when there is none yet.

    Raises:
        ServerStartError: the file holds something else.
    """
    if not file.exists():
        write_privately(file, secrets.token_urlsafe(32).encode())
    password = file.read_text("utf-8", "replace").strip()
    if not _PASSWORD.fullmatch(password):
        raise ServerStartError(f"valkey: {file} holds no password of this home: delete it, then start again")
    return password
