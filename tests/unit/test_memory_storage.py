"""What only L3 in memory has: open transactions with locks, other tools' statements, crashes, restarts and restores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from fix_loop import settle
from holdfast.errors import AppendOnly, Conflict, OutcomeUnknown, SerializationFailure, TierUnavailable
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN
from holdfast.protocols import Affected, Change, Isolation, Row, Snapshot, StorageTransaction, Write
from holdfast.testing import MemoryStorage
from holdfast.testing.memory_log import LOSABLE_COMMITS, MARKS_KEPT, TIDY_COMMITS

KEY = Key("bot", "b1")
OTHER = Key("bot", "b2")
TEAM = Key("team", "t1")


async def put(storage: MemoryStorage, key: Key = KEY, body: bytes = b"{}") -> int:
    return (await storage.save([Write(key, 1, body)]))[key]


async def row_of(storage: MemoryStorage, key: Key = KEY) -> Row | None:
    return (await storage.load([key])).rows.get(key)


def outbox(storage: MemoryStorage) -> list[Change]:
    return [entry.change for entry in storage.log.entries()]


async def test_a_known_version_spares_the_body() -> None:
    """Only where the row is still at it."""
    storage = MemoryStorage()
    first, team = await put(storage, body=b"[1]"), await put(storage, TEAM, b"[2]")
    known = {KEY: first, TEAM: team - 1, OTHER: 7}
    rows = (await storage.load([KEY, TEAM, OTHER], known)).rows
    assert rows == {KEY: Row(first, first, 1, b""), TEAM: Row(team, team, 1, b"[2]")}
    assert (await storage.load([TEAM], known)).rows == {TEAM: rows[TEAM]}


async def test_an_open_transaction_sees_its_own_writes_alone() -> None:
    """Others see them when it commits, all at once; rolled back, never."""
    storage = MemoryStorage()
    before = await put(storage, TEAM)
    async with storage.begin() as transaction:
        version = await transaction.put(KEY, b"1")
        await transaction.delete(TEAM)
        assert transaction.row(KEY) == Row(version, version, 1, b"1")
        assert transaction.row(TEAM) is None
        assert (await storage.load([KEY, TEAM])).rows.keys() == {TEAM}
    assert (await storage.load([KEY, TEAM])).rows.keys() == {KEY}
    with contextlib.suppress(ZeroDivisionError):
        async with storage.begin() as transaction:
            await transaction.put(TEAM, b"2")
            raise ZeroDivisionError
    assert await row_of(storage, TEAM) is None
    told = [Change(TEAM, before), Change(KEY, version)]
    assert [change for change in outbox(storage) if not change.deleted] == told


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
    assert outbox(storage) == [Change(KEY, version)]


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
    assert outbox(storage)[1:] == [Change(KEY, deleted, deleted=True), Change(KEY, inserted)]
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


async def test_a_transaction_that_is_over_refuses_statements() -> None:
    """The mistake is in the test, and is named."""
    storage = MemoryStorage()
    transaction = storage.begin()
    await transaction.put(KEY, b"1")
    await transaction.commit()
    assert [change.key for change in transaction.changes] == [KEY]
    for call in (transaction.put(KEY, b"2"), transaction.delete(KEY), transaction.commit()):
        with pytest.raises(RuntimeError, match="is over: it was committed"):
            await call


async def test_a_refused_statement_leaves_its_transaction_open() -> None:
    """A conflict undoes nothing of what was written before."""
    storage = MemoryStorage()
    async with storage.begin() as transaction:
        await transaction.put(KEY, b"1")
        with pytest.raises(Conflict):
            await transaction.put(OTHER, b"1", expected=5)
        with pytest.raises(Conflict):
            await transaction.delete(OTHER, expected=5)
    assert [change.key for change in outbox(storage)] == [KEY]


async def test_a_servers_transaction_is_cut_off_with_it() -> None:
    """Statements fail while L3 is away, and a commit's outcome is unknown; it did not take effect, and ends."""
    storage = MemoryStorage()
    transaction: StorageTransaction = await storage.open_transaction(Isolation.READ_COMMITTED)
    await transaction.save([Write(KEY, 1, b"1")])
    storage.away = True
    for call in (transaction.load([KEY]), transaction.delete(KEY), transaction.save([Write(TEAM, 1, b"1")])):
        with pytest.raises(TierUnavailable):
            await call
    with pytest.raises(TierUnavailable):
        await storage.open_transaction(Isolation.READ_COMMITTED)
    with pytest.raises(OutcomeUnknown):
        await transaction.commit()
    await transaction.rollback()
    storage.away = False
    assert outbox(storage) == []
    await put(storage)


async def test_a_servers_transaction_tells_what_it_changed() -> None:
    """By whatever statement: its connection stands for SQL of one's own."""
    storage = MemoryStorage()
    transaction: StorageTransaction = await storage.open_transaction(Isolation.READ_COMMITTED)
    assert await transaction.affected() == Affected(None)
    await transaction.load([KEY], lock=True)
    await transaction.save([Write(KEY, 1, b"1")])
    await transaction.connection.put(TEAM, b"2")
    affected = await transaction.affected()
    assert affected.kinds == {"bot", "team"}
    fault = ValueError()
    assert transaction.understood(fault) is fault
    before = storage.log.snapshot()
    await transaction.commit()
    assert affected.xid is not None
    assert (before.sees(affected.xid), storage.log.snapshot().sees(affected.xid)) == (False, True)


async def test_a_refused_save_of_many_takes_all_of_it_back_and_goes_on() -> None:
    """As if at a savepoint: what the transaction wrote before stays."""
    storage = MemoryStorage()
    transaction = await storage.open_transaction(Isolation.READ_COMMITTED)
    first = (await transaction.save([Write(KEY, 1, b"1")]))[KEY]
    with pytest.raises(Conflict):
        await transaction.save([Write(KEY, 1, b"2"), Write(OTHER, 1, b"2"), Write(TEAM, 1, b"2", 5)])
    await transaction.commit()
    assert storage.log.rows == {KEY: Row(first, first, 1, b"1")}
    assert outbox(storage) == [Change(KEY, first)]


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


async def test_other_tools_write_while_servers_are_cut_off_and_keep_the_rules() -> None:
    """`away` is of the servers; the triggers are the tables'."""
    storage = MemoryStorage()
    storage.away = True
    first = await storage.raw_put(KEY, b"1", schema=2)
    second = await storage.raw_put(KEY, b"2", schema=2)
    snapshot = Key("run_snapshot", "r1/1")
    await storage.raw_put(snapshot, b"1")
    for call in (storage.raw_put(snapshot, b"2"), storage.raw_delete(snapshot)):
        with pytest.raises(AppendOnly):
            await call
    storage.away = False
    assert await row_of(storage) == Row(second, first, 2, b"2")
    deleted, existed = await storage.raw_delete(KEY)
    assert existed
    assert outbox(storage)[-1] == Change(KEY, deleted, deleted=True)


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
    assert outbox(storage)[-1] == Change(Key("bot", ""), version)


async def test_a_statement_of_too_many_keys_tells_whole_kinds() -> None:
    """One kind over the limit is told as a whole, the others key by key; versions are as ever."""
    storage = MemoryStorage(statement_keys_max=2)
    keys = [Key("bot", f"b{number}") for number in range(3)]
    versions = await storage.save([Write(key, 1, b"{}") for key in (*keys, TEAM)])
    told = outbox(storage)
    assert told[0] == Change(TEAM, versions[TEAM])
    assert [change.key for change in told] == [TEAM, Key("bot", "")]
    assert told[1].version > max(versions.values())
    assert {key: row.version for key, row in storage.log.rows.items()} == versions


async def test_each_commit_is_shown_at_its_moment() -> None:
    """`on_commit` sees all writers, in the order in which their changes take effect."""
    seen: list[tuple[int, Sequence[Change]]] = []
    storage = MemoryStorage(on_commit=lambda xid, changes: seen.append((xid, changes)))
    early = storage.begin()
    first = await early.put(KEY, b"1")
    team = await put(storage, TEAM)
    assert [changes for _, changes in seen] == [[Change(TEAM, team)]]
    await early.commit()
    storage.raise_generation("all")
    assert [changes for _, changes in seen] == [[Change(TEAM, team)], [Change(KEY, first)], []]
    assert seen[1][0] == early.xid
    assert seen[1][0] < seen[0][0] < seen[2][0]


async def test_snapshots_tell_running_transactions_apart() -> None:
    """As PostgreSQL's do: nothing is told of ids above the newest that is over, nor of one that wrote nothing."""
    storage = MemoryStorage()
    idle, one, two, three = (storage.begin() for _ in range(4))
    start = storage.log.snapshot()
    assert start == Snapshot(start.xmax, start.xmax)
    for transaction, key in ((one, KEY), (two, OTHER), (three, TEAM)):
        await transaction.put(key, b"1")
    assert storage.log.snapshot() == start
    await two.commit()
    assert idle.xid is None
    assert one.xid is not None
    assert three.xid is not None
    assert storage.log.snapshot() == Snapshot(one.xid, three.xid, (one.xid,))
    await three.rollback()
    assert storage.log.snapshot() == Snapshot(one.xid, three.xid + 1, (one.xid,))
    await one.commit()
    await idle.commit()
    assert storage.log.snapshot() == Snapshot(three.xid + 1, three.xid + 1)


async def test_a_crash_loses_the_newest_commits_and_draws_their_numbers_again() -> None:
    """Rows, generations, transaction ids, outbox rows and versions go back; the incarnation does not."""
    storage = MemoryStorage()
    kept = await put(storage)
    before = storage.log.snapshot(), storage.coherence()
    lost = [await put(storage), (await storage.delete(KEY))[0], await put(storage, TEAM)]
    storage.raise_generation("all")
    assert [change.version for change in storage.crash(lose=4)] == lost
    assert storage.log.rows == {KEY: Row(kept, kept, 1, b"{}")}
    assert outbox(storage) == [Change(KEY, kept)]
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
        assert outbox(storage) == [Change(KEY, kept)]
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
    assert outbox(storage) == [*transaction.changes, Change(TEAM, team)]
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


async def test_the_kinds_decide_what_is_history() -> None:
    """A storage that is told of other kinds has other history."""
    storage = MemoryStorage([kind for kind in BUILT_IN if not kind.append_only])
    key = Key("run_snapshot", "r1/1")
    await put(storage, key)
    await put(storage, key)
    assert (await storage.delete(key))[1]
