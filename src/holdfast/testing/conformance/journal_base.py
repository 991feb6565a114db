"""The contract of `JournalBase`: who answers for a journal, and what is kept of it."""

from __future__ import annotations

import asyncio

from holdfast.errors import NotOwner, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import JournalState
from holdfast.seq_set import SeqSet
from holdfast.testing.conformance.journal_flushes import FlushChecks
from holdfast.testing.conformance.journal_harness import (
    BODY,
    JOURNAL,
    KEY,
    NONE,
    OTHER,
    letter,
    raises,
    write,
)

SEVERAL = 5


class JournalBaseSuite(FlushChecks):
    """The checks.

    Args:
        bases: over an L3 without rows and journals, knowing at least the built-in kinds.
    """

    async def check_a_new_journal(self) -> None:
        """It is live at epoch 1, and nothing of it is decided."""
        await self.base.register(JOURNAL, "server 1")
        (record,) = await self.other.records()
        assert (record.journal, record.server, record.epoch, record.taker) == (JOURNAL, "server 1", 1, None)
        assert record.state is JournalState.LIVE
        assert (record.decided, record.refused) == (SeqSet(), SeqSet())
        assert record.seconds >= 0

    async def check_entering_it_again_does_nothing(self) -> None:
        """A repeated registration takes nothing back."""
        await self.decide(1, 2)
        assert await self.other.take(JOURNAL, 1, "server 2")
        before = await self.record()
        await self.base.register(JOURNAL, "server 3")
        after = await self.record()
        assert (after.server, after.epoch, after.state, after.decided) == (
            before.server,
            2,
            JournalState.TAKEN,
            before.decided,
        )

    async def check_the_oldest_comes_first(self) -> None:
        """Records are in the order of registration, whatever became of them since."""
        names = ["z", "a", "m"]
        for name in names:
            await self.base.register(name, "server 1")
        assert await self.base.beat("z", 1)
        assert await self.base.take("a", 1, "server 2")
        assert [record.journal for record in await self.other.records()] == names

    async def check_beats_are_counted(self) -> None:
        """Each beat is seen by the others; one that is not at the epoch counts nothing."""
        await self.base.register(JOURNAL, "server 1")
        first = (await self.record()).beat
        assert await self.base.beat(JOURNAL, 1)
        assert await self.base.beat(JOURNAL, 1)
        assert (await self.record()).beat == first + 2
        assert not await self.base.beat(JOURNAL, 2)
        assert not await self.base.beat("unknown", 1)
        assert (await self.record()).beat == first + 2

    async def check_a_flush_holds_no_beat_up(self) -> None:
        """A server that waits for a row's lock inside a flush is not taken for dead."""
        flush = await self.begin()
        before = (await self.record()).beat
        assert await self.base.beat(JOURNAL, 1)
        assert (await self.record()).beat > before
        await flush.rollback()

    async def check_who_answers_beats(self) -> None:
        """The server of a live journal and the taker of a taken one; nobody else."""
        await self.base.register(JOURNAL, "server 1")
        for state in JournalState:
            assert await self.base.enter_state(JOURNAL, 1, state)
            assert (await self.record()).state is state
            assert await self.base.beat(JOURNAL, 1) is (state in {JournalState.LIVE, JournalState.TAKEN})
        assert await self.base.enter_state(JOURNAL, 1, JournalState.RELEASED)
        assert await self.other.take(JOURNAL, 1, "server 2")
        assert not await self.base.beat(JOURNAL, 1)
        assert await self.other.beat(JOURNAL, 2)

    async def check_a_state_is_changed_at_its_epoch_only(self) -> None:
        """A server that was replaced changes nothing any more."""
        await self.base.register(JOURNAL, "server 1")
        assert await self.other.take(JOURNAL, 1, "server 2")
        assert not await self.base.enter_state(JOURNAL, 1, JournalState.DRAINED)
        assert not await self.base.enter_state("unknown", 1, JournalState.DRAINED)
        assert (await self.record()).state is JournalState.TAKEN

    async def check_taking_over(self) -> None:
        """The epoch rises by one, and all see who has it; what was decided stays."""
        await self.decide(1, 2, 3)
        assert await self.other.take(JOURNAL, 1, "server 2")
        record = await self.record()
        assert (record.epoch, record.state, record.taker) == (2, JournalState.TAKEN, "server 2")
        assert record.decided == SeqSet.of([1, 2, 3])
        assert await self.base.take(JOURNAL, 2, "server 3")
        assert (await self.record()).taker == "server 3"

    async def check_what_cannot_be_taken(self) -> None:
        """Another epoch, a drained journal, an unknown one."""
        await self.base.register(JOURNAL, "server 1")
        assert not await self.other.take(JOURNAL, 2, "server 2")
        assert not await self.other.take("unknown", 1, "server 2")
        assert await self.base.enter_state(JOURNAL, 1, JournalState.DRAINED)
        assert not await self.other.take(JOURNAL, 1, "server 2")
        assert (await self.record()).epoch == 1

    async def check_one_of_many_takers_gets_it(self) -> None:
        """Of servers that saw the same epoch exactly one takes over."""
        await self.base.register(JOURNAL, "server 1")
        took = await asyncio.gather(*(self.bases.base().take(JOURNAL, 1, f"{each}") for each in range(SEVERAL)))
        assert sorted(took) == [*[False] * (SEVERAL - 1), True]
        record = await self.record()
        assert (record.epoch, record.taker) == (2, str(took.index(True)))

    async def check_a_flush_under_way_is_waited_for(self) -> None:
        """What a taker finds decided is all that the replaced server ever decides."""
        flush = await self.begin()
        await flush.save([write()])
        taking = asyncio.ensure_future(self.other.take(JOURNAL, 1, "server 2"))
        await self.let_others_act()
        await flush.decide(SeqSet.of([7]), NONE, [])
        assert not taking.done()
        await flush.commit()
        assert await taking
        successor = await self.other.open_flush(JOURNAL, 2)
        assert successor.decided == SeqSet.of([7])
        await successor.rollback()

    async def check_a_flush_that_does_not_end(self) -> None:
        """The taker is told so in time, and has taken nothing."""
        flush = await self.begin()
        await raises(TierUnavailable, self.bases.base(lock_seconds=0.05).take(JOURNAL, 1, "server 2"))
        assert (await self.record()).epoch == 1
        await flush.decide(SeqSet.of([1]), NONE, [])
        await flush.commit()
        assert await self.other.take(JOURNAL, 1, "server 2")
        assert (await self.record()).decided == SeqSet.of([1])

    async def check_forgetting(self) -> None:
        """A journal is removed at its epoch only; what was given up of it stays."""
        await self.decide(1, refused=SeqSet.of([1]), letters=(letter(1),))
        assert not await self.base.forget(JOURNAL, 2)
        assert not await self.base.forget("unknown", 1)
        assert await self.base.forget(JOURNAL, 1)
        assert await self.other.records() == []
        await raises(NotOwner, self.base.open_flush(JOURNAL, 1))
        assert not await self.base.beat(JOURNAL, 1)
        assert len(await self.other.letters(limit=10)) == 1

    async def check_rows_and_marks(self) -> None:
        """Rows of several kinds and the marks of several journals; what is not there is absent."""
        team = Key("team", "x")
        flush = await self.begin()
        await flush.save([write(), write(team)])
        await flush.decide(SeqSet.of([1, 2, 9]), NONE, [])
        await flush.commit()
        await self.base.register(OTHER, "server 2")
        keys, journals = [KEY, team, Key("team", "nobody")], [JOURNAL, OTHER, "unknown"]
        rows, marks = await self.other.rows_and_marks(keys, journals)
        assert rows == (await self.storage.load(keys)).rows
        assert marks == {JOURNAL: SeqSet.of([1, 2, 9]), OTHER: SeqSet()}
        assert await self.other.rows_and_marks([], []) == ({}, {})
        assert (await self.other.rows_and_marks([KEY], []))[0][KEY].body == BODY
        assert (await self.other.rows_and_marks([], [JOURNAL]))[1] == {JOURNAL: SeqSet.of([1, 2, 9])}

    async def check_rows_and_marks_are_of_one_moment(self) -> None:
        """While flushes go on, the row always shows just what the marks say is decided."""
        writing = asyncio.ensure_future(self._flush_many(30))
        while not writing.done():
            rows, marks = await self.other.rows_and_marks([KEY], [JOURNAL])
            row = rows.get(KEY)
            assert (0 if row is None else int(row.body)) == marks.get(JOURNAL, SeqSet()).through
            await asyncio.sleep(0)
        await writing

    async def check_letters(self) -> None:
        """They come as they were kept, the oldest first, and can be had and discarded one by one."""
        await self.decide(1, 2, 3, refused=SeqSet.of([1, 3]), letters=(letter(1), letter(3, "too deep")))
        kept = await self.other.letters(limit=10)
        assert [each.letter for each in kept] == [letter(1), letter(3, "too deep")]
        assert {each.journal for each in kept} == {JOURNAL}
        assert kept[0].id < kept[1].id
        assert all(each.seconds >= 0 for each in kept)
        assert [each.id for each in await self.other.letters(limit=1)] == [kept[0].id]
        one = await self.other.letter(kept[1].id)
        assert one is not None
        assert one.letter == letter(3, "too deep")
        assert await self.other.discard(kept[0].id)
        assert not await self.other.discard(kept[0].id)
        assert await self.other.letter(kept[0].id) is None
        assert [each.id for each in await self.base.letters(limit=10)] == [kept[1].id]

    async def check_the_oldest_letters_make_room(self) -> None:
        """A flush is never refused because nobody reads letters."""
        base = self.bases.base(letters_max=3)
        await base.register(JOURNAL, "server 1")
        for first in (1, 3, 5):
            flush = await base.open_flush(JOURNAL, 1)
            both = SeqSet.of([first, first + 1])
            await flush.decide(both, both, [letter(first), letter(first + 1)])
            await flush.commit()
        assert [each.letter.seq for each in await self.other.letters(limit=10)] == [4, 5, 6]
        assert (await self.record()).refused == SeqSet([(1, 7)])

    async def check_whatever_a_reason_holds(self) -> None:
        """The words of a user's own error cannot keep a flush from being committed."""
        await self.decide(1, refused=SeqSet.of([1]), letters=(letter(1, f"a\0b\ud800 {'c' * 100_000}"),))
        (kept,) = await self.other.letters(limit=10)
        assert kept.letter.reason.startswith("a")
        assert (await self.record()).decided == SeqSet.of([1])

    async def _flush_many(self, flushes: int) -> None:
        await self.base.register(JOURNAL, "server 1")
        for number in range(1, flushes + 1):
            flush = await self.base.open_flush(JOURNAL, 1)
            await flush.load([KEY])
            await flush.save([write(body=b"%d" % number)])
            await flush.decide(SeqSet.of([number]), NONE, [])
            await asyncio.sleep(0)
            await flush.commit()
            await asyncio.sleep(0)
