"""L2 in memory, with the rules of the scripts in `holdfast.tiers.lua`.

Several servers of one test share one `MemoryCache`, as they would share a Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from holdfast.clock import Clock
from holdfast.errors import CorruptDocument, TierUnavailable
from holdfast.keys import Key, redis_key
from holdfast.protocols import (
    ANY_VERSION,
    Absent,
    Cached,
    Coherence,
    Failed,
    FenceTarget,
    Fill,
    View,
    Watermark,
    Withdrawal,
)
from holdfast.tiers.codec import WireEntry
from holdfast.tiers.l2_answers import Judge
from holdfast.tiers.l2_topology import SLOTS, Node, Topology, slot_of

NOBODY = bytes(16)
"""The incarnation of a lease on a key that holds nothing."""


class Held(msgspec.Struct, frozen=True):
    """What a key holds.

    Attributes:
        entry: without a row: a fence; of version 0, a lease alone.
        leased_until_ms: of a fence: until when somebody loads the key.
        unreadable: the bytes of an entry that was damaged: it is no entry any more, but for what fills compare with.
    """

    entry: WireEntry
    expires_at_ms: int
    leased_until_ms: int = 0
    unreadable: bytes | None = None


class Contents(msgspec.Struct, frozen=True):
    """What a node holds: its data, and the watermark that speaks of them."""

    held: dict[Key, Held]
    mark: Watermark | None = None

    def copied(self) -> Contents:
        """The same, whatever becomes of this one."""
        return Contents(dict(self.held), self.mark)


class MemoryCache:
    """`SharedCache` and `FenceSink` in memory.

    Args:
        fence_lifetime_seconds: how long a fence stands; a fill may come at most half of it after its read began.
        lease_seconds: for how long a key is leased to the server that loads it.
        nodes: how many share the slots, each with a watermark of its own.

    Attributes:
        away: while True every call fails as if no node answered.
        silent: names of nodes that do not answer.
    """

    def __init__(
        self, clock: Clock, *, fence_lifetime_seconds: float = 60.0, lease_seconds: float = 2.0, nodes: int = 1
    ) -> None:
        self.away = False
        self.silent: set[str] = set()
        self._clock = clock
        self._fence_ms = round(fence_lifetime_seconds * 1000)
        self._lease_ms = round(lease_seconds * 1000)
        firsts = [SLOTS * number // nodes for number in range(nodes + 1)]
        self._topology = Topology(
            [Node(f"memory-{number}", ((firsts[number], firsts[number + 1] - 1),)) for number in range(nodes)]
        )
        self._contents = {node.name: Contents({}) for node in self._topology.nodes}

    async def read(
        self, keys: Sequence[Key], view: View, *, lease: bool = True
    ) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up; see `SharedCache.read`."""
        now = self._now_ms()
        judges = {
            node.name: Judge(view, self._contents[node.name].mark, now, node.slots, self._lease_ms / 1000)
            for node in self._topology.nodes
        }
        return {key: self._answer(key, judges[self._node(key).name], now, lease=lease) for key in keys}

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        return sum(self._fill(fill, coherence) for fill in fills if self._answers(self._node(fill.key)))

    async def withdraw(self, withdrawals: Sequence[Withdrawal], coherence: Coherence) -> int:
        """Put fences in the place of entries; see `SharedCache.withdraw`."""
        return sum(self._withdraw(each, coherence) for each in withdrawals if self._answers(self._node(each.key)))

    async def targets(self) -> Sequence[Node]:
        """The nodes; see `FenceSink.targets`."""
        if self.away:
            raise TierUnavailable("L2 in memory is away")
        return self._topology.nodes

    async def watermark(self, target: FenceTarget) -> Watermark | None:
        """A node's watermark; see `FenceSink.watermark`."""
        self._check(target)
        return self._contents[target.name].mark

    async def advance(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        """Fence keys and move the watermark; see `FenceSink.advance`."""
        self._check(target)
        contents = self._contents[target.name]
        if contents.mark != before:
            return False
        for key, version in versions.items():
            if self._node(key).name == target.name:
                self._fence(key, version, after)
        self._contents[target.name] = Contents(contents.held, after)
        return True

    def forget(self, *names: str) -> None:
        """Let nodes, or all, lose everything, as a Redis may at any time."""
        self._contents.update((name, Contents({})) for name in names or self._contents)

    def damage(self, key: Key, unreadable: bytes) -> None:
        """Let an entry be unreadable from now on, and seem to be of a version above all others."""
        held = self._contents[self._node(key).name].held[key]
        entry = msgspec.structs.replace(held.entry, version=ANY_VERSION - 1)
        self._store(key, msgspec.structs.replace(held, entry=entry, unreadable=unreadable))

    def dump(self) -> dict[str, Contents]:
        """A copy of what every node holds now."""
        return {name: contents.copied() for name, contents in self._contents.items()}

    def restore(self, dump: Mapping[str, Contents], *names: str) -> None:
        """Let nodes, or all, go back to an earlier copy, data and watermark together, as a late replica does."""
        self._contents.update((name, dump[name].copied()) for name in names or dump)

    def _now_ms(self) -> int:
        return round(self._clock.monotonic() * 1000)

    def _node(self, key: Key) -> Node:
        return self._topology.node_of(redis_key(b"", key))

    def _answers(self, node: FenceTarget) -> bool:
        return not self.away and node.name not in self.silent

    def _check(self, target: FenceTarget) -> None:
        if not self._answers(target):
            raise TierUnavailable(f"L2 in memory: {target.name} is away")

    def _live(self, key: Key) -> Held | None:
        held = self._contents[self._node(key).name].held.get(key)
        return held if held is not None and held.expires_at_ms > self._now_ms() else None

    def _store(self, key: Key, held: Held) -> None:
        self._contents[self._node(key).name].held[key] = held

    def _answer(self, key: Key, judge: Judge, now: int, *, lease: bool) -> Cached | Absent | Failed:
        if not self._answers(self._node(key)):
            return Failed(TierUnavailable("L2 in memory is away"))
        held = self._live(key)
        left_ms = self._lease(key, held, now, wanted=lease) if held is None or held.entry.row is None else 0
        if judge.partial and not judge.speaks_for(slot_of(redis_key(b"", key))):
            return judge.unserved
        if left_ms:
            return judge.leased(left_ms)
        if held is not None and held.unreadable is not None:
            return Failed(CorruptDocument(f"L2 in memory: {key} is damaged"), judge.nothing, held.unreadable)
        return judge.nothing if held is None else judge.entry(key, held.entry)

    def _lease(self, key: Key, held: Held | None, now: int, *, wanted: bool) -> int:
        """For how many ms another server has the lease; if nobody has it and it is wanted, it is taken."""
        left_ms = held.leased_until_ms - now if held is not None else 0
        if left_ms > 0:
            return left_ms
        if wanted and self._contents[self._node(key).name].mark is not None:
            until = now + self._lease_ms
            alone = Held(WireEntry(None, 0, NOBODY, 0, 0, 0), until)
            self._store(key, msgspec.structs.replace(held or alone, leased_until_ms=until))
        return 0

    def _fill(self, fill: Fill, coherence: Coherence) -> bool:
        held = self._live(fill.key)
        if fill.row is not None and self._is_admitted(fill, coherence, held):
            asked_ms, ttl_ms = fill.absent.node_time_ms, round(fill.ttl_seconds * 1000)
            generation = max(coherence.highest, fill.absent.generation)
            entry = WireEntry(
                fill.row, fill.row.version, coherence.incarnation.bytes, generation, asked_ms, ttl_ms, fill.tags
            )
            self._store(fill.key, Held(entry, asked_ms + ttl_ms))
            return True
        until = 0 if fill.absent.leased_seconds else fill.absent.node_time_ms + self._lease_ms
        if held is not None and until and held.leased_until_ms == until:
            self._give_back(fill.key, held)
        return False

    def _is_admitted(self, fill: Fill, coherence: Coherence, held: Held | None) -> bool:
        mark, age_ms = self._contents[self._node(fill.key).name].mark, self._now_ms() - fill.absent.node_time_ms
        if mark is None or (mark.incarnation, mark.generation) != (coherence.incarnation.bytes, fill.absent.generation):
            return False
        if not 0 <= age_ms <= self._fence_ms // 2 or age_ms >= round(fill.ttl_seconds * 1000):
            return False
        known = held.entry.version if held is not None and held.entry.incarnation == mark.incarnation else 0
        return fill.row is not None and known <= fill.row.version

    def _withdraw(self, withdrawal: Withdrawal, coherence: Coherence) -> bool:
        held, incarnation = self._live(withdrawal.key), coherence.incarnation.bytes
        if held is None or held.unreadable != withdrawal.evidence:
            return False
        is_meant = (held.entry.incarnation, held.entry.version) == (incarnation, withdrawal.version)
        if withdrawal.evidence is None and (held.entry.row is None or not is_meant):
            return False
        fence = WireEntry(None, withdrawal.fence, incarnation, coherence.highest, 0, 0)
        self._store(withdrawal.key, Held(fence, self._now_ms() + self._fence_ms))
        return True

    def _give_back(self, key: Key, held: Held) -> None:
        if held.entry.version:
            self._store(key, msgspec.structs.replace(held, leased_until_ms=0))
        else:
            del self._contents[self._node(key).name].held[key]

    def _fence(self, key: Key, version: int, mark: Watermark) -> None:
        held, until = self._live(key), self._now_ms() + self._fence_ms
        if held is None or held.entry.incarnation != mark.incarnation or held.entry.version < version:
            self._store(key, Held(WireEntry(None, version, mark.incarnation, mark.generation, 0, 0), until))
        elif held.entry.row is None:
            self._store(key, msgspec.structs.replace(held, expires_at_ms=until))
