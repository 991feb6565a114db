"""The change feed of L3: `ChangeSource` over one connection of its own (rules F1 to F4).

The connection is opened when it is first needed, and after a failure by the next call. It cannot be shared: it listens
for hints and may hold the lead, a lock that goes with the session. So it needs a session of the server, which a pooler
in transaction mode does not give.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from holdfast.errors import Closed, TierUnavailable
from holdfast.protocols import Coherence, Cursor, Poll
from holdfast.tiers import l3_feed_statements as sql
from holdfast.tiers.l3_connect import FEED_SESSION, PostgresConnector
from holdfast.tiers.l3_connections import close_connection
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_feed_answers import answer, is_of_start, question, read_coherence, went_back
from holdfast.tiers.l3_statements import COHERENCE, ENSURE_INCARNATION

GROWN_SECONDS: Final = 60.0
TOO_SLOW: Final = (TimeoutError, asyncpg.QueryCanceledError)
CONNECT_SECONDS: Final = 5.0
"""To connect, and the first call on a connection, take many round trips; where each is long, a poll's time is short."""
PATIENCE_SECONDS_MAX: Final = 10.0
"""For a poll, if those before it took too long: its answer may be large, and would never come otherwise."""


class PostgresFeed:
    """`ChangeSource` over PostgreSQL.

    Args:
        poll_timeout_seconds: for one call. A connection that has not answered by then is ended, so that no call hangs
            on a network that stands still; the lead goes with it. The next ones have twice the time, up to
            PATIENCE_SECONDS_MAX, for a minute. A call that must connect first has CONNECT_SECONDS more.
        tags: whether polls tell the generations of tags; who only fences keys has no use for them.
    """

    def __init__(self, connector: PostgresConnector, *, poll_timeout_seconds: float, tags: bool = True) -> None:
        self._tags = tags
        self._connector = connector
        self._timeout_seconds = self._usual_seconds = poll_timeout_seconds
        self._grown_at = -math.inf
        self._session: _Session | None = None
        self._turn = asyncio.Lock()
        self._wakes: list[Callable[[], None]] = []
        self._left: set[UUID] = set()
        self._closed = False

    async def poll(self, cursor: Cursor | None, *, announce: bool = False) -> Poll:
        """Everything committed since a cursor; see `ChangeSource.poll`.

        At most `CHANGES_MAX` changes: a cursor that is further behind is not continued.
        """
        async with self._talking("reading the change feed") as session:
            poll = await session.probe(cursor) if cursor is not None and not announce else None
            if poll is None:
                poll = await session.read(cursor, announce=announce)
        if asyncio.get_running_loop().time() - self._grown_at > GROWN_SECONDS:
            self._timeout_seconds = self._usual_seconds
        return poll

    async def since(self, cursor: Cursor) -> Poll:
        """Everything committed since a cursor that somebody kept; see `ChangeSource.since`."""
        async with self._talking("reading the past of the change feed") as session:
            return await session.look(cursor, announce=False)

    def on_hint(self, wake: Callable[[], None]) -> None:
        """Have `wake` called by the running loop when another reader announced something."""
        self._wakes.append(wake)

    async def lead(self) -> bool:
        """Try to become, or stay, the leader; see `ChangeSource.lead`."""
        async with self._talking("asking for the lead") as session:
            statement = sql.STILL_LEADS if session.leads else sql.LEAD
            session.leads = bool(await session.connection.fetchval(statement))
            return session.leads

    async def raise_generation(self, scope: str) -> Coherence:
        """Void every cached entry of a scope; see `ChangeSource.raise_generation`.

        After a `TierUnavailable` it may have been raised or not; raising it once more does no harm.
        """
        async with self._talking(f"raising the generation of {scope}") as session:
            await session.connection.execute(sql.RAISE_GENERATION, scope)
            while (record := await session.connection.fetchrow(COHERENCE)) is None:
                await session.connection.execute(ENSURE_INCARNATION)
            return read_coherence(record["id"], record["document"])

    async def tidy(self) -> None:
        """Remove what every reader has read; see `ChangeSource.tidy`. Each step is a call of its own as to time."""
        async with self._talking("marking the outbox") as session:
            await session.connection.execute(sql.MARK)
            leaves = await session.connection.fetch(sql.IDLE_LEAVES)
        for (leaf,) in leaves:
            async with self._talking("emptying a leaf of the outbox") as session:
                await session.connection.execute(sql.EMPTY_LEAF, leaf)

    async def close(self) -> None:
        """Disconnect; a call under way fails. May be called twice."""
        self._closed = True
        session, self._session = self._session, None
        if session is None:
            return
        if self._turn.locked():
            session.connection.terminate()
        else:
            await close_connection(session.connection)

    @contextlib.asynccontextmanager
    async def _talking(self, what: str) -> AsyncIterator[_Session]:
        """The session, for one call at a time; a call that fails in any way ends it."""
        async with self._turn:
            try:
                with mapped(what):
                    async with asyncio.timeout(self._time_for_a_call()):
                        yield await self._connected()
            except BaseException as fault:
                # What was given up may still be running over there.
                session, self._session = self._session, None
                if session is not None:
                    session.connection.terminate()
                if session is not None and isinstance(fault.__cause__, TOO_SLOW):
                    self._grow()
                raise

    def _grow(self) -> None:
        self._grown_at = asyncio.get_running_loop().time()
        self._timeout_seconds = max(self._usual_seconds, min(2 * self._timeout_seconds, PATIENCE_SECONDS_MAX))

    def _time_for_a_call(self) -> float:
        connected = self._session is not None and not self._session.connection.is_closed()
        return self._timeout_seconds if connected else self._timeout_seconds + CONNECT_SECONDS

    async def _connected(self) -> _Session:
        if self._closed:
            raise Closed("L3: the change feed is closed")
        if self._session is None or self._session.connection.is_closed():
            self._session = None
            self._session = await self._open()
        return self._session

    async def _open(self) -> _Session:
        timeout = {"statement_timeout": str(max(1, round(self._timeout_seconds * 1000)))}
        connection = await self._connector.open({**FEED_SESSION, **timeout})
        try:
            session = _Session(connection, await _start_of(connection), self._left, tags=self._tags)
            await connection.add_listener(sql.CHANNEL, self._listener(session))
        except BaseException:
            connection.terminate()
            raise
        return session

    def _listener(self, session: _Session) -> Callable[..., None]:
        loop, own = asyncio.get_running_loop(), session.connection.get_server_pid()

        def hear(_connection: object, pid: int, _channel: str, _payload: object) -> None:
            if pid != own:
                session.hinted = True
                for wake in self._wakes:
                    loop.call_soon(wake)

        return hear


async def _start_of(connection: asyncpg.Connection[Any]) -> str:
    """When the server was started.

    Raises:
        TierUnavailable: it is a standby.
    """
    standby, start = await connection.fetchrow(sql.SERVER)
    if standby:
        raise TierUnavailable("L3: the server is a standby, where snapshots say nothing of what is running")
    return str(start)


class _Session:
    """One connection, and what is known by it.

    Attributes:
        start: when its server was started.
        leads: it holds the lead.
        hinted: something was announced that it has not read yet.

    Args:
        left: see `went_back`; it outlives the connection.
        tags: see `PostgresFeed`.
    """

    def __init__(self, connection: asyncpg.Connection[Any], start: str, left: set[UUID], *, tags: bool) -> None:
        self._tags = tags
        self.connection = connection
        self.start = start
        self._left = left
        self.leads = False
        self.hinted = False
        self._last: Cursor | None = None

    async def probe(self, cursor: Cursor) -> Poll | None:
        """The answer if nothing at all was committed since the cursor; None if that cannot be told so cheaply."""
        last = self._last
        if self.hinted or last is None or cursor.snapshot != last.snapshot or not is_of_start(cursor, self.start):
            return None
        if cursor.coherence.incarnation != last.coherence.incarnation:
            return None
        record = await self.connection.fetchrow(sql.PROBE)
        known = (str(last.snapshot), str(last.coherence.incarnation))
        if record is None or (record["snapshot"], record["incarnation"]) != known:
            return None
        return Poll(Cursor(last.coherence, cursor.snapshot, cursor.anchor))

    async def read(self, cursor: Cursor | None, *, announce: bool) -> Poll:
        """Ask the outbox. An L3 that went back in time gets another identity first.

        What caches hold of the time after the copy may bear higher versions and generations than L3 will draw for long,
        so that nothing but the identity voids it.
        """
        poll = await self.look(cursor, announce=announce)
        if poll.reset is None:
            return poll
        if went_back(cursor, poll, self._left):
            await self.connection.execute(sql.RENEW_INCARNATION, poll.cursor.coherence.incarnation)
        # Once more as a beginning: that tells all there is of what the cursor was thought to know.
        return msgspec.structs.replace(await self.look(None, announce=announce), reset=poll.reset)

    async def look(self, cursor: Cursor | None, *, announce: bool) -> Poll:
        """Ask the outbox, and judge nobody."""
        self.hinted = False
        statement, arguments = question(
            cursor, self.start, announce=announce, newest=self._last is None, tags=self._tags
        )
        records = await self.connection.fetch(statement, *arguments)
        while not records or records[0]["seq"] != sql.IDENTITY_SEQ:  # emptied by a crash, or not of this database
            await self.connection.execute(ENSURE_INCARNATION)
            records = await self.connection.fetch(statement, *arguments)
        poll = answer(cursor, self.start, records)
        self._last = poll.cursor
        return poll
