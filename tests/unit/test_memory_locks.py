"""L3 in memory: who waits for whom, and what each isolation level sees and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from fix_loop import settle
from fix_memory_storage import KEY, OTHER, TEAM, outbox, put, row_of
from holdfast.changes import ChangeOperation
from holdfast.errors import Conflict, SerializationFailure
from holdfast.keys import Key
from holdfast.protocols import Isolation, Row, Write
from holdfast.testing import MemoryStorage
from holdfast.testing.conformance.feed_harness import DELETE, INSERT, told


async def test_writers_of_a_locked_row_wait_in_the_order_of_asking() -> None:
    """Each then finds what the one before committed; writers of other rows do not wait."""
    storage = MemoryStorage()
    transaction = storage.begin()
    first = await transaction.put(KEY, b"0")
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(storage.save([Write(KEY, 1, b"1", expected)])) for expected in (None, first, None)]
    await settle()
    await put(storage, OTHER)
    assert not any(task.done() for task in waiting)
    assert await row_of(storage) is None
    await transaction.commit()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[1], Conflict)
    versions = [outcome[KEY] for outcome in outcomes if isinstance(outcome, dict)]
    assert [change.version for change in outbox(storage) if change.key == KEY] == [first, *versions]
    row = await row_of(storage)
    assert row is not None
    assert (row.version, row.birth) == (versions[-1], first)


async def test_a_rollback_lets_the_next_writer_go_on_from_what_was() -> None:
    """Its insert never was: the next one is the first."""
    storage = MemoryStorage()
    transaction = storage.begin()
    await transaction.put(KEY, b"0")
    waiting = asyncio.get_running_loop().create_task(storage.save([Write(KEY, 1, b"1", 0)]))
    await settle()
    await transaction.rollback()
    await transaction.rollback()
    version = (await waiting)[KEY]
    assert told(outbox(storage)) == [(KEY, version, INSERT)]


async def test_an_insert_that_waited_for_a_delete_has_the_lower_number() -> None:
    """V1: the feed orders the delete first though its number is higher."""
    storage = MemoryStorage()
    await put(storage)
    transaction = storage.begin()
    await transaction.lock(KEY)
    inserting = asyncio.get_running_loop().create_task(storage.raw_put(KEY, b"1"))
    await settle()
    deleted, existed = await transaction.delete(KEY)
    await transaction.commit()
    inserted = await inserting
    assert existed
    assert inserted < deleted
    assert told(outbox(storage))[1:] == [(KEY, deleted, DELETE), (KEY, inserted, INSERT)]
    assert (await storage.load([KEY])).rows[KEY].birth == inserted


async def test_a_delete_of_nothing_waits_for_nobody() -> None:
    """An insert that is not committed is no row yet."""
    storage = MemoryStorage()
    transaction = storage.begin()
    await transaction.put(KEY, b"1")
    assert (await storage.delete(KEY))[1] is False
    await transaction.commit()
    assert (await storage.delete(KEY))[1] is True


@pytest.mark.parametrize("moment", ["before the lock comes", "when it comes", "after it came"])
async def test_a_writer_cancelled_while_it_waits_leaves_the_queue(moment: str) -> None:
    """Neither it nor a lock is left behind, also if the lock is on its way when the cancellation comes."""
    storage = MemoryStorage()
    transaction = storage.begin()
    await transaction.put(KEY, b"0")
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(storage.raw_put(KEY, body)) for body in (b"1", b"2")]
    await settle()
    if moment == "after it came":
        await transaction.commit()
    waiting[0].cancel()
    if moment == "before the lock comes":
        await settle()
    await transaction.rollback()
    await waiting[1]
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert (await storage.load([KEY])).rows[KEY].body == b"2"
    await put(storage, body=b"3")


async def test_a_deadlock_ends_the_transaction_that_closes_it() -> None:
    """It is rolled back, the others go on, and it refuses everything but a rollback."""
    storage = MemoryStorage()
    one, two = storage.begin(), storage.begin()
    await one.put(KEY, b"1")
    await two.put(OTHER, b"2")
    waiting = asyncio.get_running_loop().create_task(one.put(OTHER, b"1"))
    await settle()
    with pytest.raises(SerializationFailure, match="deadlock"):
        await two.put(KEY, b"2")
    await waiting
    await one.commit()
    for call in (two.put(TEAM, b"2"), two.commit()):
        with pytest.raises(SerializationFailure, match=r"is over: .*deadlock"):
            await call
    await two.rollback()
    assert {change.key for change in outbox(storage)} == {KEY, OTHER}
    assert storage.log.snapshot().running == ()


async def test_a_locked_load_keeps_writers_away() -> None:
    """From rows that exist; it finds what the one before committed."""
    storage = MemoryStorage()
    await put(storage)
    transaction = await storage.open_transaction(Isolation.READ_COMMITTED)
    second = await storage.open_transaction(Isolation.READ_COMMITTED)
    assert (await transaction.load([OTHER, KEY], lock=True)).keys() == {KEY}
    await put(storage, OTHER)
    loading = asyncio.get_running_loop().create_task(second.load([KEY, OTHER], lock=True))
    await settle()
    assert not loading.done()
    await transaction.save([Write(KEY, 1, b"2")])
    await transaction.commit()
    assert (await loading)[KEY].body == b"2"
    await second.rollback()


@pytest.mark.parametrize("isolation", Isolation)
async def test_isolation_decides_what_is_seen_of_others(isolation: Isolation) -> None:
    """Each statement sees what was committed before it, or all see what was before the first."""
    storage = MemoryStorage()
    await put(storage, body=b"1")
    transaction = await storage.open_transaction(isolation)
    await put(storage, body=b"2")  # before the first statement
    assert (await transaction.load([KEY]))[KEY].body == b"2"
    await put(storage, body=b"3")
    await put(storage, TEAM)
    seen = await transaction.load([KEY, TEAM])
    newest = isolation is Isolation.READ_COMMITTED
    assert (seen[KEY].body, TEAM in seen) == ((b"3", True) if newest else (b"2", False))
    await transaction.commit()


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("write", ["update", "insert", "delete", "lock"])
async def test_a_write_over_a_newer_row_fails_where_isolation_says_so(isolation: Isolation, write: str) -> None:
    """Only READ COMMITTED goes on from it; the others are rolled back, and free what they locked."""
    storage = MemoryStorage()
    await put(storage)
    transaction = await storage.open_transaction(isolation)
    await transaction.load([KEY])
    await transaction.save([Write(OTHER, 1, b"1")])
    await put(storage)
    await put(storage, TEAM)
    call: Coroutine[Any, Any, object]
    match write:
        case "update":
            call = transaction.save([Write(KEY, 1, b"2")])
        case "insert":
            call = transaction.save([Write(TEAM, 1, b"2")])
        case "delete":
            call = transaction.delete(KEY)
        case _:
            call = transaction.load([KEY], lock=True)
    if isolation is Isolation.READ_COMMITTED:
        await call
        await transaction.commit()
    else:
        with pytest.raises(SerializationFailure, match="was changed by another transaction meanwhile"):
            await call
        with pytest.raises(SerializationFailure):
            await transaction.commit()
    await transaction.rollback()
    await put(storage, OTHER)


@pytest.mark.parametrize("isolation", Isolation)
async def test_a_first_statement_that_waits_sees_what_was_before_it(isolation: Isolation) -> None:
    """Not what the one it waited for committed."""
    storage = MemoryStorage()
    await put(storage)
    other = storage.begin()
    await other.put(KEY, b"1")
    transaction = await storage.open_transaction(isolation)
    waiting = asyncio.get_running_loop().create_task(transaction.connection.put(KEY, b"2"))
    await settle()
    await other.commit()
    outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
    assert isinstance(outcome, SerializationFailure) is (isolation is not Isolation.READ_COMMITTED)
    await transaction.rollback()


@pytest.mark.parametrize("isolation", Isolation)
async def test_write_skew_fails_where_transactions_must_be_as_if_in_turn(isolation: Isolation) -> None:
    """Two that read both rows and write one each: only under SERIALIZABLE one of them fails; readers never do."""
    storage = MemoryStorage()
    reader, *writers = [await storage.open_transaction(isolation) for _ in range(3)]
    for transaction in (reader, *writers):
        assert await transaction.load([KEY, OTHER]) == {}
    for transaction, key in zip(writers, (KEY, OTHER), strict=True):
        await transaction.save([Write(key, 1, b"1")])
    await writers[0].commit()
    if isolation is Isolation.SERIALIZABLE:
        with pytest.raises(SerializationFailure):
            await writers[1].commit()
        await writers[1].rollback()
    else:
        await writers[1].commit()
    await reader.commit()
    assert (OTHER in storage.log.rows) is (isolation is not Isolation.SERIALIZABLE)


async def test_a_truncate_waits_for_writers_of_its_kind() -> None:
    """It empties what they committed too, and tells one change."""
    storage = MemoryStorage()
    await put(storage)
    team = await put(storage, TEAM)
    one, two = storage.begin(), storage.begin()
    await one.put(OTHER, b"1")
    await two.put(Key("bot", "b3"), b"1")
    truncating = asyncio.get_running_loop().create_task(storage.truncate("bot"))
    await settle()
    await one.commit()
    await settle()
    assert not truncating.done()
    await two.commit()
    version = await truncating
    assert storage.log.rows == {TEAM: Row(team, team, 1, b"{}")}
    assert told(outbox(storage))[-1] == (Key("bot", ""), version, ChangeOperation.TRUNCATE)
