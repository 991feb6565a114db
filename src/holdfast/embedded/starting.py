"""Starting PostgreSQL, and the cluster, of one home: each is found running, brought back, or made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from holdfast.embedded import cluster, postgres, redis
from holdfast.embedded.binaries import postgres_tree, valkey_server
from holdfast.embedded.layout import (
    SOCKET_NAME,
    Layout,
    NodeFiles,
    private_directory,
    remove_private_directory,
    socket_directory_fits,
)
from holdfast.embedded.options import EmbeddedOptions, Progress
from holdfast.embedded.privileges import Site, choose, data_area, give
from holdfast.embedded.processes import Process, is_alive
from holdfast.embedded.redis_config import read_password
from holdfast.embedded.state import State, identity_of
from holdfast.errors import ServerStartError

T = TypeVar("T")


def start_postgres(options: EmbeddedOptions, layout: Layout, known: State | None, say: Progress) -> Process:
    """Return the process of a PostgreSQL that accepts connections.

    Raises:
        ServerStartError: it does not start; or there is one that does not answer.
    """
    tree = postgres_tree(options.postgres_version)
    area = data_area(layout)
    process = postgres.program(area).find(identity_of(known, postgres.NAME))
    if process is not None:
        sockets = postgres.sockets_of(area)
        if sockets is not None and not (sockets / SOCKET_NAME).exists():
            say("postgres: its socket was deleted, restarting it")
            postgres.halt(process)
        elif _adopted(partial(postgres.adopt, tree, area, process, layout.postgres_log), process):
            return process
    site = choose(layout, tree, say)
    if not postgres.exists(site.area, options.postgres_version):
        say(f"postgres: making a PostgreSQL {options.postgres_version} database in {site.data}")
        postgres.create(site, options.postgres_version, layout.postgres_log)
    say("postgres: starting")
    return postgres.launch(site, _sockets(site, known), layout.postgres_log)


def _adopted(adopt: Callable[[], T], process: Process) -> T | None:
    """What runs already, once it answers; None if it ended just then, and has to be started after all."""
    try:
        return adopt()
    except ServerStartError:
        if is_alive(process):
            raise
    return None


def _sockets(site: Site, known: State | None) -> Path:
    """The directory of the socket: the area, or a private one where the area's path is too long."""
    if socket_directory_fits(site.area):
        return site.area
    if known is not None and Path(known.sockets) != site.area:
        remove_private_directory(Path(known.sockets))
    made = private_directory(ours=site.run_as.uid is None)
    give(made, site.run_as)
    return made


def start_cluster(options: EmbeddedOptions, layout: Layout, known: State | None, say: Progress) -> list[redis.Node]:
    """Return the nodes of a cluster that serves every slot.

    Raises:
        ServerStartError: a node does not start, or they do not become a cluster.
    """
    server = valkey_server()
    password = read_password(layout.password)

    def start(files: NodeFiles) -> redis.Node:
        process = redis.program(files).find(identity_of(known, files.name))
        if process is not None and (node := _adopted(partial(redis.adopt, files, process, password), process)):
            return node
        say(f"{files.name}: starting")
        return redis.launch(files, server, password, say)

    files = layout.nodes(options.replicas)
    with ThreadPoolExecutor(len(files)) as pool:
        nodes = list(pool.map(start, files))
    say("valkey: waiting for the cluster to serve all slots")
    cluster.form(nodes, password)
    return nodes
