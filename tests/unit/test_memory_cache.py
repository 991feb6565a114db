"""L2 in memory: what tests can do to it, and its times by a clock that is set by hand."""

from __future__ import annotations

import pytest

from fix_l2 import MemoryL2
from holdfast.errors import TierUnavailable
from holdfast.protocols import Absent, Cached, Failed, Row
from holdfast.testing import ManualClock, MemoryCache
from holdfast.testing.conformance.l2_harness import KEY, L2Suite, mark_of, row


class Memory(L2Suite):
    """One L2 in memory, of some nodes, all with a watermark."""

    def __init__(self, nodes: int = 1) -> None:
        self.clock = ManualClock()
        self.cache = MemoryCache(self.clock, fence_lifetime_seconds=60.0, lease_seconds=2.0, nodes=nodes)
        self.l2 = MemoryL2(self.cache, self.cache)

    async def start(self) -> Memory:
        """Write the watermarks."""
        await self.begin_anew(self.l2, 90)
        return self


async def test_one_that_is_away_says_so_for_each_call() -> None:
    """Reads are errors, fills do not arrive, the relay is told; afterwards it answers what it held."""
    memory = await Memory().start()
    (target,) = await memory.cache.targets()
    await memory.fill(memory.l2, row(5))
    absent = await memory.miss(memory.l2)
    memory.cache.away = True
    failed = await memory.read(memory.l2)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TierUnavailable)
    assert await memory.fill(memory.l2, row(6), absent) == 0
    for call in (
        memory.cache.targets(),
        memory.cache.watermark(target),
        memory.cache.advance(target, mark_of(target), mark_of(target, at=11), {}),
    ):
        with pytest.raises(TierUnavailable):
            await call
    memory.cache.away = False
    assert await memory.version(memory.l2) == 5


async def test_a_silent_node_costs_its_own_keys_only() -> None:
    """The others answer, and the relay can tell them."""
    memory = await Memory(nodes=2).start()
    first, second = await memory.cache.targets()
    owner = memory.cache._node(KEY)
    other = second if owner == first else first
    memory.cache.silent.add(other.name)
    assert isinstance(await memory.read(memory.l2), Absent)
    with pytest.raises(TierUnavailable, match=other.name):
        await memory.cache.watermark(other)
    assert await memory.cache.watermark(owner) == mark_of(owner)
    memory.cache.silent = {owner.name}
    assert isinstance(await memory.read(memory.l2), Failed)


async def test_entries_and_fences_end_by_its_clock() -> None:
    """A TTL counts from the read of L3, a fence from its arrival."""
    memory = await Memory().start()
    began = await memory.miss(memory.l2)
    memory.clock.advance(20)
    await memory.fill(memory.l2, row(5), began, ttl_seconds=100.0)
    memory.clock.advance(79)
    answer = await memory.read(memory.l2)
    assert answer == Cached(Row(5, 5, 1, row(5).body), 1.0, 99.0)
    memory.clock.advance(1)
    assert await memory.version(memory.l2) == 0
    await memory.fence(memory.l2, {KEY: 9})
    memory.clock.advance(59)
    assert await memory.fill(memory.l2, row(8)) == 0
    memory.clock.advance(1)
    assert await memory.fill(memory.l2, row(8)) == 1


@pytest.mark.parametrize("fenced", [True, False])
async def test_a_lease_ends_by_its_clock(fenced: bool) -> None:  # noqa: FBT001 - a parameter of the case
    """To the millisecond; on a key that held nothing, nothing is left of it."""
    memory = await Memory().start()
    if fenced:
        await memory.fence(memory.l2, {KEY: 6})
    await memory.missed(memory.l2, lease=True)
    memory.clock.advance(1.999)
    assert (await memory.missed(memory.l2, lease=True)).leased_seconds == 0.001
    memory.clock.advance(0.001)
    assert (await memory.missed(memory.l2, lease=True)).leased_seconds == 0
    assert (await memory.missed(memory.l2, lease=True)).leased_seconds == 2.0


async def test_it_forgets_what_it_is_told_to() -> None:
    """A node alone, or all: data and watermark."""
    memory = await Memory(nodes=2).start()
    await memory.fill(memory.l2, row(5))
    first, second = await memory.cache.targets()
    owner = memory.cache._node(KEY)
    other = second if owner == first else first
    memory.cache.forget(other.name)
    assert await memory.version(memory.l2) == 5
    assert await memory.cache.watermark(other) is None
    memory.cache.forget()
    assert (await memory.missed(memory.l2)).generation == -1


async def test_one_node_goes_back_alone() -> None:
    """A copy is not changed by what happens later, and can be taken up by one node, more than once."""
    memory = await Memory(nodes=2).start()
    owner = memory.cache._node(KEY)
    (other,) = [target for target in await memory.cache.targets() if target != owner]
    await memory.fill(memory.l2, row(5))
    copy = memory.cache.dump()
    for _ in range(2):
        await memory.fence(memory.l2, {KEY: 6})
        assert await memory.version(memory.l2) == 0
        memory.cache.restore(copy, owner.name)
        assert await memory.version(memory.l2) == 5
        assert await memory.cache.watermark(owner) == mark_of(owner)
        assert await memory.cache.watermark(other) != mark_of(other)
