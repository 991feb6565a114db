"""Which node of L2 serves which key (pure). The seed's "consistent hashing" is Redis Cluster's 16384 hash slots."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

SLOTS: Final = 16384


def slot_of(name: bytes) -> int:
    """The slot of a key without a hash tag; `keys.redis_key` escapes the braces that would make one."""
    return binascii.crc_hqx(name, 0) % SLOTS


class Node(msgspec.Struct, frozen=True):
    """A primary.

    Attributes:
        address: host and port, for messages.
    """

    address: str


class Topology:
    """Who serves each slot, as one `CLUSTER SLOTS` told it; never changed, only replaced.

    Args:
        ranges: first slot and primary of each range, in order. A slot nobody serves falls to the range before it, whose
            node will refuse it.
    """

    def __init__(self, ranges: Sequence[tuple[int, Node]]) -> None:
        self.nodes: tuple[Node, ...] = tuple(dict.fromkeys(node for _, node in ranges))
        # Positions in `nodes`: a lookup for each key of each read, so neither searched nor hashed.
        self._by_slot = [self.nodes.index(ranges[0][1])] * SLOTS
        for first, node in ranges:
            self._by_slot[first:] = [self.nodes.index(node)] * (SLOTS - first)

    @classmethod
    def single(cls, address: str) -> Topology:
        """A server that is no cluster serves every key."""
        return cls([(0, Node(address))])

    @classmethod
    def from_slots(cls, reply: Iterable[Sequence[Any]]) -> Topology:
        """Read the reply of `CLUSTER SLOTS`: rows of first slot, last slot, primary, replicas..."""
        ranges = [
            (int(first), Node(f"{_text(primary[0])}:{primary[1]}"))
            for first, _last, primary, *_ in sorted(reply, key=lambda row: int(row[0]))
        ]
        return cls(ranges)

    def node_of(self, name: bytes) -> Node:
        """The primary that serves a key."""
        return self.nodes[self._by_slot[slot_of(name)]]

    def group(self, names: Iterable[bytes]) -> dict[Node, list[bytes]]:
        """Keys by the node that serves them, order kept within each."""
        groups: list[list[bytes]] = [[] for _ in self.nodes]
        for name in names:
            groups[self._by_slot[binascii.crc_hqx(name, 0) % SLOTS]].append(name)
        return {node: group for node, group in zip(self.nodes, groups, strict=True) if group}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
