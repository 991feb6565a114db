"""The contract of `SharedCache`, rule by rule."""

from __future__ import annotations

from uuid import UUID

from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Coherence, Failed, Fill, Row, SharedCache

COHERENCE = Coherence(UUID(int=7), {"all": 100})
KEY = Key("bot", "b1")
LATE_MS = 3 * 60 * 1000


def row(version: int, body: bytes = b'{"name":"x"}') -> Row:
    """A row of kind bot."""
    return Row(version, version, 1, body)


class SharedCacheSuite:
    """The checks.

    Args:
        cache: empty, with a fence lifetime of 60 seconds.
    """

    def __init__(self, cache: SharedCache) -> None:
        self.cache = cache

    async def check_a_fill_is_read_back(self) -> None:
        """What was filled is a hit, with its version, body and remaining time."""
        await self.fill(row(5))
        answer = await self.read()
        assert isinstance(answer, Cached), answer
        assert answer.row == row(5)
        assert 890 < answer.remaining_seconds <= 900
        assert 0 <= answer.age_seconds < 10

    async def check_nothing_is_absent(self) -> None:
        """A key never filled is absent, and its miss carries the node's clock."""
        answer = await self.read()
        assert isinstance(answer, Absent), answer
        assert answer.node_time_ms > 0

    async def check_many_keys_at_once(self) -> None:
        """Keys of every node come back from one call, each with its own value."""
        keys = [Key("bot", f"b{number}") for number in range(200)]
        read = await self.cache.read(keys, COHERENCE)
        fills = [Fill(key, row(number + 1), 900.0, self.time_of(read[key])) for number, key in enumerate(keys)]
        assert await self.cache.fill(fills, COHERENCE) == 200
        again = await self.cache.read(keys, COHERENCE)
        assert [self.version_of(again[key]) for key in keys] == list(range(1, 201))

    async def check_an_older_version_never_replaces_a_newer_one(self) -> None:
        """A fill below what is held is refused."""
        await self.fill(row(9))
        assert await self.fill(row(8)) == 0
        assert self.version_of(await self.read()) == 9

    async def check_a_fence_hides_older_values_and_refuses_them(self) -> None:
        """After a fence the old value is absent, and a reader that began before cannot bring it back."""
        began = self.time_of(await self.read())
        await self.fill(row(5))
        assert await self.cache.fence({KEY: 6}, COHERENCE) == []
        assert isinstance(await self.read(), Absent)
        assert await self.fill(row(5), began) == 0
        assert isinstance(await self.read(), Absent)

    async def check_a_fence_admits_what_it_announced(self) -> None:
        """The fenced version itself, and newer ones, can be filled."""
        await self.cache.fence({KEY: 6}, COHERENCE)
        assert await self.fill(row(6)) == 1
        assert self.version_of(await self.read()) == 6

    async def check_a_fence_never_lowers(self) -> None:
        """A late fence of an old version leaves a newer value, and a newer fence, in place."""
        await self.fill(row(9))
        await self.cache.fence({KEY: 7}, COHERENCE)
        assert self.version_of(await self.read()) == 9
        await self.cache.fence({KEY: 12}, COHERENCE)
        await self.cache.fence({KEY: 10}, COHERENCE)
        assert await self.fill(row(11)) == 0

    async def check_a_fill_that_comes_minutes_late_is_refused(self) -> None:
        """A read begun longer ago than half a fence's lifetime fills nothing: its fence may be gone by now."""
        began = self.time_of(await self.read())
        assert await self.fill(row(5), began - LATE_MS) == 0
        assert isinstance(await self.read(), Absent)

    async def check_a_fill_from_the_future_is_refused(self) -> None:
        """A node whose clock went back takes no fill of a read that began after now."""
        began = self.time_of(await self.read())
        assert await self.fill(row(5), began + LATE_MS) == 0

    async def check_another_incarnation_is_absent(self) -> None:
        """What was filled under another incarnation of L3 is no hit and stops no fill."""
        await self.fill(row(9))
        other = Coherence(UUID(int=8), COHERENCE.generations)
        answer = await self.read(other)
        assert isinstance(answer, Absent), answer
        assert await self.cache.fill([Fill(KEY, row(2), 900.0, answer.node_time_ms)], other) == 1
        assert self.version_of(await self.read(other)) == 2

    async def check_an_older_generation_is_absent(self) -> None:
        """An entry filled below its kind's generation is void, and can be filled again at the same version."""
        await self.fill(row(9))
        raised = Coherence(COHERENCE.incarnation, {"all": 100, "kind:bot": 101})
        assert isinstance(await self.read(raised), Absent)
        assert isinstance(await self.read(Coherence(COHERENCE.incarnation, {"all": 100, "kind:team": 101})), Cached)
        answer = await self.read(raised)
        assert await self.cache.fill([Fill(KEY, row(9), 900.0, self.time_of(answer))], raised) == 1
        assert self.version_of(await self.read(raised)) == 9

    async def check_large_bodies_and_versions(self) -> None:
        """Bodies above the compression size, and versions above 2^53, come back exactly."""
        big = row(2**62 + 1, b'{"text":"' + b"holdfast " * 5000 + b'"}')
        assert await self.fill(big) == 1
        answer = await self.read()
        assert isinstance(answer, Cached)
        assert answer.row == big
        assert await self.fill(row(2**62)) == 0

    async def check_ids_of_every_sort_are_different_keys(self) -> None:
        """Ids with braces, percent signs, spaces, glob characters and other scripts never meet."""
        ids = ["a", "{a}", "%7Ba%7D", "a b", "a*", "a?", "[a]", "\\a", "a:b", "日本", "a\n", "%", "%25"]
        keys = [Key("bot", identifier) for identifier in ids]
        read = await self.cache.read(keys, COHERENCE)
        fills = [Fill(key, row(number + 1), 900.0, self.time_of(read[key])) for number, key in enumerate(keys)]
        assert await self.cache.fill(fills, COHERENCE) == len(ids)
        again = await self.cache.read(keys, COHERENCE)
        assert [self.version_of(again[key]) for key in keys] == list(range(1, len(ids) + 1))
        await self.cache.fence({key: 50 + number for number, key in enumerate(keys)}, COHERENCE)
        for number, key in enumerate(keys):
            absent = (await self.cache.read([key], COHERENCE))[key]
            late = [Fill(key, row(version), 900.0, self.time_of(absent)) for version in (49 + number, 50 + number)]
            assert [await self.cache.fill([each], COHERENCE) for each in late] == [0, 1]

    async def fill(self, filled: Row, began_ms: int | None = None) -> int:
        """Fill the key with a row whose read began at a node time, by default just now."""
        if began_ms is None:
            # Asked under an incarnation of nobody, so that the answer is a miss and tells the time.
            began_ms = self.time_of(await self.read(Coherence(UUID(int=0))))
        return await self.cache.fill([Fill(KEY, filled, 900.0, began_ms)], COHERENCE)

    async def read(self, coherence: Coherence = COHERENCE) -> Cached | Absent | Failed:
        """The answer for the key."""
        return (await self.cache.read([KEY], coherence))[KEY]

    @staticmethod
    def time_of(answer: Cached | Absent | Failed) -> int:
        """The node's clock of a miss."""
        assert isinstance(answer, Absent), answer
        return answer.node_time_ms

    @staticmethod
    def version_of(answer: Cached | Absent | Failed) -> int:
        """The version of a hit."""
        assert isinstance(answer, Cached), answer
        return answer.row.version
