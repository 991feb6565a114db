"""L2: entries and fences shared by all servers, in Redis Cluster or a single Redis or Valkey.

Each call is one script per node, whatever the number of keys. A node that is away costs its own keys only.
The rules are in the scripts (`lua/`) and in `codec`; this module groups, counts and maps errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from holdfast.errors import CorruptDocument, TierError
from holdfast.keys import Key, redis_key
from holdfast.protocols import Absent, Cached, Coherence, Failed, Fill
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_client import RedisConnection, Script

Answer = Cached | Absent | Failed
Arguments = Callable[[list[bytes]], list[bytes]]
"""A script's arguments for the names of one node."""
Take = Callable[[list[bytes], Any], None]
"""Takes what the script returned for the names of one node."""


class RedisCache:
    """`SharedCache` over Redis.

    Args:
        prefix: of every key name.
        fence_lifetime_seconds: how long a fence stands; a fill may come at most half of it after its read
            began.
    """

    def __init__(
        self, connection: RedisConnection, codec: Codec, *, prefix: bytes, fence_lifetime_seconds: float
    ) -> None:
        self._connection = connection
        self._codec = codec
        self._prefix = prefix
        self._fence_ms = b"%d" % round(fence_lifetime_seconds * 1000)
        self._fill_age_max_ms = b"%d" % round(fence_lifetime_seconds * 500)
        self._read, self._fill, self._fence = Script("read"), Script("fill"), Script("fence")

    async def read(self, keys: Sequence[Key], coherence: Coherence) -> Mapping[Key, Answer]:
        """Look keys up; see `SharedCache.read`."""
        names = {redis_key(self._prefix, key): key for key in keys}
        answers: dict[Key, Answer] = {}
        incarnation = coherence.incarnation.bytes
        floors = {kind: coherence.floor(kind) for kind in {key.kind for key in keys}}

        def take(group: list[bytes], reply: Any) -> None:
            node_time_ms = reply[0]
            for name, value in zip(group, islice(reply, 1, None), strict=True):
                key = names[name]
                if value is None:
                    answers[key] = Absent(node_time_ms)
                else:
                    answers[key] = self._judge(name, value, node_time_ms, incarnation, floors[key.kind])

        failed = await self._on_each_node(self._read, list(names), lambda group: [b" ".join(group)], take)
        answers.update({names[name]: Failed(fault) for name, fault in failed.items()})
        return answers

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        entries = {}
        for fill in fills:
            name = redis_key(self._prefix, fill.key)
            entries[name] = self._codec.encode(
                name,
                fill.row,
                incarnation=coherence.incarnation,
                generation=coherence.highest,
                read_at_ms=fill.node_time_ms,
                ttl_ms=round(fill.ttl_seconds * 1000),
            )
        stored: list[int] = []

        def arguments(group: list[bytes]) -> list[bytes]:
            return _pairs(self._fill_age_max_ms, group, entries)

        await self._on_each_node(self._fill, list(entries), arguments, lambda _, reply: stored.append(reply))
        return sum(stored)

    async def fence(self, versions: Mapping[Key, int], coherence: Coherence) -> Sequence[Key]:
        """Raise fences; see `SharedCache.fence`."""
        keys = {redis_key(self._prefix, key): key for key in versions}
        incarnation, generation = coherence.incarnation, coherence.highest

        def arguments(group: list[bytes]) -> list[bytes]:
            fences = [
                self._codec.encode_fence(name, versions[keys[name]], incarnation=incarnation, generation=generation)
                for name in group
            ]
            return [self._fence_ms, b" ".join(group), b"".join(fences)]

        failed = await self._on_each_node(self._fence, list(keys), arguments, lambda *_: None)
        return [keys[name] for name in failed]

    def _judge(self, name: bytes, value: bytes, node_time_ms: int, incarnation: bytes, floor: int) -> Answer:
        """Rule C1: an entry of another incarnation, or below its kind's generation, counts as absent."""
        try:
            entry = self._codec.decode(name, value)
        except CorruptDocument as fault:
            return Failed(fault, node_time_ms)
        if entry is None or entry.row is None or entry.incarnation != incarnation or entry.generation < floor:
            return Absent(node_time_ms)
        age_ms = node_time_ms - entry.read_at_ms
        if age_ms < 0:  # the node's clock went back, and with it all that can be said of the entry's age
            return Absent(node_time_ms)
        return Cached(entry.row, max(0, entry.ttl_ms - age_ms) / 1000, age_ms / 1000)

    async def _on_each_node(
        self, script: Script, names: list[bytes], arguments: Arguments, take: Take
    ) -> dict[bytes, TierError]:
        """Act on all nodes at once, again where the map of nodes had changed; returns the keys whose node failed."""
        failed = await self._attempt(script, names, arguments, take)
        if failed and self._connection.map_is_stale:
            failed = await self._attempt(script, list(failed), arguments, take)
        return failed

    async def _attempt(
        self, script: Script, names: list[bytes], arguments: Arguments, take: Take
    ) -> dict[bytes, TierError]:
        try:
            groups = (await self._connection.topology()).group(names)
        except TierError as fault:
            return dict.fromkeys(names, fault)
        replies = await self._connection.run(
            script, {node: [group[0], *arguments(group)] for node, group in groups.items()}
        )
        failed: dict[bytes, TierError] = {}
        for node, reply in replies.items():
            if isinstance(reply, TierError):
                failed.update(dict.fromkeys(groups[node], reply))
            else:
                take(groups[node], reply)
        return failed


def _pairs(first: bytes, names: Sequence[bytes], values: Mapping[bytes, bytes]) -> list[bytes]:
    arguments = [first]
    for name in names:
        arguments += (name, values[name])
    return arguments
