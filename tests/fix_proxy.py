"""Connections through a fault proxy, with both ends in the hands of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from holdfast.testing.fault_pipe import Traffic
from holdfast.testing.fault_proxy import FaultProxy
from holdfast.testing.faults import Way

OPPOSITE: dict[Way, Way] = {"to_server": "to_client", "to_client": "to_server"}

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Line:
    """A connection through the proxy, with both of its ends in the hands of the test."""

    def __init__(self, client: Stream, server: Stream) -> None:
        self.client = client
        self.server = server

    def sender(self, way: Way) -> asyncio.StreamWriter:
        return (self.client if way == "to_server" else self.server)[1]

    def receiver(self, way: Way) -> asyncio.StreamReader:
        return (self.server if way == "to_server" else self.client)[0]

    def expect(self, way: Way, size: int = 1) -> asyncio.Task[bytes]:
        """What will arrive."""
        return asyncio.ensure_future(self.receiver(way).readexactly(size))

    async def carries(self, way: Way, content: bytes = b"probe") -> bool:
        """Whether it delivers; the test's deadline is for one that does not."""
        self.sender(way).write(content)
        return await self.receiver(way).readexactly(len(content)) == content


class Net:
    """A server, a proxy in front of it, and the lines that the test makes.

    Attributes:
        port: of the server.
        proxy: under test.
        accepted: the server's ends that no line was made of yet.
    """

    def __init__(self) -> None:
        self.port = 0
        self.proxy: FaultProxy
        self.accepted: asyncio.Queue[Stream] = asyncio.Queue()
        self.streams: list[Stream] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append((reader, writer))
        self.accepted.put_nowait((reader, writer))

    async def dial(self) -> Stream:
        stream = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self.streams.append(stream)
        return stream

    async def line(self) -> Line:
        return Line(await self.dial(), await self.accepted.get())

    def traffic(self, way: Way) -> Traffic:
        return self.proxy.to_server if way == "to_server" else self.proxy.to_client

    async def send(self, line: Line, way: Way, content: bytes) -> None:
        """Send, and wait until the proxy has taken it."""
        wanted = self.traffic(way).received + len(content)
        line.sender(way).write(content)
        await until(lambda: self.traffic(way).received >= wanted)

    def close(self) -> None:
        for _, writer in self.streams:
            writer.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so; the test's deadline is for what never is."""
    while not condition():  # noqa: ASYNC110 - there is no event: the counters change as bytes move
        await asyncio.sleep(0)


@asynccontextmanager
async def listening(net: Net) -> AsyncIterator[int]:
    listener = await asyncio.start_server(net.accept, "127.0.0.1", 0)
    try:
        net.port = listener.sockets[0].getsockname()[1]
        yield net.port
    finally:
        listener.close()
        net.close()
        await listener.wait_closed()
