"""Held connections to PostgreSQL: a bounded set, handed out in the order of asking.

A pool that resets each connection on release costs half of L3's throughput, and this package never changes a
session's state, so a connection is returned as it is; a transaction whose connection a user had puts its session back
itself. One that died, was left inside a transaction, lost what the driver had prepared, or was idle for long, is
thrown away. While L3 does not answer its guard refuses each call at once, and lets those go that wait.

Who owns what: `_idle` and `_waiting` change only between awaits, so no lock is needed. A connection is always
in exactly one place: idle, handed to a caller, or being opened in a caller's stead (counted in `_size`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from weakref import WeakSet

import asyncpg
from asyncpg.exceptions import InternalClientError

from holdfast.errors import Closed, OutcomeUnknown, Overloaded, TierUnavailable
from holdfast.tiers.l3_guard import PostgresGuard

Opener = Callable[[], Awaitable["asyncpg.Connection[Any]"]]
Greeting = Callable[["asyncpg.Connection[Any]"], Awaitable[None]]
CLOSE_SECONDS = 5.0
IDLE_SECONDS = 60.0
"""A connection that nobody has used for longer is not lent again: what is between us and the server may have forgotten
it without a word, as firewalls do after some minutes, and a call on it would wait for all of its timeout."""


class ConnectionPool:
    """At most `size_max` connections, opened when first needed.

    Attributes:
        greet: called with each new connection before it is lent.
        vouched: connections whose session has a statement that vouches for all that were prepared there.

    Args:
        opener: opens and prepares one connection.
        size_max: connections at once.
        queue_max: callers that may wait; one more is refused with `Overloaded`.
        timeout_seconds: for the wait for a connection, opening included.
        guard: cuts L3 off when it does not answer; None: calls wait for as long as they may, and on any connection.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        size_max: int,
        queue_max: int,
        timeout_seconds: float,
        guard: PostgresGuard | None = None,
    ) -> None:
        self._opener = opener
        self.greet: Greeting | None = None
        self.vouched: WeakSet[asyncpg.Connection[Any]] = WeakSet()
        self._size_max = size_max
        self._queue_max = queue_max
        self._timeout_seconds = timeout_seconds
        self._idle: dict[asyncpg.Connection[Any], float] = {}  # since when (the guard's clock); the last used is last
        self._waiting: deque[asyncio.Future[asyncpg.Connection[Any] | None]] = deque()
        self._size = 0
        self._closed = False
        self._guard = guard
        # What waits for L3, the oldest first, with the moment since when (the guard's clock).
        self._lent: dict[asyncpg.Connection[Any], float] = {}
        self._limits: dict[asyncio.Timeout, float] = {}
        if guard is not None:
            guard.join(self)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """Lend a connection.

        Raises:
            Overloaded: too many are waiting, or all were lent for as long as the timeout.
            TierUnavailable: none could be opened within the timeout, or the server cannot be reached.
        """
        guard = self._guard
        if guard is not None:
            guard.admit()
        connection = self._take_idle() or await self._wait_for_one()
        self._lent[connection] = self._now()
        try:
            yield connection
        except (asyncio.CancelledError, TimeoutError, TierUnavailable, OutcomeUnknown):
            if guard is not None and connection.is_closed():
                guard.lost()
            # The statement given up may still be running, even beginning a transaction: nobody may inherit that.
            connection.terminate()
            raise
        except Exception as fault:
            if guard is not None and _is_of_server(fault) and not connection.is_closed():
                guard.heard()
            if asyncpg.InvalidSQLStatementNameError in (type(fault), type(fault.__cause__)):
                connection.terminate()  # DEALLOCATE ALL: the driver would go on naming what is not there any more
            raise
        else:
            if guard is not None and not connection.is_closed():  # else its caller got over an error
                guard.heard()
        finally:
            self._lent.pop(connection, None)
            self._release(connection)

    def waits_since(self) -> float | None:
        """Since when the oldest call waits for L3, by the guard's clock; None: none does."""
        oldest = [next(iter(each.values())) for each in (self._lent, self._limits) if each]
        return min(oldest, default=None)

    def refuse_waiting(self) -> None:
        """Let the calls go, with `TierUnavailable`, that have no connection yet."""
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)

    def end_lent(self) -> None:
        """End the connections that are lent; the calls on them fail."""
        for connection in self._lent:
            connection.terminate()

    def is_connected(self) -> bool:
        """Whether any of its connections is open."""
        return any(not connection.is_closed() for connection in (*self._idle, *self._lent))

    async def close(self) -> None:
        """Close the idle connections and, as they come back, the lent ones; may be called twice."""
        self._closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(Closed("L3: the pool is closed"))
        idle, self._idle = self._idle, {}
        self._size -= len(idle)
        await asyncio.gather(*(close_connection(connection) for connection in idle))

    def _take_idle(self) -> asyncpg.Connection[Any] | None:
        if self._closed:
            raise Closed("L3: the pool is closed")
        long_ago = self._now() - IDLE_SECONDS
        while self._idle:
            connection, since = self._idle.popitem()
            if since >= long_ago and not connection.is_closed() and not connection.is_in_transaction():
                return connection
            connection.terminate()
            self._size -= 1
        return None

    async def _wait_for_one(self) -> asyncpg.Connection[Any]:
        opens = False
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                if self._guard is not None:
                    self._limits[limit] = self._guard.monotonic()
                try:
                    if self._size >= self._size_max and (connection := await self._wait_in_line()) is not None:
                        return connection
                    opens = True
                    return await self._open()
                finally:
                    self._limits.pop(limit, None)
        except TimeoutError as fault:
            if self._guard is not None:
                self._guard.admit()  # it was cut off meanwhile
            # Those who have the others may keep them for long: that says nothing of L3.
            error = Overloaded if self._lent and not opens else TierUnavailable
            raise error(
                f"L3: no connection within {self._timeout_seconds:g} s ({self._size} of {self._size_max} open)"
            ) from fault

    async def _wait_in_line(self) -> asyncpg.Connection[Any] | None:
        """A returned connection, or None with the right to open one."""
        if len(self._waiting) >= self._queue_max:
            raise Overloaded(f"L3: {self._queue_max} calls wait for {self._size_max} connections already")
        waiter: asyncio.Future[asyncpg.Connection[Any] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            connection = await waiter
        except asyncio.CancelledError:
            # It may have been handed over in the same tick that we were cancelled in; then it goes to the
            # next in line.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on(waiter.result())
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
        if connection is None:
            self._size -= 1  # _open counts it again
        return connection

    async def _open(self) -> asyncpg.Connection[Any]:
        self._size += 1
        connection = None
        try:
            connection = await self._opener()
            if self.greet is not None:
                await self.greet(connection)
        except BaseException as fault:
            if connection is not None:
                connection.terminate()
            if self._guard is not None and isinstance(fault, TierUnavailable):
                self._guard.lost()
            self._pass_on(None)
            raise
        if self._guard is not None:
            self._guard.heard()
        return connection

    def _release(self, connection: asyncpg.Connection[Any]) -> None:
        if self._closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
            self._pass_on(None)
        else:
            self._pass_on(connection)

    def _pass_on(self, connection: asyncpg.Connection[Any] | None) -> None:
        """Give a connection, or (None) the place of a lost one, to the first in line that still waits."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self._size -= 1
        else:
            self._idle[connection] = self._now()

    def _now(self) -> float:
        return 0.0 if self._guard is None else self._guard.monotonic()


def _is_of_server(fault: Exception) -> bool:
    """Whether it is what the server says, who is there then; or what the driver says of a connection that was lost."""
    return isinstance(fault, asyncpg.PostgresError) or isinstance(fault.__cause__, asyncpg.PostgresError)


async def close_connection(connection: asyncpg.Connection[Any]) -> None:
    """Close politely, or at once if the server does not answer: it must not hold up our end."""
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, InternalClientError):
        connection.terminate()
