"""What only L3 in memory has: open transactions, other tools' statements, and each commit shown at its moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from fix_memory_storage import KEY, OTHER, TEAM, outbox, put, row_of
from holdfast.changes import ChangeOperation
from holdfast.errors import AppendOnly, Conflict, OutcomeUnknown, TierUnavailable
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN
from holdfast.protocols import Affected, Change, Isolation, Row, Snapshot, StorageTransaction, Write
from holdfast.testing import MemoryStorage
from holdfast.testing.conformance.feed_harness import DELETE, INSERT, told


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
    assert told(change for change in outbox(storage) if not change.deleted) == [
        (TEAM, before, INSERT),
        (KEY, version, INSERT),
    ]


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
    storage.away = False
    assert outbox(storage) == []
    async with asyncio.timeout(1):  # nobody need roll back for the locks of who is cut off
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
    assert told(outbox(storage)) == [(KEY, first, INSERT)]


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
    assert told(outbox(storage))[-1] == (KEY, deleted, DELETE)


async def test_a_statement_of_too_many_keys_tells_whole_kinds() -> None:
    """One kind over the limit is told as a whole, the others key by key; versions are as ever."""
    storage = MemoryStorage(statement_keys_max=2)
    keys = [Key("bot", f"b{number}") for number in range(3)]
    versions = await storage.save([Write(key, 1, b"{}") for key in (*keys, TEAM)])
    team, bots = told(outbox(storage))
    assert team == (TEAM, versions[TEAM], INSERT)
    assert (bots[0], bots[2]) == (Key("bot", ""), ChangeOperation.MANY)
    assert bots[1] > max(versions.values())
    assert {key: row.version for key, row in storage.log.rows.items()} == versions


async def test_each_commit_is_shown_at_its_moment() -> None:
    """`on_commit` sees all writers, in the order in which their changes take effect."""
    seen: list[tuple[int, Sequence[Change]]] = []
    storage = MemoryStorage(on_commit=lambda xid, changes: seen.append((xid, changes)))
    early = storage.begin()
    first = await early.put(KEY, b"1")
    team = await put(storage, TEAM)
    assert [told(changes) for _, changes in seen] == [[(TEAM, team, INSERT)]]
    await early.commit()
    storage.raise_generation("all")
    assert [told(changes) for _, changes in seen] == [[(TEAM, team, INSERT)], [(KEY, first, INSERT)], []]
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


async def test_the_kinds_decide_what_is_history() -> None:
    """A storage that is told of other kinds has other history."""
    storage = MemoryStorage([kind for kind in BUILT_IN if not kind.append_only])
    key = Key("run_snapshot", "r1/1")
    await put(storage, key)
    await put(storage, key)
    assert (await storage.delete(key))[1]
