"""The contract of `JournalStreams`, rule by rule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from holdfast.errors import InvalidKey, TierUnavailable
from holdfast.protocols import Appended, JournalBehind, JournalSealed, JournalStreams

JOURNAL = "s1"
OTHER = "s2"
SEQ_MAX = (1 << 53) - 1
BODIES_MAX = 100_000


class JournalServers(Protocol):
    """Servers that share what keeps their journals."""

    def streams(self) -> JournalStreams:
        """That of one more server; whoever made the harness closes it."""
        ...

    async def lose(self, journal: str, *, back_to: int) -> None:
        """Forget all that was appended above a number, as a failover may."""
        ...


class JournalStreamsSuite:
    """Checks a `JournalStreams`."""

    def __init__(self, servers: JournalServers) -> None:
        self.servers = servers
        self.streams = servers.streams()

    async def check_what_was_appended_is_read_in_order(self) -> None:
        """By another server, in pages; numbers may have gaps, and bodies any bytes."""
        assert (await self.append(1, 2)).last == 2
        bodies = [b"", bytes(range(256)), b"x" * BODIES_MAX]
        entries = list(zip((5, 9, 10), bodies, strict=True))
        assert (await self.streams.append(JOURNAL, entries, expected=2, keep_from=0)).last == 10
        other = self.servers.streams()
        assert await other.read(JOURNAL, after=0, limit=3) == [(1, b"e1"), (2, b"e2"), (5, b"")]
        assert await other.read(JOURNAL, after=5, limit=3) == entries[1:]
        assert await other.read(JOURNAL, after=10, limit=3) == []

    async def check_what_is_not_there_is_empty(self) -> None:
        """A journal that nobody appended to."""
        assert await self.streams.last(JOURNAL) == 0
        assert await self.numbers() == []

    async def check_journals_are_apart(self) -> None:
        """Entries and seal of one are none of another."""
        await self.append(1, 2)
        await self.streams.seal(OTHER)
        assert await self.streams.last(OTHER) == 0
        assert (await self.append(3, expected=2)).last == 3

    async def check_an_append_repeated_is_there_once(self) -> None:
        """After an outcome nobody knew: at once, and after others."""
        await self.append(1, 2)
        assert (await self.append(1, 2)).last == 2
        await self.append(3, expected=2)
        assert (await self.append(1, 2)).last == 3
        assert await self.numbers() == [1, 2, 3]

    async def check_an_append_repeated_with_more_appends_the_rest(self) -> None:
        """What came meanwhile goes along with what is there already."""
        await self.append(1, 2)
        assert (await self.append(1, 2, 3)).last == 3
        assert (await self.append(3, 7, 8, expected=2)).last == 8
        assert await self.numbers() == [1, 2, 3, 7, 8]

    async def check_what_is_there_beyond_the_expected_stays(self) -> None:
        """An attempt of unknown outcome left it, and it was decided otherwise since: it is not given any more."""
        await self.append(1, 2)
        assert (await self.append(3, expected=1)).last == 3
        assert await self.numbers() == [1, 2, 3]

    async def check_a_lost_tail_is_told(self) -> None:
        """Nothing is appended behind a gap; appended again from where the stream ends, all is there."""
        await self.append(1, 2, 3)
        await self.servers.lose(JOURNAL, back_to=1)
        assert await refused(JournalBehind, lambda: self.append(4, expected=3)) == 1
        assert await refused(JournalBehind, lambda: self.append(expected=3)) == 1
        assert await self.numbers() == [1]
        assert (await self.append(2, 3, 4, expected=1)).last == 4
        assert await self.numbers() == [1, 2, 3, 4]

    async def check_a_journal_that_is_lost_altogether_is_told(self) -> None:
        """Then it ends at 0, and being told so makes no new one."""
        assert await refused(JournalBehind, lambda: self.append(8, expected=7)) == 0
        assert await self.streams.last(JOURNAL) == 0
        assert await self.numbers() == []

    async def check_no_number_is_put_below_one_that_is_there(self) -> None:
        """It can neither be appended, nor passed for one that was appended before."""
        await self.append(1, 3)
        assert await refused(TierUnavailable, lambda: self.append(2, 3, 4, expected=1)) is None
        assert await self.numbers() == [1, 3]
        assert await self.streams.last(JOURNAL) == 3

    async def check_an_append_of_nothing_asks(self) -> None:
        """Where the stream ends; also where it is new."""
        assert (await self.append()).last == 0
        await self.append(1, 2)
        assert (await self.append()).last == 2
        assert (await self.append(expected=2)).last == 2

    async def check_what_may_be_dropped_is_dropped(self) -> None:
        """Up to the number that is kept, which stays; a lower one brings nothing back."""
        await self.append(1, 2, 3, 4)
        await self.append(5, expected=4, keep_from=3)
        assert await self.numbers() == [3, 4, 5]
        await self.append(6, expected=5, keep_from=2)
        assert await self.numbers() == [3, 4, 5, 6]
        await self.append(expected=6, keep_from=6)
        assert await self.numbers() == [6]

    async def check_a_stream_that_is_empty_knows_its_end(self) -> None:
        """So a number is never given twice, and a repeated append counts as made."""
        await self.append(1, 2)
        assert (await self.append(expected=2, keep_from=3)).last == 2
        assert await self.numbers() == []
        assert await self.streams.last(JOURNAL) == 2
        assert (await self.append(1, 2)).last == 2
        assert await self.numbers() == []
        assert (await self.append(3, expected=2)).last == 3

    async def check_a_sealed_journal_takes_nothing(self) -> None:
        """It says where it ends, for good: what lies up to there is in it; another server sealed it, perhaps twice."""
        await self.append(1, 2)
        other = self.servers.streams()
        assert [await other.seal(JOURNAL) for _ in range(2)] == [2, 2]
        for entries, expected in (([3], 2), ([1, 2], 0), ([1, 2, 3], 0), ([], 2), ([9], 8)):
            assert await refused(JournalSealed, lambda e=entries, x=expected: self.append(*e, expected=x)) == 2  # type: ignore[misc]
        assert await self.numbers() == [1, 2]

    async def check_a_journal_is_sealed_before_its_first_entry(self) -> None:
        """Its server was slow to begin."""
        assert await self.streams.seal(JOURNAL) == 0
        assert await refused(JournalSealed, lambda: self.append(1)) == 0

    async def check_only_who_knows_of_the_seal_is_read_from(self) -> None:
        """If it is said to be sealed."""
        await self.append(1, 2)
        assert await refused(TierUnavailable, lambda: self.streams.read(JOURNAL, after=0, limit=9, sealed=True)) is None
        await self.streams.seal(JOURNAL)
        assert len(await self.streams.read(JOURNAL, after=0, limit=9, sealed=True)) == 2

    async def check_what_is_dropped_is_gone(self) -> None:
        """And stays sealed: whoever still takes it for its own learns where it ended, and makes no new one."""
        await self.append(1, 2)
        await self.append(1, journal=OTHER)
        await self.streams.seal(JOURNAL)
        for _ in range(2):
            await self.streams.drop(JOURNAL)
            assert (await self.streams.last(JOURNAL), await self.numbers()) == (0, [])
        assert await refused(JournalSealed, lambda: self.append(3, expected=2)) == 2
        assert await refused(JournalSealed, lambda: self.append(1)) == 2
        assert (await self.streams.last(JOURNAL), await self.numbers()) == (0, [])
        assert await self.streams.last(OTHER) == 1

    async def check_the_highest_numbers_are_exact(self) -> None:
        """Up to the limit, and no further."""
        low = SEQ_MAX - 3
        await self.append(low, low + 1)
        assert (await self.append(low + 2, expected=low + 1, keep_from=low + 1)).last == SEQ_MAX - 1
        assert await refused(JournalBehind, lambda: self.append(expected=SEQ_MAX)) == SEQ_MAX - 1
        assert (await self.append(SEQ_MAX, expected=SEQ_MAX - 1, keep_from=SEQ_MAX - 1)).last == SEQ_MAX
        assert await self.numbers() == [SEQ_MAX - 1, SEQ_MAX]
        assert await self.streams.read(JOURNAL, after=SEQ_MAX, limit=1) == []
        assert await refused(ValueError, lambda: self.append(SEQ_MAX + 1, expected=SEQ_MAX)) is None

    async def check_numbers_must_rise(self) -> None:
        """Above what is expected, and one above the other; the least is 1."""
        for entries, expected in (([2, 1], 0), ([1, 1], 0), ([1], 1), ([0], 0), ([1], -1)):
            assert await refused(ValueError, lambda e=entries, x=expected: self.append(*e, expected=x)) is None  # type: ignore[misc]
        assert await self.streams.last(JOURNAL) == 0

    async def check_a_name_chooses_no_slot(self) -> None:
        """Nor is it empty, or without end."""
        for name in ("a}{b", "", "a b", "x" * 201, "\n", "a\n"):
            assert await refused(InvalidKey, lambda n=name: self.append(1, journal=n)) is None  # type: ignore[misc]

    async def check_it_is_fit(self) -> None:
        """The tier under test can keep a journal."""
        assert await self.streams.unfit() is None

    async def append(self, *seqs: int, expected: int = 0, keep_from: int = 0, journal: str = JOURNAL) -> Appended:
        """Append entries whose bodies tell their numbers."""
        entries = [(seq, f"e{seq}".encode()) for seq in seqs]
        return await self.streams.append(journal, entries, expected=expected, keep_from=keep_from)

    async def numbers(self) -> Sequence[int]:
        """Of all entries, whose bodies tell them."""
        found = await self.streams.read(JOURNAL, after=0, limit=100)
        assert all(body == f"e{seq}".encode() for seq, body in found)
        return [seq for seq, _ in found]


async def refused(error: type[Exception], act: Callable[[], Awaitable[Any]]) -> Any:
    """Check that it is refused with that error, and return where it says that the journal ends."""
    try:
        answer = await act()
    except error as fault:
        return getattr(fault, "last", None)
    raise AssertionError(f"it was not refused: {answer}")
