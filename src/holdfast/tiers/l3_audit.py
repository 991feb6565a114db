"""`AuditRows` over PostgreSQL. Numbers, times and hashes are made there, by a trigger, under one lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from holdfast.audit.chain import AuditEntry, AuditNote, Link
from holdfast.protocols.audit import AUDIT_LISTED_MAX
from holdfast.protocols.runs import check_limit
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped

_COLUMNS: Final = "number, at, action, subject, actor, reason, detail, previous, hash"
APPEND: Final = """
INSERT INTO holdfast.audit (action, subject, actor, reason, detail) VALUES ($1, $2, $3, $4, $5)"""
LIST: Final = f"SELECT {_COLUMNS} FROM holdfast.audit WHERE number > $1 ORDER BY number LIMIT $2"  # noqa: S608
HEAD: Final = "SELECT number, hash FROM holdfast.audit_head"


class PostgresAudit:
    """`AuditRows` over a pool of held connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def append(self, note: AuditNote) -> None:
        """Add an entry; see `AuditRows.append`."""
        with mapped(f"recording {note.action} of {note.subject}", writes=True):
            async with self._pool.connection() as connection:
                await append(connection, note)

    async def list(self, *, after: int, limit: int) -> Sequence[AuditEntry]:
        """The entries behind a number; see `AuditRows.list`."""
        check_limit(limit, AUDIT_LISTED_MAX)
        with mapped("reading the audit log"):
            async with self._pool.connection() as connection:
                return [_read(record) for record in await connection.fetch(LIST, after, limit)]

    async def head(self) -> Link:
        """What the newest entry is; see `AuditRows.head`."""
        with mapped("reading the head of the audit log"):
            async with self._pool.connection() as connection:
                return Link(*await connection.fetchrow(HEAD))


async def append(connection: Any, note: AuditNote) -> None:
    """Add an entry, in whatever transaction the connection has."""
    await connection.execute(APPEND, *noted_columns(note))


def with_note(statement: str, first: int) -> str:
    """A statement that changes a row, ``RETURNING true``, together with an entry if there was one to change.

    Args:
        first: number of its first parameter; that and those behind it are of `noted_columns`.
    """
    columns = [f"${first + each}" for each in range(5)]
    return f"""
WITH changed (done) AS ({statement}),
     noted AS (INSERT INTO holdfast.audit (action, subject, actor, reason, detail)
               SELECT {"::text, ".join(columns)}::json FROM changed)
SELECT done FROM changed"""  # noqa: S608 - only constants are put together


def noted_columns(note: AuditNote) -> tuple[str | bytes, ...]:
    """What a note is in the columns of its table: action, subject, actor, reason, detail."""
    return note.action, note.subject, note.actor, note.reason, note.detail.encode()


def _read(record: Any) -> AuditEntry:
    number, at, action, subject, actor, reason, detail, previous, digest = record
    note = AuditNote(action=action, subject=subject, actor=actor, reason=reason, detail=detail.decode())
    return AuditEntry(number=number, at=at, note=note, previous=previous, hash=digest)
