"""The contracts between the flows and the tiers, in words.

Implementations: `tiers.l2_redis.RedisCache` and `testing.memory_cache.MemoryCache` for `SharedCache`;
`tiers.l3_postgres.PostgresStorage` and `testing.memory_storage.MemoryStorage` for `Storage`. The suites in
`holdfast.testing.conformance` run on both of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from holdfast.keys import Key

ANY_VERSION = 2**63 - 1
"""A fence of this version refuses every value: what is known after a write whose outcome is unknown."""


class Coherence(msgspec.Struct, frozen=True):
    """What L3 said of its identity and of the generations, in the same snapshot as the rows beside it.

    Attributes:
        incarnation: the running L3; another value means a crash, a failover or a restore, and empties every
            cache.
        generations: scope (``all`` or ``kind:<name>``) to the number below which cached entries are void.
    """

    incarnation: UUID
    generations: Mapping[str, int] = {}

    def floor(self, kind: str) -> int:
        """The lowest generation an entry of this kind may carry and still count."""
        return max(self.generations.get("all", 0), self.generations.get(f"kind:{kind}", 0))

    @property
    def highest(self) -> int:
        """The highest generation known; a fill carries it."""
        return max(self.generations.values(), default=0)


class Row(msgspec.Struct, frozen=True):
    """One row of L3.

    Attributes:
        version: of this write (rule V1).
        birth: the version the row was inserted with; a re-inserted row has another (rule V3).
        schema: the number of the document's schema.
        body: the document as UTF-8 JSON.
    """

    version: int
    birth: int
    schema: int
    body: bytes


class Loaded(msgspec.Struct, frozen=True):
    """The answer of one L3 read: all of it from one snapshot of the primary."""

    coherence: Coherence
    rows: Mapping[Key, Row]


class Write(msgspec.Struct, frozen=True):
    """One document to be put.

    Attributes:
        body: the document as UTF-8 JSON, or what makes it when its turn comes: the storage may then write the first
            documents while it makes the others. What it raises is raised, and nothing is written.
        expected: None to put whatever is there, 0 to insert only, else the version the row must have.
    """

    key: Key
    schema: int
    body: bytes | Callable[[], bytes]
    expected: int | None = None

    def made(self) -> bytes:
        """The body, made now if it was not."""
        return self.body if isinstance(self.body, bytes) else self.body()


class Storage(Protocol):
    """L3: the only source of truth. Every method that awaits raises a `TierError` when it could not be done."""

    def coherence(self) -> Coherence:
        """The newest identity that an answer or a new connection told.

        After a write returned it is not older than the incarnation the write was committed in: a crash ends all
        connections, and each new one asks first.
        """
        ...

    async def load(self, keys: Sequence[Key]) -> Loaded:
        """Read rows from the primary in one query, however many keys and kinds; absent keys are absent."""
        ...

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none, in one transaction, and return the new versions.

        Rows are locked in key order. Keys must be distinct.

        Raises:
            Conflict: a write's `expected` does not hold; nothing was written.
            AppendOnly: the kind takes new ids only, and this one exists.
            OutcomeUnknown: sent, and the reply was lost.
        """
        ...

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; returns a version above the row's last one, drawn in any case, and whether there was a row.

        Raises:
            Conflict: the row is not at `expected`.
            AppendOnly: the kind keeps its documents for ever.
            OutcomeUnknown: sent, and the reply was lost.
        """
        ...

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Up to `limit` rows of a kind with ids greater than `after`, in the byte order of their UTF-8 ids."""
        ...


class Cached(msgspec.Struct, frozen=True):
    """A hit of L2.

    Attributes:
        remaining_seconds: of its TTL, by the node's clock.
        age_seconds: since it was read from L3, by the node's clock.
    """

    row: Row
    remaining_seconds: float
    age_seconds: float


class Absent(msgspec.Struct, frozen=True):
    """A miss of L2: nothing there, a fence, or an entry of another incarnation or an older generation.

    Attributes:
        node_time_ms: the node's clock at the miss; a fill must carry it back (rule C2).
    """

    node_time_ms: int


class Failed(msgspec.Struct, frozen=True):
    """L2 could not answer for this key; an error, not a miss.

    Attributes:
        node_time_ms: the node's clock if the node answered, with an entry that is unreadable: it may be
            filled anew.
    """

    error: Exception
    node_time_ms: int | None = None


class Fill(msgspec.Struct, frozen=True):
    """An entry read from L3 on its way into L2.

    Attributes:
        ttl_seconds: the kind's TTL.
        node_time_ms: from the `Absent` that began this read.
    """

    key: Key
    row: Row
    ttl_seconds: float
    node_time_ms: int


class SharedCache(Protocol):
    """L2: disposable, shared by all servers. It may forget anything at any time; it must never answer with the past.

    No method raises for a node that is away: reads answer `Failed`, fills and fences say how many did not
        arrive.
    """

    async def read(self, keys: Sequence[Key], coherence: Coherence) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up, one round trip per node. Entries void under `coherence` are `Absent`."""
        ...

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries that are still the newest known, and return how many were stored.

        An entry is refused if the key holds a newer version or a fence above it (same incarnation), or if its
        read
        began longer ago than half the lifetime of a fence: by then the fence that forbids it may be gone.
        """
        ...

    async def fence(self, versions: Mapping[Key, int], coherence: Coherence) -> Sequence[Key]:
        """Note that at least these versions exist: until the fence's lifetime ends, older values are refused.

        A fence never lowers what a key holds. Returns the keys whose node could not be told.
        """
        ...
