"""L2 on a cluster of its own, whose slots are moved and whose nodes are full."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fix_cluster import HALF, Cluster
from fix_l2 import RedisHarness, connection_to, started
from holdfast.errors import TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Fill
from holdfast.testing import ManualClock
from holdfast.testing.conformance.l2_harness import COHERENCE, KEY, VIEW, mark_of, row
from holdfast.tiers.l2_topology import slot_of


@pytest.fixture
def clock() -> ManualClock:
    """The clock by which the map of nodes ages."""
    return ManualClock()


@pytest.fixture
async def pair(cluster: Cluster, clock: ManualClock) -> AsyncIterator[RedisHarness]:
    """L2 on a cluster of two nodes."""
    connection = connection_to(*cluster.urls, clock=clock)
    yield RedisHarness(connection, b"two:")  # with it, the suites' key is served by the second node
    await connection.close()


async def test_a_full_node_still_answers_and_is_told(cluster: Cluster, pair: RedisHarness) -> None:
    """Without room for fills, hits stay hits, and fences and watermarks arrive: no old value is served."""
    suite, l2 = await started(pair)
    await suite.fill(l2, row(5))
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "maxmemory", 1)
    assert await suite.version(l2) == 5
    assert await suite.fill(l2, row(6)) == 0
    await suite.fence(l2, {KEY: 6})
    assert await suite.version(l2) == 0


async def test_a_moved_slot_is_a_miss_until_the_watermark_lists_it(
    cluster: Cluster, pair: RedisHarness, clock: ManualClock
) -> None:
    """C3: the value moves along, but the new owner's watermark says nothing of it; nor does it take a fill."""
    suite, l2 = await started(pair)
    await suite.fill(l2, row(5))
    assert await suite.version(l2) == 5
    slot = slot_of(pair.name)
    assert slot > HALF
    cluster.move(slot, 1, 0)
    assert (await suite.missed(l2)).generation == -1, "the old owner answered for it"
    clock.advance(2.0)

    async def mapped() -> bool:
        await suite.missed(l2)
        nodes = (await pair.connection.topology()).nodes
        return any((slot, slot) in node.slots for node in nodes)

    await suite.until(mapped)
    absent = await suite.missed(l2, lease=True)
    assert absent.generation == -1
    assert await suite.fill(l2, row(6), absent) == 0
    for target in await l2.sink.targets():
        before = await l2.sink.watermark(target)
        assert before is not None
        assert await l2.sink.advance(target, before, mark_of(target, at=11), {})
    assert await suite.version(l2) == 5


async def test_targets_follow_moved_slots(cluster: Cluster, pair: RedisHarness, clock: ManualClock) -> None:
    """The relay sees within a second who serves what; what it meant for the former owner is refused."""
    _suite, l2 = await started(pair)
    old, _ = await l2.sink.targets()
    cluster.move(100, 0, 1)
    assert (await l2.sink.targets())[0] == old
    clock.advance(1.1)
    first, second = await l2.sink.targets()
    assert first.slots == ((0, 99), (101, HALF - 1))
    assert second.slots == ((100, 100), (HALF, 16383))
    with pytest.raises(TierUnavailable, match="other slots"):
        await l2.sink.advance(old, mark_of(old), mark_of(old, at=11), {})


async def test_a_node_whose_lowest_slot_moved_has_no_watermark(
    cluster: Cluster, pair: RedisHarness, clock: ManualClock
) -> None:
    """Its watermark went along with the slot: reads by the old map, and by the new one, are misses, not errors."""
    _suite, l2 = await started(pair)
    keys = [Key("bot", f"b{number}") for number in range(40)]
    absent = await l2.cache.read(keys, VIEW, lease=False)
    fills = [Fill(key, row(5), 900.0, each) for key, each in absent.items() if isinstance(each, Absent)]
    assert await l2.cache.fill(fills, COHERENCE) == 40
    served = {key for key in keys if slot_of(pair.prefix + str(key).encode()) < HALF}
    cluster.move(0, 0, 1)
    answers = await l2.cache.read(keys, VIEW, lease=False)
    assert {key for key, each in answers.items() if isinstance(each, Absent)} == served
    assert {key for key, each in answers.items() if isinstance(each, Cached)} == set(keys) - served
    clock.advance(1.1)
    receiver, giver = await l2.sink.targets()
    assert (receiver.slots[0], giver.slots[0]) == ((0, 0), (1, HALF - 1))
    left_behind, none = [await l2.sink.watermark(target) for target in (receiver, giver)]
    assert left_behind is not None
    assert left_behind.slots == ((0, HALF - 1),)
    assert none is None
    answers = await l2.cache.read(keys, VIEW, lease=False)
    assert {each.generation for each in answers.values() if isinstance(each, Absent)} == {-1}
    assert await l2.sink.advance(receiver, left_behind, mark_of(receiver, at=11), {})
    assert {key for key, each in (await l2.cache.read(keys, VIEW)).items() if isinstance(each, Cached)} == set(
        keys
    ) - served


async def test_a_fence_in_a_slot_under_way_moves_no_watermark(
    cluster: Cluster, pair: RedisHarness, clock: ManualClock
) -> None:
    """A key that may already be at the next owner cannot be fenced: the node is not told, and says so."""
    suite, l2 = await started(pair)
    slot = slot_of(pair.name)
    _, owner = await l2.sink.targets()
    cluster.begin_move(slot, 1, 0)
    assert (await suite.missed(l2, lease=True)).generation == -1
    with pytest.raises(TierUnavailable):
        await l2.sink.advance(owner, mark_of(owner), mark_of(owner, at=11), {KEY: 6})
    clock.advance(1.1)
    assert await l2.sink.watermark(owner) == mark_of(owner)
