"""L2's contract."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Protocol

import msgspec

from holdfast.keys import Key
from holdfast.protocols.coherence import Coherence
from holdfast.protocols.feed import Snapshot
from holdfast.protocols.storage import Row


class Watermark(msgspec.Struct, frozen=True):
    """How far one node of L2 was told what changed (rule C3). It lies on the node, beside the data it speaks of.

    Attributes:
        incarnation: of L3, 16 bytes; the snapshot belongs to it.
        snapshot: every change that it sees was fenced on this node.
        generation: the node's own; entries filled under a lower one are void. It is drawn anew when the node's past
            cannot be continued.
        known_generation: the highest generation that whoever wrote this knew.
        slots: first and last slot of each range it speaks for; keys of others are misses.
        anchor: of the cursor it was written at; see `Cursor`.
    """

    incarnation: bytes
    snapshot: Snapshot
    generation: int
    known_generation: int
    slots: tuple[tuple[int, int], ...]
    anchor: tuple[str, ...] = ()


class View(Protocol):
    """What a server knows at the moment it asks L2, and by which it judges the answers."""

    @property
    def coherence(self) -> Coherence:
        """The newest identity known."""
        ...

    def trusts(self, mark: Watermark) -> bool:
        """Whether this server knows every change that the node may not have been told yet."""
        ...

    @property
    def tagged(self) -> Container[str]:
        """The names of the kinds that declare tags: an entry of theirs that tells none does not count."""
        ...

    def void_below(self, tags: Collection[str]) -> int:
        """The lowest generation that an entry with these tags may carry, as far as this server was told."""
        ...

    def fenced(self, key: Key) -> int:
        """The lowest version an answer may have, as far as this server was told; 0: any."""
        ...


class Cached(msgspec.Struct, frozen=True, gc=False):
    """A hit of L2.

    Attributes:
        remaining_seconds: of its TTL, by the node's clock.
        age_seconds: since it was read from L3, by the node's clock.
        tags: as they were filled; None if its kind declares none.
    """

    row: Row
    remaining_seconds: float
    age_seconds: float
    tags: tuple[str, ...] | None = None


class Absent(msgspec.Struct, frozen=True, gc=False):
    """A miss of L2: nothing there, a fence, or an entry that does not count under the view.

    Attributes:
        node_time_ms: the node's clock at the miss; a fill must carry it back (rule C2).
        generation: the node's own at the miss; a fill must carry it back. -1: the node has no watermark and takes no
            fill.
        leased_seconds: for how long another server may still be loading the key; 0: nobody is, or the lease is ours.
    """

    node_time_ms: int
    generation: int
    leased_seconds: float = 0.0


class Failed(msgspec.Struct, frozen=True):
    """L2 could not answer for this key; an error, not a miss.

    Attributes:
        absent: if the node answered, with an entry that is unreadable: it may be filled anew.
        evidence: that entry, as it was read.
    """

    error: Exception
    absent: Absent | None = None
    evidence: bytes | None = None


class Fill(msgspec.Struct, frozen=True):
    """What was read from L3 on its way into L2.

    Attributes:
        row: None if there was none; that is not stored, and only gives the lease back.
        ttl_seconds: the kind's TTL.
        absent: the miss that began this read.
        tags: of the document; None if its kind declares none.
    """

    key: Key
    row: Row | None
    ttl_seconds: float
    absent: Absent
    tags: tuple[str, ...] | None = None


class Withdrawal(msgspec.Struct, frozen=True, gc=False):
    """An entry of L2 that is proven wrong.

    Attributes:
        version: of the entry; another one stays.
        fence: of the fence for its place: what may be filled instead has at least this version.
        evidence: of an entry that is unreadable, and so has no version: what was read; anything else stays.
    """

    key: Key
    version: int
    fence: int
    evidence: bytes | None = None


class SharedCache(Protocol):
    """L2: disposable, shared by all servers. It may forget anything at any time; it must never answer with the past.

    No method raises for a node that is away: reads answer `Failed`, fills say how many arrived.
    """

    async def read(
        self, keys: Sequence[Key], view: View, *, lease: bool = True
    ) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up, one round trip per node.

        An entry counts if its node's watermark is trusted, and it is of the incarnation known, not below a generation
        of its kind, its tags or its node, and not below the version that the view was told of.

        Args:
            lease: for a key that holds nothing, take the lease to load it if nobody has it.
        """
        ...

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries that are still the newest known, and return how many were stored.

        An entry is refused if the key holds a newer version or a fence above it, if its read began longer ago than
        half the lifetime of a fence (by then the fence that forbids it may be gone), or if the node's incarnation or
        generation is no longer the one its read began under.

        Args:
            coherence: of the snapshot that the rows were read in.
        """
        ...

    async def withdraw(self, withdrawals: Sequence[Withdrawal], coherence: Coherence) -> int:
        """Put fences in the place of entries that are proven wrong, and return how many went (rule C5).

        Only an entry of the version named, and of the incarnation, goes; an unreadable one only while the key holds
        the very bytes (by their number, and the first `EVIDENCE_BYTES_MAX` of them): what it lacked a moment ago may
        have been filled since. A fence is left, not nothing: a fill of the same past may be under way.
        """
        ...


class FenceTarget(Protocol):
    """One node of L2, as the relay sees it."""

    @property
    def name(self) -> str:
        """Its address."""
        ...

    @property
    def slots(self) -> tuple[tuple[int, int], ...]:
        """What it serves now, first and last slot of each range."""
        ...


class FenceSink(Protocol):
    """L2, as the relay sees it: fences go to each node together with the node's watermark, or not at all."""

    async def targets(self) -> Sequence[FenceTarget]:
        """The primaries now.

        Raises:
            TierError: they cannot be asked.
        """
        ...

    async def watermark(self, target: FenceTarget) -> Watermark | None:
        """The node's watermark; None if it has none that can be read.

        Raises:
            TierError: the node does not answer.
        """
        ...

    async def advance(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        """Fence those of the keys that the node serves and move its watermark, in one step as seen by any reader.

        `versions` must not be changed afterwards; giving the same object for several nodes is cheap.

        A fence notes that at least this version exists: until its lifetime ends, older values are refused. It never
        lowers what a key holds.

        Returns:
            False if the watermark was not `before` any more; nothing was promised then.

        Raises:
            TierError: the node does not answer.
        """
        ...
