"""Stand-ins around the pool of L3: connections, the server that opens them, and callers that borrow them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fix_loop import settle
from holdfast.tiers.l3_connections import CLOSE_SECONDS, ConnectionPool

Turns = list[asyncio.Task[Any] | None]


class Connection:
    """What the pool sees of a connection."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.in_transaction = False
        self.ended: str | None = None
        self.closing: Callable[[], Awaitable[None]] | None = None

    def is_closed(self) -> bool:
        """Whether it was ended by either side."""
        return self.ended is not None

    def is_in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self.in_transaction

    def terminate(self) -> None:
        """End it without a word."""
        self.ended = self.ended or "terminated"

    async def close(self, *, timeout: float) -> None:
        """End it politely."""
        assert timeout == CLOSE_SECONDS
        if self.closing is not None:
            await self.closing()
        self.ended = self.ended or "closed"


class Server:
    """Opens connections at once, or when told to.

    Attributes:
        opened: every connection so far.
        opening: openings under way, if `by_hand`.
        turns: the tasks that began to open a connection or were lent one, in order.
    """

    def __init__(self, *, by_hand: bool = False) -> None:
        self.by_hand = by_hand
        self.opened: list[Connection] = []
        self.opening: list[asyncio.Future[None]] = []
        self.turns: Turns = []

    async def open(self) -> Any:
        """The pool's opener."""
        self.turns.append(asyncio.current_task())
        if self.by_hand:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.opening.append(answer)
            try:
                await answer
            finally:
                self.opening.remove(answer)
        connection = Connection(len(self.opened))
        self.opened.append(connection)
        return connection

    @property
    def alive(self) -> int:
        """Connections that the server would count, those being opened included."""
        return len(self.opening) + sum(not connection.is_closed() for connection in self.opened)


class Caller:
    """A task that borrows a connection and keeps it until told otherwise."""

    def __init__(self, pool: ConnectionPool, granted: list[Caller], turns: Turns | None = None) -> None:
        self.connection: Connection | None = None
        self._pool = pool
        self._turns = [] if turns is None else turns
        self._granted = granted
        self._release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.get_running_loop().create_task(self._borrow())

    async def _borrow(self) -> None:
        async with self._pool.connection() as connection:
            self._granted.append(self)
            self._turns.append(self.task)
            self.connection = connection
            await self._release

    def release_now(self, fault: Exception | None = None) -> None:
        """Let the connection go, after an error if one is given; takes effect when the task runs."""
        if fault is not None:
            self._release.set_exception(fault)
        elif not self._release.done():
            self._release.set_result(None)

    async def release(self, fault: Exception | None = None) -> None:
        """Give the connection back."""
        self.release_now(fault)
        await settle()


def pool_of(
    server: Server, *, size_max: int = 2, queue_max: int = 100, timeout_seconds: float = 30.0
) -> ConnectionPool:
    """A pool on that server."""
    return ConnectionPool(server.open, size_max=size_max, queue_max=queue_max, timeout_seconds=timeout_seconds)


async def callers(pool: ConnectionPool, count: int) -> tuple[list[Caller], list[Caller]]:
    """So many callers asking one after the other, and the list of those that were served."""
    granted: list[Caller] = []
    found = [Caller(pool, granted) for _ in range(count)]
    await settle()
    return found, granted
