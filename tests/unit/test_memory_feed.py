"""What only the feed in memory has: switches, and crashes, restarts and restored copies told apart."""

from __future__ import annotations

import asyncio

import pytest

from fix_loop import settle
from fix_memory_storage import KEY, TEAM, put
from holdfast.errors import TierUnavailable
from holdfast.protocols import ChangeSource, Cursor
from holdfast.testing import MemoryFeed, MemoryStorage
from holdfast.testing.conformance.feed_harness import INSERT, UPDATE, told
from holdfast.testing.memory_log import MARKS_KEPT


async def begun(storage: MemoryStorage, *, changes_max: int = 100) -> tuple[MemoryFeed, Cursor]:
    feed = MemoryFeed(storage, changes_max=changes_max)
    return feed, (await feed.poll(None)).cursor


def test_it_is_a_change_source() -> None:
    """The type checker agrees, and nothing starts with it."""
    source: ChangeSource = MemoryFeed(MemoryStorage())
    assert isinstance(source, MemoryFeed)


async def test_hints_come_from_the_loop_and_can_be_dropped() -> None:
    """Not within the announcing call, not to who announces, and not where they are switched off."""
    storage = MemoryStorage()
    woken: list[str] = []
    feeds = {name: MemoryFeed(storage) for name in ("announcing", "listening", "deaf", "held", "failing", "closed")}
    for name, feed in feeds.items():
        feed.on_hint(lambda name=name: woken.append(name))  # type: ignore[misc]
    feeds["deaf"].hints = False
    feeds["held"].hold()
    feeds["failing"].fail = True
    await feeds["closed"].close()
    await feeds["announcing"].poll(None, announce=True)
    assert woken == []
    await settle()
    assert woken == ["listening"]
    feeds["deaf"].hints = True
    feeds["held"].release()
    feeds["failing"].fail = False
    await feeds["announcing"].poll(None)
    await feeds["announcing"].poll(None, announce=True)
    await settle()
    assert woken[1:] == ["listening", "deaf", "held", "failing"]


async def test_a_held_poll_was_answered_and_does_not_arrive() -> None:
    """What is committed meanwhile comes with the next one."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage)
    feed.hold()
    feed.hold()
    polling = asyncio.get_running_loop().create_task(feed.poll(cursor))
    await settle()
    assert not polling.done()
    version = await put(storage)
    feed.release()
    poll = await polling
    assert not poll.changes
    assert told((await feed.poll(poll.cursor)).changes) == [(KEY, version, INSERT)]


async def test_a_held_call_ends_when_it_fails_closes_or_takes_too_long() -> None:
    """The cursor stays good; a feed that was held is still held."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage)
    feed.hold()
    loop = asyncio.get_running_loop()
    polling = loop.create_task(feed.poll(cursor))
    await settle()
    feed.fail = True
    feed.fail = False
    with pytest.raises(TierUnavailable, match="cut"):
        await polling
    polling = loop.create_task(feed.poll(cursor))
    await settle()
    assert not polling.done()
    storage.away = True
    feed.release()
    with pytest.raises(TierUnavailable, match="away"):
        await polling
    storage.away = False
    assert (await feed.poll(cursor)).reset is None
    feed.hold()
    polling = loop.create_task(feed.poll(cursor))
    await settle()
    await feed.close()
    with pytest.raises(TierUnavailable, match="closed"):
        await polling
    slow = MemoryFeed(storage, timeout_seconds=0.0)
    assert await slow.lead()
    slow.hold()
    with pytest.raises(TierUnavailable, match=r"no answer within 0\.0 s"):
        await slow.poll(cursor)
    assert storage.leader is None


async def test_every_call_of_a_failing_feed_fails() -> None:
    """Also where the whole server is away, and after a close."""
    for ail in ("fail", "away", "close"):
        storage = MemoryStorage()
        feed = MemoryFeed(storage)
        if ail == "close":
            await feed.close()
        else:
            setattr(feed if ail == "fail" else storage, ail, True)
        for call in (feed.poll(None), feed.lead(), feed.raise_generation("all"), feed.tidy()):
            with pytest.raises(TierUnavailable):
                await call
        assert storage.coherence().generations == {"all": 1}


async def test_a_leader_that_is_cut_off_leads_no_more() -> None:
    """By a failure, a close, or the end of the server's life."""
    storage = MemoryStorage()
    one, two = MemoryFeed(storage), MemoryFeed(storage)

    async def lead() -> list[bool]:
        return [await feed.lead() for feed in (one, two)]

    assert await lead() == [True, False]
    one.fail = True
    assert await two.lead()
    one.fail = False
    assert await lead() == [False, True]
    for end in (storage.crash, storage.restart):
        end()
        assert await lead() == [True, False]
    two.fail = True
    assert await one.lead()
    await one.close()
    two.fail = False
    assert await two.lead()
    storage.away = True
    with pytest.raises(TierUnavailable):
        await two.lead()
    assert storage.leader is None


async def test_a_clean_restart_is_told_from_a_crash() -> None:
    """The last change delivered is still there, so the cursor is continued; after a crash it is not."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage)
    await put(storage)
    cursor = (await feed.poll(cursor)).cursor
    undelivered = await put(storage, TEAM)
    storage.restart()
    poll = await feed.poll(cursor)
    assert (told(poll.changes), poll.reset) == ([(TEAM, undelivered, INSERT)], None)
    storage.restart()
    assert (await feed.poll(poll.cursor)).reset is None
    storage.crash()
    assert "incarnation" in str((await feed.poll(poll.cursor)).reset)


async def test_a_restart_tells_nothing_twice() -> None:
    """Also where what was delivered last was drawn first."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage)
    early = storage.begin()
    await early.put(KEY, b"1")
    await put(storage, TEAM)
    cursor = (await feed.poll(cursor)).cursor
    await early.commit()
    cursor = (await feed.poll(cursor)).cursor
    storage.restart()
    poll = await feed.poll(cursor)
    assert (list(poll.changes), poll.reset) == ([], None)


async def test_a_restart_without_an_anchor_is_not_continued() -> None:
    """Nothing was delivered, or it has left the outbox: there is nothing to know L3 by."""
    storage = MemoryStorage()
    feed, nothing = await begun(storage)
    storage.restart()
    assert "anew" in str((await feed.poll(nothing)).reset)
    await put(storage)
    cursor = (await feed.poll(None)).cursor
    storage.tidy(storage.log.snapshot())
    assert (await feed.poll(cursor)).reset is None
    storage.restart()
    assert "anew" in str((await feed.poll(cursor)).reset)


async def test_a_restored_copy_is_caught_by_the_anchor() -> None:
    """F1: same incarnation, and numbers grown beyond the cursor's; but what was delivered last never was."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage)
    await put(storage)
    files = storage.copy()
    await put(storage)
    cursor = (await feed.poll(cursor)).cursor
    storage.restore(files)
    for _ in range(5):
        await put(storage)
    poll = await feed.poll(cursor)
    assert "anew" in str(poll.reset)
    assert not poll.changes


async def test_a_restored_copy_is_caught_by_its_lower_numbers() -> None:
    """F1: the cursor has seen what this L3 has not drawn yet."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage)
    files = storage.copy()
    await put(storage)
    cursor = (await feed.poll(cursor)).cursor
    storage.restore(files)
    assert "back in time" in str((await feed.poll(cursor)).reset)


async def test_a_restored_copy_that_lacks_only_a_generation_is_caught() -> None:
    """What was voided would be served again."""
    storage = MemoryStorage()
    await put(storage)
    files = storage.copy()
    feed, _ = await begun(storage)
    await feed.raise_generation("all")
    cursor = (await feed.poll(None)).cursor
    storage.restore(files)
    for _ in range(5):
        await put(storage)
    assert "back in time" in str((await feed.poll(cursor)).reset)


async def test_ids_drawn_again_on_a_restored_copy_hide_nothing() -> None:
    """The cursor saw an id that was rolled back after the copy; on the copy it commits a change of the same key."""
    storage = MemoryStorage()
    await put(storage)
    feed, _ = await begun(storage)
    files = storage.copy()
    undone = storage.begin()
    await undone.put(KEY, b"1")
    await undone.rollback()
    cursor = (await feed.poll(None)).cursor
    storage.restore(files)
    async with storage.begin() as transaction:
        version = await transaction.put(KEY, b"2")
    assert transaction.xid == undone.xid
    poll = await feed.poll(cursor)
    assert (told(poll.changes), poll.reset) == ([(KEY, version, UPDATE)], None)
    assert not (await feed.poll(poll.cursor)).changes


async def test_a_cursor_older_than_the_outbox_is_not_continued() -> None:
    """After five tidyings without a poll, or when a horizon is set beyond it."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage)
    await put(storage)
    for _ in range(MARKS_KEPT):
        await feed.tidy()
    assert len((await feed.poll(cursor)).changes) == 1
    await feed.tidy()
    poll = await feed.poll(cursor)
    assert "older than the outbox" in str(poll.reset)
    await put(storage)
    storage.tidy(storage.log.snapshot())
    assert "older than the outbox" in str((await feed.poll(poll.cursor)).reset)


async def test_a_server_that_went_back_in_time_keeps_no_horizon_of_the_future() -> None:
    """Marks and horizons set before a loss or a restore do not stop new cursors."""
    storage = MemoryStorage()
    await put(storage)
    files = storage.copy()
    for _ in range(5):
        await put(storage)
    storage.tidy(storage.log.snapshot())
    storage.crash(lose=3)
    feed, cursor = await begun(storage)
    await put(storage)
    poll = await feed.poll(cursor)
    assert (len(poll.changes), poll.reset) == (1, None)
    for _ in range(MARKS_KEPT):
        storage.tidy()
    storage.restore(files)
    cursor = (await feed.poll(None)).cursor
    await put(storage)
    storage.tidy()
    poll = await feed.poll(cursor)
    assert (len(poll.changes), poll.reset) == (1, None)


async def test_a_cursor_too_far_behind_is_not_continued() -> None:
    """Emptying the caches is cheaper than so many changes."""
    storage = MemoryStorage()
    feed, cursor = await begun(storage, changes_max=3)
    for _ in range(3):
        await put(storage)
    assert len((await feed.poll(cursor)).changes) == 3
    await put(storage)
    poll = await feed.poll(cursor)
    assert poll.reset == "the cursor is 4 changes behind, more than 3"
    assert (await feed.poll(poll.cursor)).reset is None
