"""L3's contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from holdfast.keys import Key
from holdfast.protocols.coherence import Coherence


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
