"""L3 in memory goes back in time: crashes, restarts, restored copies, and what tidying leaves."""

from __future__ import annotations

import asyncio

import pytest

from fix_loop import settle
from fix_memory_storage import KEY, OTHER, TEAM, outbox, put, row_of
from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.protocols import Row, Snapshot, Write
from holdfast.testing import MemoryStorage
from holdfast.testing.conformance.feed_harness import INSERT, told
from holdfast.testing.memory_log import LOSABLE_COMMITS, MARKS_KEPT, TIDY_COMMITS


async def test_a_crash_loses_the_newest_commits_and_draws_their_numbers_again() -> None:
    """Rows, generations, transaction ids, outbox rows and versions go back; the incarnation does not."""
    storage = MemoryStorage()
    kept = await put(storage)
    before = storage.log.snapshot(), storage.coherence()
    lost = [await put(storage), (await storage.delete(KEY))[0], await put(storage, TEAM)]
    storage.raise_generation("all")
    assert [change.version for change in storage.crash(lose=4)] == lost
    assert storage.log.rows == {KEY: Row(kept, kept, 1, b"{}")}
    assert told(outbox(storage)) == [(KEY, kept, INSERT)]
    assert storage.log.snapshot() == before[0]
    assert storage.coherence().generations == before[1].generations
    assert storage.coherence().incarnation != before[1].incarnation
    async with storage.begin() as transaction:
        again = await transaction.put(OTHER, b"1")
    assert kept < again <= max(lost)
    assert transaction.xid == before[0].xmax


async def test_a_crash_loses_no_more_than_was_committed_since_the_start() -> None:
    """What a server found when it started is on disk, and so is what is old; more is refused, and nothing done."""
    storage = MemoryStorage()
    await put(storage)
    storage.restart()
    await put(storage)
    coherence = storage.coherence()
    for lose in (2, -1):
        with pytest.raises(ValueError, match="a crash can lose 0 to 1 commits"):
            storage.crash(lose)
    assert storage.coherence() == coherence
    storage.crash(1)
    for _ in range(LOSABLE_COMMITS + 5):
        version = await put(storage)
    with pytest.raises(ValueError, match=f"0 to {LOSABLE_COMMITS}"):
        storage.crash(LOSABLE_COMMITS + 1)
    storage.crash(LOSABLE_COMMITS)
    row = await row_of(storage)
    assert row is not None
    assert row.version == version - 2 * LOSABLE_COMMITS  # an upsert draws two: insert and update
    assert storage.log.snapshot().covers(storage.log.horizon)


@pytest.mark.parametrize("end", ["crash", "restart", "restore"])
async def test_connections_and_open_transactions_do_not_survive(end: str) -> None:
    """Those that wait are told at once, the others when they act next; what they locked is free."""
    storage = MemoryStorage()
    files = storage.copy()
    loop = asyncio.get_running_loop()
    one, two = storage.begin(), storage.begin()
    await one.put(KEY, b"1")
    saving = loop.create_task(storage.save([Write(KEY, 1, b"2")]))
    putting = loop.create_task(two.put(KEY, b"3"))
    await settle()
    started, storage.leader = storage.started, object()
    storage.restore(files) if end == "restore" else getattr(storage, end)()
    with pytest.raises(OutcomeUnknown):
        await saving
    with pytest.raises(TierUnavailable):
        await putting
    with pytest.raises(OutcomeUnknown):
        await one.commit()
    with pytest.raises(TierUnavailable):
        await two.put(TEAM, b"3")
    for transaction in (one, two):
        await transaction.rollback()
    assert (storage.started != started, storage.leader) == (True, None)
    assert storage.log.snapshot().running == ()
    assert outbox(storage) == []
    await put(storage)


async def test_a_delete_that_waits_through_a_crash_has_an_unknown_outcome() -> None:
    """Like every statement that was sent and not answered."""
    storage = MemoryStorage()
    await put(storage)
    transaction = storage.begin()
    await transaction.lock(KEY)
    deleting = asyncio.get_running_loop().create_task(storage.delete(KEY))
    await settle()
    storage.crash()
    with pytest.raises(OutcomeUnknown, match="deleting bot:b1"):
        await deleting
    assert await row_of(storage) is not None


async def test_a_clean_restart_keeps_everything_committed() -> None:
    """Incarnation, generations, rows, outbox and numbers; only the start has another name."""
    storage = MemoryStorage()
    version = await put(storage)
    transaction = storage.begin()
    await transaction.put(TEAM, b"1")
    before = storage.coherence(), dict(storage.log.rows), outbox(storage)
    storage.restart()
    assert (storage.coherence(), storage.log.rows, outbox(storage)) == before
    assert transaction.xid is not None
    assert storage.log.snapshot() == Snapshot(transaction.xid + 1, transaction.xid + 1)
    assert await put(storage) > version + 1


async def test_a_restored_copy_is_the_past_under_the_same_incarnation() -> None:
    """Any number of times; what came later never was, and its numbers are drawn again."""
    storage = MemoryStorage()
    kept = await put(storage)
    unfinished = storage.begin()
    await unfinished.put(TEAM, b"1")
    files, coherence = storage.copy(), storage.coherence()
    await unfinished.commit()
    starts = {storage.started}
    for _ in range(2):
        later = await put(storage)
        storage.raise_generation("all")
        storage.restore(files)
        assert storage.coherence() == coherence
        assert storage.log.rows == {KEY: Row(kept, kept, 1, b"{}")}
        assert told(outbox(storage)) == [(KEY, kept, INSERT)]
        starts.add(storage.started)
    assert len(starts) == 3
    assert await put(storage) <= later
    storage.crash()
    incarnation = storage.coherence().incarnation
    storage.restore(files)
    assert storage.coherence().incarnation == coherence.incarnation != incarnation


async def test_a_tidied_outbox_holds_what_the_horizon_does_not_see() -> None:
    """A horizon can be set; by default it is the snapshot of five tidyings ago, and it never goes back."""
    storage = MemoryStorage()
    transaction = storage.begin()
    await transaction.put(OTHER, b"1")
    await put(storage)
    horizon = storage.log.snapshot()
    team = await put(storage, TEAM)
    await transaction.commit()
    storage.tidy(horizon)
    assert told(outbox(storage)) == [*told(transaction.changes), (TEAM, team, INSERT)]
    storage.tidy(Snapshot(3, 3))
    assert storage.log.horizon == horizon
    for _ in range(MARKS_KEPT):
        storage.tidy()
    assert len(outbox(storage)) == 2
    storage.tidy()
    assert outbox(storage) == []


async def test_a_log_that_nobody_tidies_stays_bounded() -> None:
    """Tests that run for ever do not eat the machine."""
    storage = MemoryStorage()
    for _ in range((MARKS_KEPT + 3) * TIDY_COMMITS):
        await storage.raw_put(KEY, b"")
    assert len(outbox(storage)) <= (MARKS_KEPT + 1) * TIDY_COMMITS
