"""Transactional updates: several documents, and the user's own SQL, in one transaction of L3.

Nothing of it is in L1, in L2 or announced before the commit, nor after a rollback. Reads go to L3, through the
transaction. After the commit its keys are fenced here, and the caller goes on once the change feed of this server
has come past it: then the server knows everything it changed, by raw SQL and cascades too (rule S1). If the feed
cannot be read now, no cache of this server answers until it has come past it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

from holdfast.documents import Document, Limits
from holdfast.entry import Durability, Receipt
from holdfast.errors import (
    Closed,
    HoldfastError,
    NotFound,
    OutcomeUnknown,
    SerializationFailure,
    SettingsError,
    StorageFull,
)
from holdfast.intake import checked_version, checked_write
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.change_feed import ChangeFeed
from holdfast.invalidation.lease import FeedLease
from holdfast.keys import Key, check_id
from holdfast.kinds import BOT, ROUTINE, RUN_SNAPSHOT, SWARM, TEAM, Kind
from holdfast.protocols import ANY_VERSION, Affected, Isolation, Storage, StorageTransaction
from holdfast.recovery.pacing import RetryBudget
from holdfast.resolution import Resolver
from holdfast.writing import Writer

D = TypeVar("D", bound=Document)
Result = TypeVar("Result")
Settle = Callable[[Iterable[Key]], Awaitable[None]]

TRANSACT_ATTEMPTS: Final = 10
ENDED: Final = (
    "L3: SQL of the block ended its transaction (COMMIT, ROLLBACK, PREPARE TRANSACTION), or reset its settings "
    "(RESET ALL), so what of it is in effect is not known here: read before repeating it, and let the end of the block "
    "end the transaction"
)


class TransactionCollection(Generic[D]):
    """The documents of one kind, as a transaction sees and changes them."""

    def __init__(self, kind: Kind[D], transaction: Transaction) -> None:
        self.kind = kind
        self._transaction = transaction

    async def get(self, identifier: str, *, lock: bool = False) -> D | None:
        """The document, or None.

        Args:
            lock: keep others from writing it until the transaction's end.
        """
        return (await self.get_many([identifier], lock=lock)).get(identifier)

    async def get_many(self, identifiers: Iterable[str], *, lock: bool = False) -> dict[str, D]:
        """The documents that exist, by id."""
        storage = self._transaction.opened()
        keys = [Key(self.kind.name, check_id(identifier)) for identifier in identifiers]
        await self._transaction.settle(keys)
        rows = await storage.load(keys, lock=lock)
        return {key.id: cast("D", self._transaction.decode(key, row)) for key, row in rows.items()}

    async def put(self, identifier: str, document: D, *, expected_version: int | None = None) -> Receipt:
        """Store a document; the receipt counts once the transaction has committed.

        Raises:
            Conflict: the row is not at `expected_version`; the transaction goes on.
        """
        return (await self._save({identifier: document}, expected_version))[identifier]

    async def put_many(self, documents: Mapping[str, D]) -> dict[str, Receipt]:
        """Store documents, all or none."""
        return await self._save(documents, None)

    async def update(self, identifier: str, change: Callable[[D], D], *, default: D | None = None) -> D:
        """Change a document, which is locked until the transaction's end, and return what was stored.

        Raises:
            NotFound: no row and no default.
            Conflict: there was no row, and another transaction inserted one.
        """
        storage, key = self._transaction.opened(), Key(self.kind.name, check_id(identifier))
        await self._transaction.settle([key])
        row = (await storage.load([key], lock=True)).get(key)
        current = default if row is None else cast("D", self._transaction.decode(key, row))
        if current is None:
            raise NotFound(f"{key} does not exist; give update a default to create it")
        changed = change(current)
        await self._save({identifier: changed}, 0 if row is None else row.version)
        return changed

    async def delete(self, identifier: str, *, expected_version: int | None = None) -> Receipt:
        """Delete a document; the receipt's `existed` says whether there was one."""
        storage, key = self._transaction.opened(), Key(self.kind.name, check_id(identifier))
        expected = checked_version(key, expected_version)
        await self._transaction.settle([key])
        version, existed = await storage.delete(key, expected=expected)
        self._transaction.written[key] = version
        return Receipt(version, existed=existed)

    async def _save(self, documents: Mapping[str, D], expected: int | None) -> dict[str, Receipt]:
        storage, limits = self._transaction.opened(), self._transaction.limits
        writes = [checked_write(self.kind, name, document, expected, limits) for name, document in documents.items()]
        await self._transaction.settle([write.key for write in writes])
        versions = await storage.save(writes) if writes else {}
        self._transaction.written.update(versions)
        return {key.id: Receipt(version, Durability.COMMITTED) for key, version in versions.items()}


class Transaction:
    """One transaction: what `state.transaction()` gives. After its block, whatever is asked of it raises `Closed`.

    Attributes:
        connection: the driver's connection (asyncpg), inside the transaction, for SQL of one's own. Tables are in
            the schema `holdfast`; values of type `json` are bytes. What its session was told to keep (SET, LISTEN,
            locks, temporary tables) ends with the transaction; its type codecs are Holdfast's: leave them.
        affected_tables: after the commit, the tables of managed kinds it changed, by whatever statement; empty before.
        swarms, bots, teams, routines, run_snapshots: the built-in collections.
        storage, limits, written, decode: for its collections.
        touched: keys whose accepted writes were brought to L3 before it used them.
        before_touch: awaited before that.
        over: its block has ended: its connection is another's by now, or will be.
        committed_at: when it was known to be committed, monotonic seconds; None: it was not.
        unsure: an xid whose end tells whether it took effect; None: that is known.
    """

    def __init__(
        self,
        storage: StorageTransaction,
        kinds: Mapping[str, Kind[Any]],
        *,
        decode: Callable[[Key, Any], Any],
        limits: Limits,
        settle: Settle,
        settled: Collection[Key] = (),
    ) -> None:
        self.storage = storage
        self.decode = decode
        self.limits = limits
        self.written: dict[Key, int] = {}
        self.affected_tables: frozenset[str] = frozenset()
        self.over = False
        self.committed_at: float | None = None
        self.unsure: int | None = None
        self._settle = settle
        self.touched = set(settled)
        self.before_touch: Callable[[Sequence[Key]], Awaitable[None]] | None = None
        self._kinds = kinds
        self.swarms = self.collection(SWARM)
        self.bots = self.collection(BOT)
        self.teams = self.collection(TEAM)
        self.routines = self.collection(ROUTINE)
        self.run_snapshots = self.collection(RUN_SNAPSHOT)

    @property
    def connection(self) -> Any:
        """The driver's connection; asked of the storage each time, which notes that it was given away."""
        return self.opened().connection

    async def settle(self, keys: Iterable[Key]) -> None:
        """Bring this server's undecided writes of rows to L3 before the transaction touches them first (rule W5).

        Not later: the flush would wait for the transaction's own locks.
        """
        new = [key for key in keys if key not in self.touched]
        if new:
            if self.before_touch is not None:
                await self.before_touch(new)
            await self._settle(new)
            self.touched.update(new)

    def opened(self) -> StorageTransaction:
        """Its storage.

        Raises:
            Closed: the block has ended.
        """
        if self.over:
            raise Closed("this transaction is over, as its block is: begin another one with state.transaction()")
        return self.storage

    def collection(self, kind: Kind[D]) -> TransactionCollection[D]:
        """The collection of a kind inside this transaction.

        Raises:
            SettingsError: the kind is not known to the store.
        """
        if self._kinds.get(kind.name) != kind:
            raise SettingsError(f"kind {kind.name} is not known here: connect(kinds=[...]) takes own kinds")
        return TransactionCollection(kind, self)


class Transactions:
    """Opens, commits and repeats transactions; one per server.

    Attributes:
        retries: how many of this server's calls of L3 may be made again that failed for L3's sake. A transaction that
            others were in the way of is made again without asking it: that says nothing of L3.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, Kind[Any]],
        l3: Storage,
        resolver: Resolver,
        writer: Writer,
        applier: ChangeApplier,
        lease: FeedLease,
        feed: ChangeFeed,
        settle: Settle,
        retries: RetryBudget,
    ) -> None:
        self.retries = retries
        self._kinds = kinds
        self._settle = settle
        self._l3 = l3
        self._resolver = resolver
        self._writer = writer
        self._applier = applier
        self._lease = lease
        self._feed = feed

    @asynccontextmanager
    async def open(
        self,
        isolation: Isolation = Isolation.READ_COMMITTED,
        settled: Collection[Key] = (),
    ) -> AsyncIterator[Transaction]:
        """A transaction that commits when the block ends, and is rolled back when it raises or is cancelled.

        Args:
            settled: keys whose accepted writes are brought to L3 before it begins, so that it sees them whatever its
                isolation; of others when they are first used.

        Raises:
            SerializationFailure: others were in the way; nothing took effect.
            OutcomeUnknown: the reply to COMMIT was lost, or SQL of the block ended the transaction. Read before
                repeating.
            TierUnavailable: L3 is cut off; nothing was written.
            TierError: L3 cannot be reached, or what its driver raised inside.
        """
        self._resolver.check_open()
        self._writer.check_writes()
        await self._settle(settled)
        storage = await self._l3.open_transaction(Isolation(isolation))
        incarnation = self._l3.coherence().incarnation
        transaction = Transaction(
            storage,
            self._kinds,
            decode=self._resolver.stored,
            limits=self._writer.limits,
            settle=self._settle,
            settled=settled,
        )
        try:
            yield transaction
            transaction.over = True
            self._resolver.check_open()  # once more: a commit that is refused must be rolled back
            # Not shielded: who is cancelled before the commit has changed nothing.
            affected = await transaction.storage.affected()
            transaction.unsure = affected.xid
        except BaseException as fault:
            transaction.over, transaction.unsure = True, None
            await asyncio.shield(asyncio.ensure_future(self._roll_back(transaction, incarnation)))
            understood = storage.understood(fault) if isinstance(fault, Exception) else fault
            if isinstance(understood, StorageFull):
                self._writer.report(understood, transaction.written)
            if understood is not fault:
                raise understood from fault
            raise
        await self._writer.shielded(self._commit(transaction, affected, incarnation))

    async def pause(self, attempt: int) -> None:
        """Give others way before the next attempt, the longer the more there were."""
        await self._writer.sleep(self._writer.backoff(attempt))

    async def transact(
        self,
        operation: Callable[[Transaction], Awaitable[Result]],
        isolation: Isolation = Isolation.SERIALIZABLE,
        attempts: int = TRANSACT_ATTEMPTS,
    ) -> Result:
        """Run an operation in a transaction, again when others were in the way, and return what it returned.

        Args:
            operation: without effects but those on the transaction: it may run several times.
            attempts: at most.

        Raises:
            SerializationFailure: others were in the way each time.
        """
        return await repeated(self.open, operation, isolation, attempts, self.pause)

    async def _commit(self, transaction: Transaction, affected: Affected, incarnation: UUID) -> None:
        try:
            _check_whole(affected)
            await transaction.storage.commit()
            transaction.committed_at, transaction.unsure = self._resolver.now(), None
        except Exception as fault:
            if not affected.ended:  # that was SQL of the block's, and no fault of L3
                self._writer.report(fault, transaction.written)
            if isinstance(fault, OutcomeUnknown) or not isinstance(fault, HoldfastError):
                # It may be in effect, now or later, and may have changed more than its keys.
                self._hold(affected, incarnation)
                self._writer.tell(dict.fromkeys(transaction.written, ANY_VERSION))
            else:
                transaction.unsure = None
            await self._roll_back(transaction, incarnation)
            raise
        self.retries.note_answered()
        transaction.affected_tables = frozenset(
            self._kinds[kind].table for kind in affected.kinds if kind in self._kinds
        )
        if affected.xid is not None:
            self._writer.tell(transaction.written)
            if not await self._feed.refresh():
                self._hold(affected, incarnation)

    async def _roll_back(self, transaction: Transaction, incarnation: UUID) -> None:
        """Let nothing take effect. If SQL of the block's may have committed a part, no cache goes on without it."""
        later = await transaction.storage.rollback()
        if later is None:
            return
        transaction.unsure = later
        if not await self._feed.refresh():
            self._hold(Affected(later), incarnation)
            self._writer.tell(dict.fromkeys(transaction.written, ANY_VERSION))

    def _hold(self, affected: Affected, incarnation: UUID) -> None:
        self._writer.adopt()
        # With its incarnation a transaction is over, and its number may not come again for long.
        if affected.xid is not None and self._applier.incarnation == incarnation:
            self._lease.hold(affected.xid)


async def repeated(
    open_: Callable[[Isolation, Collection[Key]], AbstractAsyncContextManager[Transaction]],
    operation: Callable[[Transaction], Awaitable[Result]],
    isolation: Isolation,
    attempts: int,
    pause: Callable[[int], Awaitable[None]],
) -> Result:
    """Run an operation in transactions opened one after the other, until one is not refused for others' sake."""
    touched: set[Key] = set()
    for attempt in range(1, attempts + 1):
        transaction: Transaction | None = None
        try:
            async with open_(isolation, touched) as transaction:
                result = await operation(transaction)
        except SerializationFailure:
            if transaction is not None:  # what this server accepted must not be what is in the way next time
                touched |= transaction.touched
            if attempt == attempts:
                raise
            await pause(attempt)
        else:
            return result
    raise SettingsError(f"transact: attempts is {attempts}; at least 1 is needed")


def _check_whole(affected: Affected) -> None:
    if affected.ended:
        raise OutcomeUnknown(ENDED)
