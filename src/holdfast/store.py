"""The door: `StateStore`, one typed collection per kind, and what spans them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from holdfast.collection import Collection
from holdfast.documents import Document
from holdfast.errors import SettingsError
from holdfast.invalidation.bus import EventBus
from holdfast.kinds import BOT, ROUTINE, RUN_SNAPSHOT, SWARM, TEAM, Kind
from holdfast.transactions import Transactions

D = TypeVar("D", bound=Document)


class StateStore:
    """The door to the state: one typed collection per kind.

    Attributes:
        collections: all of them, by the kind's name.
        swarms, bots, teams, routines, run_snapshots: the built-in collections.
        transaction: ``async with state.transaction() as tx:``; see `Transactions.open`.
        publish, subscribe: events; see `EventBus.publish` and `EventBus.subscribe`.
        dead_letters: reliable events that were given up; see `DeadLetters`.
        transact: run an operation in a transaction, again when others were in the way; see `Transactions.transact`.
    """

    def __init__(self, collections: Mapping[str, Collection[Any]], transactions: Transactions, bus: EventBus) -> None:
        self.collections = collections
        self.transactions = transactions
        self.transaction = transactions.open
        self.transact = transactions.transact
        self.bus = bus
        self.publish = bus.publish
        self.subscribe = bus.subscribe
        self.dead_letters = bus.dead_letters
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
        if not isinstance(kind, Kind):
            raise SettingsError(f"collection takes a Kind, not a {type(kind).__name__}; by name: collections[...]")
        collection = self.collections.get(kind.name)
        if collection is None:
            raise SettingsError(f"kind {kind.name} is not known here: connect(kinds=[...]) takes own kinds")
        if others := _differing(kind, collection.kind):
            raise SettingsError(f"kind {kind.name} is not the one known here: they differ in {', '.join(others)}")
        return collection


def _differing(kind: Kind[Any], other: Kind[Any]) -> list[str]:
    return [each.name for each in fields(kind) if getattr(kind, each.name) != getattr(other, each.name)]
