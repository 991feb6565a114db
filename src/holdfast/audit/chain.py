"""The hash chain of the audit log (pure).

An entry's hash is over all it says and the hash of the entry before. So whoever changes one entry has to change all
behind it, and the head; and whoever has written down what the head was, elsewhere, finds that too.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class AuditAction(StrEnum):
    """What is recorded."""

    RESOLVED = "resolved"
    """A review or an escalation, by a person or by the fallback when nobody had answered."""
    REVEALED = "revealed"
    """A secret was shown to a person."""
    ROTATED = "rotated"
    """Data keys were wrapped by another master key."""
    INVALIDATED = "invalidated"
    """What caches held was made void, on demand."""
    REPLAYED = "replayed"
    """A write, an event or a delivery that was given up was let go again."""
    DISCARDED = "discarded"
    """And one was removed for good."""


class AuditNote(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be recorded.

    Attributes:
        action: an `AuditAction`, or a word of a newer version.
        subject: what it was done to, as in ``review:<id>``.
        actor: who did it.
        reason: why, in the actor's words.
        detail: a JSON object; never a value of a document.
    """

    action: str
    subject: str
    actor: str
    reason: str
    detail: str = "{}"


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A note in its place.

    Attributes:
        number: from 1, without gaps.
        at: by L3's clock.
        previous: the hash of the entry before.
    """

    number: int
    at: dt.datetime
    note: AuditNote
    previous: bytes
    hash: bytes


class Link(NamedTuple):
    """A place in the chain: an entry's number and its hash."""

    number: int
    hash: bytes


GENESIS: Final = Link(0, bytes(32))
"""What the first entry is chained to."""


class Break(msgspec.Struct, frozen=True):
    """Where a chain does not hold: at which number, and why."""

    number: int
    reason: str


def chained(last: Link, note: AuditNote, at: dt.datetime) -> AuditEntry:
    """The entry that follows another."""
    entry = AuditEntry(number=last.number + 1, at=at, note=note, previous=last.hash, hash=b"")
    return msgspec.structs.replace(entry, hash=hash_of(entry))


def hash_of(entry: AuditEntry) -> bytes:
    """SHA-256 of what an entry says: ``<length>:<bytes>,`` for each of its parts in turn."""
    note = entry.note
    microseconds = (entry.at - _EPOCH) // dt.timedelta(microseconds=1)
    words = (str(entry.number), str(microseconds), note.action, note.subject, note.actor, note.reason, note.detail)
    parts = (*(word.encode() for word in words), entry.previous)
    return hashlib.sha256(b"".join(b"%d:%b," % (len(part), part) for part in parts)).digest()


class ChainWalk:
    """Follows a chain, page by page, from its first entry to its head.

    Args:
        head: of the log when the walk began; what was appended later is not looked at.
        anchor: a link that is known from elsewhere to have been there.

    Attributes:
        last: the last entry that holds.
        broken: where the chain does not hold; None: nowhere so far.
    """

    def __init__(self, head: Link, anchor: Link | None = None) -> None:
        self.last = GENESIS
        self.broken: Break | None = None
        self._head = head
        self._anchor = anchor

    @property
    def is_over(self) -> bool:
        """Nothing more need be read."""
        return self.broken is not None or self.last.number >= self._head.number

    def follow(self, page: Sequence[AuditEntry]) -> None:
        """Look at the entries behind `last`; none: the log has no more."""
        if not page:
            self._break(self.last.number + 1, "it is missing, with all behind it: the head names a later one")
        for entry in page:
            if self.is_over:
                return
            self._step(entry)

    def end(self) -> None:
        """Look at the end of the chain, once `is_over` says so."""
        if self.broken is None and self.last != self._head:
            self._break(self._head.number, "it is not what the head of the log says")
        if self.broken is None and self._anchor is not None and self._anchor.number > self._head.number:
            self._break(self._anchor.number, "it was there once and is missing")

    def _step(self, entry: AuditEntry) -> None:
        due, link = self.last.number + 1, Link(entry.number, entry.hash)
        if entry.number != due:
            self._break(due, f"entry {entry.number} is in its place")
        elif entry.previous != self.last.hash:
            self._break(due, "it was not chained to the entry before it")
        elif entry.hash != hash_of(entry):
            self._break(due, "it does not say what it said when it was chained")
        elif self._anchor is not None and due == self._anchor.number and link != self._anchor:
            self._break(due, "it is another one than was there once")
        else:
            self.last = link

    def _break(self, number: int, reason: str) -> None:
        self.broken = Break(number, reason)
