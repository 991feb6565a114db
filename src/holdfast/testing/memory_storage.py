"""L3 in memory: rows with versions (V1-V3), transactions, an outbox, and crashes, restarts and restores.

Several servers of one test share one `MemoryStorage`; each has a `MemoryFeed` of its own over it.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from holdfast.audit.chain import AuditNote
from holdfast.changes import ChangeOperation
from holdfast.errors import OutcomeUnknown, SettingsError, TierUnavailable
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN, Kind
from holdfast.protocols import Change, Coherence, Invalidation, Isolation, Loaded, Row, Snapshot, Target, Write
from holdfast.testing.memory_locks import RowLocks
from holdfast.testing.memory_log import ColdCopy, CommitLog, Voids
from holdfast.testing.memory_transaction import MemoryTransaction, TableRules, TaggedRow

STATEMENT_KEYS_MAX: Final = 5000
"""A statement that changes more keys of a kind is told as one change of the whole kind."""
TAGS_MAX: Final = 10_000
"""Tags whose generations are known; beyond, the older half is forgotten."""


class Files(NamedTuple):
    """What lies on the disk of a stopped L3: a cold copy."""

    incarnation: UUID
    log: ColdCopy


class Turn(NamedTuple):
    """How far a delivery is.

    Attributes:
        due: when it may be claimed, monotonic seconds.
        lease: when that of the attempt under way ends; 0: there is none.
    """

    attempts: int
    due: float
    dead: bool
    error: str | None
    lease: float = 0.0


class MemoryStorage:
    """`Storage` in memory.

    Args:
        on_commit: called at the moment of each commit, whoever wrote, with its transaction id and its changes in the
            order of its statements.
        statement_keys_max: keys of a kind that one statement may change and still tell apart.
        tags_max: tags whose generations are known at once.
        refuses: stands for a constraint of the user's: whether it refuses this body of a key, with `RowRefused`.

    Attributes:
        away: while True every call of `Storage` and `MemoryFeed` fails as if the server could not be reached; the raw
            calls and open transactions go on.
        loads: the keys of each `load` so far, for tests that count queries.
        log: what was committed; `turns`: how far deliveries are, by id, which stands beside their rows.
        started: names the start of the server; crashes, restarts and restores change it.
        leader: which feed leads; None: none does.
        listeners: wakes the feeds that want hints.
    """

    def __init__(
        self,
        kinds: Iterable[Kind[Any]] = BUILT_IN,
        *,
        seed: int = 0,
        on_commit: Callable[[int, Sequence[Change]], None] | None = None,
        statement_keys_max: int = STATEMENT_KEYS_MAX,
        tags_max: int = TAGS_MAX,
        refuses: Callable[[Key, bytes], bool] = lambda _key, _body: False,
    ) -> None:
        self.away = False
        self.loads: list[tuple[Key, ...]] = []
        self.log = CommitLog(on_commit)
        self.turns: dict[str, Turn] = {}
        self.leader: object | None = None
        self.listeners: dict[object, Callable[[], None]] = {}
        self._locks = RowLocks()
        kinds = list(kinds)
        self._tags_max = tags_max
        self._kinds = frozenset(kind.name for kind in kinds)
        append_only = frozenset(kind.name for kind in kinds if kind.append_only)
        self._rules = TableRules(append_only, statement_keys_max, refuses)
        self._random = random.Random(seed)  # noqa: S311 - identities of a test must repeat
        self._starts = 1
        self.started = "start 1"
        self._identify(self._new_identity())

    def coherence(self) -> Coherence:
        """The identity now; see `Storage.coherence`."""
        return self._coherence

    async def load(self, keys: Sequence[Key], known: Mapping[Key, int] = {}) -> Loaded:
        """Read rows; see `Storage.load`."""
        self._check_here()
        self.loads.append(tuple(keys))
        held = self.log.rows
        rows = {key: held[key] for key in keys if key in held}
        for key, version in known.items():
            if (row := rows.get(key)) is not None and row.version == version:
                rows[key] = Row(row.version, row.birth, row.schema, b"")
        return Loaded(self._coherence, rows)

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `Storage.save`."""
        self._check_here()
        try:
            async with self.begin() as transaction:
                return await transaction.save(writes)
        except TierUnavailable as fault:
            raise OutcomeUnknown(f"L3 in memory: writing {len(writes)} documents: {fault}") from fault

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        self._check_here()
        try:
            return await self.raw_delete(key, expected=expected)
        except TierUnavailable as fault:
            raise OutcomeUnknown(f"L3 in memory: deleting {key}: {fault}") from fault

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows in order of ids; see `Storage.scan`."""
        self._check_here()
        found = sorted(key for key in self.log.rows if key.kind == kind and key.id > (after or ""))
        return [(key, self.log.rows[key]) for key in found[:limit]]

    async def open_transaction(self, isolation: Isolation) -> MemoryTransaction:
        """Begin a server's transaction; see `Storage.open_transaction`."""
        self._check_here()
        transaction = MemoryTransaction(
            self.log, self._locks, self._rules, isolation=isolation, check_here=self._check_here
        )
        transaction.connection = transaction
        return transaction

    def begin(self) -> MemoryTransaction:
        """Open another tool's transaction, which commits whenever it is told to; writers of its keys wait for it."""
        return MemoryTransaction(self.log, self._locks, self._rules)

    async def raw_put(self, key: Key, body: bytes, *, schema: int = 1) -> int:
        """What another tool's statement writes; returns the version. Waits for the key's lock like any writer."""
        async with self.begin() as transaction:
            return await transaction.put(key, body, schema=schema)

    async def raw_delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """What another tool's statement deletes; returns as `Storage.delete` does."""
        async with self.begin() as transaction:
            return await transaction.delete(key, expected=expected)

    async def truncate(self, kind: str) -> int:
        """Empty a kind once no open transaction writes it; returns the number drawn."""
        while held := self._locks.held(kind):
            async with self.begin() as transaction:  # its end hands the lock on
                await transaction.lock(held[0])
        async with self.begin() as transaction:
            return transaction.clear(kind)

    def raise_generation(self, scope: str) -> int:
        """Void every cached entry of a scope (``all`` or ``kind:<name>``); returns the new generation."""
        generation = self.log.draw()
        self._commit_voids(self.log.voids.raised(scope, generation))
        return generation

    async def invalidate(
        self, target: Target, *, reason: str, actor: str, note: AuditNote | None = None
    ) -> Invalidation:
        """Make void what caches hold of a target; see `Storage.invalidate`."""
        self._check_here()
        self._check_kind(target)
        return self.void(target, reason=reason, actor=actor, note=note)

    def void(self, target: Target, *, reason: str = "", actor: str = "", note: AuditNote | None = None) -> Invalidation:
        """What another tool makes void. The day of the record is of no matter: a second for each number drawn."""
        number, voids = self.log.draw(), self.log.voids
        at = dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number)
        record = Invalidation(at, str(target), number, reason, actor)
        if target.tag is not None:
            voids = voids.tag_raised(target.tag, number, tags_max=self._tags_max)
        elif target.key is None:
            voids = voids.raised(str(target), number)
        self._commit_voids(voids.recorded(record), target.key, number, note)
        return record

    async def count(self, target: Target) -> int:
        """How many rows a target names; see `Storage.count`."""
        self._check_here()
        self._check_kind(target)
        if target.tag is not None:
            return sum(isinstance(row, TaggedRow) and target.tag in row.tags for row in self.log.rows.values())
        return sum(target.kind in {None, key.kind} and target.id in {None, key.id} for key in self.log.rows)

    async def invalidations(self, limit: int) -> Sequence[Invalidation]:
        """The newest records; see `Storage.invalidations`."""
        self._check_here()
        return self.log.voids.records[::-1][:limit]

    def tidy(self, horizon: Snapshot | None = None) -> None:
        """Remove from the outbox what a snapshot sees; cursors that do not cover it cannot be continued.

        Args:
            horizon: by default the snapshot of five tidyings ago.
        """
        self.log.tidy(horizon)

    def crash(self, lose: int = 0) -> Sequence[Change]:
        """Come back as another incarnation, as after a crash or a failover.

        Connections and open transactions are lost, and so are the newest `lose` commits, if they were asynchronous;
        what was drawn since the last commit that is left (transaction ids, versions) is drawn again.

        Returns:
            The changes lost.

        Raises:
            ValueError: so many cannot be lost: 1000 commits at most, and none from before the last start.
        """
        lost = self.log.crash(lose)
        self._start(self._new_identity())
        return lost

    def restart(self) -> None:
        """Stop cleanly and start again: connections and open transactions are lost, and nothing else."""
        self.log.stop()
        self._start(self._coherence.incarnation)

    def renew_identity(self, incarnation: UUID) -> None:
        """Become another incarnation, if it is still this one: its caches may hold what was lost."""
        if self._coherence.incarnation == incarnation:
            self._identify(self._new_identity())

    def copy(self) -> Files:
        """A cold copy: the files of the server as if it were stopped now."""
        return Files(self._coherence.incarnation, self.log.copy())

    def restore(self, files: Files) -> None:
        """Start on a cold copy: the state of then, under the incarnation of then, which may well be the present one."""
        self.log.restore(files.log)
        self._start(files.incarnation)

    def _start(self, incarnation: UUID) -> None:
        self._starts += 1
        self.started = f"start {self._starts}"
        self.leader = None
        self._locks.break_all()
        self._identify(incarnation)

    def _commit_voids(
        self, voids: Voids, key: Key | None = None, number: int = 0, note: AuditNote | None = None
    ) -> None:
        xid = self.log.start()
        entries = [self.log.entry(xid, Change(key, number, ChangeOperation.VOID, xid))] if key is not None else []
        self.log.commit(xid, {}, entries, voids, [] if note is None else [lambda marks: marks.audited(note)])
        self._identify(self._coherence.incarnation)

    def _check_kind(self, target: Target) -> None:
        if target.kind is not None and target.kind not in self._kinds:
            raise SettingsError(f"there is no kind {target.kind}: L3 has {', '.join(sorted(self._kinds))}")

    def _identify(self, incarnation: UUID) -> None:
        self._coherence = Coherence(incarnation, self.log.voids.generations)

    def _new_identity(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)

    def _check_here(self) -> None:
        if self.away:
            raise TierUnavailable("L3 in memory is away")
