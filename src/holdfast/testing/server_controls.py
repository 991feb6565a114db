"""Servers of a test's own that can be killed, frozen and brought back, one by one.

    async with ServerControls(tmp_path / "servers", replicas=1) as servers:
        async with FaultProxy(*servers.address("postgres")) as proxy:
            connection = await asyncpg.connect(servers.url("postgres", through=proxy))
            await servers.kill("postgres")
            await servers.restart("postgres")

PostgreSQL is "postgres", the nodes of the Valkey cluster are "valkey-1" to "valkey-3", and with replicas to "valkey-6".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import valkey

from holdfast.embedded import EmbeddedOptions, Running, ensure_running, postgres, redis, state
from holdfast.embedded import stop as stop_all
from holdfast.embedded.binaries import postgres_tree, valkey_server
from holdfast.embedded.layout import SOCKET_NAME, Layout, NodeFiles
from holdfast.embedded.privileges import choose, data_area
from holdfast.embedded.processes import Deadline, Process
from holdfast.embedded.redis_config import ADDRESS, Ports, ports_of, read_password, url
from holdfast.embedded.servers import ignore
from holdfast.testing import process_family
from holdfast.testing.fault_proxy import FaultProxy

UP_SECONDS = 60.0


class _Server(Protocol):
    """What differs between a PostgreSQL and a node; its methods block."""

    def find(self) -> Process | None: ...
    def halt(self, process: Process) -> None: ...
    def launch(self) -> None: ...
    def trouble(self) -> str | None: ...
    def address(self) -> tuple[str, int | None]: ...
    def url(self, port: int | None) -> str: ...


class _Database:
    def __init__(self, options: EmbeddedOptions, layout: Layout) -> None:
        self._tree = partial(postgres_tree, options.postgres_version)
        self._layout = layout

    def find(self) -> Process | None:
        return postgres.program(data_area(self._layout)).find()

    def halt(self, process: Process) -> None:
        postgres.halt(process)

    def launch(self) -> None:
        # Not by `starting`, which may choose another directory for the socket: clients know this one.
        postgres.launch(choose(self._layout, self._tree(), ignore), self._sockets(), self._layout.postgres_log)

    def trouble(self) -> str | None:
        return postgres.trouble(self._tree(), self._sockets())

    def address(self) -> tuple[str, int | None]:
        return str(self._sockets() / SOCKET_NAME), None

    def url(self, port: int | None) -> str:
        if port is None:
            return postgres.url(self._sockets())
        return f"postgresql://{postgres.USER}@{ADDRESS}:{port}/{postgres.DATABASE}"

    def _sockets(self) -> Path:
        known = state.read(self._layout.state)
        if known is None:
            raise RuntimeError(f"the servers in {self._layout.home} are not started, or closed")
        return Path(known.sockets)


class _Node:
    def __init__(self, files: NodeFiles, layout: Layout) -> None:
        self._files = files
        self._password = partial(read_password, layout.password)

    def find(self) -> Process | None:
        return redis.program(self._files).find()

    def halt(self, process: Process) -> None:
        redis.halt(process)

    def launch(self) -> None:
        redis.launch(self._files, valkey_server(), self._password(), ignore)

    def trouble(self) -> str | None:
        """Why it is of no use; None when it answers and counts the cluster as working."""
        try:
            lines = self.ask("CLUSTER", "INFO").splitlines()
        except valkey.ValkeyError as fault:
            return f"does not answer ({fault})"
        return None if "cluster_state:ok" in lines else f"says {lines[0]}"

    def address(self) -> tuple[str, int | None]:
        return ADDRESS, self._ports().client

    def url(self, port: int | None) -> str:
        return url(self._ports() if port is None else Ports(port, 0), self._password())

    def ask(self, *words: str | int) -> str:
        with redis.connected(self._ports(), self._password(), seconds=redis.ASK_SECONDS) as client:
            return redis.ask(client, *words)

    def _ports(self) -> Ports:
        ports = ports_of(self._files)
        if ports is None:
            raise RuntimeError(f"{self._files.name} in {self._files.home} was never started")
        return ports


class ServerControls:
    """A PostgreSQL and a Valkey cluster in a directory of their own.

    A call with a name raises ValueError for one that is not among `names`, and RuntimeError when it needs a process
    and there is none. Cancelling a call does not interrupt what it does.

    Args:
        home: where the files are kept; made if absent, and left there when the servers are closed.
        replicas: for each of the three Valkey primaries, 0 or 1.
        postgres_version: major, 16 or 18.

    Attributes:
        names: of the servers.
    """

    def __init__(self, home: Path, *, replicas: int = 0, postgres_version: int = 18) -> None:
        self._options = EmbeddedOptions(home, replicas, postgres_version)
        self._layout = Layout.of(home)
        self._nodes = {files.name: _Node(files, self._layout) for files in self._layout.nodes(replicas)}
        self._servers: dict[str, _Server] = {
            postgres.NAME: _Database(self._options, self._layout),
            **self._nodes,
        }
        self.names = tuple(self._servers)
        self._begun = False

    async def start(self) -> Running:
        """Start all servers, and return their URLs.

        Raises:
            ServerStartError: one does not start.
        """
        self._begun = True
        return await ensure_running(self._options)

    async def close(self) -> None:
        """Kill all servers, frozen ones too; again, or before the start, it has no effect."""
        if self._begun:
            self._begun = False
            await asyncio.gather(*(asyncio.to_thread(self._kill_any, name) for name in self.names))
            await stop_all(self._options)  # what a cancelled start may still have begun, and what is outside the home

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def address(self, name: str) -> tuple[str, int | None]:
        """Where a server listens, as `FaultProxy` takes it: host and port, or the path of a socket and None."""
        return self._server(name).address()

    def url(self, name: str, *, through: FaultProxy | None = None) -> str:
        """The connection URL of a server, or of a proxy in front of it; a node's contains the password.

        It survives a restart, unless another program has taken a node's port meanwhile.
        """
        return self._server(name).url(None if through is None else through.port)

    def pids(self, name: str) -> tuple[int, ...]:
        """The numbers of a server's processes, its own first; empty when it does not run."""
        leader = self._server(name).find()
        return () if leader is None else tuple(process.pid for process in process_family.members(leader))

    async def kill(self, name: str) -> None:
        """Send SIGKILL to all processes of a server, and wait until they are gone."""
        await self._act(process_family.kill, name)

    async def stop(self, name: str) -> None:
        """Send SIGSTOP to all processes of a server, and wait until they stand still."""
        await self._act(process_family.freeze, name)

    async def cont(self, name: str) -> None:
        """Send SIGCONT to all processes of a server."""
        await self._act(process_family.thaw, name)

    async def restart(self, name: str) -> None:
        """Start a server on its data, one that runs after a clean stop, and wait until it answers; no other is touched.

        Raises:
            ServerStartError: it does not start.
        """
        await asyncio.to_thread(self._restart, self._server(name))

    async def wait_up(self, name: str, *, seconds: float = UP_SECONDS) -> None:
        """Wait until a server serves: accepts connections, or is a node of a cluster that works.

        Raises:
            TimeoutError: it does not after so many seconds; the message says why.
        """
        await asyncio.to_thread(self._wait_up, name, seconds)

    async def announce(self, name: str, proxy: FaultProxy | None) -> None:
        """Let a node tell clients and replicas that it is reached at a proxy; None for where it listens.

        Clients of a cluster go where its nodes say, whatever address they began with. A restart forgets it.

        Raises:
            ValueError: that is PostgreSQL.
        """
        node = self._nodes.get(name)
        if node is None:
            raise ValueError(f"only a node can announce an address, not {name!r}: name one of {', '.join(self._nodes)}")
        port = 0 if proxy is None else proxy.port
        await asyncio.to_thread(node.ask, "CONFIG", "SET", "cluster-announce-port", port)

    def _server(self, name: str) -> _Server:
        if name not in self._servers:
            raise ValueError(f"there is no server {name!r}: name one of {', '.join(self.names)}")
        return self._servers[name]

    async def _act(self, act: Callable[[Process], object], name: str) -> None:
        leader = await asyncio.to_thread(self._server(name).find)
        if leader is None:
            raise RuntimeError(f"{name} in {self._layout.home} does not run: restart it first")
        await asyncio.to_thread(act, leader)

    def _kill_any(self, name: str) -> None:
        if (leader := self._server(name).find()) is not None:
            process_family.kill(leader)

    def _restart(self, server: _Server) -> None:
        with state.exclusive(self._layout.lock):
            if (leader := server.find()) is not None:
                process_family.thaw(leader)
                server.halt(leader)
            server.launch()

    def _wait_up(self, name: str, seconds: float) -> None:
        server = self._server(name)
        reasons: list[str] = []

        def up() -> bool | None:
            reason = server.trouble()
            reasons[:] = [reason or ""]
            return True if reason is None else None

        if Deadline(seconds).wait_for(up) is None:
            raise TimeoutError(f"{name} is not up after {seconds:g} s: it {reasons[0]}")
