"""What a transaction changed, known without a look at what others write: that would make them conflict."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_transactions import NEW
from holdfast import Swarm, Team
from holdfast.node import OpenStore
from holdfast.settings import Settings
from holdfast.transactions import Transaction

LENGTH = 3
"""Transactions that follow each other: the fewest among which PostgreSQL suspects a circle."""
KINDS = "SELECT current_setting('holdfast.kinds', true)"


@pytest.fixture
async def state(settings: Settings) -> AsyncIterator[OpenStore]:
    async with holdfast.connect(settings) as store:
        yield store


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[OpenStore]:
    """A server with one connection, so that each transaction is of the same session."""
    async with holdfast.connect(msgspec.structs.replace(settings, l3_connections_max=1)) as store:
        yield store


class Chain:
    """Transactions of which each writes when the one before is about to commit, and commits after the next one has.

    Attributes:
        attempts: of each.
    """

    def __init__(self, state: OpenStore) -> None:
        self.attempts = [0] * LENGTH
        self._state = state
        self._asked = [asyncio.Event() for _ in range(LENGTH)]
        self._ended = [asyncio.Event() for _ in range(LENGTH)]

    async def transact(self, number: int) -> None:
        """One of them."""

        async def write(tx: Transaction) -> None:
            self.attempts[number] += 1
            if number > 0:
                await self._asked[number - 1].wait()
            await tx.bots.put(f"b{number}", NEW)
            self._commit_in_turn(tx, number)

        await self._state.transact(write)

    def _commit_in_turn(self, tx: Transaction, number: int) -> None:
        commit = tx.storage.commit

        async def in_turn() -> None:
            self._asked[number].set()  # what it changed was asked just before
            if number + 1 < LENGTH:
                await self._ended[number + 1].wait()
            try:
                await commit()
            finally:
                self._ended[number].set()

        tx.storage.commit = in_turn  # type: ignore[method-assign]


async def test_writers_of_different_keys_are_not_in_each_others_way(state: OpenStore) -> None:
    """At SERIALIZABLE none of them has to run again."""
    chain = Chain(state)
    await asyncio.gather(*(chain.transact(number) for number in range(LENGTH)))
    assert chain.attempts == [1] * LENGTH


async def affected(tx: Transaction) -> set[str]:
    """The kinds it has changed so far."""
    return set((await tx.storage.affected()).kinds)


async def test_what_a_savepoint_undid_is_not_affected(state: OpenStore) -> None:
    """The list is undone with it; what came before and after stays."""
    async with state.transaction() as tx:
        await tx.bots.put("b1", NEW)
        await tx.connection.execute("SAVEPOINT s")
        await tx.teams.put("t1", Team(name="red"))
        assert await affected(tx) == {"bot", "team"}
        await tx.connection.execute("ROLLBACK TO SAVEPOINT s")
        assert await affected(tx) == {"bot"}
        await tx.swarms.put("s1", Swarm(goal="count"))
    assert tx.affected_tables == {"User", "Chat"}


async def test_nothing_is_affected_by_the_transaction_before(narrow: OpenStore) -> None:
    """Of the same session, committed or rolled back."""
    async with narrow.transaction() as tx:
        await tx.bots.put("b1", NEW)
    with pytest.raises(ZeroDivisionError):
        await change_and_fail(narrow)
    async with narrow.transaction() as tx:
        assert await tx.bots.get("b1") == NEW
        assert await affected(tx) == set()
        await tx.swarms.put("s1", Swarm(goal="count"))
    assert tx.affected_tables == {"Chat"}


async def change_and_fail(store: OpenStore) -> None:
    """A transaction that is rolled back."""
    async with store.transaction() as tx:
        await tx.teams.put("t1", Team(name="red"))
        raise ZeroDivisionError


async def test_writes_of_functions_with_settings_of_their_own(state: OpenStore) -> None:
    """The list outlives the functions that wrote, whatever they set for themselves."""
    async with state.transaction() as tx:
        await tx.connection.execute("""CREATE FUNCTION pg_temp.inner() RETURNS void LANGUAGE plpgsql
            SECURITY DEFINER SET search_path = holdfast, pg_temp AS
            $$ BEGIN INSERT INTO "User" (id, document) VALUES ('b1', '{}'); END $$;
            CREATE FUNCTION pg_temp.outer() RETURNS void LANGUAGE plpgsql SET work_mem = '1MB' AS
            $$ BEGIN PERFORM pg_temp.inner(); DELETE FROM holdfast."User"; UPDATE holdfast."Chat" SET id = 's'; END $$;
            SELECT pg_temp.outer()""")
        assert await affected(tx) == {"bot"}
        await tx.connection.execute("""TRUNCATE holdfast."Routine" """)
    assert tx.affected_tables == {"User", "Routine"}


async def test_whoever_tells_of_a_change_names_its_kind(state: OpenStore, settings: Settings) -> None:
    """The trigger for changed primary keys too, where the other one was disabled."""
    async with state.transaction() as tx:
        await tx.bots.put("b1", NEW)
    async with connected(settings.postgres_url) as sql:
        await sql.execute('ALTER TABLE holdfast."User" DISABLE TRIGGER holdfast_note_update')
    async with state.transaction() as tx:
        await tx.connection.execute("""UPDATE holdfast."User" SET id = 'b2'""")
    assert tx.affected_tables == {"User"}


async def test_a_prepared_transaction(state: OpenStore, settings: Settings) -> None:
    """It may write managed rows; its session's next transaction has changed nothing."""
    name = f"holdfast test {uuid.uuid4().hex}"
    async with connected(settings.postgres_url) as sql:
        await sql.execute("""BEGIN; SET LOCAL holdfast.mark = 'x';
            INSERT INTO holdfast."User" (id, document) VALUES ('b1', '{"name": "new"}')""")
        assert await sql.fetchval(KINDS) == "bot"
        await sql.execute(f"PREPARE TRANSACTION '{name}'")
        assert await sql.fetchval(KINDS) == ""
        await sql.execute(f"COMMIT PREPARED '{name}'")
    assert await state.bots.get("b1", consistency=holdfast.Consistency.STRONG) == NEW
