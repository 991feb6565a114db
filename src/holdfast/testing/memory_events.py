"""Events in memory, with the rules of the scripts in `holdfast.tiers.lua`.

Each server of a test has one `MemoryEvents` over the `EventHub` they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.clock import Clock
from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.events import PRIORITIES
from holdfast.protocols import Append, DeadLetter, Exchange, Exchanged, Handed, Replayed

PARTITIONS: Final = 4
CLAIM_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Reader:
    """A reader in one partition; `places` and `pending` by rank, `pending` with how often each was handed out.

    Attributes:
        is_lost: a stream vanished, and it was not told yet.
    """

    places: list[int]
    pending: list[dict[int, int]]
    is_lost: bool = False
    owner: str = ""
    epoch: int = 0
    ends: float = 0.0
    forgotten_at: float = 0.0
    members: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Partition:
    streams: list[dict[int, Append]] = field(default_factory=lambda: [{} for _ in PRIORITIES])
    readers: dict[str, _Reader] = field(default_factory=dict)
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    last: int = 0

    def append(self, event: Append) -> None:
        """Put an event at the end of its stream."""
        self.last += 1
        self.streams[event.rank][self.last] = event

    def sweep(self, now: float) -> None:
        """Forget idle readers, and what all others are done with."""
        self.readers = {name: each for name, each in self.readers.items() if each.forgotten_at > now}
        for rank, stream in enumerate(self.streams):
            needed = [min(each.pending[rank], default=each.places[rank] + 1) for each in self.readers.values()]
            low = min(needed, default=self.last + 1)
            self.streams[rank] = {entry: event for entry, event in stream.items() if entry >= low}


class EventHub:
    """What carries events between the servers of a test.

    Args:
        backlog_max: events of one partition and priority that no reader is done with.

    Attributes:
        away: while True every call fails, and has no effect.
        deaf: while True nothing is heard: no event without promise, no hint.
        lose_answers: so many of the next appends and exchanges take effect, and their answers are lost.
    """

    def __init__(self, clock: Clock, *, backlog_max: int = 10_000, partitions: int = PARTITIONS) -> None:
        self.clock = clock
        self.backlog_max = backlog_max
        self.contents = [_Partition() for _ in range(partitions)]
        self.listeners: dict[object, tuple[Callable[[bytes], None], Callable[[int], None]]] = {}
        self.claims: dict[tuple[str, str], float] = {}
        self.away = False
        self.deaf = False
        self.lose_answers = 0

    def forget(self) -> None:
        """Lose everything, as a Redis may that keeps no file."""
        self.contents = [_Partition() for _ in self.contents]

    def lose_stream(self, partition: int, rank: int) -> None:
        """Lose what lies in a partition with one priority, as a Redis may that evicts."""
        contents = self.contents[partition]
        contents.streams[rank].clear()
        for reader in contents.readers.values():
            reader.pending[rank].clear()
            reader.is_lost = True

    def hint(self, partition: int) -> None:
        """Tell all that something was appended."""
        for _, hint in [] if self.deaf else list(self.listeners.values()):
            hint(partition)


class MemoryEvents:
    """`EventTransport` of one server."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub

    @property
    def partitions(self) -> int:
        """How many there are."""
        return len(self._hub.contents)

    async def start(self, live: Callable[[bytes], None], hint: Callable[[int], None]) -> None:
        """Begin to listen; see `EventTransport.start`."""
        self._hub.listeners[self] = (live, hint)

    async def close(self) -> None:
        """End that; see `EventTransport.close`."""
        self._hub.listeners.pop(self, None)

    async def send(self, partition: int, body: bytes) -> None:  # noqa: ARG002 - one channel does in memory
        """Send an event; see `EventTransport.send`."""
        self._check()
        for live, _ in [] if self._hub.deaf else list(self._hub.listeners.values()):
            live(body)

    async def claim(self, reader: str, event: str) -> bool:
        """Claim an event; see `EventTransport.claim`."""
        self._check()
        now = self._hub.clock.monotonic()
        self._hub.claims = {claim: until for claim, until in self._hub.claims.items() if until > now}
        is_first = (reader, event) not in self._hub.claims
        self._hub.claims.setdefault((reader, event), now + CLAIM_SECONDS)
        return is_first

    async def append(self, partition: int, events: Sequence[Append]) -> Sequence[bool]:
        """Append events; see `EventTransport.append`."""
        contents = self._at(partition)
        taken = [self._append(contents, event) for event in events]
        self._lose_answer()
        self._hub.hint(partition)
        return taken

    async def exchange(self, partition: int, told: Exchange) -> Exchanged:
        """Settle, and be handed more; see `EventTransport.exchange`."""
        contents, now = self._at(partition), self._hub.clock.monotonic()
        created = told.reader not in contents.readers
        if created:
            contents.readers[told.reader] = _Reader([contents.last] * len(PRIORITIES), [{} for _ in PRIORITIES])
        reader = contents.readers[told.reader]
        reader.forgotten_at = now + told.idle_seconds
        reader.members = {name: until for name, until in reader.members.items() if until > now}
        reader.members[told.owner] = now + told.lease_seconds
        answer = self._exchanged(contents, reader, told, created=created)
        self._lose_answer()
        return answer

    async def sweep(self, partition: int) -> None:
        """Remove what is done with; see `EventTransport.sweep`."""
        self._at(partition).sweep(self._hub.clock.monotonic())

    async def leave(self, partition: int, reader: str, owner: str, *, forget: bool) -> None:
        """Give a partition up; see `EventTransport.leave`."""
        contents = self._at(partition)
        if (known := contents.readers.get(reader)) is None:
            return
        known.members.pop(owner, None)
        if forget:
            del contents.readers[reader]
        elif known.owner == owner:
            known.owner = ""
            self._hub.hint(partition)

    async def dead_letters(self, partition: int, *, limit: int) -> Sequence[DeadLetter]:
        """The oldest dead letters; see `EventTransport.dead_letters`."""
        return list(self._at(partition).letters.values())[:limit]

    async def replay(self, partition: int, letter: str) -> Replayed:
        """Append a dead letter's event again; see `EventTransport.replay`."""
        contents = self._at(partition)
        found = contents.letters.get(letter)
        if found is None:
            return Replayed.NOT_THERE
        reader = contents.readers.get(found.reader)
        if reader is None or reader.forgotten_at <= self._hub.clock.monotonic():
            return Replayed.READER_GONE
        if len(contents.streams[found.rank]) >= self._hub.backlog_max:
            return Replayed.NO_ROOM
        contents.append(Append(found.rank, found.body, repeat=True, only=found.reader))
        del contents.letters[letter]
        self._hub.hint(partition)
        return Replayed.DONE

    async def discard(self, partition: int, letter: str) -> bool:
        """Remove a dead letter; see `EventTransport.discard`."""
        return self._at(partition).letters.pop(letter, None) is not None

    def _append(self, contents: _Partition, event: Append) -> bool:
        if not contents.readers:
            return True
        if len(contents.streams[event.rank]) >= self._hub.backlog_max:
            contents.sweep(self._hub.clock.monotonic())
        if len(contents.streams[event.rank]) >= self._hub.backlog_max:
            return False
        contents.append(event)
        return True

    def _exchanged(self, contents: _Partition, reader: _Reader, told: Exchange, *, created: bool) -> Exchanged:
        now, is_mine = self._hub.clock.monotonic(), reader.owner == told.owner
        goes_on = is_mine and reader.epoch == told.epoch
        is_free = not reader.owner or reader.ends <= now
        if not goes_on and not (told.wanted and (is_mine or is_free)):
            return Exchanged(0, len(reader.members), created, [])
        reader.epoch += not goes_on
        reader.owner, reader.ends = told.owner, now + told.lease_seconds
        if goes_on:
            _settle(contents, reader, told)
        is_anew = told.renewed or reader.is_lost or not goes_on
        created, reader.is_lost = created or reader.is_lost, False
        events: list[Handed] = []
        for rank, stream in enumerate(contents.streams):
            entries = list(reader.pending[rank]) if is_anew else []
            new = [entry for entry in stream if entry > reader.places[rank]][: told.room[rank]]
            reader.places[rank] = max(new, default=reader.places[rank])
            for entry in (*entries, *new):
                reader.pending[rank][entry] = times = reader.pending[rank].get(entry, 0) + 1
                event = stream[entry]
                events.append(Handed(rank, f"{entry}-0", event.body, times, event.repeat, event.only))
        return Exchanged(reader.epoch, len(reader.members), created, events)

    def _at(self, partition: int) -> _Partition:
        self._check()
        return self._hub.contents[partition]

    def _check(self) -> None:
        if self._hub.away:
            raise TierUnavailable("L2 in memory is away")

    def _lose_answer(self) -> None:
        if self._hub.lose_answers:
            self._hub.lose_answers -= 1
            raise OutcomeUnknown("L2 in memory lost an answer")


def _settle(contents: _Partition, reader: _Reader, told: Exchange) -> None:
    for dead in told.dead:
        entry = int(dead.entry.removesuffix("-0"))
        if reader.pending[dead.rank].pop(entry, None) is not None:
            contents.last += 1
            letter, body = f"{contents.last}-0", contents.streams[dead.rank][entry].body
            contents.letters[letter] = DeadLetter(letter, told.reader, dead.reason, dead.attempts, dead.rank, body)
    for rank, entries in enumerate(told.settled):
        for name in entries:
            reader.pending[rank].pop(int(name.removesuffix("-0")), None)
