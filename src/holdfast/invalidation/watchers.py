"""Who watches what on this server, and what waits for each (pure).

A poll's changes are sorted once for all watchers; those of one kind or key share one batch. Nothing is done while
nobody watches. A watcher that leaves too much waiting is told so by a reset, which stands for all it was not given.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from holdfast.errors import Closed, Overloaded
from holdfast.invalidation.positions import Position
from holdfast.keys import Key
from holdfast.protocols import Change, Cursor, Poll

WATCHERS_MAX: Final = 10_000
WAITING_MAX: Final = 1000
"""Changes that may wait behind the poll that a watcher is working off, when one more poll comes."""


class Told(NamedTuple):
    """One thing for a watcher: a change, or why it may have missed any.

    Attributes:
        position: behind it.
    """

    change: Change | None
    reset: str | None
    position: Position


class Batch(msgspec.Struct, frozen=True):
    """What lies between two cursors of the feed, for one sort of watcher.

    Attributes:
        changes: each with its number, from 0, among all changes that lie there.
        reset: why any may be missing; then there are no changes.
    """

    before: Cursor
    after: Cursor
    changes: Sequence[tuple[int, Change]] = ()
    reset: str | None = None


class Line:
    """What waits for one watcher, in the feed's order.

    Args:
        key: what it watches; with an empty id: the kind.
        wake: called when something has come, and at the end.

    Attributes:
        ended: how far the feed had come when it was told its last; None: it goes on.
    """

    def __init__(self, key: Key, wake: Callable[[], None], *, waiting_max: int) -> None:
        self.key = key
        self.ended: Cursor | None = None
        self._wake = wake
        self._waiting_max = waiting_max
        self._past: deque[Batch] = deque()
        self._live: deque[Batch] = deque()
        self._given = 0  # changes of the first batch
        self._behind = 0  # changes of live batches that are not the first

    @property
    def empty(self) -> bool:
        """Nothing waits."""
        return not (self._past or self._live)

    @property
    def next_from(self) -> Cursor | None:
        """Behind which the first lies that waits; None: nothing does, or it cannot be had again from a cursor."""
        batch = next(iter(self._past or self._live), None)
        return None if batch is None or batch.reset is not None or self._given else batch.before

    def wants(self, change: Change) -> bool:
        """Whether a change concerns it."""
        kind, identifier = self.key
        return change.key.kind == kind and (not identifier or change.whole_kind or change.key.id == identifier)

    def put(self, batch: Batch) -> None:
        """Add what a poll brought. One poll is taken whole, however much it brought."""
        if self._behind > self._waiting_max:
            self.reset(f"this watcher is too slow: more than {self._waiting_max} changes waited for it", batch.after)
            return
        if self._live:
            self._behind += len(batch.changes)
        self._live.append(batch)
        self._wake()

    def precede(self, past: Sequence[Batch]) -> None:
        """Put what came before, which is known only now, in front of all that waits."""
        self._past.extend(past)

    def reset(self, reason: str, cursor: Cursor) -> None:
        """Leave out all that waits, and tell so; the watcher goes on from a cursor."""
        self._clear()
        self._live.append(Batch(cursor, cursor, reset=reason))
        self._wake()

    def end(self, cursor: Cursor) -> None:
        """Nothing more will come. What waits is kept, for it says where the watcher stands."""
        if self.ended is None:
            self.ended = cursor
            self._wake()

    def take(self, most: int) -> list[Told]:
        """Take the first that wait, of one batch; none if none do."""
        if self.empty:
            return []
        batch = (self._past or self._live)[0]
        chosen = batch.changes[self._given : self._given + most]
        told = [
            Told(change, None, Position(batch.before, batch.after.snapshot, number + 1)) for number, change in chosen
        ]
        self._given += len(chosen)
        if self._given == len(batch.changes):
            self._leave_first()
            last = told.pop().change if told else None
            told.append(Told(last, batch.reset, Position(batch.after)))
        return told

    def _leave_first(self) -> None:
        self._given = 0
        if self._past:
            self._past.popleft()
            return
        self._live.popleft()
        if self._live:
            self._behind -= len(self._live[0].changes)

    def _clear(self) -> None:
        self._past.clear()
        self._live.clear()
        self._given = self._behind = 0


class Watchers:
    """The lines of one server.

    Args:
        watchers_max: more are refused.
    """

    def __init__(self, *, watchers_max: int = WATCHERS_MAX) -> None:
        self._cursor: Cursor | None = None
        self._watchers_max = watchers_max
        self._admitted: set[Line] = set()
        self._following: dict[str, dict[str, set[Line]]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._admitted)

    @property
    def cursor(self) -> Cursor:
        """How far the feed has come.

        Raises:
            Closed: it has not begun.
        """
        if self._cursor is None:
            raise Closed("the store was not opened yet")
        return self._cursor

    def admit(self, line: Line) -> None:
        """Let a watcher in; it is told of nothing yet.

        Raises:
            Overloaded: there are too many.
            Closed: the server is being closed.
        """
        if self._closed:
            raise Closed("the store is closed")
        if len(self._admitted) >= self._watchers_max:
            raise Overloaded(f"{self._watchers_max} watchers are open on this server: close those that are not needed")
        self._admitted.add(line)

    def follow(self, line: Line) -> Cursor:
        """Tell a line everything that comes from now on: what the cursor does not see that is returned."""
        if line in self._admitted:
            self._following.setdefault(line.key.kind, {}).setdefault(line.key.id, set()).add(line)
        return self.cursor

    def leave(self, line: Line) -> None:
        """End a line and forget it; may be called twice."""
        line.end(self.cursor)
        self._admitted.discard(line)
        by_id = self._following.get(line.key.kind, {})
        lines = by_id.get(line.key.id, set())
        lines.discard(line)
        if not lines:
            by_id.pop(line.key.id, None)
        if not by_id:
            self._following.pop(line.key.kind, None)

    def close(self) -> None:
        """End every line; may be called twice."""
        self._closed = True
        for line in list(self._admitted):
            self.leave(line)

    def tell(self, before: Cursor | None, poll: Poll) -> None:
        """Hand out what a poll brought, which went on from a cursor and was applied."""
        self._cursor = after = poll.cursor
        if not self._following or before is None:
            return
        if (reason := poll.doubt(before)) is not None:
            for line in self._every_line():
                line.reset(reason, after)
            return
        for (kind, identifier), changes in self._sorted(poll.changes).items():
            batch = Batch(before, after, changes)
            for line in self._following[kind][identifier]:
                line.put(batch)

    def _sorted(self, changes: Sequence[Change]) -> Mapping[Key, Sequence[tuple[int, Change]]]:
        """The changes that somebody watches, by what they watch."""
        found: dict[Key, list[tuple[int, Change]]] = defaultdict(list)
        for number, change in enumerate(changes):
            kind, identifier = change.key
            watched = self._following.get(kind)
            if watched is None:
                continue
            for each in (identifier, "") if identifier else watched:
                if each in watched:
                    found[Key(kind, each)].append((number, change))
        return found

    def _every_line(self) -> list[Line]:
        return [line for by_id in self._following.values() for lines in by_id.values() for line in lines]


def history(position: Position, answer: Poll, now: Cursor, wants: Callable[[Change], bool]) -> list[Batch]:
    """What a watcher missed between the position it comes back with and the cursor from which it follows the feed.

    Args:
        answer: what the outbox holds since `position.before`. What `now` does not see is left to the feed.
        now: of the feed, from a poll begun after the watcher had come back: it sees all that the position has seen.
    """
    if answer.reset is not None:
        return [Batch(now, now, reset=answer.reset)]
    before, changes = position.before, [change for change in answer.changes if now.snapshot.sees(change.xid)]
    batches = []
    if position.after is not None:
        # The poll that was given in part: its end is where it was, whatever was committed since.
        middle = msgspec.structs.replace(before, snapshot=position.after)
        part = [change for change in changes if position.after.sees(change.xid)]
        changes = [change for change in changes if not position.after.sees(change.xid)]
        batches.append(_batch(before, middle, part, position.given, wants))
        before = middle
    batches.append(_batch(before, now, changes, 0, wants))
    return [batch for batch in batches if batch.changes]


def _batch(
    before: Cursor, after: Cursor, changes: Sequence[Change], given: int, wants: Callable[[Change], bool]
) -> Batch:
    wanted = [(number, change) for number, change in enumerate(changes) if number >= given and wants(change)]
    return Batch(before, after, wanted)
