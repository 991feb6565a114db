"""Transactions of L3 in memory: rows locked until the end, changes seen by nobody before it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from holdfast.audit.chain import AuditNote
from holdfast.changes import ChangeOperation
from holdfast.errors import (
    AppendOnly,
    Conflict,
    OutcomeUnknown,
    RowRefused,
    SerializationFailure,
    TierError,
    TierUnavailable,
)
from holdfast.keys import Key
from holdfast.protocols import Affected, Change, Isolation, Row, Write
from holdfast.testing.memory_locks import RowLocks
from holdfast.testing.memory_log import CommitLog, Entry
from holdfast.testing.memory_marks import Marks

End = tuple[type[Exception], str]
COMMITTED: Final[End] = (RuntimeError, "it was committed")
ROLLED_BACK: Final[End] = (RuntimeError, "it was rolled back")


class TaggedRow(Row, frozen=True, gc=False):
    """A row of a document with tags: the column that only counting looks at."""

    tags: tuple[str, ...]


class TableRules(NamedTuple):
    """What the tables' triggers go by.

    Attributes:
        append_only: names of kinds that are history.
        statement_keys_max: keys of a kind that one statement may change and still tell apart.
        refuses: whether a constraint of the user's refuses this body.
    """

    append_only: Collection[str]
    statement_keys_max: int
    refuses: Callable[[Key, bytes], bool]


class MemoryTransaction:
    """`StorageTransaction` in memory, and what other tools have open.

    Its changes are seen by others when it commits, and its rows are locked until it ends. Used with ``async with`` it
    commits at the end, or rolls back after an exception. One task at a time may use it.

    Args:
        check_here: raises if the server cannot be reached; by default it always can.

    Attributes:
        connection: what stands for SQL of one's own: itself, once it was given to a server.
        xid: its id; None before it wrote or locked something.
        locked: the keys whose locks it has.
        waits_for: the key whose lock it waits for.
        lock_seconds: how long it waits for a lock, by the timers of the event loop; None: as long as it takes.
    """

    __slots__ = (
        "_check_here",
        "_entries",
        "_frozen",
        "_isolation",
        "_life",
        "_locks",
        "_log",
        "_notes",
        "_over",
        "_reads",
        "_rows",
        "_rules",
        "connection",
        "lock_seconds",
        "locked",
        "waits_for",
        "xid",
    )

    def __init__(
        self,
        log: CommitLog,
        locks: RowLocks,
        rules: TableRules,
        *,
        isolation: Isolation = Isolation.READ_COMMITTED,
        check_here: Callable[[], None] | None = None,
    ) -> None:
        self.connection: Any = None
        self.xid: int | None = None
        self.locked: list[Key] = []
        self.waits_for: Key | None = None
        self.lock_seconds: float | None = None
        self._log = log
        self._locks = locks
        self._life = locks.life
        self._rules = rules
        self._isolation = isolation
        self._check_here = check_here
        self._frozen: Mapping[Key, Row] | None = None
        self._reads: set[Key] = set()
        self._rows: dict[Key, Row | None] = {}
        self._entries: list[Entry] = []
        self._notes: list[Callable[[Marks], Marks]] = []
        self._over: End | None = None

    @property
    def changes(self) -> Sequence[Change]:
        """What it changed so far, in the order of its statements."""
        return [entry.change for entry in self._entries]

    def row(self, key: Key) -> Row | None:
        """The row as this transaction sees it now."""
        if key in self._rows:
            return self._rows[key]
        self._reads.add(key)
        return self._visible().get(key)

    async def load(self, keys: Sequence[Key], *, lock: bool = False) -> Mapping[Key, Row]:
        """Read rows; see `StorageTransaction.load`."""
        self._check_open()
        found = {}
        for key in sorted(keys) if lock else keys:
            row = self.row(key)
            if lock and row is not None:
                row = await self.lock(key)
            if row is not None:
                found[key] = row
        return found

    async def lock(self, key: Key) -> Row | None:
        """Lock a key, after all who asked earlier, and return its row; an absent row can be locked too.

        Raises:
            SerializationFailure: a deadlock, a lock that was waited for too long, or a newer row than the isolation
                lets it see. It was rolled back.
            TierUnavailable: the connection was lost.
        """
        self._check_open()
        visible = self._visible()
        if self.xid is None:
            self.xid = self._log.start()
        if not self._locks.try_take(key, self):
            try:
                async with asyncio.timeout(self.lock_seconds):
                    await self._locks.wait(key, self)
            except TimeoutError as fault:
                raise self._in_the_way(key, "is locked by another transaction for too long") from fault
            except TierError as fault:
                self._abandon(type(fault), str(fault))
                raise
        if visible is not self._log.rows and visible.get(key) is not self._log.rows.get(key):
            raise self._in_the_way(key)
        return self.row(key)

    async def put(
        self,
        key: Key,
        body: bytes,
        *,
        schema: int = 1,
        expected: int | None = None,
        told: bool = True,
        tags: tuple[str, ...] = (),
    ) -> int:
        """Insert or update a row and return its version.

        As with PostgreSQL's trigger the number of an insert is drawn before it waits for the lock, so that it may be
        below the one that a delete drew meanwhile (rule V1).

        Args:
            expected: as in `Write`.
            told: note the change in the outbox.

        Raises:
            Conflict: the row is not at `expected`; nothing was written, and the transaction goes on.
            AppendOnly: the kind takes new ids only, and this one exists.
            RowRefused: by a constraint. It was rolled back.
            TierError: see `lock`.
        """
        inserted = 0 if expected else self._log.draw()
        held = await self.lock(key)
        if key.kind in self._rules.append_only and (held is not None or expected or key in self._log.marks.erased):
            raise AppendOnly(f"{key}: documents of kind {key.kind} are history and cannot be changed")
        _expect(key, expected, held)
        if self._rules.refuses(key, body):
            self._abandon(RowRefused, f"a constraint refuses {key}")
            raise RowRefused(f"L3 in memory: writing {key}: a constraint refuses it")
        version = inserted if held is None else self._log.draw()
        birth = version if held is None else held.birth
        row = TaggedRow(version, birth, schema, body, tags) if tags else Row(version, birth, schema, body)
        self._rows[key] = row
        if told:
            self._tell(key, version, ChangeOperation.INSERT if held is None else ChangeOperation.UPDATE)
        return version

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `StorageTransaction.save`."""
        if len(writes) > 1:
            # Text in Python's order is in the order of its UTF-8 bytes, which is the server's.
            writes = sorted(writes, key=lambda write: write.key)
        before = dict(self._rows), len(self._entries)
        try:
            return await self._put_all(writes)
        except BaseException:
            self._rows = before[0]
            del self._entries[before[1] :]
            raise

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `StorageTransaction.delete`. A row that is not there is not waited for."""
        self._check_open()
        if key.kind in self._rules.append_only:
            raise AppendOnly(f"{key}: documents of kind {key.kind} are history and stay")
        held = self.row(key)
        if held is not None:
            held = await self.lock(key)
        _expect(key, expected, held)
        version = self._log.draw()
        if held is not None:
            self._rows[key] = None
            self._tell(key, version, ChangeOperation.DELETE)
        return version, held is not None

    def erase(self, keys: Iterable[Key]) -> list[Key]:
        """Delete documents of history, but for those that another transaction has locked; their ids stay taken."""
        self._check_open()
        if self.xid is None:
            self.xid = self._log.start()
        erased = [key for key in keys if self._locks.try_take(key, self)]
        for key in erased:
            self._rows[key] = None
            self._tell(key, self._log.draw(), ChangeOperation.DELETE)
        self._notes.append(lambda marks: marks._replace(erased=marks.erased.union(erased)))
        return erased

    def clear(self, kind: str) -> int:
        """Delete all rows of a kind, history too, as one change of the whole kind; returns the number drawn.

        Nothing is locked: call it when nobody else has a lock on the kind, and commit at once.
        """
        self._check_open()
        gone = {key for key in (*self._log.rows, *self._rows) if key.kind == kind}
        self._rows |= dict.fromkeys(sorted(gone))
        return self._tell_whole(kind, ChangeOperation.TRUNCATE)

    def note(self, change: Callable[[Marks], Marks]) -> None:
        """Change what is known of journals when it commits."""
        self._check_open()
        if self.xid is None:
            self.xid = self._log.start()
        self._notes.append(change)

    async def audit(self, note: AuditNote) -> None:
        """Record a deed; see `StorageTransaction.audit`."""
        self.note(lambda marks: marks.audited(note))

    def lose(self) -> None:
        """L3 ends the connection: nothing of it takes effect, and its locks go to who waits for them."""
        self._abandon(TierUnavailable, "the connection was lost")

    async def affected(self) -> Affected:
        """What it has changed so far; see `StorageTransaction.affected`."""
        if self._over in (COMMITTED, ROLLED_BACK):  # through `connection`
            return Affected(self.xid, ended=True)
        self._check_open()
        return Affected(self.xid, frozenset(entry.change.key.kind for entry in self._entries))

    async def commit(self) -> None:
        """Let all of it take effect, at once; see `StorageTransaction.commit`.

        Raises:
            RuntimeError: it is over.
        """
        try:
            self._check_open()
        except TierUnavailable as fault:
            self.lose()  # with whom it was to be committed: it must not keep its locks
            raise OutcomeUnknown(f"L3 in memory: committing: {fault}") from fault
        if self._isolation is Isolation.SERIALIZABLE and self._rows:
            self._check_reads()
        if self.xid is not None and (self._rows or self._entries or self._notes):
            self._log.commit(self.xid, self._rows, self._entries, notes=self._notes)
        elif self.xid is not None:
            self._log.end(self.xid)
        self._end(*COMMITTED)

    async def rollback(self) -> int | None:
        """Let nothing of it take effect; does nothing if it is over. See `StorageTransaction.rollback`."""
        self._abandon(*ROLLED_BACK)
        return self.xid or 0 if self._over == COMMITTED else None

    def understood(self, fault: Exception) -> Exception:
        """See `StorageTransaction.understood`: there is no driver whose errors need it."""
        return fault

    async def _put_all(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        limit = self._rules.statement_keys_max
        crowded: Collection[str] = ()
        if len(writes) > limit:
            counts = Counter(write.key.kind for write in writes)
            crowded = sorted(kind for kind, count in counts.items() if count > limit)
        versions = {}
        for write in writes:
            told = write.key.kind not in crowded
            versions[write.key] = await self.put(
                write.key, write.made(), schema=write.schema, expected=write.expected, told=told, tags=write.tags
            )
        for kind in crowded:
            self._tell_whole(kind, ChangeOperation.MANY)
        return versions

    def _visible(self) -> Mapping[Key, Row]:
        """What of the others' commits this transaction sees."""
        if self._isolation is Isolation.READ_COMMITTED:
            return self._log.rows
        if self._frozen is None:
            self._frozen = dict(self._log.rows)
        return self._frozen

    def _check_reads(self) -> None:
        """Whether all it read is still so: then it might as well have run at this moment."""
        visible = self._visible()
        for key in sorted(self._reads):
            if visible.get(key) is not self._log.rows.get(key):
                raise self._in_the_way(key)

    def _in_the_way(self, key: Key, how: str = "was changed by another transaction meanwhile") -> SerializationFailure:
        told = f"{key} {how}"
        self._abandon(SerializationFailure, told)
        return SerializationFailure(f"L3 in memory: {told}")

    def _tell(self, key: Key, version: int, operation: ChangeOperation) -> None:
        if self.xid is None:
            self.xid = self._log.start()
        self._entries.append(self._log.entry(self.xid, Change(key, version, operation, self.xid)))

    def _tell_whole(self, kind: str, operation: ChangeOperation) -> int:
        version = self._log.draw()
        self._tell(Key(kind, ""), version, operation)
        return version

    def _abandon(self, error: type[Exception], how: str) -> None:
        if self._over is None:
            if self.xid is not None and self._life == self._locks.life:
                self._log.end(self.xid)
            self._end(error, how)

    def _end(self, error: type[Exception], how: str) -> None:
        self._over = (error, how)
        self.connection = None
        if self._life == self._locks.life:
            self._locks.release(self.locked)

    def _check_open(self) -> None:
        if self._check_here is not None:
            self._check_here()
        if self._life != self._locks.life:
            raise TierUnavailable("L3 in memory: the connection was lost")
        if self._over is not None:
            error, how = self._over
            raise error(f"L3 in memory: the transaction is over: {how}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.commit()
        else:
            await self.rollback()


def _expect(key: Key, expected: int | None, held: Row | None) -> None:
    found = 0 if held is None else held.version
    if expected is not None and expected != found:
        raise Conflict(key, expected=expected, actual=found)
