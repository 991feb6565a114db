"""`ReviewIndex` over PostgreSQL."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

from holdfast.protocols import Row
from holdfast.protocols.review_index import REVIEWS_LISTED_MAX, Due
from holdfast.protocols.runs import check_limit
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped

DUE: Final = """
SELECT deadline, id FROM holdfast."Review" WHERE deadline <= clock_timestamp() ORDER BY deadline, id LIMIT $1"""
DUE_AFTER: Final = """
SELECT deadline, id FROM holdfast."Review" WHERE deadline <= clock_timestamp() AND (deadline, id) > ($2, $3)
ORDER BY deadline, id LIMIT $1"""
NOW: Final = "SELECT clock_timestamp()"


class PostgresReviews:
    """`ReviewIndex` over a pool of held connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def list(
        self, *, status: str | None = None, run_id: str | None = None, after: int | None = None, limit: int
    ) -> Sequence[tuple[str, Row]]:
        """Reviews, the oldest first; see `ReviewIndex.list`."""
        check_limit(limit, REVIEWS_LISTED_MAX)
        statement, arguments = listing(status=status, run_id=run_id, after=after, limit=limit)
        with mapped("listing reviews"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(statement, *arguments)
        return [(name, Row(version, birth, schema, body)) for name, version, birth, schema, body in records]

    async def due(self, *, after: Due | None = None, limit: int) -> Sequence[Due]:
        """Open reviews that are overdue; see `ReviewIndex.due`."""
        check_limit(limit, REVIEWS_LISTED_MAX)
        with mapped("looking for overdue reviews"):
            async with self._pool.connection() as connection:
                if after is None:
                    records = await connection.fetch(DUE, limit)
                else:
                    records = await connection.fetch(DUE_AFTER, limit, *after)
        return [Due(*record) for record in records]

    async def now(self) -> dt.datetime:
        """The moment by L3's clock; see `ReviewIndex.now`."""
        with mapped("asking the time"):
            async with self._pool.connection() as connection:
                moment: dt.datetime = await connection.fetchval(NOW)
        return moment


def listing(*, status: str | None, run_id: str | None, after: int | None, limit: int) -> tuple[str, Sequence[Any]]:
    """The statement that lists reviews, and its arguments: one for each set of conditions, for the index it has."""
    wanted = {"fields[1] =": run_id, "fields[2] =": status, "birth >": after}
    given = {condition: value for condition, value in wanted.items() if value is not None}
    conditions = [f"{condition} ${place}" for place, condition in enumerate(given, 1)]
    statement = f"""
        SELECT id, version, birth, schema, document FROM holdfast."Review"
        WHERE {" AND ".join(conditions) or "true"} ORDER BY birth LIMIT ${len(given) + 1}"""  # noqa: S608 - see above
    return statement, [*given.values(), limit]
