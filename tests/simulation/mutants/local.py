"""L1, flights, the lease and transactions, with a mechanism switched off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from holdfast.entry import MISSING
from holdfast.flights import Flights
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.lease import NEVER, FeedLease
from holdfast.keys import Key
from holdfast.protocols import Poll
from holdfast.resolution import Resolver
from holdfast.tiers.l1_local import LocalCache
from holdfast.transactions import Transactions
from holdfast.writing import Writer
from simulation.mutants.registry import mutant


@mutant("R1")
def no_tickets(patch: pytest.MonkeyPatch) -> None:
    """L1 takes every fill that is not below what it holds."""
    patch.setattr(LocalCache, "ticket", lambda self: 2**60)


@mutant("R1")
def feed_does_not_fence_l1(patch: pytest.MonkeyPatch) -> None:
    """Changes that the feed brings are noted in the fence map only."""
    healthy = ChangeApplier.apply

    def apply(self: ChangeApplier, poll: Poll, began: float) -> None:
        healthy(self, msgspec.structs.replace(poll, changes=[each for each in poll.changes if each.whole_kind]), began)
        for change in poll.changes:
            if not change.whole_kind:
                self._view.note(change.key, change.version, began)
                self._flights.detach(change.key)

    patch.setattr(ChangeApplier, "apply", apply)


@mutant("R2")
def missing_over_a_fence(patch: pytest.MonkeyPatch) -> None:
    """MISSING is filled though its key was fenced since the read began."""
    healthy = LocalCache._admits

    def admits(  # noqa: PLR0917 - it has the shape of what it replaces
        self: LocalCache, key: Key, value: object, version: int, ticket: int, read_at: float
    ) -> bool:
        ticket = 2**60 if value is MISSING and ticket >= self._forgotten else ticket
        return healthy(self, key, value, version, ticket, read_at)

    patch.setattr(LocalCache, "_admits", admits)


@mutant("R3-R5")
def lease_never_ends(patch: pytest.MonkeyPatch) -> None:
    """Once renewed, caches may answer for ever."""

    def publish(self: FeedLease) -> None:
        for kind in self._bounds:
            self._until[kind] = math.inf if self.renewed_at > NEVER and not self._held else NEVER
            self._tell[kind](self._until[kind])

    patch.setattr(FeedLease, "_publish", publish)


@mutant("R3")
def refreshed_without_a_poll(patch: pytest.MonkeyPatch) -> None:
    """A reader past the bound goes on as if a poll had been made."""

    async def ready(self: object, kind: str) -> bool:
        return True

    patch.setattr("holdfast.reading.Reader.ready", ready)


@mutant("R4")
def changes_leave_flights(patch: pytest.MonkeyPatch) -> None:
    """Readers join a load that began before a write or a change of its key."""
    patch.setattr(Flights, "detach", lambda self, key: None)


@mutant("R4")
def strong_joins_flights(patch: pytest.MonkeyPatch) -> None:
    """A strong read takes part in a load that began before it."""
    patch.setattr(Resolver, "load_strong", lambda self, key, known=None: Resolver.load(self, key))


@mutant("R1")
def told_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """Caches are told of a write before it is committed, and not after."""
    healthy = Writer._save

    async def save(self: Writer, kind: Any, writes: Sequence[Any]) -> Any:
        self.tell({write.key: 2 for write, _ in writes})
        tell, self.tell = self.tell, lambda versions: None  # type: ignore[method-assign]
        try:
            return await healthy(self, kind, writes)
        finally:
            self.tell = tell  # type: ignore[method-assign]

    patch.setattr(Writer, "_save", save)


@mutant("R1-C3")
def own_writes_are_not_noted(patch: pytest.MonkeyPatch) -> None:
    """A write of this server is not in its fence map before the feed brings it."""

    def tell(self: Writer, versions: dict[Key, int]) -> None:
        for key, version in versions.items():
            self._caches[key.kind].fence(key, version)
            self._applier._flights.detach(key)
        self._committed()

    patch.setattr(Writer, "tell", tell)


@mutant("S1")
def transaction_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    """A transaction returns before the feed of its server has come past it."""

    class Impatient:
        async def refresh(self) -> bool:
            return True

    healthy = Transactions.__init__

    def init(self: Transactions, **parts: Any) -> None:
        healthy(self, **{**parts, "feed": Impatient()})

    patch.setattr(Transactions, "__init__", init)


@mutant("S1")
def transaction_is_not_held(patch: pytest.MonkeyPatch) -> None:
    """Caches count though the feed may not have come past a transaction of this server."""
    patch.setattr(FeedLease, "hold", lambda self, xid: None)


@mutant("C4")
def tags_leave_l1(patch: pytest.MonkeyPatch) -> None:
    """L1 keeps the documents that have a tag which was raised, and takes no fill of before."""
    healthy = LocalCache.flush_tags
    patch.setattr(LocalCache, "flush_tags", lambda self, tags: healthy(self, frozenset()))


@mutant("C4")
def tags_refuse_no_fill(patch: pytest.MonkeyPatch) -> None:
    """L1 drops the documents that have a tag which was raised, and takes every fill that comes afterwards."""
    healthy = LocalCache.flush_tags

    def flush_tags(self: LocalCache, tags: Any) -> None:
        forgotten = self._forgotten
        healthy(self, tags)
        self._forgotten = forgotten

    patch.setattr(LocalCache, "flush_tags", flush_tags)


@mutant("C4")
def tags_leave_flights(patch: pytest.MonkeyPatch) -> None:
    """Readers after a tag was raised join the loads begun before."""

    def flush_tags(self: ChangeApplier, tags: Any) -> None:
        for cache in {self._caches[kind] for kind in self._view.tagged}:
            cache.flush_tags(tags)

    patch.setattr(ChangeApplier, "_flush_tags", flush_tags)


@mutant("C4")
def forgotten_tags_leave_l1(patch: pytest.MonkeyPatch) -> None:
    """L1 goes on with what has tags though L3 has forgotten some."""
    healthy = ChangeApplier._flush_tags
    patch.setattr(ChangeApplier, "_flush_tags", lambda self, tags: tags is not None and healthy(self, tags))


@mutant("C4")
def tags_come_with_loads(patch: pytest.MonkeyPatch) -> None:
    """A poll's tags are looked at only if it tells a newer one than was known by any way."""
    healthy = ChangeApplier.apply

    def apply(self: ChangeApplier, poll: Poll, began: float) -> None:
        news = poll.cursor.coherence.tag > self._view.coherence.tag
        healthy(self, poll if news else msgspec.structs.replace(poll, tags={}), began)

    patch.setattr(ChangeApplier, "apply", apply)
