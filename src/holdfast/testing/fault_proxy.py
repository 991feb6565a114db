"""A TCP proxy that breaks the network between clients and one server, on command.

    async with FaultProxy("127.0.0.1", 6379) as proxy:       # or FaultProxy("/run/postgresql/.s.PGSQL.5432")
        client = await connect("127.0.0.1", proxy.port)
        with proxy.hold("to_client"):                        # answers stop, the sockets stay open
            ...
        slow = proxy.delay(0.2, jitter_seconds=0.1, where=lambda connection: b"feed" in connection.first_bytes)
        slow.end()
        proxy.reset()

Faults can be combined, and switched at any time, also before the start. They need no privileges. What a proxy cannot
show is a connection attempt that is lost on its way: during a hold a new one is accepted, and then silent.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, get_args

from holdfast.testing.fault_pipe import ConnectionOver, Pipe, Traffic
from holdfast.testing.faults import Connection, Direction, Fault, FaultBoard, Way, Where, everywhere

HOST = "127.0.0.1"
CONNECTIONS_MAX = 1_000

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 seconds


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST, unless it is being closed already; what was not yet sent is lost."""
    transport = writer.transport
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()


class FaultProxy:
    """A proxy on a port of 127.0.0.1, in front of one server.

    Args:
        host: of the server; without a port, the path of its Unix socket.
        port: of the server.
        random_: of the jitter; by default one with a fixed seed.

    Attributes:
        connections: how many were joined to the server.
        refused: how many were reset at once: by `refuse`, over CONNECTIONS_MAX, or since the server was not reachable.
        to_server: bytes from clients to the server.
        to_client: bytes from the server to clients.
    """

    def __init__(self, host: str | Path, port: int | None = None, *, random_: random.Random | None = None) -> None:
        self.connections = 0
        self.refused = 0
        self.to_server = Traffic()
        self.to_client = Traffic()
        self._host, self._port = host, port
        self._random = random_ or random.Random(0)  # noqa: S311 - a test's jitter must repeat
        self._board = FaultBoard()
        self._listener: asyncio.Server | None = None
        self._joined: dict[asyncio.Task[None], Connection] = {}
        self._ends: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._accepted = 0
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        """Where clients connect.

        Raises:
            RuntimeError: the proxy does not run.
        """
        if self._listener is None:
            raise RuntimeError("the fault proxy has no port: it is not started, or closed")
        return int(self._listener.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: it listens already.
        """
        if self._listener is not None:
            raise RuntimeError(f"the fault proxy listens already, on port {self.port}")
        self._listener = await asyncio.start_server(self._accept, HOST, 0)

    async def close(self) -> None:
        """Stop listening and reset all connections; again, it has no effect.

        Raises:
            ExceptionGroup: a `where` raised; the connection it was asked about was reset.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        self.reset()
        while self._joined:
            await asyncio.wait(self._joined)
        await listener.wait_closed()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def hold(self, direction: Direction = "both", *, where: Where = everywhere) -> Fault:
        """Stop bytes, and the news of a close or reset, while the sockets stay open.

        Its end delivers what was held: up to WAITING_BYTES_MAX and a chunk here, the rest with the sender, which is
        not read further.
        """
        return self._board.switch_on("hold", direction, where)

    def one_way(self, direction: Way, *, where: Where = everywhere) -> Fault:
        """Let bytes pass in this direction only: a hold of the other.

        Raises:
            ValueError: that is no single direction.
        """
        if direction not in get_args(Way):
            raise ValueError(f"one_way: direction is to_server or to_client, not {direction!r}")
        return self.hold("to_client" if direction == "to_server" else "to_server", where=where)

    def drop(self, direction: Direction = "both", *, where: Where = everywhere) -> Fault:
        """Lose bytes for good; a close or reset still passes."""
        return self._board.switch_on("drop", direction, where)

    def delay(
        self,
        seconds: float,
        *,
        jitter_seconds: float = 0.0,
        direction: Direction = "both",
        where: Where = everywhere,
    ) -> Fault:
        """Deliver each chunk `seconds` and a random part of `jitter_seconds` after it came, in the order sent.

        Several delays add up. What is on its way is bounded as in `hold`; when the delay ends it is delivered at once.
        """
        return self._board.switch_on("delay", direction, where, seconds=seconds, jitter_seconds=jitter_seconds)

    def cut(self, after_bytes: int, direction: Direction = "both", *, where: Where = everywhere) -> Fault:
        """End each connection once so many more bytes were delivered in a direction, each direction by itself.

        The receiver gets exactly these and then the end of the connection; the sender's side is reset. With 0 the
        first byte that comes ends it.
        """
        return self._board.switch_on("cut", direction, where, after_bytes=after_bytes)

    def refuse(self) -> Fault:
        """Reset new connections as soon as they are accepted; the server does not see them."""
        return self._board.switch_on("refuse")

    def reset(self, *, where: Where = everywhere) -> None:
        """Send an RST to both ends of the connections that there are; what was held or under way is lost.

        A server behind a Unix socket knows no RST, and sees a close.
        """
        for joined, connection in self._joined.items():
            if where(connection):
                joined.cancel()
                for end in self._ends[joined]:  # now: a hold that ends before the task is told delivers nothing more
                    _reset(end)

    def heal(self) -> None:
        """End all faults."""
        self._board.switch_off(*self._board.on)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self._accepted + 1)
        closed = self._listener is None  # the kernel had accepted it before
        full = len(self._joined) >= CONNECTIONS_MAX
        if closed or full or self._board.matching("refuse", "to_server", connection):
            self.refused += 1
            _reset(writer)
            return
        self._accepted += 1
        ends = [writer]
        joined = asyncio.get_running_loop().create_task(self._join(connection, reader, ends))
        self._joined[joined], self._ends[joined] = connection, ends
        joined.add_done_callback(self._part)

    def _part(self, joined: asyncio.Task[None]) -> None:
        del self._joined[joined]
        for end in self._ends.pop(joined):
            _reset(end)  # of a task that was cancelled before it began
        failure = None if joined.cancelled() else joined.exception()
        self._failure = self._failure or failure

    async def _join(
        self, connection: Connection, reader: asyncio.StreamReader, ends: list[asyncio.StreamWriter]
    ) -> None:
        """Connect to the server and carry bytes until both sides have ended, one has reset, or this is cancelled.

        Args:
            ends: the client's, and then also the server's.
        """
        (writer,) = ends
        pipes: list[Pipe] = []
        try:
            server_reader, server_writer = await self._connect()
            ends.append(server_writer)
            pipe = partial(Pipe, board=self._board, random_=self._random)
            pipes.append(pipe("to_server", connection, reader, server_writer, traffic=self.to_server))
            pipes.append(pipe("to_client", connection, server_reader, writer, traffic=self.to_client))
            async with asyncio.TaskGroup() as group:
                for direction in pipes:
                    group.create_task(direction.run())
            for each in ends:
                each.close()
        except* ConnectionOver:
            for direction in pipes:
                direction.end()
        finally:
            for each in ends:
                _reset(each)
            # Each may have been lost with an error of its own, which the other side was told of.
            await asyncio.gather(*(each.wait_closed() for each in ends), return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            if self._port is None:
                opened = await asyncio.open_unix_connection(self._host)
            else:
                opened = await asyncio.open_connection(str(self._host), self._port)
        except OSError as fault:
            self.refused += 1
            raise ConnectionOver from fault
        self.connections += 1
        return opened


class StartProxy(Protocol):
    """The type of the fixture `fault_proxy`: starts a proxy in front of a server."""

    async def __call__(
        self, host: str | Path, port: int | None = None, *, random_: random.Random | None = None
    ) -> FaultProxy:
        """Start one; the arguments are those of `FaultProxy`."""
        ...
