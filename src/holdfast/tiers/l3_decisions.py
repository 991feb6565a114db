"""`DecisionIndex` over PostgreSQL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

from holdfast.kinds import Kind
from holdfast.protocols import Row
from holdfast.protocols.decisions import DECISIONS_LISTED_MAX, Due
from holdfast.protocols.runs import ENDED, check_limit
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_statements import quote

NOW: Final = "SELECT clock_timestamp()"


class PostgresDecisions:
    """`DecisionIndex` over a pool of held connections.

    Args:
        kind: whose table has the columns that `0011` and `0015` gave that of reviews.
    """

    def __init__(self, pool: ConnectionPool, kind: Kind[Any]) -> None:
        self._pool = pool
        self._what = f"{kind.name}s"
        self._table = f"holdfast.{quote(kind.table)}"

    async def list(
        self, *, status: str | None = None, run_id: str | None = None, after: int | None = None, limit: int
    ) -> Sequence[tuple[str, Row]]:
        """Those there are, the oldest first; see `DecisionIndex.list`."""
        check_limit(limit, DECISIONS_LISTED_MAX)
        statement, arguments = listing(self._table, status=status, run_id=run_id, after=after, limit=limit)
        with mapped(f"listing {self._what}"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(statement, *arguments)
        return [(name, Row(version, birth, schema, body)) for name, version, birth, schema, body in records]

    async def due(self, *, after: Due | None = None, limit: int) -> Sequence[Due]:
        """Open ones that are overdue; see `DecisionIndex.due`."""
        check_limit(limit, DECISIONS_LISTED_MAX)
        with mapped(f"looking for overdue {self._what}"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(overdue(self._table, behind=after is not None), limit, *(after or ()))
        return [Due(*record) for record in records]

    async def prune(self, *, older_seconds: float, limit: int, of_ended_runs: bool = False) -> int:
        """Remove old ones that are decided; see `DecisionIndex.prune`. Those that somebody has locked stay for now."""
        check_limit(limit, DECISIONS_LISTED_MAX)
        age, ended = dt.timedelta(seconds=older_seconds), sorted(ENDED) if of_ended_runs else None
        with mapped(f"removing old {self._what}", writes=True):
            async with self._pool.connection() as connection:
                return len(await connection.fetch(pruning(self._table), age, limit, ended))

    async def now(self) -> dt.datetime:
        """The moment by L3's clock; see `DecisionIndex.now`."""
        with mapped("asking the time"):
            async with self._pool.connection() as connection:
                moment: dt.datetime = await connection.fetchval(NOW)
        return moment


def overdue(table: str, *, behind: bool) -> str:
    """The statement that finds open ones that are overdue ($1 limit), or those behind one ($2 its deadline, $3 id)."""
    further = " AND (deadline, id) > ($2, $3)" if behind else ""
    return f"""
        SELECT deadline, id FROM {table} WHERE deadline <= clock_timestamp(){further}
        ORDER BY deadline, id LIMIT $1"""  # noqa: S608 - the table's name alone, quoted


def pruning(table: str) -> str:
    """The statement that removes old ones ($1 age, $2 limit, $3 states of their runs, or NULL: of any run, or none)."""
    # `now()`, and not the clock itself: an index is not searched for what may differ from row to row.
    return f"""
        DELETE FROM {table} WHERE id = ANY (ARRAY(
            SELECT id FROM {table} AS old WHERE settled < now() - $1::interval AND ($3::text[] IS NULL OR NOT EXISTS (
                SELECT FROM holdfast."Run" AS run
                WHERE run.id = old.fields[1] AND coalesce(run.fields[4], '') <> ALL ($3)))
            ORDER BY settled LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id"""  # noqa: S608 - as above


def listing(
    table: str, *, status: str | None, run_id: str | None, after: int | None, limit: int
) -> tuple[str, Sequence[Any]]:
    """The statement that lists a table, and its arguments: one for each set of conditions, for the index it has."""
    wanted = {"fields[1] =": run_id, "fields[2] =": status, "birth >": after}
    given = {condition: value for condition, value in wanted.items() if value is not None}
    conditions = [f"{condition} ${place}" for place, condition in enumerate(given, 1)]
    statement = f"""
        SELECT id, version, birth, schema, document FROM {table}
        WHERE {" AND ".join(conditions) or "true"} ORDER BY birth LIMIT ${len(given) + 1}"""  # noqa: S608 - see above
    return statement, [*given.values(), limit]
