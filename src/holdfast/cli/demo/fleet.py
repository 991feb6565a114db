"""Server processes: started, asked, and always ended.

A server ends when its standard input closes, so none outlives the coordinator, however that ends.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeVar

from holdfast.cli.demo.messages import (
    LINE_BYTES_MAX,
    Command,
    Failure,
    Ready,
    Reply,
    decode_reply,
    encode_line,
)
from holdfast.errors import HoldfastError

START_SECONDS = 60.0
ANSWER_SECONDS = 60.0
STOP_SECONDS = 10.0
STDERR_LINES = 20

Answer = TypeVar("Answer", bound=Reply)


class ServerFailedError(HoldfastError):
    """A server process died, did not answer in time, or could not do what it was asked; one sentence."""


class Server(Protocol):
    """What the coordinator needs of a server process."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    async def ask(self, make: Callable[[int], Command], answer: type[Answer]) -> Answer:
        """Send a command and return its reply; `ServerFailedError` if there is none."""
        ...

    def kill(self) -> None:
        """End it at once, with -9."""
        ...


class ServerProcess:
    """One server process. Commands may overlap; replies are matched by their ids.

    Args:
        name: for messages, as "server 1".
        process: started with pipes for all three streams.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._ready: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES)
        self._gone: str | None = None
        self._listeners = [asyncio.create_task(self._hear_errors()), asyncio.create_task(self._hear())]

    @classmethod
    async def start(cls, name: str, environment: Mapping[str, str]) -> ServerProcess:
        """Spawn a server with these variables added to this process's own; returns at once.

        A session of its own keeps a terminal's interrupt from reaching it: the coordinator ends it in order.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast.cli.demo.server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        return cls(name, process)

    @property
    def process_id(self) -> int:
        """Of the server."""
        return self._process.pid

    async def ready(self) -> None:
        """Wait until the server is connected to its tiers.

        Raises:
            ServerFailedError: it died first, or took over `START_SECONDS`.
        """
        await self._within(START_SECONDS, "connect", self._ready)

    async def ask(self, make: Callable[[int], Command], answer: type[Answer]) -> Answer:
        """Send the command that `make` builds around an id, and return its reply.

        Raises:
            ServerFailedError: the server died, refused, or did not answer within `ANSWER_SECONDS`.
        """
        command = make(next(self._ids))
        if self._gone:
            raise ServerFailedError(self._gone)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[command.id] = future
        try:
            await self._send(encode_line(command))
            reply = await self._within(ANSWER_SECONDS, f"answer a {type(command).__name__}", future)
        finally:
            self._waiting.pop(command.id, None)
        if isinstance(reply, Failure):
            raise ServerFailedError(f"{self.name}: {reply.reason}")
        if not isinstance(reply, answer):
            raise ServerFailedError(f"{self.name} answered with a {type(reply).__name__}, not a {answer.__name__}")
        return reply

    def kill(self) -> None:
        """End the server at once, with -9: nothing of it is put in order."""
        self._process.kill()

    async def close(self) -> None:
        """End the server: close its input, then terminate it, then kill it. Returns once it is reaped."""
        stdin = self._process.stdin
        if stdin is not None:
            stdin.close()
        for insist in (self._process.terminate, self._process.kill):
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                if self._process.returncode is None:
                    insist()
            else:
                break
        await self._process.wait()
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)

    async def _send(self, line: bytes) -> None:
        stdin = self._process.stdin
        if stdin is None:
            raise ServerFailedError(f"{self.name} was started without an input")
        try:
            stdin.write(line)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            # Its output ends too; the reader then says why, with what the server last wrote.
            return

    async def _within(self, seconds: float, what: str, future: asyncio.Future[Reply]) -> Reply:
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds)
        except TimeoutError:
            raise ServerFailedError(f"{self.name} did not {what} within {seconds:.0f} s{self._words()}") from None

    async def _hear(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            raise ServerFailedError(f"{self.name} was started without an output")
        why = ""
        try:
            while line := await stdout.readline():
                self._take(decode_reply(line))
        except ValueError as error:
            why = f"{self.name} wrote a line that is no reply: {error}"
        if not why:  # otherwise it lives, and its errors do not end
            status = await self._process.wait()
            await self._listeners[0]
            why = f"{self.name} ended with status {status} before it was asked to{self._words()}"
        self._fail(why)

    def _take(self, reply: Reply) -> None:
        future = self._ready if isinstance(reply, Ready) else self._waiting.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)

    def _fail(self, reason: str) -> None:
        self._gone = reason
        for future in (self._ready, *self._waiting.values()):
            if not future.done():
                future.set_exception(ServerFailedError(reason))
        if self._ready.done():
            self._ready.exception()  # seen: a server that nobody waits for any more may end silently

    async def _hear_errors(self) -> None:
        stderr = self._process.stderr
        if stderr is None:
            return
        while chunk := await stderr.read(64 * 1024):
            self._last_words.extend(chunk.decode(errors="backslashreplace").splitlines())

    def _words(self) -> str:
        # The frame that Python draws around a group of exceptions says nothing.
        said = (line.strip(" |+-") for line in reversed(self._last_words))
        last = next(filter(None, said), "")
        return f": {last}" if last else ""


@asynccontextmanager
async def running(names: list[str], environment: Mapping[str, str]) -> AsyncIterator[list[ServerProcess]]:
    """Servers that are connected; every one of them has ended when the block has.

    Raises:
        ServerFailedError: one of them did not get as far.
    """
    async with AsyncExitStack() as stack:
        servers = []
        for name in names:
            server = await ServerProcess.start(name, environment)
            stack.push_async_callback(server.close)
            servers.append(server)
        for server in servers:
            await server.ready()
        yield servers
