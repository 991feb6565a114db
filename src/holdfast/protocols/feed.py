"""The change feed's contract: what was committed since a cursor, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from holdfast.changes import ChangeOperation
from holdfast.keys import Key
from holdfast.protocols.coherence import Coherence

STARTED_ANEW: Final = "L3 was started anew: what was read at the end of its last life may not be in its files"


class Snapshot(msgspec.Struct, frozen=True):
    """Which transactions of L3 a reader sees: PostgreSQL's `pg_snapshot`.

    Snapshots of one incarnation's primary form a line in time: of two, one sees all that the other sees.

    Attributes:
        xmin: all transactions below it are over.
        xmax: no transaction from it on is seen.
        running: those between that were still running, in rising order.
    """

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read the text form, ``xmin:xmax:xid,xid``.

        Raises:
            ValueError: it is none.
        """
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in running.split(",") if xid))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    def sees(self, xid: int) -> bool:
        """Whether a transaction was over when this snapshot was taken."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    def covers(self, other: Snapshot) -> bool:
        """Whether this one sees all that the other sees: it is the later one, or the same."""
        return other.xmax <= self.xmax and not any(xid < other.xmax and other.sees(xid) for xid in self.running)


class Change(msgspec.Struct, frozen=True, gc=False):
    """One committed change of a key. It holds no cycle, and there are many: the collector need not look at them.

    Attributes:
        key: with an empty id: any number of the kind's keys changed.
        version: what the change drew (rules V1, V2).
        operation: what was done.
        xid: the transaction that did it; a `Snapshot` sees it or does not.
    """

    key: Key
    version: int
    operation: ChangeOperation = ChangeOperation.UPDATE
    xid: int = 0

    @property
    def deleted(self) -> bool:
        """The row is gone."""
        return self.operation is ChangeOperation.DELETE

    @property
    def whole_kind(self) -> bool:
        """The change is not of one key: a TRUNCATE, or a statement that changed more keys than are told apart."""
        return not self.key.id


class Cursor(msgspec.Struct, frozen=True):
    """How far a reader of the feed has come.

    Attributes:
        coherence: the identity that the snapshot belongs to.
        snapshot: everything it sees was delivered, or lies before the cursor's beginning.
        anchor: what the source needs to recognise its own past after a restart. The first part names the start of L3's
            server; the others are not for anyone else.
    """

    coherence: Coherence
    snapshot: Snapshot
    anchor: tuple[str, ...] = ()

    @property
    def life(self) -> tuple[str, ...]:
        """The start of L3's server at which this was true; empty without an anchor."""
        return self.anchor[:1]


class Poll(msgspec.Struct, frozen=True):
    """One answer of the feed: all of it from one snapshot of the primary.

    Attributes:
        cursor: to be given with the next poll.
        changes: each committed change since the last cursor, once; of one key in the order of their commits.
        reset: why the cursor given could not be continued; then whatever was cached may be wrong, and `changes` is
            empty. None: it was continued.
        tags: the generations of tags above the `tag` of the last cursor's coherence, by tag; at a beginning, and after
            a reset, all there are.
    """

    cursor: Cursor
    changes: Sequence[Change] = ()
    reset: str | None = None
    tags: Mapping[str, int] = {}

    def doubt(self, before: Cursor | None) -> str | None:
        """Why whatever was read up to the cursor before may be wrong, in words; None: nothing says so (rule F4)."""
        if before is None:
            return None
        return self.reset or (STARTED_ANEW if before.life != self.cursor.life else None)


class ChangeSource(Protocol):
    """Where the change feed reads. One reader, one call at a time; each call connects anew if it must."""

    async def poll(self, cursor: Cursor | None, *, announce: bool = False) -> Poll:
        """Everything committed since a cursor; with None, a beginning.

        Args:
            announce: wake the other readers: this server has committed something.

        Raises:
            TierError: the primary did not answer in time. The cursor stays good.
        """
        ...

    async def since(self, cursor: Cursor) -> Poll:
        """As `poll`, for a cursor that somebody kept, however long: that it cannot be continued proves nothing of L3.

        Raises:
            TierError: as `poll`.
        """
        ...

    def on_hint(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, soon, when another reader announced something. Hints may be lost."""
        ...

    async def lead(self) -> bool:
        """Try to become, or stay, the one reader in all servers that may act for all."""
        ...

    async def raise_generation(self, scope: str) -> Coherence:
        """Void every cached entry of a scope (``all``, ``kind:<name>``, or a name of one's own); what is known now.

        Numbers are committed in their order: whoever knows a number knows all that are lower.
        """
        ...

    async def tidy(self) -> None:
        """Remove what every reader has read, where that is possible at once; never waits for a writer."""
        ...

    async def close(self) -> None:
        """Disconnect; may be called twice."""
        ...
