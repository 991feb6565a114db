"""The contract of `ChangeSource`, rule by rule."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from uuid import UUID

import msgspec

from holdfast.changes import ChangeOperation
from holdfast.keys import Key
from holdfast.protocols import Coherence, Cursor, Snapshot, Write
from holdfast.testing.conformance.feed_harness import (
    BODY,
    DELETE,
    HINT_SECONDS,
    INSERT,
    KEY,
    OTHER,
    RECONNECT_SECONDS,
    UPDATE,
    told,
)
from holdfast.testing.conformance.feed_voids import FeedVoidsSuite


class ChangeSourceSuite(FeedVoidsSuite):
    """The checks, with those of what is made void.

    Args:
        feeds: nothing has written to it.
    """

    async def check_a_beginning_tells_the_identity_and_no_changes(self) -> None:
        """What was committed before is not told; the cursor carries what a load says of L3."""
        await self.put(KEY)
        poll = await self.feeds.source().poll(None)
        assert (list(poll.changes), poll.reset) == ([], None)
        assert poll.cursor.coherence == (await self.storage.load([])).coherence

    async def check_each_commit_is_told_once(self) -> None:
        """Inserts, updates and deletes come with their versions, and not again."""
        source, cursor = await self.reader()
        first, other, second = await self.put(KEY), await self.put(OTHER), await self.put(KEY)
        poll = await self.go_on(source, cursor)
        assert told(self.of(KEY, poll.changes)) == [(KEY, first, INSERT), (KEY, second, UPDATE)]
        assert told(self.of(OTHER, poll.changes)) == [(OTHER, other, INSERT)]
        await self.storage.delete(KEY)
        (gone,) = (poll := await self.go_on(source, poll.cursor)).changes
        assert (gone.key, gone.operation, gone.deleted) == (KEY, DELETE, True)
        assert gone.version > second
        assert not (await self.go_on(source, poll.cursor)).changes

    async def check_a_refused_write_is_not_told(self) -> None:
        """Nothing written, nothing told: a conflict, a delete of nothing."""
        await self.put(KEY)
        source, cursor = await self.reader()
        refused = await asyncio.gather(self.storage.save([Write(KEY, 1, BODY, 0)]), return_exceptions=True)
        assert isinstance(refused[0], Exception)
        await self.storage.delete(OTHER)
        assert not (await self.go_on(source, cursor)).changes

    async def check_many_keys_of_several_kinds_in_one_commit(self) -> None:
        """A write of many rows tells each key, history too."""
        source, cursor = await self.reader()
        keys = [Key(kind, f"x{number}") for kind in ("bot", "team", "run_snapshot") for number in range(50)]
        versions = await self.storage.save([Write(key, 1, BODY) for key in keys])
        changes = (await self.go_on(source, cursor)).changes
        assert sorted((change.key, change.version) for change in changes) == sorted(versions.items())

    async def check_an_old_cursor_tells_the_same_again(self) -> None:
        """A source remembers nothing: a cursor tells the same each time, to every reader."""
        source, cursor = await self.reader()
        await self.put(KEY)
        first = await self.go_on(source, cursor)
        again = await self.go_on(source, cursor)
        elsewhere = await self.go_on(self.feeds.source(), cursor)
        assert list(first.changes) == list(again.changes) == list(elsewhere.changes)
        assert len(first.changes) == 1

    async def check_an_open_transaction_is_told_when_it_commits(self) -> None:
        """Numbers drawn early and committed late are not passed over by cursors that went on meanwhile."""
        source, cursor = await self.reader()
        transaction = await self.feeds.begin()
        await transaction.put(KEY, BODY)
        later = await self.put(OTHER)
        poll = await self.go_on(source, cursor)
        assert told(poll.changes) == [(OTHER, later, INSERT)]
        await self.put(Key("team", "t2"))
        poll = await self.go_on(source, poll.cursor)
        assert not self.of(KEY, poll.changes)
        await transaction.commit()
        poll = await self.go_on(source, poll.cursor)
        version = (await self.storage.load([KEY])).rows[KEY].version
        assert told(poll.changes) == [(KEY, version, INSERT)]
        assert version < later
        assert not (await self.go_on(source, poll.cursor)).changes

    async def check_what_is_rolled_back_is_never_told(self) -> None:
        """A transaction that was open over polls and then undone leaves nothing."""
        source, cursor = await self.reader()
        transaction = await self.feeds.begin()
        await transaction.put(KEY, BODY)
        poll = await self.go_on(source, cursor)
        await transaction.rollback()
        assert not poll.changes
        assert not (await self.go_on(source, poll.cursor)).changes

    async def check_changes_of_a_key_come_in_the_order_of_their_commits(self) -> None:
        """Also where the later commit is of the transaction that began first."""
        await self.put(KEY)
        source, cursor = await self.reader()
        early = await self.feeds.begin()
        await early.put(OTHER, BODY)  # has its transaction id now
        late = await self.feeds.begin()
        await late.put(KEY, BODY)
        await late.commit()
        await early.delete(KEY)
        await early.put(KEY, BODY)
        await early.commit()
        changes = self.of(KEY, (await self.go_on(source, cursor)).changes)
        assert [change.operation for change in changes] == [UPDATE, DELETE, INSERT]
        assert changes[-1].version == (await self.storage.load([KEY])).rows[KEY].version

    async def check_a_truncate_tells_the_whole_kind(self) -> None:
        """No keys are named, and other kinds are left alone."""
        await self.put(KEY)
        await self.put(OTHER)
        source, cursor = await self.reader()
        await self.feeds.truncate("bot")
        (change,) = (await self.go_on(source, cursor)).changes
        assert (change.whole_kind, change.operation) == (True, ChangeOperation.TRUNCATE)
        assert change.key.kind == "bot"
        assert set((await self.storage.load([KEY, OTHER])).rows) == {OTHER}

    async def check_later_cursors_see_more(self) -> None:
        """Whatever commits in whatever order, a later cursor's snapshot covers an earlier one's."""
        source, cursor = await self.reader()
        cursors, opened = [cursor], []
        for number in range(6):
            opened.append(await self.feeds.begin())
            await opened[-1].put(Key("bot", f"b{number}"), BODY)
            if number % 2:
                await opened.pop(0).commit()
            cursors.append((await self.go_on(source, cursors[-1])).cursor)
        for transaction in opened:
            await transaction.rollback()
        for earlier, later in pairwise(cursors):
            assert later.snapshot.covers(earlier.snapshot)
            assert Snapshot.parse(str(later.snapshot)) == later.snapshot
        assert not cursors[0].snapshot.covers(cursors[-1].snapshot)

    async def check_an_older_snapshot_can_be_gone_back_to(self) -> None:
        """A cursor with an older snapshot, as a node of L2 keeps it, tells everything since then."""
        source, cursor = await self.reader()
        first = await self.put(KEY)
        newer = (await self.go_on(source, cursor)).cursor
        second = await self.put(KEY)
        for anchor in (cursor.anchor, newer.anchor, ()):
            older = Cursor(Coherence(cursor.coherence.incarnation), cursor.snapshot, anchor)
            poll = await self.go_on(source, older)
            assert told(poll.changes) == [(KEY, first, INSERT), (KEY, second, UPDATE)]
            assert poll.cursor.anchor

    async def check_a_change_names_its_transaction(self) -> None:
        """The cursor that brought it sees the transaction, and the one before does not."""
        source, cursor = await self.reader()
        early = await self.feeds.begin()
        await early.put(OTHER, BODY)
        await self.put(KEY)
        first = await self.go_on(source, cursor)
        await early.commit()
        second = await self.go_on(source, first.cursor)
        (change,), (late,) = first.changes, second.changes
        seen = [each.snapshot.sees(change.xid) for each in (cursor, first.cursor, second.cursor)]
        assert seen == [False, True, True]
        seen = [each.snapshot.sees(late.xid) for each in (cursor, first.cursor, second.cursor)]
        assert seen == [False, False, True]

    async def check_a_cursor_that_was_kept_tells_what_came_since(self) -> None:
        """As a poll does, and the polls of others go on as if it had not been asked."""
        source, cursor = await self.reader()
        version = await self.put(KEY)
        kept = Cursor(Coherence(cursor.coherence.incarnation), cursor.snapshot, cursor.life)
        for _ in range(2):
            answer = await source.since(kept)
            assert (told(answer.changes), answer.reset) == ([(KEY, version, INSERT)], None)
        assert told((await self.go_on(source, cursor)).changes) == [(KEY, version, INSERT)]

    async def check_a_cursor_that_was_kept_proves_nothing_of_l3(self) -> None:
        """One from the future, or of a start that is long past, is not continued; L3 stays what it is."""
        source, cursor = await self.reader()
        await self.put(KEY)
        ahead = cursor.snapshot.xmax + 1_000_000
        coherence = Coherence(cursor.coherence.incarnation)
        for strange in (
            Cursor(coherence, Snapshot(ahead, ahead), cursor.life),
            Cursor(coherence, cursor.snapshot, ("another start",)),
            Cursor(Coherence(UUID(int=7)), cursor.snapshot, cursor.life),
        ):
            answer = await source.since(strange)
            assert answer.reset
            assert not answer.changes
        assert (await self.go_on(source, cursor)).cursor.coherence.incarnation == cursor.coherence.incarnation

    async def check_a_cursor_of_another_incarnation_is_not_continued(self) -> None:
        """After a crash the answer says why, brings no changes, and is a beginning."""
        source, cursor = await self.reader()
        await self.put(KEY)
        await self.feeds.become_another()
        poll = await self.reconnected(lambda: source.poll(cursor))
        assert poll.reset
        assert not poll.changes
        assert poll.cursor.coherence.incarnation != cursor.coherence.incarnation
        version = await self.reconnected(lambda: self.put(OTHER))
        assert (OTHER, version, INSERT) in told((await self.go_on(source, poll.cursor)).changes)
        strange = msgspec.structs.replace(poll.cursor, coherence=Coherence(UUID(int=7)))
        assert (await source.poll(strange)).reset

    async def check_a_cursor_from_the_future_is_not_continued(self) -> None:
        """L3 went back in time: what the cursor was told of may never have been."""
        source, cursor = await self.reader()
        ahead = cursor.snapshot.xmax + 1_000_000
        poll = await source.poll(msgspec.structs.replace(cursor, snapshot=Snapshot(ahead, ahead)))
        assert poll.reset
        assert not poll.changes
        assert (await source.poll(poll.cursor)).reset is None

    async def check_tidying_removes_nothing_that_readers_lack(self) -> None:
        """A reader of a moment ago is continued after any tidying, and so is one with a transaction open."""
        source, cursor = await self.reader()
        transaction = await self.feeds.begin()
        await transaction.put(KEY, BODY)
        version = await self.put(OTHER)
        await source.tidy()
        await source.tidy()
        poll = await self.go_on(source, cursor)
        assert told(poll.changes) == [(OTHER, version, INSERT)]
        await transaction.commit()
        await source.tidy()
        assert [change.key for change in (await self.go_on(source, poll.cursor)).changes] == [KEY]

    async def check_an_announcement_wakes_the_others(self) -> None:
        """A poll that announces wakes every reader that listens, except itself."""
        source, cursor = await self.reader()
        woken, own = asyncio.Event(), asyncio.Event()
        source.on_hint(own.set)
        reader, second = await self.reader()
        reader.on_hint(woken.set)
        await self.go_on(reader, second)
        await source.poll(cursor, announce=True)
        async with asyncio.timeout(HINT_SECONDS):
            while not woken.is_set():
                await self.go_on(reader, second)
                await asyncio.sleep(0)
        assert not own.is_set()

    async def check_one_reader_leads(self) -> None:
        """Of several that ask one leads, and goes on to; when it disconnects another one can."""
        sources = [self.feeds.source() for _ in range(3)]
        assert [await source.lead() for source in sources] == [True, False, False]
        assert [await source.lead() for source in reversed(sources)] == [False, False, True]
        await sources[0].close()
        async with asyncio.timeout(RECONNECT_SECONDS):
            while not await sources[1].lead():  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0)
        assert not await sources[2].lead()

    async def check_closing_twice(self) -> None:
        """A source may be closed twice, also one that was never used."""
        for source in (self.feeds.source(), (await self.reader())[0]):
            await source.close()
            await source.close()
