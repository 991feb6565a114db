"""What the suites of the change feed need of an implementation, and what they have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from holdfast.changes import ChangeOperation
from holdfast.errors import TierError
from holdfast.keys import Key
from holdfast.protocols import Change, ChangeSource, Cursor, Poll, Storage, Target, Write

KEY = Key("bot", "b1")
OTHER = Key("team", "t1")
BODY = b'{"name": "x"}'
HINT_SECONDS = 10.0
RECONNECT_SECONDS = 10.0
Answer = TypeVar("Answer")
INSERT, UPDATE, DELETE = ChangeOperation.INSERT, ChangeOperation.UPDATE, ChangeOperation.DELETE
VOID = ChangeOperation.VOID


class OpenTransaction(Protocol):
    """A transaction that another tool has open."""

    async def put(self, key: Key, body: bytes, /) -> object:
        """Insert or update a row, which is locked until the end."""
        ...

    async def delete(self, key: Key, /) -> object:
        """Delete a row, which is locked until the end."""
        ...

    async def commit(self) -> object:
        """Let it take effect."""
        ...

    async def rollback(self) -> object:
        """Let nothing of it take effect."""
        ...


class Feeds(Protocol):
    """An L3 that is read by change sources and written by everybody."""

    @property
    def storage(self) -> Storage:
        """Empty, knowing at least the built-in kinds."""
        ...

    def source(self) -> ChangeSource:
        """One more reader, as another server has it; whoever made the harness closes it."""
        ...

    async def begin(self) -> OpenTransaction:
        """Open a transaction."""
        ...

    async def truncate(self, kind: str) -> object:
        """Empty a kind's table."""
        ...

    async def become_another(self) -> object:
        """Do what a crash does: L3 comes back as another incarnation, and connections are lost."""
        ...


class FeedSuite:
    """What the checks have in common.

    Args:
        feeds: nothing has written to it.
    """

    def __init__(self, feeds: Feeds) -> None:
        self.feeds = feeds
        self.storage = feeds.storage

    async def raise_tag(self, tag: str) -> int:
        """Make a tag void, and return its generation."""
        return (await self.storage.invalidate(Target(tag=tag), reason="a check", actor="the suite")).number

    async def put(self, key: Key) -> int:
        """Write a row, and return its version."""
        return (await self.storage.save([Write(key, 1, BODY)]))[key]

    async def reader(self) -> tuple[ChangeSource, Cursor]:
        """A new reader, and its beginning."""
        source = self.feeds.source()
        return source, (await source.poll(None)).cursor

    @staticmethod
    async def reconnected(call: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of a call whose connection may have been lost."""
        async with asyncio.timeout(RECONNECT_SECONDS):
            while True:
                try:
                    return await call()
                except TierError:
                    await asyncio.sleep(0)

    @staticmethod
    async def go_on(source: ChangeSource, cursor: Cursor) -> Poll:
        """A poll that is continued from its cursor."""
        poll = await source.poll(cursor)
        assert poll.reset is None, poll.reset
        return poll

    @staticmethod
    def of(key: Key, changes: Iterable[Change]) -> list[Change]:
        """The changes of one key, in their order."""
        return [change for change in changes if change.key == key]


def told(changes: Iterable[Change]) -> list[tuple[Key, int, ChangeOperation]]:
    """What changes say of their keys; each source numbers transactions in its own way."""
    return [(change.key, change.version, change.operation) for change in changes]
