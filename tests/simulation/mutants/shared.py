"""L2, its relay and its readers, with a mechanism switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from holdfast.invalidation.fence_map import FenceMap
from holdfast.invalidation.relay import Relay, beginning
from holdfast.keys import Key
from holdfast.protocols import SHARED_SCOPE, Cursor, Watermark
from holdfast.testing import MemoryCache, MemoryFeed
from holdfast.testing.memory_cache import Held
from holdfast.testing.memory_log import Voids
from holdfast.tiers.codec import WireEntry
from holdfast.tiers.l2_answers import Judge
from simulation.mutants.registry import mutant


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
        coherence = await self._source.raise_generation(SHARED_SCOPE)
        cursor = (await self._source.poll(None, announce=True)).cursor
        after = beginning(cursor, coherence)
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
        return self._storage.coherence() if scope.startswith("l2:") else await healthy(self, scope)

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


@mutant("C4")
def reader_ignores_tags(patch: pytest.MonkeyPatch) -> None:
    """Entries count whatever was raised of their tags."""
    patch.setattr(Judge, "_tags_floor", lambda self, kind, tags: self._least(kind))


@mutant("C4")
def forgotten_tags_raise_no_floor(patch: pytest.MonkeyPatch) -> None:
    """L3 forgets generations of tags, and says nothing of it."""
    healthy = Voids.raised
    patch.setattr(
        Voids, "raised", lambda self, scope, drawn: self if scope == "tagged" else healthy(self, scope, drawn)
    )


@mutant("C4")
def entries_without_tags_count(patch: pytest.MonkeyPatch) -> None:
    """What a server filled that did not know a kind's tags counts for those that do."""
    patch.setattr(Judge, "_floor", lambda self, kind: self._least(kind))
