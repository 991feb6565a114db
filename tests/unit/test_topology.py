"""Which node of L2 serves which key."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.keys import Key, redis_key
from holdfast.tiers.l2_topology import SLOTS, Node, Topology, covers, slot_of

THREE = [
    [10923, 16383, [b"10.0.0.3", 7002, b"id-c", []], [b"10.0.0.6", 7005, b"id-f", []]],
    [0, 5460, [b"10.0.0.1", 7000, b"id-a", []], [b"10.0.0.4", 7003, b"id-d", []]],
    [5461, 10922, [b"10.0.0.2", 7001, b"id-b", []]],
]
names = st.binary(min_size=1, max_size=20).filter(lambda name: b"{" not in name)


@pytest.mark.parametrize(("name", "slot"), [(b"foo", 12182), (b"bar", 5061), (b"hello", 866), (b"123456789", 0x31C3)])
def test_slots_are_those_of_redis_cluster(name: bytes, slot: int) -> None:
    """CRC-16/XMODEM modulo 16384: the last one is the check value of the specification."""
    assert slot_of(name) == slot


@given(identifier=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_key_has_no_hash_tag_that_would_move_it(identifier: str) -> None:
    """The slot is that of the whole name, as the server counts it too: names of keys have no braces."""
    name = redis_key(b"vrooli:", Key("bot", identifier))
    assert b"{" not in name
    assert 0 <= slot_of(name) < SLOTS


def test_the_map_names_each_primary_once() -> None:
    """With what it serves; replicas and the order of the reply do not matter; addresses read as host:port."""
    assert Topology.from_slots(THREE).nodes == (
        Node("10.0.0.1:7000", ((0, 5460),)),
        Node("10.0.0.2:7001", ((5461, 10922),)),
        Node("10.0.0.3:7002", ((10923, 16383),)),
    )


def test_a_primary_of_several_ranges_is_one_node() -> None:
    """After slots were moved, the keys of all its ranges share one round trip."""
    moved = Topology.from_slots(
        [[0, 99, ["a", 1]], [100, 199, ["b", 1]], [200, 16000, ["a", 1]], [16001, 16383, ["b", 1]]]
    )
    assert moved.nodes == (
        Node("a:1", ((0, 99), (200, 16000))),
        Node("b:1", ((100, 199), (16001, 16383))),
    )
    assert moved.node_of(b"foo") == moved.nodes[0]
    assert moved.node_of(b"bar") == moved.nodes[0]


def test_hosts_may_be_text_or_bytes() -> None:
    """Clients decode the reply or leave it; the nodes are the same."""
    for host in ("::1", b"::1"):
        assert Topology.from_slots([[0, 16383, [host, 7000]]]).nodes == (Node("::1:7000", ((0, 16383),)),)


@settings(max_examples=200)
@given(
    starts=st.sets(st.integers(1, SLOTS - 1), max_size=12),
    owners=st.lists(st.integers(0, 4), min_size=13, max_size=13),
    name=names,
    order=st.randoms(use_true_random=False),
)
def test_each_key_goes_to_the_primary_of_its_slot(starts: set[int], owners: list[int], name: bytes, order: Any) -> None:
    """Over any division of the slots, the node is the one whose range holds the key's slot."""
    firsts = [0, *sorted(starts)]
    rows = [
        [first, last - 1, [f"host{owner}", 7000]]
        for first, last, owner in zip(firsts, [*firsts[1:], SLOTS], owners, strict=False)
    ]
    owner = owners[bisect_right(firsts, slot_of(name)) - 1]
    order.shuffle(rows)
    node = Topology.from_slots(rows).node_of(name)
    assert node.name == f"host{owner}:7000"
    assert covers(node.slots, slot_of(name))


@pytest.mark.parametrize(("last", "node"), [(12180, "b:1"), (12181, "b:1"), (12182, "a:1")])
def test_a_range_holds_its_first_and_its_last_slot(last: int, node: str) -> None:
    """The key of slot 12182 moves to the other node exactly when the border passes it."""
    topology = Topology.from_slots([[0, last, ["a", 1]], [last + 1, 16383, ["b", 1]]])
    assert topology.node_of(b"foo").name == node


@pytest.mark.parametrize(("name", "node"), [(b"bar", "a:1"), (b"foo", "b:1"), (b"hello", "a:1")])
def test_a_slot_that_nobody_serves_falls_to_a_neighbour(name: bytes, node: str) -> None:
    """A cluster with a gap still gives every key a node, which refuses what is not its own."""
    gaps = Topology.from_slots([[1000, 2000, ["a", 1]], [11000, 12000, ["b", 1]]])
    assert gaps.node_of(name).name == node


@given(st.lists(names, max_size=50))
def test_groups_hold_each_key_once_in_order_at_its_node(batch: list[bytes]) -> None:
    """Grouping loses nothing, doubles nothing and keeps the order within a node."""
    topology = Topology.from_slots(THREE)
    groups = topology.group(batch)
    assert sorted(name for group in groups.values() for name in group) == sorted(batch)
    for node, group in groups.items():
        assert group == [name for name in batch if topology.node_of(name) == node]
        assert group


def test_a_single_server_serves_every_key() -> None:
    """Without a cluster there is one node, of all slots."""
    single = Topology.single("cache.example:6379")
    assert single.nodes == (Node("cache.example:6379", ((0, 16383),)),)
    assert single.group([b"a", b"foo", b"a"]) == {single.nodes[0]: [b"a", b"foo", b"a"]}


@pytest.mark.parametrize(("slot", "inside"), [(0, False), (1, True), (5, True), (6, False), (9, True), (10, False)])
def test_ranges_include_their_ends(slot: int, inside: bool) -> None:  # noqa: FBT001 - a parameter of the case
    """First and last slot are covered, what lies between two ranges is not."""
    assert covers(((1, 5), (9, 9)), slot) is inside
