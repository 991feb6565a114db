"""The contract of `FenceSink`, rule by rule."""

from __future__ import annotations

from holdfast.keys import Key
from holdfast.protocols import Absent, Fill
from holdfast.testing.conformance.l2_harness import COHERENCE, KEY, L2, OTHER, VIEW, L2Suite, mark_of, row

MANY = [Key("bot", f"b{number}") for number in range(2500)]


class FenceSinkSuite(L2Suite):
    """The checks.

    Args:
        harness: of an empty L2.
    """

    async def check_the_nodes_divide_all_slots(self) -> None:
        """Every slot is served by one node, and each node is named once."""
        targets = await self.harness.open().sink.targets()
        ranges = sorted(each for target in targets for each in target.slots)
        assert ranges[0][0] == 0
        assert [first for first, _ in ranges[1:]] == [last + 1 for _, last in ranges[:-1]]
        assert ranges[-1][1] == 16383
        assert len({target.name for target in targets}) == len(targets)

    async def check_a_watermark_is_read_back(self) -> None:
        """A new node has none; what was written is read, of each node its own."""
        sink = self.harness.open().sink
        targets = await sink.targets()
        assert [await sink.watermark(target) for target in targets] == [None] * len(targets)
        marks = [mark_of(target, at=10 + number) for number, target in enumerate(targets)]
        for target, mark in zip(targets, marks, strict=True):
            assert await sink.advance(target, None, mark, {})
        assert [await sink.watermark(target) for target in targets] == marks

    async def check_only_the_watermark_last_seen_is_moved(self) -> None:
        """One who saw another watermark, or none, moves nothing and fences nothing."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        for target in await l2.sink.targets():
            for seen in (mark_of(target, at=9), mark_of(target, generation=80), None):
                assert not await l2.sink.advance(target, seen, mark_of(target, at=20), {KEY: 6})
            assert await l2.sink.watermark(target) == mark_of(target)
        assert await self.fill(l2, row(5), began) == 1

    async def check_of_two_relays_one_succeeds(self) -> None:
        """What the one moved, the other cannot move from where it was."""
        l2 = await self.prepared()
        for target in await l2.sink.targets():
            outcomes = [await l2.sink.advance(target, mark_of(target), mark_of(target, at=at), {}) for at in (11, 12)]
            assert outcomes == [True, False]
            assert await l2.sink.watermark(target) == mark_of(target, at=11)

    async def check_a_fence_reaches_only_the_node_that_serves_its_key(self) -> None:
        """Told all keys, each node fences its own; together they fence them all, however many there are."""
        l2 = await self.prepared()
        began = {key: await self.absent(l2, key) for key in MANY[:50]}
        late = [Fill(key, row(number + 5), 900.0, absent) for number, (key, absent) in enumerate(began.items())]
        await self.fence(l2, {key: number + 6 for number, key in enumerate(MANY)})
        assert await l2.cache.fill(late, COHERENCE) == 0
        last, version = MANY[-1], len(MANY) + 5
        absent = await self.absent(l2, last)
        fills = [Fill(last, row(each), 900.0, absent) for each in (version - 1, version)]
        assert [await l2.cache.fill([fill], COHERENCE) for fill in fills] == [0, 1]

    async def check_a_fence_never_lowers(self) -> None:
        """A late fence of an old version leaves a newer value, and a newer fence, in place."""
        l2 = await self.prepared()
        await self.fill(l2, row(9))
        await self.fence(l2, {KEY: 7})
        assert await self.version(l2) == 9
        await self.fence(l2, {KEY: 12})
        await self.fence(l2, {KEY: 10})
        assert await self.fill(l2, row(11)) == 0

    async def check_a_fence_of_another_incarnation_stands_over_any_version(self) -> None:
        """What an earlier incarnation left says nothing: an older value of the new one is refused all the same."""
        l2 = await self.prepared()
        await self.fill(l2, row(9))
        for target in await l2.sink.targets():
            after = mark_of(target, incarnation=OTHER.incarnation)
            assert await l2.sink.advance(target, mark_of(target), after, {KEY: 6})
        assert await self.fill(l2, row(5), coherence=OTHER) == 0
        assert await self.fill(l2, row(6), coherence=OTHER) == 1

    async def check_versions_above_53_bits_are_told_apart(self) -> None:
        """A fence just above a value hides it, one just below does not."""
        l2 = await self.prepared()
        await self.fill(l2, row(2**62 + 1))
        await self.fence(l2, {KEY: 2**62})
        assert await self.version(l2) == 2**62 + 1
        await self.fence(l2, {KEY: 2**62 + 2})
        assert await self.version(l2) == 0

    async def check_a_lower_fence_renews_the_higher_one(self) -> None:
        """A fence of a delete lives as long as each later fence of its key would have."""
        l2 = await self.prepared(fence_lifetime_seconds=1.0)
        await self.fence(l2, {KEY: 12})
        began = await self.miss(l2)

        async def renewed_for_a_lifetime() -> bool:
            await self.fence(l2, {KEY: 10})
            return (await self.miss(l2)).node_time_ms > began.node_time_ms + 1000

        await self.until(renewed_for_a_lifetime)
        assert await self.fill(l2, row(11)) == 0

    async def check_a_fence_ends_with_its_lifetime(self) -> None:
        """Then an older version can be filled again: by then no reader that began before the fence may fill."""
        l2 = await self.prepared(fence_lifetime_seconds=0.3)
        await self.fence(l2, {KEY: 12})

        async def admitted() -> bool:
            return await self.fill(l2, row(11)) == 1

        assert not await admitted()
        await self.until(admitted)

    async def check_a_node_that_went_back_is_found_out(self) -> None:
        """Data and watermark go back together: the value that was fenced is there again, and the watermark says so."""
        l2 = await self.prepared()
        await self.fill(l2, row(5))
        old = await self.harness.dump()
        await self.fence(l2, {KEY: 6})
        seen = {target.name: await l2.sink.watermark(target) for target in await l2.sink.targets()}
        await self.harness.restore(old)
        assert await self.version(l2) == 5
        for target in await l2.sink.targets():
            assert not await l2.sink.advance(target, seen[target.name], mark_of(target, at=20), {})
            assert await l2.sink.watermark(target) == mark_of(target)
        await self.fence(l2, {KEY: 6})
        assert await self.version(l2) == 0

    async def check_a_node_that_lost_everything_is_found_out(self) -> None:
        """It has no watermark any more, and what was seen of it before cannot be moved."""
        l2 = self.harness.open()
        empty = await self.harness.dump()
        targets = await l2.sink.targets()
        for target in targets:
            assert await l2.sink.advance(target, None, mark_of(target), {})
        await self.harness.restore(empty)
        for target in targets:
            assert not await l2.sink.advance(target, mark_of(target), mark_of(target, at=11), {KEY: 6})
            assert await l2.sink.watermark(target) is None
            assert await l2.sink.advance(target, None, mark_of(target, generation=200), {})
        assert (await self.missed(l2)).generation == 200

    async def absent(self, l2: L2, key: Key) -> Absent:
        """A miss of a key."""
        answer = (await l2.cache.read([key], VIEW, lease=False))[key]
        assert isinstance(answer, Absent), answer
        return answer
