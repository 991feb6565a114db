"""One connection to one node of L2: requests follow each other without waiting, and replies come in their order.

It carries what every read of L2 is, one script for each node, for less than the client takes. Whatever is not a plain
reply (an error, a lost connection, silence) is left to the client, which knows redirections, failovers and
reconnecting; so a link needs to know none of them, and may end at any time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

import hiredis

WAITING_MAX: Final = 256
"""Requests whose replies are still to come; far above what batching sends."""
REPLY_BYTES_MAX: Final = 512 * 1024 * 1024
"""Of one reply; a node that sends more is cut short, whatever it means by it."""

UNANSWERED: Final = object()
"""In the place of a reply that has not come."""
_NOTHING: Final = object()


def packed(*words: str | bytes) -> bytes:
    """A request as it is sent."""
    return hiredis.pack_command(words)  # type: ignore[arg-type, no-any-return]  # its stub knows tuples of one word only


class Round:
    """Requests sent at once; over when all are answered, or cannot be any more.

    Attributes:
        over: done then; may be awaited once, and cancelled.
        replies: one for each request, in their order; errors of the server are `hiredis.ReplyError`.
    """

    __slots__ = ("_left", "over", "replies")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.over: asyncio.Future[None] = loop.create_future()
        self.replies: list[Any] = [UNANSWERED] * count
        self._left = count

    def take(self, place: int, reply: Any) -> None:
        """A reply has come, or its link has ended."""
        self.replies[place] = reply
        self._left -= 1
        if not self._left:
            self.expire()

    def expire(self) -> None:
        """Wait for no more replies."""
        if not self.over.done():
            self.over.set_result(None)


class Link(asyncio.Protocol):
    """What `create_connection` makes; it cannot be opened again.

    Attributes:
        is_open: whether there is a connection.
        lost: done when there is none any more, with what was wrong; None: it was closed here.
    """

    def __init__(self) -> None:
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[tuple[Round, int]] = deque()
        self._transport: asyncio.Transport | None = None
        self.is_open = False
        self._is_full = False
        self._began = 0  # bytes of a reply that is not whole yet
        self._fault: Exception | None = None

    @property
    def takes(self) -> bool:
        """Whether a request may be sent now."""
        return self.is_open and not self._is_full and self._transport is not None and not self._transport.is_closing()

    @property
    def is_overdue(self) -> bool:
        """Whether so many replies are still to come that none can be hoped for: those who waited were cancelled."""
        return len(self._waiting) >= WAITING_MAX

    def send(self, request: bytes, to: Round, place: int) -> None:
        """Send a packed request whose reply belongs to a place of a round; only if it `takes` one."""
        if self._transport is None:
            raise ConnectionError("the link is not open")
        self._waiting.append((to, place))
        self._transport.write(request)

    async def greet(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Send the commands with which a connection begins; returns the replies."""
        to = Round(len(commands), asyncio.get_running_loop())
        for place, command in enumerate(commands):
            self.send(packed(*command), to, place)
        await to.over
        return to.replies

    def end(self, fault: Exception | None = None) -> None:
        """Close it at once; may be called twice. What waits for a reply gets none."""
        if self._transport is not None and self.is_open:
            self.is_open, self._fault = False, fault
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def pause_writing(self) -> None:
        """The node reads more slowly than it is asked."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._is_full = False

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        reader, waiting = self._reader, self._waiting
        self._began += len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                self._began = 0
                if not waiting:
                    self.end(ValueError("a reply that nobody waits for"))
                    return
                to, place = waiting.popleft()
                to.take(place, reply)
        except (hiredis.HiredisError, MemoryError) as fault:
            self.end(fault)
        if self._began > REPLY_BYTES_MAX:
            self.end(ValueError(f"a reply of over {REPLY_BYTES_MAX} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self.is_open and exc is None:
            self._fault = ConnectionResetError("the node closed it")
        self._transport, self.is_open = None, False
        waiting, self._waiting = self._waiting, deque()
        for to, place in waiting:
            to.take(place, UNANSWERED)
        if not self.lost.done():
            self.lost.set_result(self._fault or exc)
