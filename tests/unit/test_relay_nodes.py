"""Nodes of L2 that are away, go back, lose everything or change slots: the relay tells them, or begins them anew."""

from __future__ import annotations

import pytest

from fix_relay import KEYS, A, B, Bench, begun
from holdfast.errors import TierUnavailable
from holdfast.invalidation.relay import MARK_SECONDS
from holdfast.keys import Key, redis_key
from holdfast.tiers.l2_topology import Node, Topology, slot_of


@pytest.fixture
async def bench() -> Bench:
    """A relay that leads, over nodes that have begun."""
    return await begun()


async def test_a_node_that_is_away_is_told_when_it_is_back(bench: Bench) -> None:
    """It goes on from its own watermark, and with it come all the changes it missed, each once at its highest."""
    away = bench.owner(A)
    bench.l2.silent = {away}
    first = await bench.put(A, B)
    await bench.round()
    last = await bench.put(A)
    await bench.round()
    assert isinstance(bench.relay.fault, TierUnavailable)
    bench.l2.silent = set()
    await bench.round()
    assert (away, first | last) in bench.line.sent
    assert bench.fence(A) == last[A]
    assert bench.relay.restarts == 3
    assert bench.relay.fault is None


async def test_a_node_that_stays_away_does_not_hold_up_the_others(bench: Bench) -> None:
    """However long: they are told in the same round, and are not told again what it missed."""
    bench.l2.silent = {bench.owner(A)}
    for _ in range(5):
        versions = await bench.put(*KEYS)
        await bench.round()
        there = {key: version for key, version in versions.items() if bench.owner(key) not in bench.l2.silent}
        assert {key: bench.fence(key) for key in there} == there
        assert all(fenced == versions for name, fenced in bench.line.sent if name not in bench.l2.silent)


async def test_a_node_that_failed_is_left_alone_for_a_while(bench: Bench) -> None:
    """Rounds within a second do not wait for it again."""
    away = bench.owner(A)
    bench.l2.silent = {away}
    await bench.put(A)
    await bench.round()
    await bench.put(A)
    bench.line.sent.clear()
    await bench.relay._round()
    assert away not in dict(bench.line.sent)
    assert len(bench.line.sent) == 2


async def test_a_node_that_lost_everything_begins_anew_alone(bench: Bench) -> None:
    """The others go on where they were."""
    lost = bench.owner(A)
    await bench.put(A)
    await bench.round()
    bench.l2.forget(lost)
    before = bench.marks()
    await bench.put(A)
    await bench.round()
    await bench.round()
    after = bench.marks()
    generations = {name: mark.generation for name, mark in after.items() if mark is not None}
    assert bench.relay.restarts == 4
    assert all(before[name] is None or before[name].generation == generations[name] for name in generations)  # type: ignore[union-attr]
    assert max(generations, key=lambda name: generations[name]) == lost


async def test_a_node_that_lost_everything_is_found_out_though_nothing_changes(bench: Bench) -> None:
    """Within the time a watermark may be old: otherwise L2 would be of no use until somebody writes."""
    await bench.round()
    bench.l2.forget()
    bench.clock.advance(MARK_SECONDS)
    await bench.round()
    await bench.round()
    assert None not in bench.marks().values()
    assert bench.relay.restarts == 6


async def test_a_node_that_went_back_is_told_again_what_it_lost(bench: Bench) -> None:
    """A replica that was behind, or an old dump, shows itself by its watermark."""
    old = bench.l2.dump()
    versions = await bench.put(A)
    await bench.round()
    bench.l2.restore(old, bench.owner(A))
    assert bench.fence(A) is None
    await bench.put(B)
    await bench.round()
    await bench.round()
    assert bench.fence(A) == versions[A]
    assert bench.relay.restarts == 3


def give(bench: Bench, key: Key) -> tuple[Node, Node]:
    """Move a key's slot, with all that is in it, to the next node; returns the giver and the receiver."""
    giver, slot = bench.l2._node(key), slot_of(redis_key(b"", key))
    others = [node for node in bench.l2._topology.nodes if node != giver]
    left = tuple(
        part
        for first, last in giver.slots
        for part in ((first, min(slot - 1, last)), (max(slot + 1, first), last))
        if part[0] <= part[1]
    )
    poorer = Node(giver.name, left)
    richer = Node(others[0].name, tuple(sorted([*others[0].slots, (slot, slot)])))
    bench.l2._topology = Topology([poorer, richer, others[1]])
    held = bench.l2._contents
    for each in [each for each in held[giver.name].held if slot_of(redis_key(b"", each)) == slot]:
        held[richer.name].held[each] = held[giver.name].held.pop(each)
    return poorer, richer


@pytest.mark.parametrize("owner_is", ["up to date", "behind", "away", "of the past"])
async def test_a_node_that_was_given_slots_begins_anew(bench: Bench, owner_is: str) -> None:
    """Nobody can tell for sure what the former owner was told last, so nothing counts that came with the slots."""
    old = bench.l2.dump()
    if owner_is in {"behind", "away"}:
        bench.l2.silent = {bench.owner(A)}
    await bench.put(A)
    await bench.round()
    if owner_is == "of the past":
        bench.l2.restore(old, bench.owner(A))
    if owner_is != "away":
        bench.l2.silent = set()
    _, receiver = give(bench, A)
    before = bench.marks()[receiver.name]
    await bench.round()
    after = bench.marks()[receiver.name]
    assert before is not None
    assert after is not None
    assert after.slots == receiver.slots
    assert after.generation > before.generation
    assert bench.relay.restarts == 4


async def test_a_node_that_lost_slots_goes_on(bench: Bench) -> None:
    """It was told all of what it still serves: its watermark is moved, and nothing is told again."""
    await bench.put(A)
    await bench.round()
    giver, _ = give(bench, A)
    before = bench.marks()[giver.name]
    await bench.round()
    after = bench.marks()[giver.name]
    assert (giver.name, {}) in bench.line.sent
    assert before is not None
    assert after is not None
    assert after.slots == giver.slots
    assert after.generation == before.generation
