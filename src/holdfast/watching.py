"""Watching: the changes of a key or a kind, in the feed's order, each once.

A watcher is told after this server has applied the poll that brought the change, so the document it is given was read
then or later. One that comes back with a token first reads what it missed from the outbox, by a connection that is not
the feed's, and is then told from exactly where that ends.

Whatever cancels a call of `__anext__` (a timeout around it, say) costs no change: what was taken is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Generic, Self, TypeVar

from holdfast.changes import ChangeOperation, Watched
from holdfast.documents import Document
from holdfast.entry import MISSING, Consistency
from holdfast.errors import Closed, CorruptDocument, SchemaTooNew, StorageNotReady, TierError
from holdfast.flights import Resolved
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.positions import Position, position_of, token_of
from holdfast.invalidation.watchers import WAITING_MAX, Line, Told, Watchers, history
from holdfast.keys import Key
from holdfast.protocols import ChangeSource
from holdfast.reading import Reader

D = TypeVar("D", bound=Document)

READ_MAX: Final = 100
"""Changes whose documents are read at once."""
RETRY_SECONDS: Final = 0.1
"""After which a watcher asks L3 again, while it does not answer."""


class Watching:
    """What watchers need of their server; one per server.

    Args:
        past: where those that come back read what they missed.
        sleep: pauses, seconds.
        untrusted: kinds whose tables do not tell of their changes, with the reason.
        waiting_max: see `watchers.WAITING_MAX`.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        feed: ChangeFeed,
        past: ChangeSource,
        sleep: Callable[[float], Awaitable[object]],
        untrusted: Mapping[str, str],
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self.reader = reader
        self.feed = feed
        self.past = past
        self.sleep = sleep
        self.waiting_max = waiting_max
        self._untrusted = untrusted
        self.watchers = Watchers()
        feed.on_applied(self.watchers.tell)

    def open(self, key: Key, after: str | None) -> Watch[Any]:
        """Watch a key, or with an empty id its kind; see `Collection.watch`."""
        if (reason := self._untrusted.get(key.kind)) is not None:
            raise StorageNotReady(f"kind {key.kind} cannot be watched, its table does not tell of changes: {reason}")
        return Watch(key, None if after is None else position_of(after), self)

    def close(self) -> None:
        """End every watch, and open none any more; may be called twice."""
        self.watchers.close()


class Watch(Generic[D]):
    """An open watch: iterate over it, as often as you like; each change is given once, to one of those who ask.

    It ends, as an iterator does, when it or its server is closed. One that is dropped is closed by itself.
    """

    def __init__(self, key: Key, missed: Position | None, server: Watching) -> None:
        self._server = server
        self._watchers = server.watchers
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()
        self._line = Line(key, self._woken.set, waiting_max=server.waiting_max)
        self._taken: deque[Told] = deque()
        self._ready: deque[tuple[Watched[D], Position]] = deque()
        self._watchers.admit(self._line)
        self._missed = missed  # where it has to come back to; None: it has, or was new
        self._since = self._watchers.follow(self._line) if missed is None else None  # what the feed tells it
        self._given = missed or Position(self._watchers.cursor)

    @property
    def token(self) -> str:
        """Where it stands: behind the last change given, or at present if nothing waits.

        A token can be resumed for 25 minutes at least: whoever keeps one should renew it while nothing changes, too.
        """
        if self._missed is not None or self._ready or self._taken:
            return token_of(self._given)
        present = self._line.ended or self._watchers.cursor
        cursor = present if self._line.empty else self._line.next_from
        return token_of(self._given if cursor is None else Position(cursor))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Watched[D]:
        async with self._turn:
            while not (self._ready or self._line.ended):
                try:
                    await self._step()
                except TierError:  # it waits for L3 as it waits for changes
                    await self._server.sleep(RETRY_SECONDS)
                except Closed:
                    self._watchers.leave(self._line)
            if self._line.ended:
                raise StopAsyncIteration
            watched, self._given = self._ready.popleft()
            return watched

    async def aclose(self) -> None:
        """Watch no more; may be called twice."""
        self._watchers.leave(self._line)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Most are left by a break and dropped, maybe by a collector in another thread; as asyncio ends generators.
        if not (self._line.ended or self._loop.is_closed()):
            self._loop.call_soon_threadsafe(self._watchers.leave, self._line)

    async def _step(self) -> None:
        """Come nearer to something to give."""
        if self._missed is not None:
            await self._come_back(self._missed)
        elif self._taken:
            await self._read()
        elif not self._line.empty:
            if (cursor := self._line.next_from) is not None:
                self._given = Position(cursor)  # all before it was given, and the cursor may be much younger
            self._taken.extend(self._line.take(READ_MAX))
            await asyncio.sleep(0)  # where no document need be read, others would never get their turn
        else:
            self._woken.clear()
            await self._woken.wait()

    async def _come_back(self, position: Position) -> None:
        """Have what was missed wait in front of what the feed tells."""
        if self._since is None:
            # The token may come from a server that was ahead of this one: the feed must have come past it first.
            if not await self._server.feed.refresh():
                await self._server.sleep(RETRY_SECONDS)
                return
            self._since = self._watchers.follow(self._line)
        answer = await self._server.past.since(position.before)
        self._line.precede(history(position, answer, self._since, self._line.wants))
        self._missed = None

    async def _read(self) -> None:
        """Make changes of what was taken: of all of it, or of the first alone if a document cannot be read."""
        try:
            await self._make(len(self._taken))
        except (CorruptDocument, SchemaTooNew):
            await self._read_first()

    async def _read_first(self) -> None:
        try:
            await self._make(1)
        except (CorruptDocument, SchemaTooNew):
            self._given = self._taken.popleft().position  # the error tells of it, and it is not told again
            raise

    async def _make(self, count: int) -> None:
        told = list(islice(self._taken, count))
        documents = await self._documents(told)
        for each in told:
            self._taken.popleft()
            self._ready.append((_watched(each, documents), each.position))

    async def _documents(self, told: Sequence[Told]) -> Mapping[Key, Resolved]:
        keys = dict.fromkeys(
            each.change.key
            for each in told
            if each.change is not None and not (each.change.deleted or each.change.whole_kind)
        )
        # Nothing stale: L1's answer for a key may be from before the change while L3 cannot be asked.
        return await self._server.reader.read_many(list(keys), Consistency.BOUNDED, 0.0) if keys else {}


def _watched(told: Told, documents: Mapping[Key, Resolved]) -> Watched[Any]:
    change, token = told.change, token_of(told.position)
    if change is None:
        return Watched(None, ChangeOperation.RESET, 0, None, token, told.reset or "")
    read = documents.get(change.key) if not change.deleted else None
    document = None if read is None or read.value is MISSING else read.value
    return Watched(change.key.id or None, change.operation, change.version, document, token)
