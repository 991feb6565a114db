"""The nodes of the embedded cluster: Valkey servers that listen on 127.0.0.1 only, with a password."""

from __future__ import annotations

import random
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import valkey

from holdfast.embedded.launching import RESTART, RunAs, await_answer, failure, start
from holdfast.embedded.layout import NodeFiles, write_privately
from holdfast.embedded.logs import complaints, rotate, size
from holdfast.embedded.processes import Process, Program, end, is_alive
from holdfast.embedded.redis_config import ADDRESS, Ports, command, configuration, ports_of
from holdfast.errors import ServerStartError

# Below the ports that Linux gives to outgoing connections, which would take a stopped node's port.
PORT_MIN, PORT_MAX = 16_000, 32_000
PORT_TRIES = 200
START_TRIES = 5

ANSWER_SECONDS = 5.0
ASK_SECONDS = 2.0  # for one that ought to answer at once
RUNNING_SECONDS = 10.0  # for one that runs already: it answers even while it reads its append-only file

# Another try may help: someone took the port just before us, or threads of a predecessor are still ending.
_PASSING = re.compile("Address already in use|already used by a different Cluster node")
_STOP_SIGNALS = ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0))


class Node(NamedTuple):
    """A node that runs."""

    files: NodeFiles
    ports: Ports
    process: Process
    started: bool


def program(files: NodeFiles) -> Program:
    """What the process of a node is recognised by."""
    return Program("valkey-server", str(files.folder), files.pid_file)


@contextmanager
def connected(ports: Ports, password: str, *, seconds: float = ANSWER_SECONDS) -> Iterator[valkey.Valkey]:
    """A client of one node; its calls raise `valkey.ValkeyError`, that of no answer after so many seconds."""
    client = valkey.Valkey(
        host=ADDRESS,
        port=ports.client,
        password=password,
        socket_timeout=seconds,
        decode_responses=True,
        single_connection_client=True,
    )
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]


def ask(client: valkey.Valkey, *words: str | int) -> str:
    """Send a command whose answer is text."""
    return str(client.execute_command(*words))  # type: ignore[no-untyped-call]


def trouble(files: NodeFiles, ports: Ports, password: str, process: Process | None) -> str | None:
    """Why a node does not answer; None when this very process does.

    Raises:
        ServerStartError: it has another password, and so will never answer.
    """
    try:
        with connected(ports, password, seconds=ASK_SECONDS) as client:
            answering = client.info("server")["process_id"]  # type: ignore[index]
    except valkey.AuthenticationError as fault:
        raise ServerStartError(
            f"{files.name} runs with another password than the one in {files.home}: "
            "stop the servers with `holdfast down`, then start again"
        ) from fault
    except valkey.ValkeyError as fault:
        return f"does not answer ({fault})"
    if process is None or answering != process.pid:
        return f"does not answer, but process {answering} does"
    return None


def launch(files: NodeFiles, server: str, password: str, say: Callable[[str], None]) -> Node:
    """Start a node on its data and wait until it answers; on other ports when someone has taken its own.

    Raises:
        ServerStartError: it ended, or did not answer within START_SECONDS.
    """
    files.folder.mkdir(exist_ok=True, mode=0o700)
    ports = ports_of(files)
    for _ in range(START_TRIES):
        if ports is None or not all(_is_free(port) for port in ports):
            ports = _free_ports(files, ports, say)
        write_privately(files.configuration, configuration(files, ports, password))
        since = rotate(files.log)
        process = start(command(server, files, ports), RunAs(), files.log, given=files.configuration)
        asked = partial(trouble, files, ports, password, process)
        try:
            await_answer(files.name, process, asked, files.log, since=since)
        except ServerStartError:
            if is_alive(process):
                halt(process)  # the one we hold: should it not be what we meant to start, no search would find it
                raise
            if not _PASSING.search(complaints(files.log, since)):
                raise
            if (earlier := program(files).find()) is not None:  # its starter was killed just before us
                return adopt(files, earlier, password)
            continue
        return Node(files, ports, process, started=True)
    raise failure(files.name, f"it found its ports or its files in use {START_TRIES} times", files.log)


def adopt(files: NodeFiles, process: Process, password: str) -> Node:
    """The node that a process already runs, once it answers.

    Raises:
        ServerStartError: it does not answer within RUNNING_SECONDS.
    """
    ports = ports_of(files)
    if ports is None:
        raise failure(files.name, f"it runs as process {process.pid} without its configuration", files.log)
    asked = partial(trouble, files, ports, password, process)
    await_answer(files.name, process, asked, files.log, since=size(files.log), seconds=RUNNING_SECONDS, remedy=RESTART)
    return Node(files, ports, process, started=False)


def halt(process: Process) -> None:
    """Stop a node; it writes its append-only file out first."""
    end(process, _STOP_SIGNALS)


def _free_ports(files: NodeFiles, taken: Ports | None, say: Callable[[str], None]) -> Ports:
    candidates = random.SystemRandom().sample(range(PORT_MIN, PORT_MAX), PORT_TRIES)
    free = [port for port in candidates if _is_free(port)][:2]
    if len(free) < len(Ports._fields):
        raise failure(files.name, f"no free port between {PORT_MIN} and {PORT_MAX}", files.log)
    if taken is not None:
        say(f"{files.name}: another program uses port {taken.client} or {taken.bus}, moving to {free[0]}")
    return Ports(*free)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True
