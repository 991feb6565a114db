"""What a user told the session of `tx.connection` ends with the transaction: nobody after it inherits it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_tiers import flows_of
from fix_transactions import NEW, OLD
from holdfast import HoldfastError
from holdfast.node import OpenStore
from holdfast.settings import Settings
from holdfast.tiers import l3_transaction
from holdfast.tiers.l3_connections import ConnectionPool

ASKED = """SELECT pg_backend_pid() AS pid, current_user, session_user,
    (SELECT array_agg(name || '=' || setting ORDER BY name) FROM pg_settings WHERE name <> 'transaction_isolation')
        AS settings,
    (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') AS locks,
    (SELECT count(*) FROM pg_listening_channels()) AS channels,
    (SELECT count(*) FROM pg_cursors WHERE is_holdable) AS cursors,
    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql AND name = 'mine') AS prepared,
    to_regclass('pg_temp.scratch') AS temporary,
    nullif(current_setting('holdfast.kinds', true), '') AS kinds"""


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[OpenStore]:
    """A server with one connection, so that each call is of the same session."""
    async with holdfast.connect(msgspec.structs.replace(settings, l3_connections_max=1)) as store:
        await store.bots.put("b1", OLD)
        yield store


def pool_of(store: OpenStore) -> ConnectionPool:
    l3: Any = flows_of(store).resolver._l3
    assert isinstance(l3.pool, ConnectionPool)
    return l3.pool


async def session(store: OpenStore) -> dict[str, Any]:
    """What the next caller finds."""
    async with pool_of(store).connection() as connection:
        return dict(await connection.fetchrow(ASKED) or {})


CHANGES = {
    "a timeout": "SET statement_timeout = '1h'",
    "read only": "SET default_transaction_read_only = on",
    "no wait for the disk": "SET synchronous_commit = off",
    "settings of Holdfast": "SET plan_cache_mode = auto; SET jit = on; SET application_name = 'mine'",
    "a list of kinds": "SET holdfast.kinds = 'team'",
    "a role": "SET ROLE pg_monitor",
    "another user": "SET SESSION AUTHORIZATION pg_monitor",
    "a channel": "LISTEN mine",
    "a lock": "SELECT pg_advisory_lock(4711)",
    "a temporary table": "CREATE TEMP TABLE scratch (id int)",
    "a cursor": "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    "a statement": "PREPARE mine AS SELECT 1",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_a_committed_transaction_told_its_session_ends_with_it(narrow: OpenStore, change: str) -> None:
    """The connection is lent again, and is what it was; values of type json are bytes still."""
    before = await session(narrow)
    async with narrow.transaction() as tx:
        await tx.connection.execute(change)
    assert await session(narrow) == before
    await narrow.bots.put("b1", NEW)
    assert await narrow.bots.get("b1", consistency=holdfast.Consistency.STRONG) == NEW


async def test_a_lock_outlives_no_rollback(narrow: OpenStore) -> None:
    """An advisory lock of the session is not undone by ROLLBACK; others get it nevertheless."""
    before = await session(narrow)
    with pytest.raises(ZeroDivisionError):
        await lock_and_fail(narrow)
    assert await session(narrow) == before


async def lock_and_fail(store: OpenStore) -> None:
    """A transaction that takes a lock of its session, and is rolled back."""
    async with store.transaction() as tx:
        await tx.connection.execute(CHANGES["a lock"])
        raise ZeroDivisionError


async def test_holdfasts_settings_are_those_it_connected_with(narrow: OpenStore) -> None:
    """After a user's transaction they are not the database's defaults."""
    async with narrow.transaction() as tx:
        await tx.connection.execute(CHANGES["settings of Holdfast"])
    async with pool_of(narrow).connection() as connection:
        found = {name: await connection.fetchval(f"SHOW {name}") for name in ("plan_cache_mode", "jit")}
        assert found == {"plan_cache_mode": "force_generic_plan", "jit": "off"}
        assert await connection.fetchval("SHOW application_name") == "holdfast"
        assert await connection.fetchval("SHOW statement_timeout") != "0"


async def test_listeners_of_the_driver_end_too(narrow: OpenStore, settings: Settings) -> None:
    """The driver calls nobody for what is told on a channel after the transaction."""
    heard: list[object] = []
    async with narrow.transaction() as tx:
        await tx.connection.add_listener("mine", lambda *told: heard.append(told))
    async with connected(settings.postgres_url) as sql:
        await sql.execute("NOTIFY mine")
    await session(narrow)
    assert heard == []


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
async def test_deallocate_all_costs_nobody_after_it_a_call(narrow: OpenStore, *, first: bool) -> None:
    """What the driver had prepared is gone; it prepares it anew, or in another session."""
    if not first:
        async with narrow.transaction() as tx:
            await tx.connection.execute("SELECT")
    before = await session(narrow)
    async with narrow.transaction() as tx:
        await tx.connection.execute("DEALLOCATE ALL")
    assert (await session(narrow) == before) is first
    await narrow.bots.put("b1", NEW)
    assert await narrow.bots.get("b1", consistency=holdfast.Consistency.STRONG) == NEW


async def test_a_statement_that_is_gone_fails_one_call(narrow: OpenStore) -> None:
    """Whoever took it away: a connection whose driver names what is not there is not lent again."""
    await narrow.bots.put("b1", NEW)
    async with pool_of(narrow).connection() as connection:
        await connection.execute("DEALLOCATE ALL")
    with pytest.raises(HoldfastError) as raised:
        await narrow.bots.put("b1", OLD)
    assert isinstance(raised.value.__cause__, asyncpg.InvalidSQLStatementNameError)
    await narrow.bots.put("b1", OLD)
    assert await narrow.bots.get("b1", consistency=holdfast.Consistency.STRONG) == OLD


async def test_a_session_that_cannot_be_put_back_is_ended(narrow: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transaction is committed, and the next caller gets another session."""
    before = await session(narrow)
    monkeypatch.setattr(l3_transaction, "AS_OPENED", "SELECT 1 / 0")
    async with narrow.transaction() as tx:
        await tx.bots.put("b1", NEW)
        await tx.connection.execute(CHANGES["a lock"])
    assert (await session(narrow))["pid"] != before["pid"]
    assert await narrow.bots.get("b1", consistency=holdfast.Consistency.STRONG) == NEW


async def test_whoever_kept_to_the_collections_pays_nothing(narrow: OpenStore) -> None:
    """Such a transaction says to its session what it always said."""
    said: list[str] = []
    async with pool_of(narrow).connection() as connection:
        connection.add_query_logger(lambda query: said.append(query.query))
    for _ in range(2):
        said.clear()
        async with narrow.transaction() as tx:
            await tx.bots.put("b1", NEW)
    assert len([each for each in said if not each.startswith(("SAVEPOINT", "RELEASE"))]) == 5, said
