"""Flights: loads under way, at most one per key that callers may join (pure but for the futures).

A flight is one load of one key that any number of callers wait for. It belongs to nobody: it goes on when its
callers are cancelled, and its result still fills the tiers. A fence, a write or a change of the key detaches it:
callers that come later start their own, which begins after it (rule R4).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from holdfast.entry import Missing, Tier
from holdfast.keys import Key
from holdfast.protocols import ANY_VERSION, Absent, Coherence, Fill, Row, Withdrawal


class Resolved:
    """The result of a read: a document (or MISSING), its version, where it came from and when it was read from L3.

    Attributes:
        birth: the version its row was inserted with; 0: not known, or there is no row.
        pending: undecided writes of this server are laid over it.
    """

    __slots__ = ("birth", "pending", "read_at", "stale", "tier", "value", "version")

    def __init__(
        self,
        value: Any | Missing,
        version: int,
        tier: Tier,
        read_at: float,
        *,
        stale: bool = False,
        birth: int = 0,
        pending: bool = False,
    ) -> None:
        self.birth = birth
        self.pending = pending
        self.stale = stale
        self.value = value
        self.version = version
        self.tier = tier
        self.read_at = read_at


class Flight:
    """One load of one key.

    Attributes:
        began: when a tier was first asked, monotonic seconds; infinity before that.
        future: settled once with `Resolved` or an error.
        ticket: of L1, taken before anything was read.
        absent: L2's miss; None when L2 was not asked, and then nothing is filled there.
        known: for a strong read, what L1 holds: its version and value, so that L3 need not send it again.
        coherence: what was known of L3 then.
        lease_until: until when, in monotonic seconds, it waits for another server that loads the key; 0: not yet asked.
        looks: how often it asked L2 again meanwhile.
        bad: what of L2 is to be withdrawn for it, once L3 has said which fence is to stand there.
    """

    __slots__ = ("absent", "bad", "began", "coherence", "future", "key", "known", "lease_until", "looks", "ticket")

    def __init__(self, key: Key, future: asyncio.Future[Resolved], ticket: int) -> None:
        self.key = key
        self.began = math.inf
        self.future = future
        self.ticket = ticket
        self.absent: Absent | None = None
        self.bad: Withdrawal | None = None
        self.coherence: Coherence | None = None
        self.known: tuple[int, Any] | None = None
        self.lease_until = 0.0
        self.looks = 0

    def note_bad(self, version: int | None, evidence: bytes | None = None) -> None:
        """L2 holds what does not verify: an entry of a version, or one that cannot be read; None: it is not to go."""
        self.bad = None if version is None else Withdrawal(self.key, version, ANY_VERSION, evidence)

    def fence_bad(self, row: Row | None, least: int) -> None:
        """L3 has answered with this row: what is to be withdrawn gives way to a fence that admits it, and none older.

        Args:
            least: the lowest version that an answer may have, as far as this server was told; 0: any.
        """
        if self.bad is not None:
            truth = max(row.version if row is not None else 0, least)
            # As of a stale entry: without a row nothing of the version that was there may come back.
            fence = truth if truth >= self.bad.version else self.bad.version + 1
            self.bad = msgspec.structs.replace(self.bad, fence=fence)

    def settle(self, result: Resolved | Exception) -> None:
        """Tell the callers; a second result is ignored."""
        if self.future.done():
            return
        if isinstance(result, Resolved):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)
            self.future.exception()  # its callers may all have been cancelled: nobody is left to see it then

    def lease(self) -> Fill | None:
        """What gives back the lease of a load that failed, so that nobody waits for it; None: it has none."""
        return None if self.absent is None else Fill(self.key, None, 0.0, self.absent)


class Flights:
    """The flights that a caller may join, by key."""

    def __init__(self) -> None:
        self._joinable: dict[Key, Flight] = {}

    def __len__(self) -> int:
        return len(self._joinable)

    def find(self, key: Key) -> Flight | None:
        """The flight to join, if there is one."""
        return self._joinable.get(key)

    def offer(self, flight: Flight) -> None:
        """Let later callers of its key join."""
        self._joinable[flight.key] = flight

    def detach(self, key: Key) -> None:
        """Let later callers start a flight of their own: something newer than what this one may bring exists."""
        self._joinable.pop(key, None)

    def detach_kind(self, kind: str) -> None:
        """Detach the flights of all keys of a kind."""
        self._joinable = {key: flight for key, flight in self._joinable.items() if key.kind != kind}

    def detach_all(self) -> None:
        """Detach every flight."""
        self._joinable = {}

    def settle(self, flight: Flight, result: Resolved | Exception) -> None:
        """End a flight."""
        if self._joinable.get(flight.key) is flight:
            del self._joinable[flight.key]
        flight.settle(result)


def leases_of(flights: Iterable[Flight]) -> list[Fill]:
    """What gives back the leases of loads that failed."""
    return [lease for each in flights if (lease := each.lease()) is not None]


def known_versions(flights: Iterable[Flight], incarnation: UUID) -> dict[Key, int]:
    """The versions that every flight of a key knows already, so that L3 need not send their documents."""
    known: dict[Key, int] = {}
    for flight in flights:
        if flight.coherence is not None and flight.coherence.incarnation != incarnation:
            flight.known = None
        version = flight.known[0] if flight.known is not None else 0
        known[flight.key] = version if known.setdefault(flight.key, version) == version else 0
    return {key: version for key, version in known.items() if version}
