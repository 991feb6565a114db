"""Accepted writes and what goes on around them: numbers of the journal, transactions, and what is asked of receipts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, cast

import msgspec
import pytest

from fix_virtual import ACCEPTED, CALM, ONE, GatedBase, Servers, begin, calls, goal
from holdfast import Consistency, InvalidOperation, Overloaded, Set, Swarm
from holdfast.errors import SerializationFailure, TierUnavailable
from holdfast.protocols import Isolation
from holdfast.testing import ManualClock
from holdfast.testing.simulation import World, simulate
from holdfast.transactions import Transaction, Transactions
from holdfast.write_behind.journal import JournalWriter

STRONG = Consistency.STRONG
TOO_LARGE = "x" * 70_000


async def ranges_of_marks() -> int:
    """Of how many ranges the marks in L3 are after writes were refused for want of room."""
    servers = Servers(ManualClock())
    async with servers.server(write_behind_bytes_max=65_536, **CALM) as flows:
        state = flows.store
        await begin(state, "x")
        for _ in range(10):
            await state.swarms.patch("x", ONE, durability=ACCEPTED)
            with pytest.raises(Overloaded):
                await state.swarms.patch("x", Set("goal", TOO_LARGE), durability=ACCEPTED)
        assert await state.flush() == []
        (record,) = await servers.base.records()
        return len(list(record.decided.ranges()))


async def test_what_is_refused_for_want_of_room_leaves_no_gap() -> None:
    """The marks stay one range; each gap would be written by every flush for good."""
    assert await ranges_of_marks() == 1


async def test_mutant_each_attempt_takes_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are as many ranges as there were refusals between."""
    numbers = count(1)
    monkeypatch.setattr(JournalWriter, "number", property(lambda _: next(numbers)))
    assert await ranges_of_marks() == 10


async def touched_again(world: World) -> str | None:
    """What a transaction answers for a row whose accepted write could not be brought to L3 at its first touch."""
    servers = Servers(world)
    base = GatedBase(servers.l3, world)
    async with servers.server(journals=base, write_behind_commit_seconds=1.0, **CALM) as flows:
        state = flows.store
        await begin(state, "x")
        await state.swarms.patch("x", Set("goal", "accepted"), durability=ACCEPTED)
        base.away = True
        async with state.transaction() as tx:
            with pytest.raises(TierUnavailable):
                await tx.swarms.get("x")
            base.away = False
            swarm = await tx.swarms.get("x")
            return None if swarm is None else swarm.goal


def test_a_first_touch_that_failed_is_tried_again() -> None:
    """The transaction sees what this server accepted before."""
    assert simulate(0, touched_again) == "accepted"


def test_mutant_a_row_counts_as_touched_when_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second read answers with what the server's own readers do not see any more."""
    settle = Transaction.settle

    async def counting(transaction: Transaction, keys: Any) -> None:
        keys = list(keys)
        try:
            await settle(transaction, keys)
        finally:
            transaction.touched.update(keys)

    monkeypatch.setattr(Transaction, "settle", counting)
    assert simulate(0, touched_again) == "old"


async def attempts_of_a_transaction(world: World, isolation: Isolation) -> int:
    """How often an operation is run on a row of which this server accepts writes all the time."""
    async with Servers(world).server(**CALM) as flows:
        state, attempts = flows.store, count(1)
        await begin(state, "x", "y")

        async def operation(tx: Transaction) -> int:
            attempt = next(attempts)
            await tx.swarms.get("y")  # its snapshot is of now
            await state.swarms.patch("x", ONE, durability=ACCEPTED)
            await tx.swarms.update("x", lambda swarm: msgspec.structs.replace(swarm, goal="transaction"))
            return attempt

        attempt = await state.transact(operation, isolation)
        assert await state.flush() == []
        assert await goal(state, "x", STRONG) == "transaction"
        assert await calls(state, "x", STRONG) == attempt
        return attempt


@pytest.mark.parametrize(
    ("isolation", "attempts"),
    [(Isolation.READ_COMMITTED, 1), (Isolation.REPEATABLE_READ, 2), (Isolation.SERIALIZABLE, 2)],
    ids=str,
)
def test_a_transaction_is_not_kept_from_a_busy_row(isolation: Isolation, attempts: int) -> None:
    """What was in the way of the first attempt is brought to L3 before the second begins."""
    assert simulate(0, lambda world: attempts_of_a_transaction(world, isolation)) == attempts


def test_mutant_each_attempt_meets_its_own_servers_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are brought to L3 when its snapshot is older, every time."""
    open_ = Transactions.open

    @asynccontextmanager
    async def unprepared(
        transactions: Transactions, isolation: Isolation = Isolation.READ_COMMITTED, _: Collection[Any] = (), **__: Any
    ) -> AsyncIterator[Transaction]:
        async with open_(transactions, isolation) as transaction:
            yield transaction

    monkeypatch.setattr(Transactions, "open", unprepared)
    with pytest.raises(SerializationFailure):
        simulate(0, lambda world: attempts_of_a_transaction(world, Isolation.SERIALIZABLE))


async def test_a_patch_needs_an_operation() -> None:
    """One without is refused, and nothing is accepted."""
    async with Servers(ManualClock()).server(**CALM) as flows:
        await begin(flows.store, "x")
        with pytest.raises(InvalidOperation, match="a patch needs an operation"):
            await flows.store.swarms.patch("x")
        assert flows.store.backlog().writes == 0


async def test_a_receipt_is_asked_in_words_too() -> None:
    """A durability may be given by its name, by accepted writes and committed ones alike; other words are refused."""
    async with Servers(ManualClock()).server(**CALM) as flows:
        state = flows.store
        await begin(state, "x")
        accepted = await state.swarms.patch("x", ONE, durability=ACCEPTED)
        assert await state.flush() == []
        committed = await state.swarms.put("x", Swarm())
        for receipt in (accepted, committed):
            assert await receipt.reached(cast("Any", "committed")) is receipt
            with pytest.raises(ValueError, match="soon"):
                await receipt.reached(cast("Any", "soon"))
