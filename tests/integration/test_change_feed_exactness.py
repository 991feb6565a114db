"""The feed tells every committed change once, in the order of each key; and its mutants are caught."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fix_feed import connected, feed_of
from fix_feed_load import AUDIT, Load, Source, Written
from holdfast.keys import Key
from holdfast.protocols import Change, Coherence, Cursor, Poll, Snapshot
from holdfast.tiers import l3_feed_answers, l3_feed_statements
from holdfast.tiers.l3_feed_answers import OPERATIONS
from holdfast.tiers.l3_feed_statements import CHANGES_MAX

pytestmark = pytest.mark.parametrize("database_url", ["postgres_url"], indirect=True)
SEED = 20261124
logger = logging.getLogger(__name__)
NOTES = ("insert", "update", "delete", "truncate")


@pytest.fixture
async def load(database_url: str, sql: asyncpg.Connection) -> Load:
    await sql.execute(AUDIT)
    return Load(database_url, SEED)


@asynccontextmanager
async def feed(url: str) -> AsyncIterator[Source]:
    source = feed_of(url)
    yield source
    await source.close()


async def test_every_change_once_in_order(load: Load) -> None:
    """12 writers on 40 keys, with rollbacks, savepoints, a prepared transaction and one that stays open for 1 s."""
    async with feed(load.url) as source:
        verdict = await load.run(source, seconds=4, open_seconds=1)
    assert verdict.right, verdict
    assert verdict.committed > 200


@pytest.mark.prove
async def test_prove_feed_every_change_once_in_order_and_soon(load: Load) -> None:
    """The long form: one transaction stays open for 3 s, and 99 of 100 changes come within 50 ms all the same."""
    async with feed(load.url) as source:
        verdict = await load.run(source, seconds=20, open_seconds=3)
    logger.info("%s", verdict)
    assert verdict.right, verdict
    assert verdict.latency(0.99) < 0.05, verdict


class SequenceCursor:
    """Mutant: goes by the serial number, as most outboxes do."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._last = 0

    async def poll(self, cursor: Cursor | None) -> Poll:
        rows = await self._connection.fetch("SELECT * FROM holdfast.outbox WHERE seq > $1 ORDER BY seq", self._last)
        self._last = max([self._last, *(row["seq"] for row in rows)])
        return Poll(
            cursor or Cursor(Coherence(UUID(int=0)), Snapshot(0, 0)),
            [
                Change(Key(row["kind"], id_), version, OPERATIONS[row["op"]])
                for row in rows
                for id_, version in zip(row["ids"], row["versions"], strict=True)
            ],
        )


async def missed(load: Load, source: Source, *, more_than: int = 0) -> bool:
    """Whether changes are missed, with more time for as long as none is: a busy machine commits few."""
    for seconds in (1, 3, 9):
        if (await load.run(source, seconds=seconds, open_seconds=seconds / 2)).missed > more_than:
            return True
    return False


async def test_a_cursor_by_serial_number_is_caught(load: Load) -> None:
    """It passes over what was numbered early and committed late."""
    async with connected(load.url) as connection:
        assert await missed(load, SequenceCursor(connection))


async def test_a_limit_is_caught(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor's snapshot covers what the LIMIT cut off."""
    whole = f"AS everything LIMIT {CHANGES_MAX + 1}"
    assert whole in l3_feed_statements.POLL
    cut = l3_feed_statements.POLL.replace(whole, "AS everything ORDER BY seq LIMIT 3")
    monkeypatch.setattr(l3_feed_answers, "POLL", cut)
    async with feed(load.url) as source:
        assert await missed(load, source)


async def publish(connection: Any, written: Written, source: random.Random) -> None:
    """Tell of a commit after it, unless the process crashed in between."""
    if written and source.random() < 0.95:
        await connection.executemany(
            """INSERT INTO holdfast.outbox (leaf, kind, op, keys, ids, versions)
            VALUES (0, 'bot', $3, 1, ARRAY[$1::text], ARRAY[$2::int8])""",
            [(id_, version or 0, b"d" if deleted else b"u") for id_, version, deleted in written],
        )


async def test_telling_after_the_commit_is_caught(load: Load, sql: asyncpg.Connection) -> None:
    """A crash between both loses the change for ever, and two writers may tell in the wrong order."""
    for operation in NOTES:
        await sql.execute(f'ALTER TABLE holdfast."User" DISABLE TRIGGER holdfast_note_{operation}')
    load.publish = publish
    async with feed(load.url) as source:
        # The prepared and the open transaction of each run, whose clients publish nothing, are not what is meant.
        assert await missed(load, source, more_than=6)
