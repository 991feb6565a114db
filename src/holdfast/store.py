"""The door: `StateStore`, one typed collection per kind, and what spans them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from holdfast.collection import Collection, chosen
from holdfast.documents import Document
from holdfast.kinds import BOT, ROUTINE, RUN_SNAPSHOT, SWARM, TEAM, Kind
from holdfast.scopes import Scopes
from holdfast.transactions import Transactions

D = TypeVar("D", bound=Document)


class StateStore:
    """The door to the state: one typed collection per kind.

    Attributes:
        collections: all of them, by the kind's name.
        swarms, bots, teams, routines, run_snapshots: the built-in collections.
        transaction: ``async with state.transaction() as tx:``; see `Transactions.open`.
        scope: ``async with state.scope() as scope:``; see `Scopes.open`.
        transact: run an operation in a transaction, again when others were in the way; see `Transactions.transact`.
    """

    def __init__(self, collections: Mapping[str, Collection[Any]], transactions: Transactions, scopes: Scopes) -> None:
        self.collections = collections
        self.transactions = transactions
        self.scopes = scopes
        self.scope = scopes.open
        self.transaction = transactions.open
        self.transact = transactions.transact
        self.swarms = self.collection(SWARM)
        self.bots = self.collection(BOT)
        self.teams = self.collection(TEAM)
        self.routines = self.collection(ROUTINE)
        self.run_snapshots = self.collection(RUN_SNAPSHOT)

    def collection(self, kind: Kind[D]) -> Collection[D]:
        """The collection of a kind that was given to `connect(kinds=[...])`, or of a built-in one.

        Raises:
            SettingsError: the kind is not known to this store, or it is another one of that name.
        """
        return chosen(self.collections, kind)
