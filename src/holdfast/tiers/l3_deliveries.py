"""`DeliveryQueue` over PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from holdfast.audit.chain import AuditNote
from holdfast.protocols import DeliveryRow
from holdfast.protocols.deliveries import EXPORTERS_MAX, LISTED_MAX
from holdfast.protocols.runs import check_limit
from holdfast.tiers.l3_audit import noted_columns, with_note
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped

_COLUMNS: Final = """d.id, d.birth, d.document, d.attempts, d.dead, d.error,
    extract(epoch FROM d.due - statement_timestamp())::float8,
    coalesce(extract(epoch FROM d.leased_until), 0)::float8"""
# Rows that another server is about to claim are passed over, so no two wait for each other.
CLAIM: Final = f"""
UPDATE holdfast."Delivery" AS d
SET attempts = d.attempts + 1,
    due = statement_timestamp() + $3::float8 * interval '1 second',
    leased_until = statement_timestamp() + $3::float8 * interval '1 second'
FROM (SELECT id FROM holdfast."Delivery"
      WHERE exporter = ANY ($1::text[]) AND NOT dead AND due <= statement_timestamp()
      ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED) AS claimed
WHERE d.id = claimed.id RETURNING {_COLUMNS}"""  # noqa: S608 - only constants are put together
"""($1 exporters, $2 limit, $3 seconds of the lease)."""
DELIVERED: Final = """DELETE FROM holdfast."Delivery" WHERE id = $1 AND birth = $2 RETURNING true"""
FAILED: Final = """
UPDATE holdfast."Delivery"
SET error = $4, leased_until = NULL, dead = attempts = $3 AND $5::float8 IS NULL,
    due = statement_timestamp() + CASE attempts WHEN $3 THEN coalesce($5::float8, 0) ELSE 0 END * interval '1 second'
WHERE id = $1 AND birth = $2 AND extract(epoch FROM leased_until)::float8 = $6 AND NOT dead RETURNING attempts = $3"""
"""($1 id, $2 birth, $3 attempts, $4 why, $5 seconds until the next attempt, or NULL, $6 lease)."""
# Under one lease there is this attempt, or none: the delivery was begun anew with meanwhile.
BROKEN_OFF: Final = """
UPDATE holdfast."Delivery"
SET attempts = greatest(attempts - 1, 0), leased_until = NULL, due = statement_timestamp()
WHERE id = $1 AND birth = $2 AND extract(epoch FROM leased_until)::float8 = $3 AND NOT dead RETURNING true"""
"""($1 id, $2 birth, $3 lease)."""
LIST: Final = f"""
SELECT {_COLUMNS} FROM holdfast."Delivery" AS d
WHERE ($1::boolean IS NULL OR dead = $1) AND id > $2 ORDER BY id LIMIT $3"""  # noqa: S608 - only constants
RETRY: Final = """
UPDATE holdfast."Delivery"
SET attempts = 0, dead = false, due = greatest(statement_timestamp(), leased_until) WHERE id = $1 RETURNING true"""
NEGLECTED: Final = """
SELECT exporter, count(*) FROM holdfast."Delivery"
WHERE NOT dead AND due < statement_timestamp() - $1::float8 * interval '1 second'
GROUP BY exporter ORDER BY exporter LIMIT $2"""
DISCARD: Final = """DELETE FROM holdfast."Delivery" WHERE id = $1 RETURNING true"""
RETRY_NOTED: Final = with_note(RETRY, 2)
DISCARD_NOTED: Final = with_note(DISCARD, 2)


class PostgresDeliveries:
    """`DeliveryQueue` over a pool of held connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def claim(self, exporters: Collection[str], *, limit: int, lease_seconds: float) -> Sequence[DeliveryRow]:
        """Take deliveries that are due; see `DeliveryQueue.claim`."""
        check_limit(limit, LISTED_MAX)
        with mapped("claiming deliveries", writes=True):
            async with self._pool.connection() as connection:
                return _rows(await connection.fetch(CLAIM, list(exporters), limit, lease_seconds))

    async def delivered(self, identifier: str, birth: int) -> bool:
        """Forget what was brought out; see `DeliveryQueue.delivered`."""
        return await self._change("noting a delivery", DELIVERED, identifier, birth)

    async def failed(self, row: DeliveryRow, error: str, *, again_seconds: float | None) -> bool:
        """Note an attempt that failed; see `DeliveryQueue.failed`."""
        words = row.id, row.birth, row.attempts, error, again_seconds, row.lease
        return await self._change("noting a failed delivery", FAILED, *words)

    async def broken_off(self, row: DeliveryRow) -> bool:
        """Forget an attempt; see `DeliveryQueue.broken_off`."""
        return await self._change("breaking off a delivery", BROKEN_OFF, row.id, row.birth, row.lease)

    async def list(self, *, dead: bool | None = None, after: str | None = None, limit: int) -> Sequence[DeliveryRow]:
        """Deliveries in order of their ids; see `DeliveryQueue.list`."""
        check_limit(limit, LISTED_MAX)
        with mapped("listing deliveries"):
            async with self._pool.connection() as connection:
                return _rows(await connection.fetch(LIST, dead, after or "", limit))

    async def neglected(self, seconds: float) -> Mapping[str, int]:
        """Exporters whose deliveries nobody takes; see `DeliveryQueue.neglected`."""
        with mapped("looking for deliveries that nobody takes"):
            async with self._pool.connection() as connection:
                return {name or "": count for name, count in await connection.fetch(NEGLECTED, seconds, EXPORTERS_MAX)}

    async def retry(self, identifier: str, note: AuditNote | None = None) -> bool:
        """Begin anew; see `DeliveryQueue.retry`."""
        if note is None:
            return await self._change("retrying a delivery", RETRY, identifier)
        return await self._change("retrying a delivery", RETRY_NOTED, identifier, *noted_columns(note))

    async def discard(self, identifier: str, note: AuditNote | None = None) -> bool:
        """Forget a delivery; see `DeliveryQueue.discard`."""
        if note is None:
            return await self._change("discarding a delivery", DISCARD, identifier)
        return await self._change("discarding a delivery", DISCARD_NOTED, identifier, *noted_columns(note))

    async def _change(self, what: str, statement: str, *words: Any) -> bool:
        with mapped(what, writes=True):
            async with self._pool.connection() as connection:
                return bool(await connection.fetchval(statement, *words))


def _rows(records: Sequence[Any]) -> list[DeliveryRow]:
    return [DeliveryRow(*record) for record in records]
