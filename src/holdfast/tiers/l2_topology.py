"""Which node of L2 serves which key (pure). The seed's "consistent hashing" is Redis Cluster's 16384 hash slots."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

SLOTS: Final = 16384

Ranges = tuple[tuple[int, int], ...]
"""First and last slot of each range, in rising order."""


def slot_of(name: bytes) -> int:
    """The slot of a key without a hash tag; `keys.redis_key` escapes the braces that would make one."""
    return binascii.crc_hqx(name, 0) % SLOTS


def covers(ranges: Ranges, slot: int) -> bool:
    """Whether a slot is in one of the ranges."""
    return any(first <= slot <= last for first, last in ranges)


class Node(msgspec.Struct, frozen=True, cache_hash=True):
    """A primary; implements `FenceTarget`.

    Attributes:
        name: host and port.
        slots: what it serves.
    """

    name: str
    slots: Ranges


class Topology:
    """Who serves each slot, as one `CLUSTER SLOTS` told it; never changed, only replaced.

    Args:
        nodes: the primaries, no slot at two of them. A slot nobody serves falls to the range before it, whose node will
            refuse it.
        is_cluster: whether nodes refuse the keys of others.
    """

    def __init__(self, nodes: Sequence[Node], *, is_cluster: bool = True) -> None:
        self.is_cluster = is_cluster
        self.nodes: tuple[Node, ...] = tuple(sorted(nodes, key=lambda node: node.slots))
        ranges = sorted((first, position) for position, node in enumerate(self.nodes) for first, _ in node.slots)
        # Positions in `nodes`: a lookup for each key of each read, so neither searched nor hashed.
        self._by_slot = [ranges[0][1]] * SLOTS
        for first, position in ranges:
            self._by_slot[first:] = [position] * (SLOTS - first)

    @classmethod
    def single(cls, name: str) -> Topology:
        """A server that is no cluster serves every key."""
        return cls([Node(name, ((0, SLOTS - 1),))], is_cluster=False)

    @classmethod
    def from_slots(cls, reply: Iterable[Sequence[Any]]) -> Topology:
        """Read the reply of `CLUSTER SLOTS`: rows of first slot, last slot, primary, replicas..."""
        slots: dict[str, list[tuple[int, int]]] = {}
        for first, last, primary, *_ in reply:
            host = _text(primary[0] or "")  # a node may not know its own
            slots.setdefault(f"{host}:{primary[1]}", []).append((int(first), int(last)))
        return cls([Node(name, tuple(sorted(ranges))) for name, ranges in slots.items()])

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
