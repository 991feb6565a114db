"""L2 as the relay sees it: fences go to a node together with the node's watermark, or not at all (rule C3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from holdfast.errors import TierError, TierUnavailable
from holdfast.keys import Key, redis_key
from holdfast.protocols import FenceTarget, Watermark
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_client import MAP_AGE_MAX_SECONDS, RedisConnection
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_topology import Node, Topology
from holdfast.tiers.l2_watermarks import decode, encode, part_after, watermark_key

FENCES_MAX: Final = 1000
"""Fences in one call: a script must not hold a node up."""


class RedisFences:
    """`FenceSink` over Redis.

    A change of more keys than one call takes is sent in parts. Each part leaves a watermark of the same meaning and
    other bytes than the one before, so that a node which forgets a part is found out by the next.

    Args:
        prefix: of every key name.
        fence_lifetime_seconds: how long a fence stands.
    """

    def __init__(
        self, connection: RedisConnection, codec: Codec, *, prefix: bytes, fence_lifetime_seconds: float
    ) -> None:
        self._connection = connection
        self._codec = codec
        self._prefix = prefix
        self._lifetime_ms = b"%d" % round(fence_lifetime_seconds * 1000)
        self._held: dict[bytes, bytes] = {}  # by the watermark's key, the bytes last seen or written: parts, and damage
        # The last mapping sorted: the relay gives the same one for each node.
        self._sorted: tuple[Mapping[Key, int], Topology, Mapping[Node, Mapping[bytes, int]]] | None = None
        self._read, self._advance = Script("read"), Script("advance")

    async def targets(self) -> Sequence[Node]:
        """The primaries now; see `FenceSink.targets`."""
        return (await self._connection.topology(age_max_seconds=MAP_AGE_MAX_SECONDS)).nodes

    async def watermark(self, target: FenceTarget) -> Watermark | None:
        """The node's watermark; see `FenceSink.watermark`."""
        await self._connection.topology()  # connects, if nobody has yet
        _, data = await self._run(self._read, target, [b"0"])
        name = self._key(target)
        self._held[name] = data or b""
        return decode(name, self._held[name])

    async def advance(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        """Fence keys and move the watermark; see `FenceSink.advance`."""
        served = await self._served(target, versions)
        fences = self._fences(served, after)
        expected = self._expected(self._key(target), before)
        while len(fences) > FENCES_MAX:
            part, fences = fences[:FENCES_MAX], fences[FENCES_MAX:]
            wanted = self._part(target, before, expected)
            if not await self._compare_and_set(target, expected, wanted, part):
                return False
            expected = wanted
        last = self._part(target, before, expected) if after == before else encode(self._key(target), after)
        return await self._compare_and_set(target, expected, last, fences)

    async def _served(self, target: FenceTarget, versions: Mapping[Key, int]) -> Mapping[bytes, int]:
        """The versions of the keys that a node serves, by their names."""
        node, topology = Node(target.name, target.slots), await self._connection.topology()
        if node not in topology.nodes:
            raise TierUnavailable(f"L2 node {target.name}: it serves other slots by now")
        if self._sorted is None or self._sorted[0] is not versions or self._sorted[1] is not topology:
            named = {redis_key(self._prefix, key): version for key, version in versions.items()}
            groups = topology.group(named)
            by_node = {each: {name: named[name] for name in groups[each]} for each in groups}
            self._sorted = (versions, topology, by_node)
        return self._sorted[2].get(node, {})

    def _fences(self, versions: Mapping[bytes, int], mark: Watermark) -> list[tuple[bytes, bytes]]:
        incarnation, generation = UUID(bytes=mark.incarnation), mark.generation
        return [
            (name, self._codec.encode_fence(name, version, incarnation=incarnation, generation=generation))
            for name, version in versions.items()
        ]

    def _expected(self, name: bytes, before: Watermark | None) -> bytes:
        """The bytes that the watermark must have: those last seen, if they mean the same."""
        held = self._held.get(name, b"")
        if decode(name, held) == before:
            return held
        return encode(name, before) if before is not None else b""

    def _part(self, target: FenceTarget, before: Watermark | None, expected: bytes) -> bytes:
        """What a part leaves. Without a watermark nothing was filled yet that a lost part could have fenced."""
        return expected if before is None else encode(self._key(target), before, part=part_after(expected))

    async def _compare_and_set(
        self, target: FenceTarget, expected: bytes, wanted: bytes, fences: Sequence[tuple[bytes, bytes]]
    ) -> bool:
        names, bodies = b" ".join(name for name, _ in fences), b"".join(fence for _, fence in fences)
        if not await self._run(self._advance, target, [expected, wanted, self._lifetime_ms, names, bodies]):
            return False
        self._held[self._key(target)] = wanted
        return True

    def _key(self, target: FenceTarget) -> bytes:
        return watermark_key(self._prefix, target.slots[0][0])

    async def _run(self, script: Script, target: FenceTarget, arguments: list[bytes]) -> Any:
        node = Node(target.name, target.slots)
        reply = (await self._connection.run(script, {node: [self._key(target), *arguments]}))[node]
        if isinstance(reply, TierError):
            raise reply
        return reply
