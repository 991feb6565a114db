"""The contract of the event bus with what carries events between servers.

Reliable events lie in partitions. A reader (a named group, or one subscription of one server) has a position of its
own in each partition. One owner at a time works a reader's partition, under a lease; its number, the epoch, rises with
each new owner, and what an earlier owner still sends is ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec


class Append(msgspec.Struct, frozen=True):
    """One event on its way into a partition.

    Attributes:
        rank: of its priority, 0 the most urgent.
        repeat: an earlier attempt to append it may have succeeded.
        only: the one reader that it is for; empty: all.
    """

    rank: int
    body: bytes
    repeat: bool = False
    only: str = ""


class Handed(msgspec.Struct, frozen=True):
    """An event handed to the owner of a reader's partition.

    Attributes:
        rank, entry: where it lies; entries of one rank rise in the order of their appending.
        times: how often it was handed out, this time included.
        repeat, only: as in `Append`.
    """

    rank: int
    entry: str
    body: bytes
    times: int
    repeat: bool
    only: str


class Dead(msgspec.Struct, frozen=True):
    """An event that a reader gives up.

    Attributes:
        reason: in words.
    """

    rank: int
    entry: str
    reason: str
    attempts: int


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader tells about one partition, and asks of it, in one call.

    Attributes:
        reader: whose position.
        owner: who asks, unique for each life.
        epoch: under which it owns the partition; 0: it does not.
        wanted: it would own the partition, if nobody does.
        renewed: hand out again what was handed out and not settled: an earlier answer may not have arrived.
        room: by rank, how many events to hand out at most.
        settled: by rank, entries that are done with.
        dead: entries to be put among the dead letters, and so settled.
        lease_seconds: for how long the partition is owned after this call.
        idle_seconds: after which without a call the reader, with its positions, is forgotten.
    """

    reader: str
    owner: str
    epoch: int
    wanted: bool
    renewed: bool
    room: Sequence[int]
    settled: Sequence[Sequence[str]]
    dead: Sequence[Dead]
    lease_seconds: float
    idle_seconds: float


class Exchanged(msgspec.Struct, frozen=True):
    """The answer.

    Attributes:
        epoch: under which the asker owns the partition now. Another than it gave: what it told was ignored, and all
            that was not settled is handed out anew. 0: it does not own it.
        members: how many owners, and would-be owners, this reader has here.
        created: the reader had no position here; it begins behind all that was appended before. Or its position was
            lost, with what lay in a stream: it goes on with what was appended since, and what it had not settled
            elsewhere is handed out anew.
        events: in the order in which they are to be handled, by rank.
    """

    epoch: int
    members: int
    created: bool
    events: Sequence[Handed]


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that was given up.

    Attributes:
        letter: names it for `replay` and `discard`.
        reader: who gave it up.
    """

    letter: str
    reader: str
    reason: str
    attempts: int
    rank: int
    body: bytes


class Replayed(enum.StrEnum):
    """What became of a dead letter that was to be replayed; true if it was."""

    DONE = "replayed"
    NOT_THERE = "not there"
    NO_ROOM = "kept: too many events wait to be read; try again later"
    READER_GONE = "kept: its reader is gone; discard it"

    def __bool__(self) -> bool:
        return self is Replayed.DONE


class EventTransport(Protocol):
    """Carries events between servers.

    Methods that await raise a `TierError` when they could not do what they say: `OutcomeUnknown` if it may have taken
    effect, `TierUnavailable` if it did not.
    """

    @property
    def partitions(self) -> int:
        """How many there are."""
        ...

    async def start(self, live: Callable[[bytes], None], hint: Callable[[int], None]) -> None:
        """Begin to listen, now or when it becomes possible; never fails for a server that is away.

        Args:
            live: called with each event that was sent.
            hint: called with a partition that something was appended to. Hints may be lost.
        """
        ...

    async def close(self) -> None:
        """End all that; may be called twice."""
        ...

    async def send(self, partition: int, body: bytes) -> None:
        """Send an event to all that listen now."""
        ...

    async def claim(self, reader: str, event: str) -> bool:
        """Whether the caller is the first of a reader's to claim an event that was sent."""
        ...

    async def append(self, partition: int, events: Sequence[Append]) -> Sequence[bool]:
        """Append events in this order; says of each whether there was room.

        What was appended survives the death of any one server process. If the partition has no reader, the events are
        nobody's, and are not kept.
        """
        ...

    async def exchange(self, partition: int, told: Exchange) -> Exchanged:
        """Settle, and be handed more. What was handed out is known to have been, whichever server dies."""
        ...

    async def sweep(self, partition: int) -> None:
        """Forget readers that were idle too long, and remove events that all others are done with."""
        ...

    async def leave(self, partition: int, reader: str, owner: str, *, forget: bool) -> None:
        """Give a partition up, so that another may own it at once.

        Args:
            forget: the reader itself ends.
        """
        ...

    async def dead_letters(self, partition: int, *, limit: int) -> Sequence[DeadLetter]:
        """The oldest of the dead letters."""
        ...

    async def replay(self, partition: int, letter: str) -> Replayed:
        """Append a dead letter's event again, for its reader only; a letter that cannot be is kept."""
        ...

    async def discard(self, partition: int, letter: str) -> bool:
        """Remove a dead letter; False: there is none."""
        ...
