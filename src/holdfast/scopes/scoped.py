"""The ways of reads and writes of one scope: those of the server, and what they showed is kept to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from holdfast.documents import Document
from holdfast.entry import Consistency, Receipt
from holdfast.flights import Resolved
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import Isolation, Row, Write
from holdfast.reading import Reader
from holdfast.scopes.floors import Floor
from holdfast.scopes.session import Session
from holdfast.tiers.l1_local import Shelf
from holdfast.transactions import TRANSACT_ATTEMPTS, Transaction, Transactions, repeated
from holdfast.writing import Writer

D = TypeVar("D", bound=Document)
Result = TypeVar("Result")


def scoped_peek(kind: str, shelf: Shelf, session: Session) -> Callable[[str], Any | None]:
    """L1 alone, for a scope: what it holds, unless that may lie below the key's floor."""

    def peek(identifier: str) -> Any | None:
        session.check()
        value = shelf.peek(identifier)
        if value is None or session.undecided([Key(kind, identifier)]):
            return None
        key, version = Key(kind, identifier), shelf.entries[identifier].version
        floor = session.floor(key)
        if floor.version != version and not session.passed(floor):
            return None
        session.see({key: version}, session.now())
        if identifier in shelf.laid:
            session.see_undecided(key)
        return value

    return peek


class ScopedReader:
    """Reads for one scope; each method raises like `Reader`'s, and what `Session.check` does."""

    def __init__(self, reader: Reader, session: Session) -> None:
        self._reader = reader
        self._session = session

    async def read(self, key: Key, consistency: Consistency, max_stale: float | None = None) -> Resolved:
        """The value of a key, not older than what the scope has seen."""
        return (await self.read_many([key], consistency, max_stale))[key]

    async def read_many(
        self, keys: Sequence[Key], consistency: Consistency, max_stale: float | None = None
    ) -> dict[Key, Resolved]:
        """The values of several keys of one kind."""
        session = self._session
        session.check()
        if undecided := session.undecided(keys):
            found = await session.read_undecided(undecided)
            left = [key for key in keys if key not in found]
            return found | (await self.read_many(left, consistency, max_stale) if left else {})
        began = session.now()
        floors = {key: session.floor(key) for key in keys}
        if consistency is Consistency.BOUNDED:
            found = await self._bounded(floors, max_stale)
        else:
            found = await self._reader.read_many(keys, Consistency.STRONG)
        session.check()  # once more: the answers may be of another L3
        session.see({key: each.version for key, each in found.items()}, began)
        return found

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows behind an id, from L3."""
        self._session.check()
        page = await self._reader.scan(kind, after=after, limit=limit)
        self._session.see_all(self._session.now())
        return page

    async def _bounded(self, floors: dict[Key, Floor], max_stale: float | None) -> dict[Key, Resolved]:
        """Answers of any tier where it is known to have come as far, else of L3 by a query of one's own."""
        open_ = await self._open(floors)
        asked = [key for key in floors if key not in open_ or self._is_held(key, open_[key])]
        found = await self._reader.read_many(asked, Consistency.BOUNDED, max_stale) if asked else {}
        # Whether the feed has come past a floor was asked before: the answer may be of a flight that began earlier.
        doubtful = [key for key in floors if key not in found or _is_doubtful(open_.get(key), found[key])]
        if doubtful:
            found |= await self._reader.read_many(doubtful, Consistency.STRONG)
        return found

    async def _open(self, floors: dict[Key, Floor]) -> dict[Key, Floor]:
        """The floors that the feed has not come past, after a poll if that can help."""
        session = self._session
        if floors and session.is_unwatched(next(iter(floors)).kind):
            return {key: Floor(None, floor.since) for key, floor in floors.items()}
        found = {key: floor for key, floor in floors.items() if not session.passed(floor)}
        if all(self._is_held(key, floor) for key, floor in found.items()) or not await session.refresh():
            return found
        return {key: floor for key, floor in found.items() if not session.passed(floor)}

    def _is_held(self, key: Key, floor: Floor) -> bool:
        """Whether L1 holds the very version that the scope saw last."""
        return floor.version is not None and self._reader.held_version(key) == floor.version


def _is_doubtful(floor: Floor | None, resolved: Resolved) -> bool:
    return floor is not None and floor.version != resolved.version


class ScopedWriter:
    """Writes of one scope; each method raises like `Writer`'s, and what `Session.check` does."""

    def __init__(self, writer: Writer, session: Session) -> None:
        self._writer = writer
        self._session = session
        self.limits = writer.limits
        self.backoff = writer.backoff
        self.sleep = writer.sleep

    async def save(self, kind: Kind[Any], writes: Sequence[tuple[Write, Document]]) -> dict[Key, int]:
        """Commit documents."""
        self._session.check()
        began = self._session.now()
        versions = dict(await self._writer.save(kind, writes))
        self._session.see(versions, began)
        return versions

    async def delete(self, key: Key, expected: int | None) -> Receipt:
        """Delete a row."""
        self._session.check()
        began = self._session.now()
        receipt = await self._writer.delete(key, expected)
        self._session.see({key: 0}, began)
        return receipt


class ScopedTransactions:
    """Transactions of one scope: what was read in them, and what they changed, has been seen."""

    def __init__(self, transactions: Transactions, session: Session) -> None:
        self._transactions = transactions
        self._session = session

    @asynccontextmanager
    async def open(
        self, isolation: Isolation = Isolation.READ_COMMITTED, settled: Collection[Key] = ()
    ) -> AsyncIterator[Transaction]:
        """See `Transactions.open`."""
        session = self._session
        session.check()
        transaction: Transaction | None = None
        try:
            async with self._transactions.open(isolation, settled) as transaction:
                transaction.before_touch = session.settle_elsewhere
                yield transaction
        finally:
            if transaction is not None:
                unsure = () if transaction.unsure is None else (transaction.unsure,)
                moment = session.now() if transaction.committed_at is None else transaction.committed_at
                session.see_all(moment, unsure)

    async def transact(
        self,
        operation: Callable[[Transaction], Awaitable[Result]],
        isolation: Isolation = Isolation.SERIALIZABLE,
        attempts: int = TRANSACT_ATTEMPTS,
    ) -> Result:
        """See `Transactions.transact`."""
        return await repeated(self.open, operation, isolation, attempts, self._transactions.pause)
