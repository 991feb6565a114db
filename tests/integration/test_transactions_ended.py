"""SQL of the block that ends its transaction: the block fails, and no cache answers with the past afterwards."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

import holdfast
from fix_feed import connected
from fix_tiers import flows_of
from fix_transactions import AFTER, BEFORE, NEW, NOTES, OLD, change_all, held, prepare
from holdfast import HoldfastError, Isolation, OutcomeUnknown
from holdfast.node import OpenStore
from holdfast.settings import Settings

STRONG = holdfast.Consistency.STRONG
ENDS = {
    "commit": "COMMIT",
    "commit and begin": "COMMIT; BEGIN",
    "commit and chain": "COMMIT AND CHAIN",
    "rollback": "ROLLBACK",
    "rollback and begin": "ROLLBACK; BEGIN",
    "rollback and another": "ROLLBACK; BEGIN; COMMIT; BEGIN READ ONLY",
}
every_end = pytest.mark.parametrize(("how", "sql"), ENDS.items(), ids=ENDS)


@pytest.fixture
async def state(settings: Settings) -> AsyncIterator[OpenStore]:
    async with holdfast.connect(settings, kinds=[NOTES]) as store:
        await prepare(store, settings)
        yield store


async def change_and_say(store: OpenStore, sql: str) -> None:
    """A transaction that changes all and is ended before its block."""
    async with store.transaction() as tx:
        await change_all(tx)
        await tx.connection.execute(sql)


@every_end
async def test_a_transaction_that_was_ended_does_not_end_cleanly(state: OpenStore, how: str, sql: str) -> None:
    """Whatever of it is in effect is what this server answers from then on, raw SQL and cascades included."""
    assert await held(state) == BEFORE
    with pytest.raises(OutcomeUnknown, match="let the end of the block end the transaction"):
        await change_and_say(state, sql)
    assert await held(state) == (AFTER if how.startswith("commit") else BEFORE)
    async with state.transaction() as tx:
        await tx.bots.put("b2", OLD)
        await tx.bots.put("b3", OLD)
    assert await state.bots.get_many(["b2", "b3"]) == {"b2": OLD, "b3": OLD}


@every_end
async def test_what_came_after_the_end_is_rolled_back_or_known(state: OpenStore, how: str, sql: str) -> None:
    """A delete after COMMIT alone commits by itself; in a transaction that the user began it does not."""
    assert await held(state) == BEFORE
    with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the end of the block is part of it
        async with state.transaction() as tx:
            await tx.connection.execute(sql)
            if "READ ONLY" not in sql:
                await tx.bots.delete("b1")
    assert await state.bots.get("b1") == (None if sql in {"COMMIT", "ROLLBACK"} else OLD)
    assert await state.bots.get("b1") == await state.bots.get("b1", consistency=STRONG)


@pytest.mark.parametrize("caught", [False, True])
async def test_a_block_that_fails_after_its_commit(state: OpenStore, *, caught: bool) -> None:
    """What was committed is known when the error is out, also when the next transaction failed before its end."""
    assert await held(state) == BEFORE
    with pytest.raises(ZeroDivisionError):
        await commit_and_fail(state, caught=caught)
    assert await held(state) == AFTER


async def commit_and_fail(store: OpenStore, *, caught: bool) -> None:
    """A transaction that is committed by SQL, and then raises."""
    async with store.transaction() as tx:
        await change_all(tx)
        await tx.connection.execute("COMMIT; BEGIN")
        if caught:
            with pytest.raises(Exception, match="division by zero"):
                await tx.connection.execute("SELECT 1 / 0")
        raise ZeroDivisionError


async def test_a_next_transaction_that_failed_ends_the_block_with_an_error(state: OpenStore) -> None:
    """It answers nothing any more, so that nobody can tell; what was committed before is known all the same."""
    assert await held(state) == BEFORE
    with pytest.raises(HoldfastError):  # noqa: PT012 - the end of the block is part of it
        async with state.transaction() as tx:
            await change_all(tx)
            await tx.connection.execute("COMMIT; BEGIN")
            with pytest.raises(Exception, match="division by zero"):
                await tx.connection.execute("SELECT 1 / 0")
    assert await held(state) == AFTER


async def test_a_prepared_transaction_takes_effect_when_it_is_committed(state: OpenStore, settings: Settings) -> None:
    """The block fails; what it prepared is another's to commit, and is seen then."""
    assert await held(state) == BEFORE
    name = f"holdfast test {uuid.uuid4().hex}"
    with pytest.raises(OutcomeUnknown):
        await change_and_say(state, f"PREPARE TRANSACTION '{name}'")
    assert await held(state) == BEFORE
    async with connected(settings.postgres_url) as sql:
        await sql.execute(f"COMMIT PREPARED '{name}'")
    assert await state.bots.get("b1", consistency=STRONG) == NEW


@pytest.mark.parametrize("sql", ["ROLLBACK", "COMMIT; BEGIN"])
async def test_a_transaction_that_only_read_is_told_too(state: OpenStore, sql: str) -> None:
    """It has no number, and was not what its block says all the same."""
    with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the end of the block is part of it
        async with state.transaction(Isolation.REPEATABLE_READ) as tx:
            assert await tx.bots.get("b1") == OLD
            await tx.connection.execute(sql)
    assert await held(state) == BEFORE


@pytest.mark.parametrize("isolation", Isolation)
async def test_sql_that_ends_nothing_is_no_end(state: OpenStore, isolation: Isolation) -> None:
    """Savepoints, nested transactions of the driver, and what must be said before the first query."""
    polls = flows_of(state).feed.polls
    async with state.transaction(isolation) as tx:
        await tx.connection.execute("SET TRANSACTION READ WRITE; SAVEPOINT s")
        async with tx.connection.transaction():
            await tx.bots.put("b1", NEW)
        await tx.connection.execute("ROLLBACK TO SAVEPOINT s; RELEASE s; SET LOCAL statement_timeout = '1min'")
        await tx.bots.put("b2", NEW)
    assert (await state.bots.get_many(["b1", "b2"])) == {"b1": OLD, "b2": NEW}
    assert flows_of(state).feed.polls > polls


async def test_the_snapshot_is_that_of_the_first_statement(state: OpenStore) -> None:
    """What another commits after the beginning and before the first statement is seen."""
    async with state.transaction(Isolation.REPEATABLE_READ) as tx:
        await state.bots.put("b1", NEW)
        assert await tx.bots.get("b1") == NEW
