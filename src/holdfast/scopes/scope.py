"""A scope: the same collections as the store's, for a stretch of work that never goes back in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from holdfast.choosing import chosen
from holdfast.collection import Collection
from holdfast.documents import Document
from holdfast.kinds import BOT, ROUTINE, RUN_SNAPSHOT, SWARM, TEAM, Kind
from holdfast.reading import Reader
from holdfast.resolution import Resolver
from holdfast.scopes.scoped import ScopedReader, ScopedTransactions, ScopedWriter, scoped_peek
from holdfast.scopes.session import Session
from holdfast.tiers.l1_local import Shelf
from holdfast.transactions import Transactions
from holdfast.writing import Writer

D = TypeVar("D", bound=Document)


class Scopes:
    """Begins scopes; one per server.

    Args:
        new_session: what a scope knows, from its beginning.
    """

    def __init__(
        self,
        *,
        collections: Mapping[str, Collection[Any]],
        shelves: Mapping[str, Shelf],
        reader: Reader,
        resolver: Resolver,
        writer: Writer,
        transactions: Transactions,
        new_session: Callable[[], Session],
    ) -> None:
        self.collections = collections
        self.transactions = transactions
        self._shelves = shelves
        self._reader = reader
        self._resolver = resolver
        self._writer = writer
        self._new_session = new_session

    def open(self, token: str | None = None) -> Scope:
        """A scope, to be entered: ``async with state.scope(token) as scope:``.

        Args:
            token: of a scope that is gone on with, from this server or another one; text of at most 400 characters.

        Raises:
            InvalidToken: on entering; the token is none, or was cut or changed on its way.
            IncarnationChanged: on entering; L3 crashed, failed over or was restored since, so that what the scope saw
                may not exist any more.
            TierUnavailable: on entering; whether that is so cannot be found out.
        """
        return Scope(self, self._new_session(), token)

    def scoped(self, collection: Collection[D], session: Session) -> Collection[D]:
        """A collection as a scope sees it."""
        kind = collection.kind
        return Collection(
            kind,
            peek=scoped_peek(kind.name, self._shelves[kind.name], session),
            reader=ScopedReader(self._reader, session),
            resolver=self._resolver,
            writer=ScopedWriter(self._writer, session),
            turns=collection.turns,
            invalidator=collection.invalidator,
            watching=collection.watching,
            write_behind=collection.write_behind,
            seen=session.see_undecided,
            before_write=session.settle_elsewhere,
        )


class Scope:
    """One scope; what `state.scope()` gives.

    It reads its own writes and never goes back: not to before what it wrote, nor to before what it read, in whatever
    tier, after evictions too, and on every server that its token comes to. That holds between calls that follow one
    another; calls of a scope that overlap do not bind each other. Nothing is promised of a `put` or `delete` that was
    cancelled or whose outcome is unknown: it may take effect later. Nor to other scopes.

    Attributes:
        swarms, bots, teams, routines, run_snapshots: the built-in collections.
        transaction, transact: as the store's.
    """

    def __init__(self, scopes: Scopes, session: Session, token: str | None) -> None:
        self._scopes = scopes
        self._session = session
        self._token = token
        self._collections: dict[str, Collection[Any]] = {}
        transactions = ScopedTransactions(scopes.transactions, session)
        self.transaction = transactions.open
        self.transact = transactions.transact
        self.swarms = self.collection(SWARM)
        self.bots = self.collection(BOT)
        self.teams = self.collection(TEAM)
        self.routines = self.collection(ROUTINE)
        self.run_snapshots = self.collection(RUN_SNAPSHOT)

    async def __aenter__(self) -> Self:
        await self._session.begin(self._token)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.end()

    @property
    def token(self) -> str:
        """What another server, or this one later, needs to go on: text of at most 400 characters, fit for a header.

        Take it after the last call that it is to cover. It holds no secret and no id, and is not signed: who forges one
        can make a server ask L3 for what that scope reads, and no more.
        """
        return self._session.token

    def collection(self, kind: Kind[D]) -> Collection[D]:
        """The collection of a kind, in this scope; see `StateStore.collection`."""
        known = chosen(self._scopes.collections, kind)
        found = self._collections.get(kind.name)
        if found is None:
            found = self._collections[kind.name] = self._scopes.scoped(known, self._session)
        return found
