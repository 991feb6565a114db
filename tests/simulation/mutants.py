"""Each rule's mechanism switched off, so that a test can show which promise it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from holdfast.entry import MISSING
from holdfast.flights import Flights
from holdfast.invalidation.applying import ChangeApplier
from holdfast.invalidation.fence_map import FenceMap
from holdfast.invalidation.lease import NEVER, FeedLease
from holdfast.invalidation.relay import NODE_SCOPE, Relay
from holdfast.keys import Key
from holdfast.protocols import Cursor, Poll, Snapshot, Watermark
from holdfast.resolution import Resolver
from holdfast.testing import MemoryCache, MemoryFeed
from holdfast.testing.memory_cache import Held
from holdfast.testing.memory_log import Entry
from holdfast.tiers.codec import WireEntry
from holdfast.tiers.l1_local import LocalCache
from holdfast.tiers.l2_answers import Judge
from holdfast.transactions import Transactions
from holdfast.writing import Writer

Mutation = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, Mutation] = {}


def mutant(rules: str) -> Callable[[Mutation], Mutation]:
    """Register a mutation under its rules and its name."""

    def register(mutation: Mutation) -> Mutation:
        MUTANTS[f"{rules}-{mutation.__name__}"] = mutation
        return mutation

    return register


# L1 and flights


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


# L2


def _admits_all_versions(self: MemoryCache, fill: Any, coherence: Any, held: Held | None) -> bool:
    return _HEALTHY_ADMITTED(self, fill, coherence, None)


_HEALTHY_ADMITTED = MemoryCache._is_admitted


@mutant("C2")
def plain_set(patch: pytest.MonkeyPatch) -> None:
    """A fill overwrites whatever is there."""
    patch.setattr(MemoryCache, "_is_admitted", _admits_all_versions)


@mutant("C2")
def no_age_check(patch: pytest.MonkeyPatch) -> None:
    """A fill may come however long after its read began."""

    def admitted(self: MemoryCache, fill: Any, coherence: Any, held: Held | None) -> bool:
        now = msgspec.structs.replace(fill.absent, node_time_ms=self._now_ms())
        return _HEALTHY_ADMITTED(self, msgspec.structs.replace(fill, absent=now), coherence, held)

    patch.setattr(MemoryCache, "_is_admitted", admitted)


@mutant("C2-C3")
def fill_under_an_older_generation(patch: pytest.MonkeyPatch) -> None:
    """A fill is taken though the node began anew since its read began, and counts as if read since then."""
    healthy = MemoryCache._fill

    def fill(self: MemoryCache, fill: Any, coherence: Any) -> bool:
        mark = self._contents[self._node(fill.key).name].mark
        if mark is None:
            return False
        absent = msgspec.structs.replace(fill.absent, generation=mark.generation)
        return healthy(self, msgspec.structs.replace(fill, absent=absent), coherence)

    patch.setattr(MemoryCache, "_fill", fill)


@mutant("C3")
def fence_that_lowers(patch: pytest.MonkeyPatch) -> None:
    """A late fence of an old version replaces a newer one."""

    def fence(self: MemoryCache, key: Key, version: int, mark: Watermark) -> None:
        entry = WireEntry(None, version, mark.incarnation, mark.generation, 0, 0)
        self._store(key, Held(entry, self._now_ms() + self._fence_ms))

    patch.setattr(MemoryCache, "_fence", fence)


@mutant("C3")
def advance_without_compare(patch: pytest.MonkeyPatch) -> None:
    """A relay moves a node's watermark whatever it is."""
    healthy = MemoryCache.advance

    async def advance(self: MemoryCache, target: Any, before: object, after: Any, versions: Any) -> bool:
        return await healthy(self, target, self._contents[target.name].mark, after, versions)

    patch.setattr(MemoryCache, "advance", advance)


@mutant("C3")
def advance_without_fences(patch: pytest.MonkeyPatch) -> None:
    """A relay moves a node's watermark past changes that it does not fence."""
    healthy = MemoryCache.advance

    async def advance(self: MemoryCache, target: Any, before: Any, after: Any, versions: object) -> bool:
        return await healthy(self, target, before, after, {})

    patch.setattr(MemoryCache, "advance", advance)


@mutant("C3")
def generation_before_its_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A node that begins anew gets its generation first, and the snapshot that its watermark tells then."""

    async def begin(self: Relay, targets: Sequence[Any]) -> None:
        if not targets:
            return
        coherence = await self._source.raise_generation(NODE_SCOPE)
        cursor = (await self._source.poll(None, announce=True)).cursor
        after = Watermark(
            coherence.incarnation.bytes,
            cursor.snapshot,
            coherence.generations[NODE_SCOPE],
            coherence.highest,
            (),
            cursor.anchor,
        )
        for target in targets:
            await self._advance(target, after, {})

    patch.setattr(Relay, "_begin", begin)


@mutant("C3")
def relay_goes_on_from_now(patch: pytest.MonkeyPatch) -> None:
    """A relay does not go back to a node's own watermark."""
    healthy = Relay._by_start

    def by_start(self: Relay, targets: Sequence[Any]) -> Any:
        groups = healthy(self, targets)
        newest: Cursor | None = None
        for cursor, _ in groups:
            newest = cursor if newest is None or cursor.snapshot.covers(newest.snapshot) else newest
        return [(newest, group) for _, group in groups]

    patch.setattr(Relay, "_by_start", by_start)


@mutant("C3")
def reader_ignores_the_watermark(patch: pytest.MonkeyPatch) -> None:
    """Every node is believed."""
    patch.setattr(FenceMap, "trusts", lambda self, mark: True)


@mutant("C3")
def reader_ignores_the_fence_map(patch: pytest.MonkeyPatch) -> None:
    """What L2 says is not compared with what this server was told."""
    patch.setattr(FenceMap, "fenced", lambda self, key: 0)


@mutant("C4")
def reader_ignores_generations(patch: pytest.MonkeyPatch) -> None:
    """Entries count whatever generation they carry."""
    patch.setattr(Judge, "_floor", lambda self, kind: 0)


@mutant("C4-F4")
def relay_ignores_whole_kinds(patch: pytest.MonkeyPatch) -> None:
    """A change of a whole kind raises no generation."""
    healthy = MemoryFeed.raise_generation

    async def raise_generation(self: MemoryFeed, scope: str) -> Any:
        return self._storage.coherence() if scope.startswith("kind:") else await healthy(self, scope)

    patch.setattr(MemoryFeed, "raise_generation", raise_generation)


@mutant("C3")
def mark_of_another_start_is_believed(patch: pytest.MonkeyPatch) -> None:
    """A node is believed by a watermark of before L3 was started anew."""
    healthy = FenceMap.trusts

    def trusts(self: FenceMap, mark: Watermark) -> bool:
        return healthy(self, msgspec.structs.replace(mark, anchor=self._life))

    patch.setattr(FenceMap, "trusts", trusts)


@mutant("C3-F1")
def relay_goes_on_over_a_start(patch: pytest.MonkeyPatch) -> None:
    """A relay continues a node's watermark over a start of L3, though L2 may hold what these files never had."""
    healthy = Relay._bring

    async def bring(self: Relay, start: Cursor, targets: Sequence[Any]) -> None:
        patched = _Unaware(start.coherence, start.snapshot, start.anchor)
        await healthy(self, patched, targets)

    patch.setattr(Relay, "_bring", bring)


class _Unaware(Cursor, frozen=True):
    """A cursor that is of whatever start it is compared with."""

    @property
    def life(self) -> Any:
        return _Equal()


class _Equal:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


# The feed


@mutant("F1")
def cursor_by_number(patch: pytest.MonkeyPatch) -> None:
    """The feed tells what has a higher number than what it told last."""

    def since(self: MemoryFeed, cursor: Cursor) -> Sequence[Entry]:
        seen = int(cursor.anchor[1].partition(":")[0]) if len(cursor.anchor) > 1 else 0
        return sorted(entry for entry in self._storage.log.entries() if entry.seq > seen)

    patch.setattr(MemoryFeed, "_since", since)


@mutant("F1")
def incarnation_does_not_flush(patch: pytest.MonkeyPatch) -> None:
    """Another incarnation of L3 leaves L1 as it is."""
    patch.setattr(LocalCache, "flush", lambda self: None)


@mutant("F1")
def anchor_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A cursor is continued over a start of L3 without a proof that these are not older files."""
    patch.setattr(MemoryFeed, "_is_of_this_start", lambda self, cursor: True)


@mutant("F1")
def identity_is_not_renewed(patch: pytest.MonkeyPatch) -> None:
    """An L3 that went back in time keeps its identity."""
    patch.setattr("holdfast.testing.MemoryStorage.renew_identity", lambda self, incarnation: None)


@mutant("F1")
def end_of_a_life_is_not_doubted(patch: pytest.MonkeyPatch) -> None:
    """L1 keeps what was read after the last poll before L3 was started anew."""
    patch.setattr(ChangeApplier, "_doubt_the_end_of_a_life", lambda self: None)


@mutant("F3")
def horizon_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A cursor older than the outbox is continued."""
    healthy = MemoryFeed._why_not

    def why_not(self: MemoryFeed, cursor: Cursor, snapshot: Snapshot, coherence: Any) -> str | None:
        reason = healthy(self, cursor, snapshot, coherence)
        return None if reason is not None and "older than the outbox" in reason else reason

    patch.setattr(MemoryFeed, "_why_not", why_not)


@mutant("F4")
def whole_kind_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A change of a whole kind does nothing here."""
    healthy = ChangeApplier.apply

    def apply(self: ChangeApplier, poll: Poll, began: float) -> None:
        single = [change for change in poll.changes if not change.whole_kind]
        healthy(self, msgspec.structs.replace(poll, changes=single), began)

    patch.setattr(ChangeApplier, "apply", apply)


# Transactions


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
