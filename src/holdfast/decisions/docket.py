"""Documents of one kind that are decided once, each decision together with its entry in the audit log."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from holdfast.collection import Collection
from holdfast.documents import Document
from holdfast.entry import Consistency
from holdfast.errors import NotFound
from holdfast.keys import check_id
from holdfast.kinds import Kind
from holdfast.protocols import Isolation, Row
from holdfast.protocols.decisions import DecisionIndex
from holdfast.row_decoding import Page, Stored, page_of
from holdfast.transactions import Transaction, Transactions

D = TypeVar("D", bound=Document)
Decided = TypeVar("Decided", bound=Document | None)
Record = Callable[[Transaction, str, Any], Awaitable[None]]
"""Writes what goes with a decision into its transaction; its last statement is the entry in the audit log."""

LIST_LIMIT: Final = 100


class Listed(NamedTuple, Generic[D]):
    """A document in a list.

    Attributes:
        cursor: for `after`, to go on behind it: the number of the write that opened it.
        version: the number of its last write.
    """

    id: str
    document: D
    cursor: int
    version: int


class Docket(Generic[D]):
    """Lists and decides the documents of one kind.

    Args:
        index: L3's side of them.
        stored: the document in a row of it.
        record: writes what goes with each decision.
    """

    def __init__(
        self,
        kind: Kind[D],
        collection: Collection[D],
        transactions: Transactions,
        index: DecisionIndex,
        record: Record,
        *,
        stored: Stored,
    ) -> None:
        self.index = index
        self._kind = kind
        self._collection = collection
        self._transactions = transactions
        self._record = record
        self._stored = stored

    async def list(self, *, status: str | None, run_id: str | None, after: int | None, limit: int) -> Page[Listed[D]]:
        """Those there are and can be read, from L3, the oldest first; see `DecisionIndex.list`.

        Raises:
            InvalidKey: no run can have that id.
            TierError: L3 cannot be asked.
        """
        if run_id is not None:
            check_id(run_id)

        async def rows(after: int | None) -> Sequence[tuple[str, Row]]:
            return await self.index.list(status=status, run_id=run_id, after=after, limit=limit)

        def listed(name: str, document: D, row: Row) -> Listed[D]:
            return Listed(name, document, row.birth, row.version)

        return await page_of(self._kind.name, after, rows, listed, self._stored)

    async def get(self, identifier: str) -> D | None:
        """One as it is in L3 now; None: there is none.

        Raises:
            CorruptDocument, SchemaTooNew: it cannot be read.
            TierError: L3 cannot be asked.
        """
        return await self._collection.get(identifier, consistency=Consistency.STRONG)

    async def found(self, identifier: str) -> D:
        """One that must be there.

        Raises:
            NotFound: it is not.
        """
        document = await self.get(identifier)
        if document is None:
            raise self._missing(identifier)
        return document

    async def decide(
        self,
        identifier: str,
        decision: Callable[[D, dt.datetime, str | None], Decided],
        *,
        beside: Callable[[Transaction], Awaitable[str | None]] | None = None,
    ) -> Decided:
        """Let a decision be made and recorded in one transaction of L3, and return what it made.

        Args:
            decision: a pure function of the document, which nobody else can change meanwhile, of the moment by L3's
                clock, and of what is in its way; what it raises leaves everything as it was. None: there is nothing to
                decide.
            beside: locks, before the document is locked, something else in the transaction, and tells why that is in
                the way; None: it is not.

        Raises:
            NotFound: there is no such document.
            OutcomeUnknown: it may be decided: look at it before you repeat.
            TierError: L3 did not do it.
        """
        at = await self.index.now()

        async def operate(transaction: Transaction) -> Decided:
            why = await beside(transaction) if beside is not None else None
            collection = transaction.collection(self._kind)
            document = await collection.get(check_id(identifier), lock=True)
            if document is None:
                raise self._missing(identifier)
            decided = decision(document, at, why)
            if decided is not None:
                await collection.put(identifier, cast("D", decided))
                await self._record(transaction, identifier, decided)
            return decided

        return await self._transactions.transact(operate, Isolation.READ_COMMITTED)

    def _missing(self, identifier: str) -> NotFound:
        name = self._kind.name
        return NotFound(f"there is no {name} {identifier}; `holdfast {name}s list` shows those that there are")
