"""Invalidation on demand in L3: one statement makes a target void and records it (rule C4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import asyncpg

from holdfast.audit.chain import AuditNote
from holdfast.errors import SettingsError
from holdfast.protocols import Invalidation, Target
from holdfast.tiers.l3_audit import noted_columns

INVALIDATE: Final = "SELECT * FROM holdfast.invalidate($1, $2, $3, $4, $5)"
INVALIDATE_NOTED: Final = f"""
WITH done AS MATERIALIZED ({INVALIDATE}),
     noted AS (INSERT INTO holdfast.audit (action, subject, actor, reason, detail)
               SELECT $6::text, $7::text, $8::text, $9::text, $10::json FROM done)
SELECT * FROM done"""  # noqa: S608 - the statement above
"""From `done`, so that the log's lock, which others wait for, is taken last."""
COUNT: Final = "SELECT holdfast.count_rows($1, $2, $3)"
RECORDS: Final = "SELECT * FROM holdfast.invalidations ORDER BY entry DESC LIMIT $1"


async def invalidate(connection: Any, target: Target, reason: str, actor: str, note: AuditNote | None) -> Invalidation:
    """Make void what caches hold of a target; see `Storage.invalidate`. One statement, so all or nothing of it."""
    statement, columns = (INVALIDATE, ()) if note is None else (INVALIDATE_NOTED, noted_columns(note))
    with _known_kind():
        named = target.kind, target.id, target.tag
        return _read(await connection.fetchrow(statement, *named, reason, actor, *columns))


async def count(connection: Any, target: Target) -> int:
    """How many rows a target names; see `Storage.count`."""
    with _known_kind():
        return int(await connection.fetchval(COUNT, target.kind, target.id, target.tag))


async def invalidations(connection: Any, limit: int) -> Sequence[Invalidation]:
    """The newest records, the newest first."""
    return [_read(record) for record in await connection.fetch(RECORDS, limit)]


def _read(record: Any) -> Invalidation:
    return Invalidation(record["at"], record["scope"], record["number"], record["reason"], record["actor"])


@contextmanager
def _known_kind() -> Iterator[None]:
    try:
        yield
    except asyncpg.InvalidParameterValueError as fault:
        raise SettingsError(str(fault)) from fault
