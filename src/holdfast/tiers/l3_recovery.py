"""`RecoveryLogRows` and `QuarantineRows` over PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.protocols import Evidence, LineFilter, LoggedLine, Quarantined, RecoveryLine
from holdfast.protocols.recovery import APPENDED_MAX, KEPT_MAX, LINES_LISTED_MAX, MET_MAX
from holdfast.protocols.runs import check_limit
from holdfast.tiers.l3_audit import noted_columns, with_note
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped

_LINE: Final = "id, recovery_id, at, server, error_type, severity, subject, step, outcome, detail, millis"
# Who follows the log asks for what is behind the last number known: numbers must become visible in their order.
IN_ORDER: Final = "SELECT pg_advisory_xact_lock(hashtextextended('holdfast.recovery_log', 0))"
APPEND: Final = f"""
INSERT INTO holdfast.recovery_log ({_LINE})
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::text[], $9::text[], $10::text[], $11::bigint[]) ON CONFLICT (id) DO NOTHING"""  # noqa: S608
# Numbers have gaps, where a line was there already: then fewer are kept.
CUT_LOG: Final = """
DELETE FROM holdfast.recovery_log WHERE number <= (SELECT max(number) FROM holdfast.recovery_log) - $1"""
LIST: Final = f"SELECT number, {_LINE} FROM holdfast.recovery_log WHERE number > $1 ORDER BY number LIMIT $2"  # noqa: S608
NEWEST: Final = f"""
SELECT number, {_LINE} FROM holdfast.recovery_log
WHERE number < coalesce($1, {2**63 - 1}) AND recovery_id = coalesce($2, recovery_id) AND subject = coalesce($3, subject)
      AND at >= coalesce($4, '-infinity'::timestamptz) ORDER BY number DESC LIMIT $5"""  # noqa: S608 - as above

KEEP: Final = f"""
INSERT INTO holdfast.quarantine AS held (tier, kind, id, version, fault, evidence, size, server, at, count, met)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, array_remove(ARRAY[$11]::text[], ''))
ON CONFLICT (tier, kind, id, digest) DO UPDATE
SET count = held.count + excluded.count, at = greatest(held.at, excluded.at),
    met = (excluded.met || held.met)[1:{MET_MAX}]
WHERE NOT held.met && excluded.met"""  # noqa: S608 - only constants are put together
CUT_QUARANTINE: Final = """
DELETE FROM holdfast.quarantine WHERE number <= (
    SELECT number FROM holdfast.quarantine ORDER BY number DESC OFFSET $1 LIMIT 1)"""
_FOUND: Final = "tier, kind, id, version, fault, {} AS evidence, size, server, at, count"
LIST_QUARANTINE: Final = f"""
SELECT number, {_FOUND.format("''::bytea")} FROM holdfast.quarantine
WHERE number > $1 ORDER BY number LIMIT $2"""  # noqa: S608 - only constants are put together
FIND: Final = f"SELECT number, {_FOUND.format('evidence')} FROM holdfast.quarantine WHERE number = $1"  # noqa: S608
DISCARD: Final = with_note("DELETE FROM holdfast.quarantine WHERE number = $1 RETURNING true", 2)


class PostgresRecoveryLog:
    """`RecoveryLogRows` over a pool of held connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        """Add lines; see `RecoveryLogRows.append`."""
        check_limit(len(lines), APPENDED_MAX)
        columns = [list(column) for column in zip(*map(msgspec.structs.astuple, lines), strict=True)]
        with mapped("writing the recovery log", writes=True, rows=True):
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(IN_ORDER)
                await connection.execute(APPEND, *columns)
                await connection.execute(CUT_LOG, rows_max)

    async def list(self, *, after: int = 0, limit: int) -> Sequence[LoggedLine]:
        """Lines in order; see `RecoveryLogRows.list`."""
        return await self._lines(LIST, after, limit)

    async def newest(self, which: LineFilter, *, before: int | None = None, limit: int) -> Sequence[LoggedLine]:
        """The newest lines; see `RecoveryLogRows.newest`."""
        return await self._lines(NEWEST, before, which.recovery_id, which.subject, which.since, limit)

    async def _lines(self, statement: str, *arguments: Any) -> Sequence[LoggedLine]:
        check_limit(arguments[-1], LINES_LISTED_MAX)
        with mapped("reading the recovery log"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(statement, *arguments)
        return [LoggedLine(number, _made(RecoveryLine, values)) for number, *values in records]


class PostgresQuarantine:
    """`QuarantineRows` over a pool of held connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def keep(self, found: Sequence[Evidence], *, rows_max: int) -> None:
        """Keep evidence; see `QuarantineRows.keep`."""
        check_limit(len(found), KEPT_MAX)
        # In one order, whoever else keeps the same: rows are locked by it.
        ordered = sorted(found, key=lambda each: (each.tier, each.kind, each.id, each.evidence))
        with mapped("putting evidence into quarantine", writes=True, rows=True):
            async with self._pool.connection() as connection, connection.transaction():
                for each in ordered:
                    await connection.execute(KEEP, *msgspec.structs.astuple(each))
                await connection.execute(CUT_QUARANTINE, rows_max)

    async def list(self, *, after: int = 0, limit: int) -> Sequence[Quarantined]:
        """Entries in order; see `QuarantineRows.list`."""
        check_limit(limit, LINES_LISTED_MAX)
        with mapped("listing the quarantine"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(LIST_QUARANTINE, after, limit)
        return [_quarantined(record) for record in records]

    async def find(self, number: int) -> Quarantined | None:
        """One entry; see `QuarantineRows.find`."""
        with mapped("reading an entry of the quarantine"):
            async with self._pool.connection() as connection:
                record = await connection.fetchrow(FIND, number)
        return None if record is None else _quarantined(record)

    async def discard(self, number: int, note: AuditNote) -> bool:
        """Remove an entry; see `QuarantineRows.discard`."""
        with mapped("discarding an entry of the quarantine", writes=True):
            async with self._pool.connection() as connection:
                return bool(await connection.fetchval(DISCARD, number, *noted_columns(note)))


def _quarantined(record: Any) -> Quarantined:
    number, *values = record
    return Quarantined(number, _made(Evidence, values))


def _made(made: Any, values: Sequence[Any]) -> Any:
    return made(**dict(zip(made.__struct_fields__, values, strict=False)))  # `met` is not told
