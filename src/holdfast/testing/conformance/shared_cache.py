"""The contract of `SharedCache`, rule by rule."""

from __future__ import annotations

import msgspec

from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Coherence, Fill
from holdfast.testing.conformance.l2_harness import COHERENCE, KEY, OTHER, VIEW, mark_of, row
from holdfast.testing.conformance.withdrawals import WithdrawalSuite
from holdfast.testing.views import FixedView

LATE_MS = 3 * 60 * 1000


class SharedCacheSuite(WithdrawalSuite):
    """The checks, with those of withdrawals.

    Args:
        harness: of an empty L2.
    """

    async def check_a_fill_is_read_back(self) -> None:
        """What was filled is a hit, with its version, body and remaining time."""
        l2 = await self.prepared()
        await self.fill(l2, row(5))
        answer = await self.read(l2)
        assert isinstance(answer, Cached), answer
        assert answer.row == row(5)
        assert 890 < answer.remaining_seconds <= 900
        assert 0 <= answer.age_seconds < 10

    async def check_nothing_is_absent(self) -> None:
        """A key never filled is absent, and its miss carries the node's clock and generation."""
        answer = await self.missed(await self.prepared())
        assert answer.node_time_ms > 0
        assert (answer.generation, answer.leased_seconds) == (90, 0)

    async def check_many_keys_at_once(self) -> None:
        """Keys of every node come back from one call, each with its own value."""
        l2 = await self.prepared()
        keys = [Key("bot", f"b{number}") for number in range(200)]
        read = await l2.cache.read(keys, VIEW)
        fills = [Fill(key, row(number + 1), 900.0, self.miss_in(read[key])) for number, key in enumerate(keys)]
        assert await l2.cache.fill(fills, COHERENCE) == 200
        again = await l2.cache.read(keys, VIEW)
        assert [self.version_of(again[key]) for key in keys] == list(range(1, 201))

    async def check_an_older_version_never_replaces_a_newer_one(self) -> None:
        """A fill below what is held is refused."""
        l2 = await self.prepared()
        await self.fill(l2, row(9))
        assert await self.fill(l2, row(8)) == 0
        assert await self.version(l2) == 9

    async def check_a_fence_hides_older_values_and_refuses_them(self) -> None:
        """After a fence the old value is absent, and a reader that began before cannot bring it back."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        await self.fill(l2, row(5))
        await self.fence(l2, {KEY: 6})
        assert await self.version(l2) == 0
        assert await self.fill(l2, row(5), began) == 0
        assert await self.version(l2) == 0

    async def check_a_fence_admits_what_it_announced(self) -> None:
        """The fenced version itself, and newer ones, can be filled."""
        l2 = await self.prepared()
        await self.fence(l2, {KEY: 6})
        assert await self.fill(l2, row(6)) == 1
        assert await self.version(l2) == 6

    async def check_a_fill_that_comes_minutes_late_is_refused(self) -> None:
        """A read begun longer ago than half a fence's lifetime fills nothing: its fence may be gone by now."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        late = msgspec.structs.replace(began, node_time_ms=began.node_time_ms - LATE_MS)
        assert await self.fill(l2, row(5), late) == 0
        assert await self.version(l2) == 0

    async def check_a_fill_from_the_future_is_refused(self) -> None:
        """A node whose clock went back takes no fill of a read that began after now."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        early = msgspec.structs.replace(began, node_time_ms=began.node_time_ms + LATE_MS)
        assert await self.fill(l2, row(5), early) == 0

    async def check_another_incarnation_is_absent(self) -> None:
        """What was filled under another incarnation of L3 is no hit, and stops no fill under the new one."""
        l2 = await self.prepared()
        await self.fill(l2, row(9))
        assert await self.version(l2, FixedView(OTHER)) == 0
        for target in await l2.sink.targets():
            before = await l2.sink.watermark(target)
            after = mark_of(target, incarnation=OTHER.incarnation)
            assert await l2.sink.advance(target, before, after, {})
        assert await self.fill(l2, row(2), coherence=OTHER) == 1
        assert await self.version(l2, FixedView(OTHER)) == 2

    async def check_a_fill_of_another_incarnation_is_refused(self) -> None:
        """A filler that lives in another incarnation than the node's watermark stores nothing."""
        l2 = await self.prepared()
        assert await self.fill(l2, row(5), coherence=OTHER) == 0
        assert await self.version(l2, FixedView(OTHER)) == 0
        assert await self.fill(l2, row(5)) == 1

    async def check_an_older_generation_is_absent(self) -> None:
        """An entry filled below its kind's generation is void, and can be filled again at the same version."""
        l2 = await self.prepared()
        await self.fill(l2, row(9))
        raised = Coherence(COHERENCE.incarnation, {"all": 100, "kind:bot": 101})
        assert await self.version(l2, FixedView(raised)) == 0
        other = Coherence(COHERENCE.incarnation, {"all": 100, "kind:team": 101})
        assert await self.version(l2, FixedView(other)) == 9
        assert await self.fill(l2, row(9), coherence=raised) == 1
        assert await self.version(l2, FixedView(raised)) == 9

    async def check_an_entry_below_the_nodes_generation_is_absent(self) -> None:
        """When the node began anew, what it held before is void, whatever generations of L3 are known."""
        l2 = await self.prepared()
        await self.fill(l2, row(9))
        await self.begin_anew(l2, 200)
        assert await self.version(l2) == 0
        assert await self.fill(l2, row(9)) == 1
        assert await self.version(l2) == 9

    async def check_a_fill_under_an_older_generation_of_the_node_is_refused(self) -> None:
        """A read whose miss was told by the node before it began anew fills nothing, however much its filler knows."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        await self.begin_anew(l2, 200)
        informed = Coherence(COHERENCE.incarnation, {"all": 300})
        assert await self.fill(l2, row(5), began, coherence=informed) == 0
        assert await self.fill(l2, row(5), coherence=informed) == 1

    async def check_an_entry_carries_the_highest_generation(self) -> None:
        """It counts under the generation of L3 that its filler knew, and under the node's, whichever is higher."""
        l2 = await self.prepared()
        informed = Coherence(COHERENCE.incarnation, {"all": 150})
        await self.fill(l2, row(5), coherence=informed)
        assert await self.version(l2, FixedView(informed)) == 5
        await self.begin_anew(l2, 160)
        await self.fill(l2, row(6), coherence=informed)
        assert await self.version(l2, FixedView(informed)) == 6

    async def check_an_entry_has_the_tags_it_was_filled_with(self) -> None:
        """Any, none at all, or those of a kind that declares none."""
        l2 = await self.prepared()
        for version, tags in enumerate((None, (), ("bot:b1", "日本")), 5):
            await self.fill(l2, row(version), tags=tags)
            answer = await self.read(l2)
            assert isinstance(answer, Cached), answer
            assert (answer.row, answer.tags) == (row(version), tags)

    async def check_an_entry_below_a_generation_of_its_tags_is_absent(self) -> None:
        """One tag is enough; a higher one of another tag voids nothing; it can be filled again at the same version."""
        l2 = await self.prepared()
        await self.fill(l2, row(9), tags=("x", "y"))
        raised = Coherence(COHERENCE.incarnation, {"all": 100, "tag": 102})
        assert await self.version(l2, FixedView(raised, tags={"z": 102, "x": 100})) == 9
        void = FixedView(raised, tags={"z": 101, "y": 102})
        assert await self.version(l2, void) == 0
        assert await self.fill(l2, row(9), tags=("x", "y"), coherence=raised) == 1
        assert await self.version(l2, void) == 9

    async def check_what_has_tags_is_void_below_the_forgotten_ones(self) -> None:
        """Below the floor of all that has tags none counts, whatever its tags; what has none counts."""
        l2 = await self.prepared()
        forgotten = FixedView(Coherence(COHERENCE.incarnation, {"all": 100, "tag": 103, "tagged": 101}))
        await self.fill(l2, row(5), tags=("x",))
        assert await self.version(l2, forgotten) == 0
        await self.fill(l2, row(6), tags=())
        assert await self.version(l2, forgotten) == 6
        await self.fill(l2, row(7), tags=("x",), coherence=forgotten.coherence)
        assert await self.version(l2, forgotten) == 7

    async def check_an_entry_that_tells_no_tags_is_absent_where_its_kind_has_some(self) -> None:
        """It comes from a server that did not know them, and nobody can tell what it is void with."""
        l2 = await self.prepared()
        await self.fill(l2, row(5))
        tagged = FixedView(COHERENCE, tagged=frozenset({KEY.kind}))
        assert await self.version(l2, tagged) == 0
        assert await self.version(l2) == 5
        assert await self.fill(l2, row(5), tags=()) == 1
        assert await self.version(l2, tagged) == 5

    async def check_a_fence_hides_and_admits_what_has_tags(self) -> None:
        """The rules of versions are the same for it."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        await self.fill(l2, row(5), tags=("x",))
        assert await self.fill(l2, row(4), tags=("x",)) == 0
        await self.fence(l2, {KEY: 6})
        assert await self.version(l2) == 0
        assert await self.fill(l2, row(5), began, tags=("x",)) == 0
        assert await self.fill(l2, row(6), tags=("x",)) == 1
        assert await self.version(l2) == 6

    async def check_without_a_watermark_nothing_counts(self) -> None:
        """A node without a watermark answers with misses that take no fill, and leases nothing."""
        l2 = self.harness.open()
        answers = [await self.missed(l2, lease=True) for _ in range(2)]
        assert [(answer.generation, answer.leased_seconds) for answer in answers] == [(-1, 0), (-1, 0)]
        assert await self.fill(l2, row(5), answers[0]) == 0
        pretended = msgspec.structs.replace(answers[0], generation=90)
        assert await self.fill(l2, row(5), pretended) == 0
        await self.begin_anew(l2, 90)
        assert (await self.missed(l2, lease=True)).leased_seconds == 0

    async def check_an_untrusted_watermark_hides_the_node(self) -> None:
        """A server that may not know a change the node was not told of misses, and waits for nobody; it may fill."""
        l2 = await self.prepared()
        await self.fill(l2, row(5))
        doubting = FixedView(COHERENCE, trusting=False)
        assert await self.version(l2, doubting) == 0
        assert await self.fill(l2, row(6), await self.missed(l2, doubting)) == 1
        assert await self.version(l2) == 6

    async def check_an_untrusting_reader_waits_for_nobody(self) -> None:
        """A lease of another is no reason to wait for one whose view would not take the answer."""
        l2 = await self.prepared()
        await self.missed(l2, lease=True)
        assert (await self.missed(l2)).leased_seconds > 0
        assert (await self.missed(l2, FixedView(COHERENCE, trusting=False))).leased_seconds == 0

    async def check_a_value_below_the_readers_own_fence_is_absent(self) -> None:
        """What the reader was told before the node was: a lower version is a miss, that version is a hit."""
        l2 = await self.prepared()
        await self.fill(l2, row(5))
        assert await self.version(l2, FixedView(COHERENCE, {KEY: 6})) == 0
        assert await self.version(l2, FixedView(COHERENCE, {KEY: 5})) == 5

    async def check_a_watermark_of_other_slots_hides_the_key(self) -> None:
        """A key whose slot the watermark does not list is a miss that takes no fill; the others are hits."""
        l2 = await self.prepared()
        keys = [Key("bot", f"b{number}") for number in range(100)]
        read = await l2.cache.read(keys, VIEW)
        await l2.cache.fill([Fill(key, row(5), 900.0, self.miss_in(read[key])) for key in keys], COHERENCE)
        for target in await l2.sink.targets():
            before = await l2.sink.watermark(target)
            first, last = target.slots[0]
            halved = msgspec.structs.replace(mark_of(target, at=11), slots=((first, (first + last) // 2),))
            assert await l2.sink.advance(target, before, halved, {})
        answers = (await l2.cache.read(keys, VIEW)).values()
        hidden = [answer for answer in answers if isinstance(answer, Absent)]
        assert 0 < len(hidden) < len(keys)
        assert {answer.generation for answer in hidden} == {-1}

    async def check_one_of_many_loads_a_missing_key(self) -> None:
        """The first to miss a key has its lease, the next are told for how long; a look without taking tells it too."""
        l2 = await self.prepared()
        assert (await self.missed(l2)).leased_seconds == 0
        first, second = [await self.missed(l2, lease=True) for _ in range(2)]
        assert first.leased_seconds == 0
        assert 20 < second.leased_seconds <= 30
        assert 20 < (await self.missed(l2)).leased_seconds <= 30

    async def check_one_of_many_loads_a_fenced_key(self) -> None:
        """After a change the same, and the fence still stands."""
        l2 = await self.prepared()
        await self.fence(l2, {KEY: 6})
        first, second = [await self.missed(l2, lease=True) for _ in range(2)]
        assert first.leased_seconds == 0
        assert second.leased_seconds > 0
        assert await self.fill(l2, row(5), second) == 0

    async def check_a_fill_ends_the_lease(self) -> None:
        """What the holder loaded is there for those who waited, and the next change leases anew."""
        l2 = await self.prepared()
        await self.fill(l2, row(5), await self.missed(l2, lease=True))
        assert await self.version(l2) == 5
        await self.fence(l2, {KEY: 6})
        assert (await self.missed(l2, lease=True)).leased_seconds == 0

    async def check_a_row_that_is_not_there_gives_the_lease_back(self) -> None:
        """Nothing is stored and nobody waits; a fence that the lease was on still stands."""
        l2 = await self.prepared()
        assert await self.fill(l2, None, await self.missed(l2, lease=True)) == 0
        assert (await self.missed(l2, lease=True)).leased_seconds == 0
        await self.fence(l2, {KEY: 6})
        assert await self.fill(l2, None, await self.missed(l2, lease=True)) == 0
        again = await self.missed(l2, lease=True)
        assert again.leased_seconds == 0
        assert await self.fill(l2, row(5), again) == 0

    async def check_a_refused_fill_gives_the_lease_back(self) -> None:
        """A row older than the fence (of a delete, after which the id was used again) keeps nobody waiting."""
        l2 = await self.prepared()
        await self.fence(l2, {KEY: 6})
        assert await self.fill(l2, row(5), await self.missed(l2, lease=True)) == 0
        assert (await self.missed(l2, lease=True)).leased_seconds == 0

    async def check_nobody_gives_back_a_lease_of_another(self) -> None:
        """One who was told to wait, and one who took no lease, end none."""
        l2 = await self.prepared()
        early = msgspec.structs.replace(await self.miss(l2), leased_seconds=0.0)
        await self.until_later_than(early, l2)
        await self.missed(l2, lease=True)
        for absent in (await self.missed(l2, lease=True), early):
            await self.fill(l2, None, absent)
            assert (await self.missed(l2)).leased_seconds > 0

    async def check_a_fence_ends_the_lease(self) -> None:
        """Who loads since before the change may not bring the new value: the next to miss loads at once."""
        l2 = await self.prepared()
        for version in (6, 7):
            await self.missed(l2, lease=True)
            assert (await self.missed(l2)).leased_seconds > 0
            await self.fence(l2, {KEY: version})
            assert (await self.missed(l2)).leased_seconds == 0

    async def check_the_lease_of_one_who_is_gone_ends(self) -> None:
        """After the lease time the next to miss has the lease, of a key that held nothing and of a fenced one."""
        l2 = await self.prepared(lease_seconds=0.3)

        async def free() -> bool:
            return (await self.missed(l2, lease=True)).leased_seconds == 0

        for version in (6, 7):
            assert await free()
            await self.until(free)
            await self.fence(l2, {KEY: version})

    async def check_a_lease_given_back_too_late_is_anothers(self) -> None:
        """A holder that comes back after its time does not end the lease that another has by then."""
        for seconds in (0.3, 1.0, 3.0):  # on a busy machine the other's lease may end before it was looked at
            if await self._outlives_a_late_return(seconds):
                return
        raise AssertionError("the lease of another was given back")

    async def _outlives_a_late_return(self, seconds: float) -> bool:
        l2 = await self.prepared(lease_seconds=seconds)
        taken: list[Absent] = []

        async def free() -> bool:
            taken.append(await self.missed(l2, lease=True))
            return taken[-1].leased_seconds == 0

        await self.until(free)
        slow = taken[-1]
        await self.until(free)
        await self.fill(l2, None, slow)
        return (await self.missed(l2)).leased_seconds > 0

    async def check_what_is_left_of_the_ttl_is_handed_on(self) -> None:
        """Age and remaining time make the TTL, counted from the read of L3, not from the fill."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        await self.until_later_than(began, l2)
        await self.fill(l2, row(5), began)
        answer = await self.read(l2)
        assert isinstance(answer, Cached), answer
        assert answer.age_seconds > 0
        assert abs(answer.age_seconds + answer.remaining_seconds - 900) < 0.0005

    async def check_an_entry_ends_with_its_ttl(self) -> None:
        """It is gone when the TTL is over since the read of L3; a fill that comes after that stores nothing."""
        l2 = await self.prepared()
        began = await self.miss(l2)
        await self.until_later_than(began, l2, by_ms=250)
        assert await self.fill(l2, row(5), began, ttl_seconds=0.5) == 1

        async def gone() -> bool:
            answer = await self.read(l2)
            assert not isinstance(answer, Cached) or answer.age_seconds <= 0.5
            return isinstance(answer, Absent)

        await self.until(gone)
        assert (await self.miss(l2)).node_time_ms - began.node_time_ms >= 500
        assert await self.fill(l2, row(5), began, ttl_seconds=0.5) == 0

    async def check_large_bodies_and_versions(self) -> None:
        """Bodies above the compression size, and versions above 2^53, come back exactly."""
        l2 = await self.prepared()
        big = row(2**62 + 1, b'{"text":"' + b"holdfast " * 5000 + b'"}')
        assert await self.fill(l2, big) == 1
        answer = await self.read(l2)
        assert isinstance(answer, Cached)
        assert answer.row == big
        assert await self.fill(l2, row(2**62)) == 0

    async def check_ids_of_every_sort_are_different_keys(self) -> None:
        """Ids with braces, percent signs, spaces, glob characters and other scripts never meet."""
        l2 = await self.prepared()
        ids = ["a", "{a}", "%7Ba%7D", "a b", "a*", "a?", "[a]", "\\a", "a:b", "日本", "a\n", "%", "%25"]
        keys = [Key("bot", identifier) for identifier in ids]
        read = await l2.cache.read(keys, VIEW)
        fills = [Fill(key, row(number + 1), 900.0, self.miss_in(read[key])) for number, key in enumerate(keys)]
        assert await l2.cache.fill(fills, COHERENCE) == len(ids)
        again = await l2.cache.read(keys, VIEW)
        assert [self.version_of(again[key]) for key in keys] == list(range(1, len(ids) + 1))
        await self.fence(l2, {key: 50 + number for number, key in enumerate(keys)})
        for number, key in enumerate(keys):
            absent = self.miss_in((await l2.cache.read([key], VIEW))[key])
            late = [Fill(key, row(version), 900.0, absent) for version in (49 + number, 50 + number)]
            assert [await l2.cache.fill([each], COHERENCE) for each in late] == [0, 1]
