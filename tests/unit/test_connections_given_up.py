"""Connections whose answers never came, or came too late, are lent to nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fix_loop import settle
from fix_pool import Connection, Server, callers, pool_of
from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.protocols import Isolation
from holdfast.tiers import l3_transaction
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_rows import RowWriter
from holdfast.tiers.l3_transaction import PostgresTransaction


@pytest.mark.parametrize("fault", [TierUnavailable("no answer"), OutcomeUnknown("no answer"), TimeoutError()])
async def test_a_connection_that_did_not_answer_is_not_lent_again(fault: Exception) -> None:
    """What was sent may still be done, even BEGIN, whose end nobody would send."""
    server = Server()
    (first,), _ = await callers(pool_of(server), 1)
    await first.release(fault)
    assert server.opened[0].ended == "terminated"


async def test_a_connection_found_in_a_transaction_is_not_lent() -> None:
    """The answer to its BEGIN came after it was returned."""
    server = Server()
    pool = pool_of(server)
    async with pool.connection():
        pass
    server.opened[0].in_transaction = True
    async with pool.connection() as connection:
        assert connection is server.opened[1]
    assert server.opened[0].ended == "terminated"
    assert server.alive == 1


class Begun(Connection):
    """A connection whose server does not answer to BEGIN, or to ROLLBACK."""

    def __init__(self, number: int, silent_after: int) -> None:
        super().__init__(number)
        self.left = silent_after

    def transaction(self, **_: object) -> Begun:
        """Its own transaction."""
        return self

    async def start(self) -> None:
        """BEGIN."""
        await self.execute("")
        self.in_transaction = True

    async def execute(self, _: str) -> None:
        """Answer, or not."""
        if self.left == 0:
            await asyncio.Event().wait()
        self.left -= 1

    async def rollback(self) -> None:
        """ROLLBACK."""
        await self.execute("")


async def begin(silent_after: int) -> tuple[Begun, PostgresTransaction]:
    """A transaction on such a connection."""
    connection = Begun(0, silent_after)

    async def opened() -> Any:
        return connection

    pool = ConnectionPool(opened, size_max=1, queue_max=1, timeout_seconds=1.0)
    return connection, PostgresTransaction(pool, RowWriter({}, {}), {})


async def test_a_begin_given_up_ends_its_connection() -> None:
    """The server may execute it yet: the next caller's write would be inside, and rolled back with it."""
    connection, transaction = await begin(silent_after=0)
    task = asyncio.ensure_future(transaction.begin(Isolation.READ_COMMITTED))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert connection.ended == "terminated"


async def test_a_rollback_that_gets_no_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is ended, and the server rolls back by itself."""
    monkeypatch.setattr(l3_transaction, "ROLLBACK_SECONDS", 0.01)
    connection, transaction = await begin(silent_after=2)
    await transaction.begin(Isolation.READ_COMMITTED)
    async with asyncio.timeout(5):
        await transaction.rollback()
    assert connection.ended == "terminated"
