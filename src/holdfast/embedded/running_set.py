"""Reuses, starts, heals and stops the servers of one home. It blocks: `servers` runs it in a thread."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

from holdfast.embedded import cluster, postgres, redis, starting, state
from holdfast.embedded.binaries import postgres_tree
from holdfast.embedded.layout import Layout, NodeFiles, remove_private_directory, write_privately
from holdfast.embedded.options import EmbeddedOptions, Progress, Running, ServerStatus
from holdfast.embedded.privileges import data_area
from holdfast.embedded.processes import Identity, Process, Program
from holdfast.embedded.redis_config import ADDRESS, ports_of, url
from holdfast.errors import ServerStartError

T = TypeVar("T")

MASTER_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a home, whether it runs or not.

    Attributes:
        url: for clients; empty when it never ran.
        trouble: asks it, and says why it is of no use now; None when it is.
        halt: stops its process.
    """

    name: str
    program: Program
    log: Path
    address: str
    url: str
    trouble: Callable[[], str | None]
    halt: Callable[[Process], None]


def ensure(options: EmbeddedOptions, say: Progress) -> Running:
    """Reuse the running set, or start what is missing of it."""
    layout = Layout.of(options.home)
    with _in_words(layout):
        if layout.master_key.exists() and (running := _reuse(options, layout)) is not None:
            return running
        layout.prepare()
        with state.exclusive(layout.lock):  # whoever comes second finds the set running
            if not layout.master_key.exists():
                write_privately(layout.master_key, _new_master_key())
            return _reuse(options, layout) or _start(options, layout, say)


def halt(options: EmbeddedOptions, say: Progress) -> tuple[str, ...]:
    """Stop whatever runs, the last started first."""
    layout = Layout.of(options.home)
    if not layout.home.is_dir():
        return ()
    with _in_words(layout), state.exclusive(layout.lock):
        known = state.read(layout.state)
        stopped = _halt(_servers(options, layout, layout.replicas() or 0), known, say, keep=frozenset())
        postgres.end_orphans(data_area(layout))
        if known is not None and Path(known.sockets) != data_area(layout):
            remove_private_directory(Path(known.sockets))
        layout.state.unlink(missing_ok=True)
    return stopped


def report(options: EmbeddedOptions) -> tuple[ServerStatus, ...]:
    """What each server does now."""
    layout = Layout.of(options.home)
    with _in_words(layout):
        known = state.read(layout.state)
        replicas = options.replicas if (made := layout.replicas()) is None else made
        servers = _servers(options, layout, replicas)
        return tuple(_at_once(partial(_report, known=known), servers))


def _at_once(ask: Callable[[Server], T], servers: tuple[Server, ...]) -> list[T]:
    """Ask all servers at the same time: several that are silent take no longer than one."""
    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(ask, servers))


def _report(server: Server, known: state.State | None) -> ServerStatus:
    meant = state.identity_of(known, server.name)
    process = server.program.find(meant)
    if process is None:
        return ServerStatus(server.name, "stopped" if meant is None else "dead", None, server.address, server.log)
    condition: Literal["running", "dead"] = "running" if server.trouble() is None else "dead"
    return ServerStatus(server.name, condition, process.pid, server.address, server.log)


def _servers(options: EmbeddedOptions, layout: Layout, replicas: int) -> tuple[Server, ...]:
    """The servers of a home, in the order in which they are started."""
    area = data_area(layout)
    sockets = postgres.sockets_of(area)
    trouble = partial(postgres.trouble, postgres_tree(options.postgres_version), sockets)
    address, where = (str(sockets), postgres.url(sockets)) if sockets else ("", "")
    program = postgres.program(area)
    first = Server(postgres.NAME, program, layout.postgres_log, address, where, trouble, postgres.halt)
    password = layout.password.read_text().strip() if layout.password.exists() else ""
    return (first, *(_node(files, password) for files in layout.nodes(replicas)))


def _node(files: NodeFiles, password: str) -> Server:
    ports = ports_of(files)
    address, where = (f"{ADDRESS}:{ports.client}", url(ports, password)) if ports else ("", "")
    trouble = partial(cluster.trouble, ports, password)
    return Server(files.name, redis.program(files), files.log, address, where, trouble, redis.halt)


def _reuse(options: EmbeddedOptions, layout: Layout) -> Running | None:
    """The running set if it is complete and well; None if anything has to be done."""
    known = state.read(layout.state)
    if known is None or (known.postgres_version, known.replicas) != (
        options.postgres_version,
        options.replicas,
    ):
        return None
    servers = _servers(options, layout, options.replicas)
    if any(server.program.find(known.servers.get(server.name)) is None for server in servers):
        return None
    if any(reason is not None for reason in _at_once(lambda server: server.trouble(), servers)):
        return None
    return _running(layout, servers, ())


def _running(layout: Layout, servers: tuple[Server, ...], started: tuple[str, ...]) -> Running:
    master_keys = tuple(each.strip() for each in layout.master_key.read_text().split(","))
    return Running(servers[0].url, tuple(server.url for server in servers[1:]), started, master_keys)


def _new_master_key() -> bytes:
    return b"embedded:" + base64.b64encode(os.urandom(MASTER_KEY_BYTES))


def _start(options: EmbeddedOptions, layout: Layout, say: Progress) -> Running:
    """Start what does not run, PostgreSQL and the cluster at the same time; on failure stop that again."""
    _check_home(options, layout)
    known = state.read(layout.state)
    before = _servers(options, layout, options.replicas)
    ran = frozenset(server.name for server in before if server.program.find(state.identity_of(known, server.name)))
    try:
        with ThreadPoolExecutor(2) as pool:
            database = pool.submit(starting.start_postgres, options, layout, known, say)
            nodes = pool.submit(starting.start_cluster, options, layout, known, say)
        processes = {postgres.NAME: database.result()}
        processes |= {node.files.name: node.process for node in nodes.result()}
    except BaseException:
        _halt(_servers(options, layout, options.replicas), known, say, keep=ran)
        raise
    servers = _servers(options, layout, options.replicas)
    identities = {name: Identity.of(process) for name, process in processes.items()}
    sockets = servers[0].address
    made = state.State(state.FORMAT, options.postgres_version, options.replicas, sockets, identities)
    state.write(layout.state, made)
    return _running(layout, servers, tuple(server.name for server in servers if server.name not in ran))


def _check_home(options: EmbeddedOptions, layout: Layout) -> None:
    """Refuse a home that was made for something else, before anything is started."""
    postgres.exists(data_area(layout), options.postgres_version)
    if (layout.replicas() or 0) > options.replicas:
        raise ServerStartError(
            f"valkey: {layout.home} was made with one replica for each primary, and none is asked for: "
            "ask for 1, or use another home"
        )


def _halt(
    servers: tuple[Server, ...], known: state.State | None, say: Progress, *, keep: frozenset[str]
) -> tuple[str, ...]:
    stopped = []
    for server in reversed(servers):
        process = server.program.find(state.identity_of(known, server.name))
        if process is not None and server.name not in keep:
            say(f"{server.name}: stopping")
            server.halt(process)
            stopped.append(server.name)
    return tuple(stopped)


@contextmanager
def _in_words(layout: Layout) -> Iterator[None]:
    """Turn a refusal of the operating system into a sentence that names the file."""
    try:
        yield
    except OSError as fault:
        raise ServerStartError(
            f"embedded servers of {layout.home}: {fault.strerror or fault}: {fault.filename or 'no file'}"
        ) from fault
