"""The contract of `FlushTransaction`: what is decided is decided with the rows, by whoever owns the journal, once."""

from __future__ import annotations

import asyncio
import contextlib

from holdfast.errors import Conflict, NotOwner, RowRefused, SerializationFailure, TierError
from holdfast.keys import Key
from holdfast.protocols import FlushTransaction, Isolation
from holdfast.seq_set import SeqSet
from holdfast.testing.conformance.journal_harness import (
    BODY,
    JOURNAL,
    KEY,
    NEWER,
    NONE,
    OTHER,
    JournalChecks,
    letter,
    raises,
    taken_at_last,
    write,
)


class FlushChecks(JournalChecks):
    """The checks of transactions that decide."""

    async def check_rows_and_what_is_decided_commit_together(self) -> None:
        """Before the commit nobody sees either, afterwards everybody both."""
        flush = await self.begin()
        versions = await flush.save([write()])
        await flush.decide(SeqSet.of([1, 2]), SeqSet.of([2]), [letter(2)])
        assert await self.other.rows_and_marks([KEY], [JOURNAL]) == ({}, {JOURNAL: SeqSet()})
        assert await self.other.letters(limit=10) == []
        await flush.commit()
        rows, marks = await self.other.rows_and_marks([KEY], [JOURNAL])
        assert (rows[KEY].body, rows[KEY].version) == (BODY, versions[KEY])
        assert marks == {JOURNAL: SeqSet.of([1, 2])}
        record = await self.record()
        assert (record.decided, record.refused) == (SeqSet.of([1, 2]), SeqSet.of([2]))
        assert len(await self.other.letters(limit=10)) == 1

    async def check_of_a_rollback_nothing_is_left(self) -> None:
        """No row, no mark, no letter; it may be repeated, and may follow a commit."""
        flush = await self.begin()
        await flush.save([write()])
        await flush.decide(SeqSet.of([1]), SeqSet.of([1]), [letter(1)])
        await flush.rollback()
        await flush.rollback()
        assert await self.bodies(KEY) == [None]
        assert (await self.record()).decided == SeqSet()
        assert await self.other.letters(limit=10) == []
        committed = await self.base.open_flush(JOURNAL, 1)
        await committed.save([write()])
        await committed.commit()
        await committed.rollback()
        assert await self.bodies(KEY) == [BODY]

    async def check_what_is_decided_adds_up(self) -> None:
        """Over flushes, and within one; each flush knows what was decided before it, and what of that was refused."""
        await self.decide(1, 2, 5)
        flush = await self.base.open_flush(JOURNAL, 1)
        assert flush.decided == SeqSet.of([1, 2, 5])
        await flush.decide(SeqSet.of([3]), SeqSet.of([3]), [])
        await flush.decide(SeqSet.of([4, 9]), SeqSet.of([9]), [])
        await flush.commit()
        record = await self.record()
        assert record.decided == SeqSet.of([1, 2, 3, 4, 5, 9])
        assert record.refused == SeqSet.of([3, 9])
        assert record.decided.through == 5
        after = await self.base.open_flush(JOURNAL, 1)
        assert (after.decided, after.refused) == (record.decided, record.refused)
        await after.rollback()

    async def check_thousands_of_ranges(self) -> None:
        """What is decided out of order is kept exactly, up to the highest numbers."""
        scattered = SeqSet.of(range(2, 8000, 2)) | SeqSet.of([2**62])
        await self.decide(*(start for start, _ in scattered.ranges()))
        assert (await self.record()).decided == scattered
        await self.decide(*range(1, 8000, 2))
        assert (await self.record()).decided == SeqSet([(1, 8000), (2**62, 2**62 + 1)])

    async def check_only_the_owner_decides(self) -> None:
        """Another epoch, older or newer, and an unknown journal are `NotOwner`; nothing stays locked."""
        await self.base.register(JOURNAL, "server 1")
        await raises(NotOwner, self.base.open_flush(JOURNAL, 2))
        await raises(NotOwner, self.base.open_flush("unknown", 1))
        assert await self.other.take(JOURNAL, 1, "server 2")
        await raises(NotOwner, self.base.open_flush(JOURNAL, 1))
        flush = await self.other.open_flush(JOURNAL, 2)
        await flush.rollback()

    async def check_flushes_of_a_journal_follow_each_other(self) -> None:
        """The next one begins when the one before has ended, and knows what it decided."""
        first = await self.begin()
        opening = asyncio.ensure_future(self.base.open_flush(JOURNAL, 1))
        await self.let_others_act()
        await first.decide(SeqSet.of([1]), NONE, [])
        assert not opening.done()
        await first.commit()
        second = await opening
        assert second.decided == SeqSet.of([1])
        await second.rollback()

    async def check_a_flush_that_waited_while_it_was_replaced(self) -> None:
        """Who waited for its turn and lost the journal meanwhile decides nothing."""
        first = await self.begin()
        taking = asyncio.ensure_future(self.other.take(JOURNAL, 1, "server 2"))
        await self.let_others_act()
        opening = asyncio.ensure_future(self.base.open_flush(JOURNAL, 1))
        await self.let_others_act()
        await first.commit()
        try:
            flush: FlushTransaction | None = await opening  # it may have come first
        except NotOwner:
            flush = None
        if flush is not None:
            await flush.rollback()
        assert await taking
        await raises(NotOwner, self.base.open_flush(JOURNAL, 1))

    async def check_journals_do_not_wait_for_each_other(self) -> None:
        """A flush of one journal holds up none of another."""
        first, second = await self.begin(), await self.begin(OTHER)
        await second.save([write()])
        await second.decide(SeqSet.of([1]), NONE, [])
        await second.commit()
        await first.decide(SeqSet.of([4]), NONE, [])
        await first.commit()
        assert ((await self.record()).decided, (await self.record(OTHER)).decided) == (SeqSet.of([4]), SeqSet.of([1]))

    async def check_an_idle_flush_is_ended(self) -> None:
        """A server that stands still inside a flush loses it: the journal can be taken, and its commit fails."""
        base = self.bases.base(idle_seconds=0.2)
        await base.register(JOURNAL, "server 1")
        flush = await base.open_flush(JOURNAL, 1)
        with contextlib.suppress(TierError):  # this process may have been stopped for so long
            await flush.save([write()])
            await flush.decide(SeqSet.of([1]), NONE, [])
        assert await taken_at_last(self.bases.base(lock_seconds=0.05), JOURNAL, 1)
        await raises(TierError, flush.commit())
        await flush.rollback()
        assert await self.bodies(KEY) == [None]
        record = await self.record()
        assert (record.epoch, record.decided) == (2, SeqSet())

    async def check_a_locked_row_is_not_waited_for_long(self) -> None:
        """Who meets a row that another transaction keeps has lost, keeps nothing locked, and may try again."""
        await self.storage.save([write()])
        holder = await self.storage.open_transaction(Isolation.READ_COMMITTED)
        await holder.load([KEY], lock=True)
        flush = await self.begin()
        await raises(SerializationFailure, flush.load([KEY]))
        await raises(TierError, flush.commit())
        await flush.rollback()
        await holder.rollback()
        flush = await self.base.open_flush(JOURNAL, 1)
        assert set(await flush.load([KEY])) == {KEY}
        await flush.rollback()

    async def check_rows_are_loaded_and_locked(self) -> None:
        """Nobody changes a row between the flush's reading and its commit."""
        team = Key("team", "t1")
        await self.storage.save([write(), write(team)])
        flush = await self.begin()
        rows = await flush.load([team, KEY, Key("bot", "nobody")])
        assert {key: row.body for key, row in rows.items()} == {KEY: BODY, team: BODY}
        writing = asyncio.ensure_future(self.storage.save([write(body=b'"other"')]))
        await self.let_others_act()
        version = (await flush.save([write(body=NEWER)]))[KEY]
        assert not writing.done()
        await flush.commit()
        assert (await writing)[KEY] > version
        assert await self.bodies(KEY) == [b'"other"']

    async def check_a_save_of_many_sorts(self) -> None:
        """Rows that are there and rows that are not, of several kinds, schemas and sizes, in one call."""
        old = [Key(kind, f"{number:04}") for kind in ("bot", "team") for number in range(0, 300, 2)]
        new = [Key(kind, f"{number:04}") for kind in ("bot", "swarm", "team") for number in range(1, 300, 2)]
        await self.storage.save([write(key) for key in old])
        flush = await self.begin()
        rows = await flush.load([*old, *new])
        assert sorted(rows) == sorted(old)
        versions = await flush.save([write(key, NEWER, None if key in rows else 0) for key in sorted([*old, *new])])
        await flush.commit()
        after = (await self.storage.load([*old, *new])).rows
        assert {key: row.version for key, row in after.items()} == versions
        assert {row.body for row in after.values()} == {NEWER}
        assert all(after[key].birth == row.birth for key, row in rows.items())

    async def check_after_a_conflict_the_flush_goes_on(self) -> None:
        """A row that came into being meanwhile is read again, and what lost is applied to it (rule W8)."""
        fresh = Key("bot", "fresh")
        flush = await self.begin()
        assert await flush.load([KEY, fresh]) == {}
        await self.storage.save([write()])
        conflict = await raises(Conflict, flush.save([write(fresh, NEWER, 0), write(KEY, NEWER, 0)]))
        assert conflict.key == KEY
        assert set(await flush.load([KEY, fresh])) == {KEY}
        await flush.save([write(fresh, NEWER, 0), write(KEY, NEWER)])
        await flush.decide(SeqSet.of([1, 2]), NONE, [])
        await flush.commit()
        assert await self.bodies(KEY, fresh) == [NEWER, NEWER]
        assert (await self.record()).decided == SeqSet.of([1, 2])

    async def check_deleting(self) -> None:
        """A row is deleted with the flush; a refused delete leaves it, and the flush goes on."""
        await self.storage.save([write()])
        flush = await self.begin()
        await raises(Conflict, flush.delete(KEY, expected=1))
        deleted, existed = await flush.delete(KEY)
        assert existed
        assert (await flush.delete(KEY))[1] is False
        await flush.commit()
        assert await self.bodies(KEY) == [None]
        assert (await self.storage.save([write()]))[KEY] > deleted

    async def check_a_row_that_a_constraint_refuses(self) -> None:
        """The error says that a row is at fault; nothing of the flush takes effect, without the row the next does."""
        poison = Key("bot", "poison")
        await self.bases.refuse(poison)
        for expected in (None, 0):
            flush = await self.begin()
            await flush.save([write(Key("bot", "before"))])
            await raises(RowRefused, flush.save([write(), write(poison, BODY, expected)]))
            await raises(TierError, flush.commit())
            await flush.rollback()
        assert await self.bodies(KEY, poison, Key("bot", "before")) == [None, None, None]
        flush = await self.base.open_flush(JOURNAL, 1)
        await flush.save([write()])
        await flush.decide(SeqSet.of([1, 2]), SeqSet.of([2]), [letter(2)])
        await flush.commit()
        assert await self.bodies(KEY, poison) == [BODY, None]
