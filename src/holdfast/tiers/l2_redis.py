"""L2: entries shared by all servers, in Redis Cluster or a single Redis or Valkey.

Each call is one script per node, whatever the number of keys; it reads the node's watermark in the same step as the
data. A node that is away costs its own keys only. The rules are in the scripts (`lua/`), in `l2_answers` and `codec`;
this module groups, counts and maps errors. Fences and watermarks are set by `l2_fences`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from holdfast.errors import CorruptDocument, TierError
from holdfast.keys import Key, redis_key
from holdfast.protocols import Absent, Cached, Coherence, Failed, Fill, View, Watermark, Withdrawal
from holdfast.protocols.faults import EVIDENCE_BYTES_MAX
from holdfast.tiers.codec import Codec
from holdfast.tiers.l2_answers import NO_GENERATION, Judge
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_topology import Node, slot_of
from holdfast.tiers.l2_watermarks import decode, watermark_key

Answer = Cached | Absent | Failed
Arguments = Callable[[list[bytes]], list[bytes]]
"""A script's arguments for the names of one node."""
Take = Callable[[Node, list[bytes], Any], None]
"""Takes what the script returned for the names of one node."""

_ASKED = struct.Struct(">QQ")
_VERSION = struct.Struct(">Q")
NO_LEASE = b"0"


class RedisCache:
    """`SharedCache` over Redis.

    Args:
        prefix: of every key name.
        fence_lifetime_seconds: how long a fence stands; a fill may come at most half of it after its read
            began.
        lease_seconds: for how long a key is leased to the server that loads it.
    """

    def __init__(
        self,
        connection: RedisConnection,
        codec: Codec,
        *,
        prefix: bytes,
        fence_lifetime_seconds: float,
        lease_seconds: float,
    ) -> None:
        self._connection = connection
        self._codec = codec
        self._prefix = prefix
        self._fill_age_max_ms = b"%d" % round(fence_lifetime_seconds * 500)
        self._fence_ms = b"%d" % round(fence_lifetime_seconds * 1000)
        self._lease_seconds = lease_seconds
        self._lease_ms = b"%d" % round(lease_seconds * 1000)
        self._marks: dict[bytes, tuple[bytes, Watermark | None]] = {}
        self._read, self._fill, self._withdraw = Script("read"), Script("fill"), Script("withdraw")
        self._withdraw_unreadable = Script("withdraw_unreadable")

    async def read(self, keys: Sequence[Key], view: View, *, lease: bool = True) -> Mapping[Key, Answer]:
        """Look keys up; see `SharedCache.read`."""
        names = {redis_key(self._prefix, key): key for key in keys}
        answers: dict[Key, Answer] = {}
        lease_ms = self._lease_ms if lease else NO_LEASE
        decode_entry = self._codec.decode

        def take(node: Node, group: list[bytes], reply: Any) -> None:
            judge = Judge(view, self._mark(node, reply[1]), reply[0], node.slots, self._lease_seconds)
            for name, value in zip(group, islice(reply, 2, None), strict=True):
                key = names[name]
                if type(value) is bytes:
                    try:
                        answers[key] = judge.entry(key, decode_entry(name, value))
                    except CorruptDocument as fault:
                        answers[key] = Failed(fault, judge.nothing, value)
                else:
                    answers[key] = self._missing(judge, value)
            if judge.partial:
                answers.update((names[name], judge.unserved) for name in group if not judge.speaks_for(slot_of(name)))
            if judge.partial or not judge.trusted:  # the watermark may be one that another node has left behind
                self._connection.doubt_map()

        failed = await self._on_each_node(self._read, list(names), lambda group: [b" ".join((lease_ms, *group))], take)
        answers.update({names[name]: Failed(fault) for name, fault in failed.items()})
        return answers

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        wanted = {redis_key(self._prefix, fill.key): fill for fill in fills if _is_wanted(fill)}
        entries = {name: self._entry(name, fill, coherence) for name, fill in wanted.items()}
        stored: list[int] = []

        def arguments(group: list[bytes]) -> list[bytes]:
            misses = [wanted[name].absent for name in group]
            asked = b"".join([_ASKED.pack(miss.node_time_ms, miss.generation) for miss in misses])
            pairs = chain.from_iterable((name, entries[name]) for name in group)
            return [self._fill_age_max_ms, self._lease_ms, asked, *pairs]

        def take(_node: Node, _group: list[bytes], reply: Any) -> None:
            stored.append(reply)

        await self._on_each_node(self._fill, list(entries), arguments, take)
        return sum(stored)

    async def withdraw(self, withdrawals: Sequence[Withdrawal], coherence: Coherence) -> int:
        """Put fences in the place of entries; see `SharedCache.withdraw`."""
        unreadable = [each for each in withdrawals if each.evidence is not None]
        readable = [each for each in withdrawals if each.evidence is None]
        gone = 0
        if readable:
            gone += await self._take_out(self._withdraw, readable, coherence, lambda each: _VERSION.pack(each.version))
        if unreadable:
            gone += await self._take_out(self._withdraw_unreadable, unreadable, coherence, _likeness)
        return gone

    async def _take_out(
        self,
        script: Script,
        withdrawals: Sequence[Withdrawal],
        coherence: Coherence,
        told_by: Callable[[Withdrawal], bytes],
    ) -> int:
        """Put fences in the place of entries; `told_by` makes what tells the script that an entry is the one meant."""
        wanted = {redis_key(self._prefix, each.key): each for each in withdrawals}
        gone: list[int] = []

        def fence(name: bytes) -> bytes:
            return self._codec.encode_fence(
                name, wanted[name].fence, incarnation=coherence.incarnation, generation=coherence.highest
            )

        def arguments(group: list[bytes]) -> list[bytes]:
            parts = ((name, told_by(wanted[name]), fence(name)) for name in group)
            return [self._fence_ms, *chain.from_iterable(parts)]

        def take(_node: Node, _group: list[bytes], reply: Any) -> None:
            gone.append(reply)

        await self._on_each_node(script, list(wanted), arguments, take)
        return sum(gone)

    def _entry(self, name: bytes, fill: Fill, coherence: Coherence) -> bytes:
        if fill.row is None:
            return b""
        return self._codec.encode(
            name,
            fill.row,
            incarnation=coherence.incarnation,
            generation=max(coherence.highest, fill.absent.generation),
            read_at_ms=fill.absent.node_time_ms,
            ttl_ms=round(fill.ttl_seconds * 1000),
            tags=fill.tags,
        )

    def _mark(self, node: Node, data: bytes | None) -> Watermark | None:
        """The watermark in a reply; one that is still the last one seen is not decoded again."""
        if data is None:
            return None
        name = watermark_key(self._prefix, node.slots[0][0])
        known = self._marks.get(name)
        if known is None or known[0] != data:
            known = self._marks[name] = (data, decode(name, data))
        return known[1]

    def _missing(self, judge: Judge, left_ms: int | None) -> Absent:
        if left_ms is None:
            return judge.nothing
        if left_ms > 0:
            return judge.leased(left_ms)
        self._connection.doubt_map()
        return judge.unserved

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
            script,
            {
                node: [watermark_key(self._prefix, node.slots[0][0]), *arguments(group)]
                for node, group in groups.items()
            },
        )
        failed: dict[bytes, TierError] = {}
        for node, reply in replies.items():
            if isinstance(reply, TierError):
                failed.update(dict.fromkeys(groups[node], reply))
            else:
                take(node, groups[node], reply)
        return failed


def _likeness(withdrawal: Withdrawal) -> bytes:
    """What an unreadable entry is told by, in a few bytes: its size, and the SHA-1 of its beginning."""
    held = withdrawal.evidence or b""
    head = hashlib.sha1(held[:EVIDENCE_BYTES_MAX], usedforsecurity=False)  # the one digest that scripts of Redis have
    return b"%d:%b" % (len(held), head.hexdigest().encode())


def _is_wanted(fill: Fill) -> bool:
    """A node without a watermark takes no fill; a row that is not there only gives back a lease of one's own."""
    return fill.absent.generation != NO_GENERATION and (fill.row is not None or not fill.absent.leased_seconds)
