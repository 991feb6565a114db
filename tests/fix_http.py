"""A real HTTP server on this machine that notes what is posted to it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Posted(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


class Endpoint:
    """What answers.

    Attributes:
        port: where it listens, on 127.0.0.1.
        posted: what has come, in order.
        statuses: that it answers with, one after the other; then 204.
        location: where it sends who asks, in a header of every answer.
    """

    def __init__(self) -> None:
        self.port = 0
        self.posted: list[Posted] = []
        self.statuses: list[int] = []
        self.location = ""

    def take(self, posted: Posted) -> int:
        """Note a request, and say how it is answered."""
        self.posted.append(posted)
        return self.statuses.pop(0) if self.statuses else 204


@contextmanager
def endpoint(tls: ssl.SSLContext | None = None) -> Iterator[Endpoint]:
    """A server as long as the block lasts.

    Args:
        tls: with which it answers by https.
    """
    seen = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(seen.take(Posted(self.path, dict(self.headers), body)))
            if seen.location:
                self.send_header("Location", seen.location)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that refuses its certificate
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    seen.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def raw_endpoint(answer: bytes) -> AsyncIterator[int]:
    """The port of a server that answers everything with these bytes, and then leaves the connection open."""
    left: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in left:
            writer.close()
        await server.wait_closed()
