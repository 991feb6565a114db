"""The change feed of L3 in memory. Each server of a test has one `MemoryFeed` over the `MemoryStorage` they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from holdfast.errors import TierUnavailable
from holdfast.protocols import Coherence, Cursor, Poll, Snapshot
from holdfast.testing.memory_log import Entry
from holdfast.testing.memory_storage import MemoryStorage

CHANGES_MAX: Final = 10_000
AHEAD: Final = "the cursor is ahead of L3, which went back in time"
UNPROVEN: Final = "L3 was started anew, and what was delivered last is not in its outbox"
WENT_BACK: Final = frozenset({AHEAD, UNPROVEN})
"""Reasons to begin anew that mean: L3 may be an older copy. It gets another identity then, and also if it is an
incarnation that was left before; as in `tiers.l3_feed`."""


class MemoryFeed:
    """`ChangeSource` in memory.

    Args:
        changes_max: a cursor that is more changes behind is not continued.
        timeout_seconds: a call held for longer fails; None: it waits until it is released.

    Attributes:
        hints: while False no hint arrives here.
        polls: number of polls answered.
    """

    def __init__(
        self, storage: MemoryStorage, *, changes_max: int = CHANGES_MAX, timeout_seconds: float | None = None
    ) -> None:
        self.hints = True
        self.polls = 0
        self._storage = storage
        self._changes_max = changes_max
        self._timeout_seconds = timeout_seconds
        self._wake: Callable[[], None] | None = None
        self._fail = False
        self._closed = False
        self._held: asyncio.Event | None = None
        self._cuts = 0
        self._left: set[UUID] = set()

    @property
    def fail(self) -> bool:
        """While True every call fails, those being held too: the connection is cut, and with it the leadership."""
        return self._fail

    @fail.setter
    def fail(self, fail: bool) -> None:
        self._fail = fail
        if fail:
            self._cut()

    def hold(self) -> None:
        """Let no answer arrive until `release`, as if bytes stopped on an open connection; calls do take effect."""
        if self._held is None:
            self._held = asyncio.Event()

    def release(self) -> None:
        """Let the answers held arrive, and those that come."""
        held, self._held = self._held, None
        if held is not None:
            held.set()

    async def poll(self, cursor: Cursor | None, *, announce: bool = False) -> Poll:
        """Everything committed since a cursor; see `ChangeSource.poll`."""
        self._check_here()
        if announce:
            for feed, hint in self._storage.listeners.items():
                if feed is not self:
                    hint()
        poll = self._answer(cursor)
        await self._arrive()
        self.polls += 1
        return poll

    async def since(self, cursor: Cursor) -> Poll:
        """Everything committed since a cursor that somebody kept; see `ChangeSource.since`."""
        self._check_here()
        poll = self._look(cursor)
        await self._arrive()
        return poll

    def on_hint(self, wake: Callable[[], None]) -> None:
        """Have `wake` called by the running loop after another feed announced; see `ChangeSource.on_hint`."""
        self._wake = wake
        self._storage.listeners[self] = self._hint

    async def lead(self) -> bool:
        """Try to become, or stay, the leader; see `ChangeSource.lead`."""
        self._check_here()
        if self._storage.leader is None:
            self._storage.leader = self
        leads = self._storage.leader is self
        await self._arrive()
        return leads

    async def raise_generation(self, scope: str) -> Coherence:
        """Void every cached entry of a scope; see `ChangeSource.raise_generation`."""
        self._check_here()
        self._storage.raise_generation(scope)
        coherence = self._storage.coherence()
        await self._arrive()
        return coherence

    async def tidy(self) -> None:
        """Remove what five tidyings ago was committed; see `ChangeSource.tidy`."""
        self._check_here()
        self._storage.tidy()
        await self._arrive()

    async def close(self) -> None:
        """Disconnect for good; may be called twice."""
        self._closed = True
        self._storage.listeners.pop(self, None)
        self._cut()

    def _hint(self) -> None:
        if self._wake is not None and self.hints and not self._fail and self._held is None:
            asyncio.get_running_loop().call_soon(self._wake)

    def _answer(self, cursor: Cursor | None) -> Poll:
        """What L3 says; one that went back in time gets another identity first."""
        poll = self._look(cursor)
        if cursor is None or poll.reset is None:
            return poll
        incarnation = poll.cursor.coherence.incarnation
        if cursor.coherence.incarnation != incarnation:
            self._left.add(cursor.coherence.incarnation)
        if poll.reset in WENT_BACK or incarnation in self._left:
            self._storage.renew_identity(incarnation)
        cursor = Cursor(self._storage.coherence(), poll.cursor.snapshot, self._first_anchor())
        return msgspec.structs.replace(poll, cursor=cursor)

    def _look(self, cursor: Cursor | None) -> Poll:
        log = self._storage.log
        snapshot, coherence, tags = log.snapshot(), self._storage.coherence(), log.voids.tags
        if cursor is None:
            return Poll(Cursor(coherence, snapshot, self._first_anchor()), tags=tags)
        if (
            cursor.snapshot is snapshot
            and cursor.coherence is coherence
            and cursor.anchor[:1] == (self._storage.started,)
        ):
            return Poll(cursor)  # nothing was committed since
        reset = self._why_not(cursor, snapshot, coherence)
        if reset is None:
            entries = self._since(cursor)
            if len(entries) <= self._changes_max:
                anchor = self._anchor(cursor, entries)
                risen = {tag: number for tag, number in tags.items() if number > cursor.coherence.tag}
                return Poll(Cursor(coherence, snapshot, anchor), [entry.change for entry in entries], tags=risen)
            reset = f"the cursor is {len(entries)} changes behind, more than {self._changes_max}"
        return Poll(Cursor(coherence, snapshot, self._first_anchor()), reset=reset, tags=tags)

    def _why_not(self, cursor: Cursor, snapshot: Snapshot, coherence: Coherence) -> str | None:
        """Why a cursor cannot be continued, as far as the cursor itself tells."""
        known = cursor.coherence
        if known.incarnation != coherence.incarnation:
            return "L3 is another incarnation"
        if not snapshot.covers(cursor.snapshot) or (known is not coherence and known.highest > coherence.highest):
            return AHEAD
        if not self._is_of_this_start(cursor) and self._last_delivered(cursor) is None:
            return UNPROVEN
        if not cursor.snapshot.covers(self._storage.log.horizon):
            return "the cursor is older than the outbox"
        return None

    def _since(self, cursor: Cursor) -> Sequence[Entry]:
        log = self._storage.log
        if self._is_of_this_start(cursor) or (last := self._last_delivered(cursor)) is None:
            return log.since(cursor.snapshot)
        # On a copy of older files, ids above the copy's were drawn again, and the cursor may see them though it never
        # saw what they stand for now. Whatever came after the copy has a `seq` above what was delivered before it.
        return sorted(entry for entry in log.entries() if entry.seq > last.seq or not cursor.snapshot.sees(entry.xid))

    def _is_of_this_start(self, cursor: Cursor) -> bool:
        """Whether the cursor needs no proof of its past. One without an anchor is taken at its maker's word."""
        return cursor.anchor[:1] in {(), (self._storage.started,)}

    def _last_delivered(self, cursor: Cursor) -> Entry | None:
        names = cursor.anchor[1:]
        return next((entry for entry in self._storage.log.entries() if (entry.name,) == names), None)

    def _first_anchor(self) -> tuple[str, ...]:
        newest = max(self._storage.log.entries(), default=None)
        return (self._storage.started,) if newest is None else (self._storage.started, newest.name)

    def _anchor(self, cursor: Cursor, entries: Sequence[Entry]) -> tuple[str, ...]:
        """The start, and the entry with the highest `seq` that was delivered."""
        if not cursor.anchor:
            return self._first_anchor()  # everything is delivered now
        names = cursor.anchor[1:]
        if entries and (not names or entries[-1].seq > int(names[0].partition(":")[0])):
            names = (entries[-1].name,)
        return (self._storage.started, *names)

    async def _arrive(self) -> None:
        """Wait while answers are held.

        Raises:
            TierUnavailable: the connection was cut meanwhile, or it took too long.
        """
        if self._held is None:
            return
        cuts = self._cuts
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while self._held is not None and cuts == self._cuts:
                    await self._held.wait()
        except TimeoutError as fault:
            self._cut()
            raise TierUnavailable(f"L3 in memory: no answer within {self._timeout_seconds} s") from fault
        self._check_here()
        if cuts != self._cuts:
            raise TierUnavailable("L3 in memory: the connection was cut")

    def _cut(self) -> None:
        self._cuts += 1
        if self._storage.leader is self:
            self._storage.leader = None
        if self._held is not None:
            self._held.set()
            self._held = asyncio.Event()

    def _check_here(self) -> None:
        if self._fail or self._closed or self._storage.away:
            self._cut()
            why = "the feed is closed" if self._closed else "the feed fails" if self._fail else "it is away"
            raise TierUnavailable(f"L3 in memory: {why}")
