"""The links to the nodes of L2: opened in the background when first wanted, and again when one was lost.

Nobody waits for a link: while one is missing, requests go through the client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import hiredis

from holdfast.tiers.l2_link import UNANSWERED, Link, Round, packed
from holdfast.tiers.l2_topology import Node

logger = logging.getLogger("holdfast")
REOPEN_SECONDS: Final = 1.0
"""Between two attempts to open a link to one node; each that fails doubles it."""
DOUBLED_MAX: Final = 5
"""So often: an attempt that is given up may go on holding one of the few threads that look names up."""
_NOT_AS_KNOWN: Final = ("MOVED", "READONLY", "CLUSTERDOWN", "NOAUTH", "NOPERM")
"""How errors begin by which a node says that it is not, or is not to us, what it was when its link was opened."""

Dial = Callable[[str], Awaitable[Link]]
"""Connects to a node by its name, greetings included. Raises OSError, or ValueError for what was said."""


class Answers(NamedTuple):
    """What came of one round.

    Attributes:
        replies: of the nodes that answered with anything but an error.
        expired: whether some were silent until time was over.
        doubtful: whether some are not what the map of nodes says: they said so, or cannot be connected to.
    """

    replies: dict[Node, Any]
    expired: bool = False
    doubtful: bool = False


class Links:
    """At most one link to each node of L2.

    Args:
        dial: opens one.
        monotonic: clock in seconds, for the pause between attempts.
    """

    def __init__(self, dial: Dial, *, monotonic: Callable[[], float]) -> None:
        self._dial = dial
        self._monotonic = monotonic
        self._names: Collection[str] = ()
        self._open: dict[str, Link] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}  # attempts since the last that succeeded

    def serve(self, names: Collection[str]) -> None:
        """Links may lead to these nodes from now on, and to no others."""
        self._names = names
        for name in self._open.keys() - names:
            self._open[name].end()
        for name in self._opening.keys() - names:
            self._opening[name].cancel()
        self._failures = {name: count for name, count in self._failures.items() if name in names}
        self._retry_at = {name: at for name, at in self._retry_at.items() if name in names}

    async def run(self, digest: str, calls: Mapping[Node, Sequence[bytes]], seconds: float) -> Answers:
        """Run a script that nodes know on all of them at once, as far as links lead to them now.

        Args:
            digest: of the script.
            calls: its arguments, the first of which is its only key.
            seconds: the longest wait. Links that say nothing for so long are given up.
        """
        asked = {node: link for node in calls if (link := self._link(node.name)) is not None}
        doubtful = any(node.name in self._failures for node in calls)
        if not asked:
            return Answers({}, doubtful=doubtful)
        loop = asyncio.get_running_loop()
        to = Round(len(asked), loop)
        for place, (node, link) in enumerate(asked.items()):
            link.send(packed("EVALSHA", digest, "1", *calls[node]), to, place)
        timer = loop.call_later(seconds, to.expire)
        try:
            await to.over
        finally:
            timer.cancel()
        return _answers(asked, to.replies, seconds, doubtful=doubtful)

    async def close(self) -> None:
        """Close all of them; may be called twice."""
        opening, ending = list(self._opening.values()), [link.lost for link in self._open.values()]
        self.serve(())
        # Waited for, not gathered: whoever cancels this must not cancel what others wait for too.
        if opening:
            await asyncio.wait(opening)
        if ending:
            await asyncio.wait(ending)

    def _link(self, name: str) -> Link | None:
        link = self._open.get(name)
        if link is None:
            self._begin(name)
            return None
        if link.is_overdue:
            link.end(BufferError("too many replies are still to come"))
        return link if link.takes else None

    def _begin(self, name: str) -> None:
        if name not in self._names or name in self._opening:
            return
        now = self._monotonic()
        if now >= self._retry_at.get(name, now):
            self._retry_at[name] = now + REOPEN_SECONDS * 2 ** min(self._failures.get(name, 0), DOUBLED_MAX)
            task = asyncio.get_running_loop().create_task(self._reach(name), name="holdfast L2 link")
            self._opening[name] = task
            task.add_done_callback(lambda _: self._opening.pop(name))

    async def _reach(self, name: str) -> None:
        try:
            link = await self._dial(name)
        except (OSError, ValueError) as fault:
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            if failures == 1:
                logger.info("L2 node %s: no link, the client carries its requests (%r)", name, fault)
        else:
            self._failures.pop(name, None)
            self._open[name] = link
            link.lost.add_done_callback(lambda lost: self._lost(name, lost.result()))

    def _lost(self, name: str, fault: Exception | None) -> None:
        del self._open[name]
        if fault is not None:
            logger.info("L2 node %s: a link was lost (%r)", name, fault)


def _answers(asked: Mapping[Node, Link], replies: Sequence[Any], seconds: float, *, doubtful: bool) -> Answers:
    came, expired = {}, False
    for (node, link), reply in zip(asked.items(), replies, strict=True):
        if reply is UNANSWERED:
            expired = expired or link.is_open
            link.end(TimeoutError(f"no answer for {seconds:.2g} s"))
        elif not isinstance(reply, hiredis.ReplyError):
            came[node] = reply
        elif str(reply).startswith(_NOT_AS_KNOWN):
            doubtful = True
            link.end(reply)
    return Answers(came, expired, doubtful)
