"""Writers on hot keys, a reader of the feed beside them, and what it was told held against what was committed.

What was committed is known from a table of its own, which each transaction writes along: its number is drawn while the
row is locked, so it has the order of each key, and it is rolled back with whatever it tells of.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncpg

from fix_feed import connected
from holdfast.protocols import Change, Cursor, Poll

WRITERS, KEYS = 12, 40
POLL_SECONDS = 0.005
AUDIT = "CREATE TABLE by_load (n bigserial, id text, version bigint, deleted boolean)"
PUT = """WITH changed AS (INSERT INTO holdfast."User" (id, document) VALUES ($1, '{}')
    ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document RETURNING id, version)
INSERT INTO by_load (id, version, deleted) SELECT id, version, false FROM changed RETURNING id, version, deleted"""
DELETE = """WITH changed AS (DELETE FROM holdfast."User" WHERE id = $1 RETURNING id)
INSERT INTO by_load (id, deleted) SELECT id, true FROM changed RETURNING id, version, deleted"""
Event = tuple[int | None, bool]
"""A version, which a delete's is not compared by, and whether it was a delete."""
Written = list[tuple[str, int | None, bool]]
Publish = Callable[[asyncpg.Connection, Written, random.Random], Awaitable[None]]


class Source(Protocol):
    """What is read from: the feed, or a mutant of it."""

    async def poll(self, cursor: Cursor | None) -> Poll: ...


@dataclass
class Verdict:
    """What the reader was told, against what was committed.

    Attributes:
        committed: changes.
        missed: of them, never told.
        surplus: told, and never committed, or told twice.
        disordered: keys whose changes came in another order.
        latencies: seconds from when COMMIT returned until a change was told, in rising order.
    """

    committed: int
    missed: int
    surplus: int
    disordered: int
    latencies: list[float]

    @property
    def right(self) -> bool:
        """Whether it was told exactly what was committed."""
        return not (self.missed or self.surplus or self.disordered)

    def latency(self, share: float) -> float:
        """A quantile."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]

    def __str__(self) -> str:
        p50, p99, slowest = (1000 * self.latency(share) for share in (0.5, 0.99, 1))
        return (
            f"{self.committed} changes: missed {self.missed}, surplus {self.surplus}, "
            f"keys out of order {self.disordered}; latency p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {slowest:.1f} ms"
        )


@dataclass
class Load:
    """What the writers and the reader note down."""

    url: str
    seed: int
    publish: Publish | None = None
    committed_at: dict[tuple[str, int], float] = field(default_factory=dict)
    told: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    told_at: dict[tuple[str, int], float] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, source: Source, *, seconds: float, open_seconds: float) -> Verdict:
        """Write and read for so long; one transaction stays open for `open_seconds`, one is prepared meanwhile.

        May be called again; what was told and committed before counts along.
        """
        self.over.clear()
        cursor = (await source.poll(None)).cursor
        prepared = f"feed_load_{uuid.uuid4().hex}"
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(connected(self.url)) for _ in range(WRITERS + 2)]
            timer, opened, *writers = connections
            await timer.execute("BEGIN")
            await timer.fetch(PUT, "prepared")
            await timer.execute(f"PREPARE TRANSACTION '{prepared}'")
            try:
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(self._read(source, cursor))
                    group.create_task(self._keep_open(opened, open_seconds))
                    for number, each in enumerate(writers):
                        group.create_task(self._write(each, number))
                    await timer.execute("SELECT pg_sleep($1)", seconds)
                    self.over.set()
            finally:
                await timer.execute(f"COMMIT PREPARED '{prepared}'")
            self._take((await source.poll(reading.result())).changes)
            return self._judge(await timer.fetch("SELECT id, version, deleted FROM by_load ORDER BY n"))

    async def _read(self, source: Source, cursor: Cursor) -> Cursor:
        while not self.over.is_set():
            poll = await source.poll(cursor)
            assert poll.reset is None, poll.reset
            cursor = poll.cursor
            self._take(poll.changes)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self.over.wait()
            except TimeoutError:
                continue
        return cursor

    def _take(self, changes: Iterable[Change]) -> None:
        now = time.monotonic()
        for change in changes:
            self.told[change.key.id].append((None if change.deleted else change.version, change.deleted))
            self.told_at.setdefault((change.key.id, change.version), now)

    async def _write(self, connection: asyncpg.Connection[Any], number: int) -> None:
        source = random.Random(self.seed * 1000 + number)
        while not self.over.is_set():
            transaction, written = connection.transaction(), Written()
            await transaction.start()
            for key in sorted(source.sample(range(KEYS), source.randint(1, 3))):  # in order, so none waits in a ring
                written += await _change(connection, f"k{key:02}", source)
            if source.random() < 0.1:
                await transaction.rollback()
                continue
            await transaction.commit()
            now = time.monotonic()
            self.committed_at |= {(id_, version): now for id_, version, _ in written if version is not None}
            if self.publish is not None:
                await self.publish(connection, written, source)

    async def _keep_open(self, connection: asyncpg.Connection[Any], seconds: float) -> None:
        async with connection.transaction():
            await connection.fetch(PUT, "open")
            await connection.execute("SELECT pg_sleep($1)", seconds)

    def _judge(self, audit: Sequence[Mapping[str, Any]]) -> Verdict:
        committed: dict[str, list[Event]] = defaultdict(list)
        for row in audit:
            committed[row["id"]].append((row["version"], row["deleted"]))
        pairs = [(committed[key], self.told[key]) for key in committed.keys() | self.told.keys()]
        delays = (self.told_at[each] - at for each, at in self.committed_at.items() if each in self.told_at)
        return Verdict(
            committed=len(audit),
            missed=sum((Counter(wanted) - Counter(told)).total() for wanted, told in pairs),
            surplus=sum((Counter(told) - Counter(wanted)).total() for wanted, told in pairs),
            disordered=sum(Counter(told) == Counter(wanted) and told != wanted for wanted, told in pairs),
            latencies=sorted(max(0.0, delay) for delay in delays),
        )


async def _change(connection: asyncpg.Connection[Any], key: str, source: random.Random) -> Written:
    """Change a row, sometimes behind a savepoint, which is sometimes rolled back."""
    chance = source.random()
    if chance < 0.3:
        await connection.execute("SAVEPOINT s")
    written = [tuple(row) for row in await connection.fetch(DELETE if source.random() < 0.2 else PUT, key)]
    if chance < 0.15:
        await connection.execute("ROLLBACK TO SAVEPOINT s")
        written = []
    if source.random() < 0.5:  # others draw numbers meanwhile
        await connection.execute("SELECT pg_sleep($1)", source.random() * 0.01)
    return written
