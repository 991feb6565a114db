"""L3's contract."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.keys import Key
from holdfast.protocols.coherence import Coherence
from holdfast.protocols.voids import Invalidation, Target


class Row(msgspec.Struct, frozen=True, gc=False):
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
        tags: of the document; none if its kind declares none.
    """

    key: Key
    schema: int
    body: bytes | Callable[[], bytes]
    expected: int | None = None
    tags: tuple[str, ...] = ()

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

    async def load(self, keys: Sequence[Key], known: Mapping[Key, int] = {}) -> Loaded:
        """Read rows from the primary in one query, however many keys and kinds; absent keys are absent.

        Args:
            known: versions whose rows the caller has, for any of the keys. Where the row is still at that version, its
                `body` may be left empty (``b""``), so that reading what did not change costs an index probe, however
                large the document. An incarnation draws no version twice, but another one may: if the answer's
                incarnation is not the one the caller read its rows under, an empty body says nothing.
        """
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

    async def open_transaction(self, isolation: Isolation) -> StorageTransaction:
        """Begin a transaction; whoever gets it must end it, by `commit` or `rollback`."""
        ...

    async def invalidate(
        self, target: Target, *, reason: str, actor: str, note: AuditNote | None = None
    ) -> Invalidation:
        """Make void what caches hold of a target, and record it; `coherence` is that of after it, or a newer one.

        A key is told by the feed as a change, though its row is not touched. Everything else is a generation.

        Args:
            note: for the audit log, in the same transaction.

        Raises:
            SettingsError: L3 has no such kind.
            OutcomeUnknown: sent, and the reply was lost.
        """
        ...

    async def count(self, target: Target) -> int:
        """How many rows a target names now, by the tags that were written with them.

        Raises:
            SettingsError: L3 has no such kind.
        """
        ...

    async def invalidations(self, limit: int) -> Sequence[Invalidation]:
        """The newest records of invalidations, the newest first."""
        ...


class Isolation(enum.Enum):
    """What a transaction sees of others that commit meanwhile: PostgreSQL's levels."""

    READ_COMMITTED = "read committed"
    """Each statement sees what was committed before it."""
    REPEATABLE_READ = "repeatable read"
    """All of it sees what was committed before its first statement; a write that met a newer row fails."""
    SERIALIZABLE = "serializable"
    """As if transactions ran one after the other; one that could not have fails."""


class Affected(msgspec.Struct, frozen=True):
    """What a transaction has changed so far, by whatever statements: those of its triggers and cascades too.

    Attributes:
        xid: its number; None: it has written nothing.
        kinds: the names of the kinds of which it changed rows.
        ended: a statement of the user's has ended it, whatever that left in effect; `xid`, if any, is then a number
            that whoever sees its end sees all of that.
    """

    xid: int | None
    kinds: frozenset[str] = frozenset()
    ended: bool = False


class StorageTransaction(Protocol):
    """One open transaction of L3. One task at a time may use it. Every method that awaits may raise a `TierError`."""

    @property
    def connection(self) -> Any:
        """The driver's own, inside the transaction; what its session was told to keep ends with the transaction."""
        ...

    async def load(self, keys: Sequence[Key], *, lock: bool = False) -> Mapping[Key, Row]:
        """Read rows as the transaction sees them.

        Args:
            lock: in key order; until its end nobody else may write them.
        """
        ...

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; as `Storage.save`. After a `Conflict` the transaction goes on."""
        ...

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; as `Storage.delete`. After a `Conflict` the transaction goes on."""
        ...

    async def audit(self, note: AuditNote) -> None:
        """Record a deed of this transaction in the audit log: it is there if, and only if, that is in effect.

        All who record wait for the transaction's end: it is to be its last statement.
        """
        ...

    async def affected(self) -> Affected:
        """What it has changed so far."""
        ...

    async def commit(self) -> None:
        """Let all of it take effect.

        Raises:
            OutcomeUnknown: sent, and the reply was lost.
            SerializationFailure: others were in the way; nothing of it took effect.
        """
        ...

    async def rollback(self) -> int | None:
        """Let nothing of it take effect. Never raises; may be called after a failed `commit`, which said what it did.

        Returns:
            None, unless a statement of the user's may have let a part of it take effect before: then an xid above those
            of all that has ended by now, 0 if it cannot be asked.
        """
        ...

    def understood(self, fault: Exception) -> Exception:
        """What an error raised from `connection` means; one that is not the driver's stays as it is."""
        ...
