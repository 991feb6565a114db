"""What was accepted and is not yet decided, in order per key, and when each key is due (pure).

A key is due after a time of quiet, and after a greater age at the latest, so that one that is written all the time is
not put off for ever. It can be made due now; then it stands behind those that were due before.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from holdfast.keys import Key
from holdfast.write_behind.pace import Pace


class Write(Protocol):
    """What the buffer holds."""

    @property
    def key(self) -> Key:
        """Of its row."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def accepted_at(self) -> float:
        """Monotonic seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferRules:
    """When writes are due, and how many there may be.

    Attributes:
        quiet_seconds: since the last write of the key.
        age_seconds: since the first one that is not decided, at most.
        writes_max: of all keys; from half of it on the buffer is *crowded*.
        bytes_max: of their entries; likewise.
        crowded_seconds: the buffer is crowded too when its oldest write is that old.
    """

    quiet_seconds: float = 2.0
    age_seconds: float = 5.0
    writes_max: int = 50_000
    bytes_max: int = 64 * 1024 * 1024
    crowded_seconds: float = 30.0


class KeyQueue:
    """The writes of one key.

    Attributes:
        writes: in the order of their acceptance.
        taken: how many of the first are being decided.
        decisions: how often writes of it were decided.
        doubted: of which writes, by `id`, it is not known whether they are in effect.
        hurried: it was made due.
        locked: another transaction had its row for too long: it is taken alone, so that no other key waits for it.
    """

    __slots__ = ("decisions", "doubted", "due_at", "hurried", "locked", "taken", "writes")

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.taken = 0
        self.decisions = 0
        self.doubted: set[int] = set()
        self.hurried = False
        self.locked = False
        self.due_at = math.inf

    @property
    def doubt(self) -> bool:
        """Whether some of it may be in effect already."""
        return bool(self.doubted)

    def is_doubted(self, write: Any) -> bool:
        """Whether this one may be in effect already."""
        return id(write) in self.doubted

    def set_doubt(self, writes: Iterable[Any]) -> None:
        """Whether these are in effect is not known until they are decided."""
        self.doubted.update(map(id, writes))


class Buffer:
    """The undecided writes of one server.

    Attributes:
        queues: by key; a key without undecided writes has none.
        size: bytes of all entries.
    """

    def __init__(self, rules: BufferRules) -> None:
        self.queues: dict[Key, KeyQueue] = {}
        self.size = 0
        self._rules = rules
        self._count = 0
        self._heap: list[tuple[float, int, Key, KeyQueue]] = []
        self._tie = count()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        for queue in self.queues.values():
            yield from queue.writes

    def is_full(self, size: int) -> bool:
        """Whether a write of that many bytes has no room."""
        return self._count >= self._rules.writes_max or self.size + size > self._rules.bytes_max

    def is_crowded(self, now: float) -> bool:
        """Whether writers should be slowed down to the pace of L3."""
        rules = self._rules
        if self._count * 2 >= rules.writes_max or self.size * 2 >= rules.bytes_max:
            return True
        return self._count > 0 and now - self.oldest_at() >= rules.crowded_seconds

    def oldest_at(self) -> float:
        """When the oldest undecided write was accepted, monotonic seconds; infinity: there is none.

        It may be told up to the duration of a flush too late: who stands first was written first, or decided in part
        before the others were written.
        """
        first = next(iter(self.queues.values()), None)
        return math.inf if first is None else float(first.writes[0].accepted_at)

    def add(self, write: Write) -> KeyQueue:
        """Take a write in."""
        queue = self.queues.get(write.key)
        if queue is None:
            queue = self.queues[write.key] = KeyQueue()
        queue.writes.append(write)
        self._count += 1
        self.size += write.size
        if not (queue.hurried or queue.locked):
            self._set_due(write.key, queue, self._due_at(queue))
        return queue

    def hurry(self, keys: Iterable[Key], now: float) -> None:
        """Make keys due now; one whose row is locked is tried in its time."""
        for key in keys:
            queue = self.queues.get(key)
            if queue is not None and not (queue.hurried or queue.locked):
                queue.hurried = True
                self._set_due(key, queue, min(now, queue.due_at))

    def next_due(self) -> float:
        """When a key is due next, monotonic seconds; infinity: none is."""
        self._drop_outdated()
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now: float, pace: Pace, bytes_max: int) -> dict[Key, list[Any]]:
        """The undecided writes of keys that are due, those due longest first; they must be given back or decided."""
        taken: dict[Key, list[Any]] = {}
        room = bytes_max
        while len(taken) < pace.keys and room > 0 and self.next_due() <= now:
            if taken and self._heap[0][3].locked:
                break
            _, _, key, queue = heapq.heappop(self._heap)
            taken[key] = queue.writes[: pace.writes]
            # What there is beyond is due as well, once these are decided.
            queue.taken, queue.hurried = len(taken[key]), len(queue.writes) > pace.writes
            queue.due_at = now if queue.hurried else math.inf
            room -= sum(write.size for write in taken[key])
            if queue.locked:
                break
        return taken

    def give_back(self, keys: Iterable[Key], now: float) -> None:
        """What was taken is not decided; it is due now, whatever is written meanwhile."""
        for key in keys:
            queue = self.queues[key]
            queue.hurried = True
            self._untake(key, queue, now)

    def postpone(self, key: Key, moment: float) -> None:
        """What was taken of a key is not decided, for its row is locked; it is due at a moment."""
        queue = self.queues[key]
        queue.locked = True
        self._untake(key, queue, moment)

    def decided(self, key: Key, writes: Iterable[Write]) -> None:
        """Let go of writes; what else was taken of the key stays so, and what else there is is due in its time."""
        queue = self.queues.pop(key)
        gone = {id(write) for write in writes}
        self._count -= len(gone)
        self.size -= sum(write.size for write in queue.writes if id(write) in gone)
        queue.writes = [write for write in queue.writes if id(write) not in gone]
        queue.doubted -= gone
        queue.locked = False
        queue.decisions += 1
        if queue.writes:
            self.queues[key] = queue  # behind those that wait for longer
            # The other half of a batch that was refused is still being decided: it must be there to be given back.
            queue.taken = max(0, queue.taken - len(gone))
            if not queue.taken:
                self._untake(key, queue, min(queue.due_at, self._due_at(queue)))
        else:
            queue.taken, queue.due_at = 0, math.inf

    def certain(self, key: Key) -> None:
        """Nothing of what is left of a key is in effect."""
        if key in self.queues:
            self.queues[key].doubted.clear()

    def _untake(self, key: Key, queue: KeyQueue, moment: float) -> None:
        queue.taken, queue.due_at = 0, math.inf
        self._set_due(key, queue, moment)

    def _due_at(self, queue: KeyQueue) -> float:
        rules = self._rules
        first, last = queue.writes[0].accepted_at, queue.writes[-1].accepted_at
        return float(min(last + rules.quiet_seconds, first + rules.age_seconds))

    def _set_due(self, key: Key, queue: KeyQueue, moment: float) -> None:
        """Only an earlier moment needs a place of its own in the heap; a later one is found when its time comes."""
        if queue.taken:  # it is put in when it is given back or decided
            queue.due_at = min(queue.due_at, moment) if queue.hurried else math.inf
            return
        if moment < queue.due_at:
            heapq.heappush(self._heap, (moment, next(self._tie), key, queue))
        queue.due_at = moment

    def _drop_outdated(self) -> None:
        while self._heap:
            moment, _, key, queue = self._heap[0]
            if moment == queue.due_at and not queue.taken:
                return
            heapq.heappop(self._heap)
            if moment < queue.due_at < math.inf and not queue.taken:
                heapq.heappush(self._heap, (queue.due_at, next(self._tie), key, queue))
