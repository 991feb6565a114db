"""Which node of L2 serves which key (pure). The seed's "consistent hashing" is Redis Cluster's 16384 hash slots."""

from __future__ import annotations

import binascii
from bisect import bisect_right
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
        slot: one slot it serves, by which it is addressed; None for a server that is no cluster.
    """

    address: str
    slot: int | None


class Topology:
    """Slot ranges and their primaries, as one `CLUSTER SLOTS` told them; never changed, only replaced."""

    def __init__(self, starts: Sequence[int], nodes: Sequence[Node]) -> None:
        self._starts = starts
        self._range_nodes = nodes
        self.nodes: tuple[Node, ...] = tuple(dict.fromkeys(nodes))

    @classmethod
    def single(cls, address: str) -> Topology:
        """A server that is no cluster serves every key."""
        return cls([0], [Node(address, None)])

    @classmethod
    def from_slots(cls, reply: Iterable[Sequence[Any]]) -> Topology:
        """Read the reply of `CLUSTER SLOTS`: rows of first slot, last slot, primary, replicas..."""
        first_slot: dict[str, Node] = {}
        ranges = []
        for first, _last, primary, *_ in sorted(reply, key=lambda row: int(row[0])):
            address = f"{_text(primary[0])}:{primary[1]}"
            ranges.append((int(first), first_slot.setdefault(address, Node(address, int(first)))))
        return cls([first for first, _ in ranges], [node for _, node in ranges])

    def node_of(self, name: bytes) -> Node:
        """The primary that serves a key. A slot nobody serves falls to a neighbour, which will refuse it."""
        if len(self._range_nodes) == 1:
            return self._range_nodes[0]
        return self._range_nodes[max(0, bisect_right(self._starts, slot_of(name)) - 1)]

    def group(self, names: Iterable[bytes]) -> dict[Node, list[bytes]]:
        """Keys by the node that serves them, order kept within each."""
        groups: dict[Node, list[bytes]] = {}
        for name in names:
            groups.setdefault(self.node_of(name), []).append(name)
        return groups


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
