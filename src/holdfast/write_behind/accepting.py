"""Write-behind's door: takes operations in, and waits for them to have survived what the caller asks.

Who owns what: the buffer holds each undecided write, the overlay what reads see of it, the life of this server's
journal brings it to L2 and L3. All of them change only between awaits of this event loop: a write is accepted, laid
over and queued in one go, and decided, published and let go of in one go, so no reader sees a row without it, or with
it twice. A caller that is cancelled ceases to wait; what was accepted is decided all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.clock import Clock
from holdfast.documents import Document
from holdfast.entry import MISSING, Durability
from holdfast.errors import (
    Closed,
    InvalidOperation,
    NotFound,
    NotOwner,
    Overloaded,
    Refused,
    TierUnavailable,
    Undecided,
)
from holdfast.flights import Resolved
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.metrics.counters import WriteBehindCounters
from holdfast.tiers.l1_local import Shelf
from holdfast.write_behind.applying import apply_noting
from holdfast.write_behind.buffer import Buffer
from holdfast.write_behind.entries import Entry, encode_entry
from holdfast.write_behind.lives import Life, Lives
from holdfast.write_behind.operations import Delete, Operation, Set
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.receipts import PendingWrite
from holdfast.write_behind.routes import Inapplicable

JOURNAL_SECONDS: Final = 1.0
"""How long the journal may keep a caller before the write goes to L3 at once."""


class Base(NamedTuple):
    """What a write is made on.

    Attributes:
        value: what lies below undecided writes, if L1 holds it; None: it is not known here.
        version, birth: of the row; 0: none, or not known.
        current: with the undecided writes over it.
    """

    value: Any
    version: int
    birth: int
    current: Any


class Backlog(msgspec.Struct, frozen=True):
    """What this server has accepted and not yet decided.

    Attributes:
        journal: its name; None: nothing was accepted yet.
        writes: how many, of how many `keys`, in how many `bytes`.
        oldest_seconds: since the oldest was accepted: what is at risk if L2 and this process die now.
        fault: why the last flush failed, in words; None: it did not.
    """

    journal: str | None
    writes: int
    keys: int
    bytes: int
    oldest_seconds: float
    fault: str | None


class Unwritten(msgspec.Struct, frozen=True):
    """A write that `flush` could not bring to L3.

    Attributes:
        reason: in words.
        in_journal: L2 has it: it will be decided.
        refused: it was decided otherwise, and is not in effect.
    """

    key: Key
    reason: str
    in_journal: bool
    refused: bool


class WriteBehind:
    """Accepts writes; one per server.

    Args:
        lives: of this server: its journal, and what works on it.
        shelves: L1's, by kind.
        untrusted: kinds that L1 does not answer for.
        ready: lets L1 hear of changes; says whether it answers for a kind.
        wall: the time of day, seconds since 1970.
        commit_seconds: how long a caller waits for a durability before it is told that the write is undecided.
        check_writes: as the attribute.

    Attributes:
        check_writes: raises while nothing can be written to L3.
    """

    def __init__(
        self,
        *,
        lives: Lives,
        buffer: Buffer,
        overlay: Overlay,
        kinds: Mapping[str, Kind[Any]],
        shelves: Mapping[str, Shelf],
        untrusted: Container[str],
        ready: Callable[[str], Awaitable[bool]],
        clock: Clock,
        wall: Callable[[], float],
        counters: WriteBehindCounters,
        commit_seconds: float,
        check_writes: Callable[[], None],
    ) -> None:
        self.buffer = buffer
        self.overlay = overlay
        self.lives = lives
        self._kinds = kinds
        self._shelves = shelves
        self._untrusted = untrusted
        self._ready = ready
        self._clock = clock
        self._wall = wall
        self._counters = counters
        self._commit_seconds = commit_seconds
        self.check_writes = check_writes

    async def patch(
        self,
        key: Key,
        operations: Sequence[Operation],
        *,
        default: Document | None,
        durability: Durability,
        read: Callable[[], Awaitable[Resolved]],
        settle_seen: Callable[[], Awaitable[None]] | None = None,
        owner: int = 0,
    ) -> PendingWrite:
        """Accept checked operations on a row, and wait until they have survived that much.

        Args:
            default: what they are applied to if there is no row.
            read: the row with undecided writes over it, if L1 does not hold it.
            settle_seen: lets writes of other servers that the caller has seen be decided first.
            owner: the epoch under which the caller owns the document, who is refused when it is another; 0: whoever
                owns it.

        Raises:
            NotFound: there is no row, and no default.
            InvalidOperation: the value that is there does not allow one of them.
            NotOwner: the document is known here to be owned under a later epoch; nothing was accepted.
            Overloaded: the buffer is full, or L3 is away for too long; nothing was accepted.
            Refused, Undecided: see `Receipt.reached`.
            TierError: the row could not be read, or the journal not be begun; nothing was accepted.
        """
        while True:
            life = await self.lives.living()
            base = await self._held(key) or await self._read(read)
            if settle_seen is not None and self._depends(key, operations, base):
                await settle_seen()
                settle_seen = None
                continue
            if self.lives.current is life:  # else it was replaced meanwhile
                break
        write = self._accept(life, key, operations, default, base, owner=owner)
        return await self._survived(life, write, durability)

    async def settle(self, keys: Iterable[Key]) -> None:
        """Bring the undecided writes of some keys to L3 before anything else is done to these (rule W5).

        Raises:
            TierUnavailable: that was not done in time, or L3 is known to be away.
        """
        last = [queue.writes[-1] for key in keys if (queue := self.buffer.queues.get(key)) is not None]
        if not last:
            return
        self.check_writes()
        self.lives.hurry(write.key for write in last)
        for write in last:
            try:
                await write.reached(Durability.COMMITTED, self._commit_seconds)
            except Refused:
                pass  # decided all the same; its own caller is told
            except Undecided as late:
                raise TierUnavailable(
                    f"{write.key}: writes accepted before could not be brought to L3 first; nothing was done"
                ) from late

    async def flush(self, timeout: float | None = None) -> list[Unwritten]:
        """Bring all that was accepted until now to L3; returns what could not be written, the oldest first.

        Args:
            timeout: seconds to wait at most; None: as long as a caller waits for a durability.
        """
        writes = sorted(self.buffer, key=lambda write: write.accepted_at)
        self.lives.hurry({write.key for write in writes})
        deadline = self._clock.monotonic() + (self._commit_seconds if timeout is None else timeout)
        unwritten = []
        for write in writes:
            try:
                await write.reached(Durability.COMMITTED, max(0.0, deadline - self._clock.monotonic()))
            except (Refused, Undecided, Closed) as fault:
                in_journal = write.durability.covers(Durability.JOURNALED)
                refused = isinstance(fault, Refused)
                unwritten.append(Unwritten(write.key, str(fault), in_journal, refused))
        return unwritten

    def has_room(self) -> bool:
        """Whether writes are accepted, and return without L3: of some kind that is written behind.

        For that a journal must have been begun, have room, and not be crowded; and it must take them as safely as it
        should, where the kind wants that.
        """
        life = self.lives.current
        if life is None or self.buffer.is_full(0) or self.buffer.is_crowded(self._clock.monotonic()):
            return False
        reached = Durability.JOURNALED if life.journal.secures else Durability.ACCEPTED
        return any(reached.covers(kind.durability) for kind in self._kinds.values())

    def backlog(self) -> Backlog:
        """What this server has accepted and not yet decided."""
        buffer, life = self.buffer, self.lives.current
        oldest = self._clock.monotonic() - buffer.oldest_at() if len(buffer) else 0.0
        fault = life.flusher.fault if life is not None else None
        journal = None if life is None else life.name
        return Backlog(
            journal, len(buffer), len(buffer.queues), buffer.size, oldest, None if fault is None else str(fault)
        )

    def _depends(self, key: Key, operations: Sequence[Operation], base: Base) -> bool:
        """Whether it matters what becomes of other servers' undecided writes on a row.

        A `Set` tells what it replaces; and a document that has no row yet must be begun by somebody.
        """
        is_begun_elsewhere = not base.version and base.current is not MISSING and key not in self.buffer.queues
        return is_begun_elsewhere or any(isinstance(each, Set) for each in operations)

    async def _held(self, key: Key) -> Base | None:
        """What L1 holds: trusted, or the last that was heard, for the operations will be applied to the row of then."""
        shelf = self._shelves[key.kind]
        if key.id not in shelf.entries or key.kind in self._untrusted:
            return None
        is_heard = shelf.peek(key.id) is not None or await self._ready(key.kind)
        if is_heard and not self.lives.is_sure:  # L3 can say what became of the writes that lie over it
            return None
        entry = shelf.entry(key.id)
        if entry is None or not self.overlay.knows(key, entry.version):
            return None
        return Base(entry.value, entry.version, entry.birth, self.overlay.over(key, entry.value, entry.version))

    async def _read(self, read: Callable[[], Awaitable[Resolved]]) -> Base:
        resolved = await read()
        return Base(None, resolved.version, resolved.birth, resolved.value)

    def _accept(
        self, life: Life, key: Key, operations: Sequence[Operation], default: Document | None, base: Base, *, owner: int
    ) -> PendingWrite:
        """Take a write in, lay it over, and queue it for the journal, in one go."""
        current = default if base.current is MISSING else base.current
        if current is None and not begins_row(operations):
            raise NotFound(f"{key} does not exist; give patch a default to create it")
        self._check_owner(key, current, owner)
        made, expects = _applied(key, current, operations)
        is_new = self._is_new(key)
        entry = Entry(
            seq=life.journal.number,
            key=key,
            operations=tuple(operations),
            birth=0 if is_new else base.birth,
            base_version=0 if is_new else base.version,
            default=default,
            expects=expects,
            schema=self._kinds[key.kind].document.SCHEMA,
            accepted_at_ms=round(self._wall() * 1000),
            owner=owner,
        )
        data = encode_entry(entry, self._kinds)
        if self.buffer.is_full(len(data)):
            self._counters.overloaded += 1
            raise Overloaded(
                f"{key}: {len(self.buffer)} writes ({self.buffer.size} bytes) wait for L3 already; nothing was accepted"
            )
        write = PendingWrite(entry, data, self._clock.monotonic(), base.version)
        queue = self.buffer.add(write)
        is_first = len(queue.writes) == 1
        if base.value is None or queue.doubt:  # what lies over L1's value must wait until it is known what is in that
            self.overlay.changed(key)
        else:
            self.overlay.added(write, base.value, MISSING if made is None else made)
        life.journal.add(write)
        if is_first:
            life.flusher.wake()
        self._counters.accepted += 1
        return write

    def _check_owner(self, key: Key, current: Document | None, owner: int) -> None:
        """Epochs only rise: an earlier one than the caller's is what this server has not heard the end of."""
        owned_by = self._kinds[key.kind].owned_by
        if owner and owned_by is not None and current is not None and (epoch := owned_by(current)) > owner:
            raise NotOwner(f"{key} is owned under epoch {epoch} now, not {owner}: another server has taken it over")

    def _is_new(self, key: Key) -> bool:
        """Whether the document that reads see has no row yet: undecided writes made it, perhaps after a deletion."""
        queue = self.buffer.queues.get(key)
        if queue is None:
            return False
        last = queue.writes[-1].entry
        return not (last.birth or last.base_version) or any(ends_row(operation) for operation in last.operations)

    async def _survived(self, life: Life, write: PendingWrite, durability: Durability) -> PendingWrite:
        crowded = self.buffer.is_crowded(self._clock.monotonic())
        if crowded or (durability is Durability.JOURNALED and write.unsecured):
            durability = Durability.COMMITTED
        if durability is Durability.ACCEPTED:
            return write
        if durability is Durability.COMMITTED:
            self.lives.hurry([write.key])
        life.journal.hurry()
        left = self._commit_seconds
        if durability is Durability.JOURNALED:
            soon = min(JOURNAL_SECONDS, left)
            left -= soon
            with contextlib.suppress(Undecided):
                return await write.reached(durability, soon)
            self.lives.hurry([write.key])  # L2 stands still, or a replica is being promoted: L3 may be sooner
        return await write.reached(durability, left)


def begins_row(operations: Sequence[Operation]) -> bool:
    """Whether they put a whole document, and so need none before."""
    return isinstance(operations[0], Set) and not operations[0].place.path


def ends_row(operation: Operation) -> bool:
    """Whether it deletes the document."""
    return isinstance(operation, Delete) and not operation.place.path


def _applied(key: Key, current: Any, operations: Sequence[Operation]) -> tuple[Any, tuple[bytes | None, ...]]:
    """What operations make of a document (None: no row), and of what each `Set` replaced the fingerprint."""
    try:
        return apply_noting(current, operations)
    except Inapplicable as fault:
        raise InvalidOperation("", f"{key}: what is there now does not allow it: {fault}") from fault
