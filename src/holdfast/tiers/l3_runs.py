"""`RunIndex` over PostgreSQL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import asyncpg

from holdfast.errors import NotFound
from holdfast.protocols import Row
from holdfast.protocols.runs import (
    LISTED_MAX,
    MONTHS_AHEAD_MAX,
    MONTHS_KEPT_MAX,
    PRUNED_MAX,
    ListedSnapshot,
    Retained,
    RunFilter,
    check_limit,
    check_months,
)
from holdfast.tiers import l3_run_statements as sql
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped


class PostgresRuns:
    """`RunIndex` over a pool of held connections.

    Args:
        dead_after_seconds: a server whose beat is older is dead; the takeover time.
    """

    def __init__(self, pool: ConnectionPool, *, dead_after_seconds: float = 10.0) -> None:
        self._pool = pool
        self._dead_after_seconds = dead_after_seconds

    async def list(self, which: RunFilter, *, after: int | None = None, limit: int) -> Sequence[tuple[str, Row]]:
        """Runs, the newest first; see `RunIndex.list`."""
        check_limit(limit, LISTED_MAX)
        statement, arguments = sql.listing(which, after=after, limit=limit, dead_after_seconds=self._dead_after_seconds)
        with mapped("listing runs"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(statement, *arguments)
        return [(name, Row(version, birth, schema, body)) for name, version, birth, schema, body in records]

    async def children(self, parent_run_id: str, *, after: int, limit: int) -> Sequence[tuple[str, Row]]:
        """The runs below a run, the oldest first; see `RunIndex.children`."""
        check_limit(limit, LISTED_MAX)
        with mapped(f"listing the children of run {parent_run_id}"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(sql.CHILDREN, parent_run_id, after, limit)
        return [(name, Row(version, birth, schema, body)) for name, version, birth, schema, body in records]

    async def snapshots(self, run_id: str, *, after: str | None = None, limit: int) -> Sequence[ListedSnapshot]:
        """What snapshots a run has; see `RunIndex.snapshots`."""
        check_limit(limit, LISTED_MAX)
        with mapped(f"listing the snapshots of run {run_id}"):
            async with self._pool.connection() as connection:
                return [
                    ListedSnapshot(*record)
                    for record in await connection.fetch(sql.SNAPSHOTS, run_id, after or "", limit)
                ]

    async def bases(self, run_id: str, *, below: int | None = None, limit: int) -> Sequence[int]:
        """The numbers of a run's bases, the highest first; see `RunIndex.bases`."""
        check_limit(limit, LISTED_MAX)
        with mapped(f"listing the bases of run {run_id}"):
            async with self._pool.connection() as connection:
                return [number for (number,) in await connection.fetch(sql.BASES, run_id, below, limit)]

    async def prune(self, run_id: str, below: int, limit: int) -> int:
        """Remove snapshots below a base; see `RunIndex.prune`. One short transaction."""
        check_limit(limit, PRUNED_MAX)
        with mapped(f"pruning the snapshots of run {run_id}", writes=True):
            async with self._pool.connection() as connection:
                try:
                    return int(await connection.fetchval(sql.PRUNE, run_id, below, limit))
                except asyncpg.NoDataFoundError as fault:
                    raise NotFound(f"run {run_id} has no base {below}: nothing was pruned") from fault

    async def retain(self, months: int) -> Retained:
        """Drop old months; see `RunIndex.retain`. Each in a transaction of its own: one in the way stops no other."""
        check_months(months, MONTHS_KEPT_MAX)
        dropped, kept = [], dict[dt.date, str]()
        with mapped("dropping old months of snapshots", writes=True):
            async with self._pool.connection() as connection:
                for part, first_day in await connection.fetch(sql.OLD, months):
                    async with connection.transaction(isolation="read_committed"):
                        in_the_way = await connection.fetchval(sql.DROP, part)
                    if in_the_way is None:
                        dropped.append(first_day.date())
                    else:
                        kept[first_day.date()] = in_the_way
        return Retained(tuple(dropped), kept)

    async def make_ahead(self, months: int) -> int:
        """Make partitions ahead; see `RunIndex.make_ahead`."""
        check_months(months, MONTHS_AHEAD_MAX)
        with mapped("making partitions ahead", writes=True):
            async with self._pool.connection() as connection:
                return int(await connection.fetchval(sql.MAKE_AHEAD, months))
