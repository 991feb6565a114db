"""`KeyRows`: the same suite on PostgreSQL and in memory, and what it catches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from fix_feed import connected
from fix_key_rows import AnyMaster, MemoryKeyHarness, NeverOutdated, Overwrites, PostgresKeyHarness, TakesAny
from holdfast import Settings
from holdfast.testing import MemoryKeys
from holdfast.testing.conformance import KeyRowsSuite, checks

ALL = pytest.mark.parametrize("check", checks(KeyRowsSuite), ids=lambda check: check.__name__)
CheckOfSuite = Callable[[Any], Any]


@ALL
async def test_in_memory(check: CheckOfSuite) -> None:
    """The tier in memory keeps the contract."""
    await check(KeyRowsSuite(MemoryKeyHarness()))


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (TakesAny, KeyRowsSuite.check_a_retired_master_key_wraps_nothing),
        (TakesAny, KeyRowsSuite.check_two_cannot_retire_each_others_key),
        (TakesAny, KeyRowsSuite.check_no_row_slips_in_while_its_master_key_is_retired),
        (Overwrites, KeyRowsSuite.check_a_row_is_replaced_only_as_it_was_read),
        (AnyMaster, KeyRowsSuite.check_the_newest_is_that_added_last),
        (NeverOutdated, KeyRowsSuite.check_a_key_is_outdated_once_a_master_key_was_retired),
    ],
    ids=lambda each: each.__name__,
)
async def test_the_suite_catches(mutant: type[MemoryKeys], check: CheckOfSuite) -> None:
    """With one mechanism switched off a check fails."""
    with pytest.raises(AssertionError):
        await check(KeyRowsSuite(MemoryKeyHarness(mutant)))


@ALL
async def test_postgres(check: CheckOfSuite, postgres_keys: PostgresKeyHarness) -> None:
    """The tier over a real PostgreSQL keeps the contract."""
    await check(KeyRowsSuite(postgres_keys))


async def test_without_its_lock_a_row_slips_in(settings: Settings) -> None:
    """Mutant: L3 looks whether a master key is retired and takes no lock: a row under it comes after the last count."""
    async with connected(settings.postgres_url) as one, connected(settings.postgres_url) as other:
        body = await one.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'check_master_key'")
        assert await slips_in(one, other) is False
        await one.execute(
            "CREATE OR REPLACE FUNCTION holdfast.check_master_key() RETURNS trigger LANGUAGE plpgsql AS "
            f"$body${body.replace('FOR SHARE', '')}$body$"
        )
        assert await slips_in(one, other) is True


async def slips_in(one: Any, other: Any) -> bool:
    """Whether a transaction that adds a row can end after its master key was retired and its rows were counted."""
    add = "INSERT INTO holdfast.data_keys (id, master_id, wrapped) VALUES (gen_random_uuid()::text, 'old', 'x')"
    adding = one.transaction(isolation="read_committed")
    await adding.start()
    await one.execute(add)
    try:
        async with other.transaction():
            await other.execute("SET LOCAL lock_timeout = '200ms'")
            await other.execute("SELECT holdfast.retire_master_keys(ARRAY['old'], 'new')")
    except asyncpg.LockNotAvailableError:  # it waits for the row: whoever retires finds it
        return False
    finally:
        await adding.commit()
    return True
