"""The contracts of write-behind: the journal's stream in L2, and what L3 knows of journals.

A *journal* belongs to one life of one server: its name is never used again. Its entries are numbered from 1, rising,
perhaps with gaps, below 2^53. Each entry is *decided* once: applied to its row, or refused. What is decided is noted in
L3 in the very transaction that applied it, so that whoever does it again does nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.keys import Key
from holdfast.protocols.storage import Row, Write
from holdfast.seq_set import SeqSet


class Appended(msgspec.Struct, frozen=True):
    """What an append left in the stream.

    Attributes:
        last: the highest number that was ever in the stream.
        replicas: how many of them had acknowledged it; 0: L2 keeps none for this slot, and its file has taken it.
    """

    last: int
    replicas: int


class JournalBehind(Exception):
    """The stream ends before what was taken for its end: entries were lost, by a failover. Nothing was appended.

    Attributes:
        last: the highest number that it has now.
    """

    def __init__(self, last: int) -> None:
        super().__init__(f"the journal ends at {last}")
        self.last = last


class JournalSealed(Exception):
    """Another server has taken the journal over; nothing was appended, and nothing ever will be.

    Attributes:
        last: the highest number that was ever in it, for good: what an attempt of unknown outcome left up to there is
            decided by whoever took it over, and what lies above is not in the journal.
    """

    def __init__(self, last: int) -> None:
        super().__init__(f"the journal is sealed at {last}")
        self.last = last


class JournalStreams(Protocol):
    """Journals in L2. Every method raises `TierUnavailable` if it was not done, `OutcomeUnknown` if nobody knows."""

    async def append(
        self, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        """Append entries behind the number expected to be the last; done once, however often it is repeated.

        When it returns, the entries survive the death of the node: a replica has them or, where the slot has none, the
        node's append-only file has been given to the operating system.

        Args:
            entries: number and bytes, rising, above `expected`; none is allowed, and asks only. Whatever an earlier
                attempt gave and nobody decided is among them: a number is never put below one that is there.
            expected: the last one that was acknowledged; 0: the stream is new.
            keep_from: entries with lower numbers may be dropped.

        Raises:
            JournalBehind, JournalSealed: nothing was appended.
            TierUnavailable: also if a higher number is there already, and one of these is not.
            Overloaded: too much waits already, or L2 is out of memory.
            ValueError: the numbers are not as above.
        """
        ...

    async def read(self, journal: str, *, after: int, limit: int, sealed: bool = False) -> Sequence[tuple[int, bytes]]:
        """Up to `limit` entries above a number, in order, from the primary.

        Args:
            sealed: `seal` has returned, so only a node that knows of it may answer: one that was cut off, and still
                takes itself for the primary, may lack entries.

        Raises:
            TierUnavailable: also if such a node answered.
        """
        ...

    async def last(self, journal: str) -> int:
        """The highest number that was ever in the stream; 0: it does not exist, or was dropped."""
        ...

    async def seal(self, journal: str) -> int:
        """Let nothing be appended any more, secured as an append is; returns the highest number. May be repeated."""
        ...

    async def drop(self, journal: str) -> None:
        """Remove a stream. Its name stays sealed for a day, for whoever still takes it for its own; may be repeated."""
        ...

    async def unfit(self) -> str | None:
        """Why L2 cannot keep a journal (it may evict keys without a TTL, say), in words; None: it can."""
        ...


class JournalState(enum.Enum):
    """Who answers for a journal's entries."""

    LIVE = "live"
    """Its server, which beats."""
    RELEASED = "released"
    """Nobody: its server has ended and left entries."""
    TAKEN = "taken"
    """The server that took it over and applies what is left."""
    DRAINED = "drained"
    """Nobody needs to: every entry is decided."""


class JournalRecord(msgspec.Struct, frozen=True):
    """What L3 knows of a journal.

    Attributes:
        server: whose life it is of, in words.
        epoch: raised by each takeover; who knows an older one decides nothing any more.
        beat: counted up by its server; one that stands still for long is of a dead server.
        taker: the server that took it over last, in words.
        decided: the entries that are decided, and `refused` those of them that were not applied.
        seconds: since its beat or state was last changed, by L3's clock. That entries were decided does not count:
            others than its server do so too, and a dead one would seem alive.
    """

    journal: str
    server: str
    epoch: int
    beat: int
    state: JournalState
    taker: str | None
    decided: SeqSet
    refused: SeqSet
    seconds: float


class Letter(msgspec.Struct, frozen=True):
    """A write that was given up, to be kept for a person.

    Attributes:
        seq: its number in its journal.
        entry: as it was in the journal.
        reason: in words.
    """

    key: Key
    seq: int
    entry: bytes
    reason: str


class DeadWrite(msgspec.Struct, frozen=True):
    """A letter as L3 keeps it.

    Attributes:
        id: for `discard`.
        seconds: since it was given up, by L3's clock.
    """

    id: int
    journal: str
    letter: Letter
    seconds: float


class JournalBase(Protocol):
    """What L3 knows of journals. Every method raises a `TierError` if it could not be done."""

    async def register(self, journal: str, server: str) -> None:
        """Enter a journal that is new: epoch 1, live. Entering it again does nothing."""
        ...

    async def beat(self, journal: str, epoch: int) -> bool:
        """Show that its server lives; False: it does not answer for it any more."""
        ...

    async def records(self) -> Sequence[JournalRecord]:
        """All journals, the oldest first."""
        ...

    async def take(self, journal: str, epoch: int, taker: str) -> bool:
        """Take a journal over at epoch + 1; False: it is not at that epoch, or drained.

        Waits for a flush of its server that is under way; when it returns True, no flush of an older epoch can commit.

        Raises:
            TierUnavailable: such a flush does not end; try again.
        """
        ...

    async def enter_state(self, journal: str, epoch: int, state: JournalState) -> bool:
        """Change a journal's state; False: it is not at that epoch."""
        ...

    async def forget(self, journal: str, epoch: int) -> bool:
        """Remove a journal that is at that epoch."""
        ...

    async def open_flush(self, journal: str, epoch: int) -> FlushTransaction:
        """Begin to decide entries; whoever gets it must end it, by `commit` or `rollback`.

        Waits until no other transaction decides entries of the journal: after a commit of unknown outcome the next
        flush knows it.

        Raises:
            NotOwner: the journal is not at that epoch, or unknown.
        """
        ...

    async def rows_and_marks(
        self, keys: Sequence[Key], journals: Sequence[str]
    ) -> tuple[Mapping[Key, Row], Mapping[str, SeqSet]]:
        """Rows, and what is decided of some journals, from one snapshot; unknown journals are absent."""
        ...

    async def letters(self, *, limit: int) -> Sequence[DeadWrite]:
        """Writes that were given up, the oldest first."""
        ...

    async def letter(self, identifier: int) -> DeadWrite | None:
        """One of them."""
        ...

    async def discard(self, identifier: int, note: AuditNote | None = None) -> bool:
        """Remove one; False: it is not there.

        Args:
            note: for the audit log, in the same transaction, if there was one to remove.
        """
        ...


class FlushTransaction(Protocol):
    """One transaction of L3 that decides entries of a journal.

    Attributes:
        decided: what was decided before it, and `refused` what of that was refused.
    """

    decided: SeqSet
    refused: SeqSet

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """Read rows and lock them, in key order."""
        ...

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; as `StorageTransaction.save`. After a `Conflict` the transaction goes on."""
        ...

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; as `StorageTransaction.delete`."""
        ...

    async def decide(self, decided: SeqSet, refused: SeqSet, letters: Sequence[Letter]) -> None:
        """Note what this transaction decides: all of it, and of that what it refuses; keep letters."""
        ...

    async def commit(self) -> None:
        """Let all of it take effect; see `StorageTransaction.commit`."""
        ...

    async def rollback(self) -> None:
        """Let nothing of it take effect; never raises; may be called after a failed `commit`."""
        ...
