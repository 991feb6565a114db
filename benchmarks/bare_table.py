"""The bare upsert that writes are compared with: asyncpg, unnest, the same columns, no trigger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from benchmarks.context import Context
from benchmarks.measuring import Side, Work
from holdfast.documents import Document, encode
from holdfast.tiers.l3_statements import quote

SCHEMA = "bare"
BARE = f"{SCHEMA}.documents"
UPSERT = """INSERT INTO {} (id, document, schema)
SELECT * FROM unnest($1::text[], $2::json[], $3::int2[])
ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document, schema = EXCLUDED.schema"""


class BareTable:
    """A table like one of ours but for its trigger; documents are encoded beforehand.

    Args:
        table: of the schema `holdfast`, whose columns, constraints and index it gets.
        repeats: upserts of all documents in one round.
    """

    def __init__(self, context: Context, table: str, documents: Mapping[str, Document], *, repeats: int) -> None:
        self._connection: asyncpg.Connection[Any] = context.postgres
        self._managed = f"holdfast.{quote(table)}"
        self._ids = list(documents)
        self._bodies = [encode(document).decode() for document in documents.values()]
        self._schemas = [document.SCHEMA for document in documents.values()]
        self._repeats = repeats

    async def create(self) -> None:
        """Make it, in place of one that was there."""
        await self._connection.execute(
            f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA};"
            f"CREATE TABLE {SCHEMA}.documents (LIKE {self._managed} INCLUDING ALL);"
            f"ALTER TABLE {SCHEMA}.documents ALTER version SET DEFAULT 0, ALTER birth SET DEFAULT 0"
        )

    async def vacuum(self) -> None:
        """Let neither table's dead rows of one round slow the next."""
        await self._connection.execute(f"VACUUM {SCHEMA}.documents")
        await self._connection.execute(f"VACUUM {self._managed}")

    async def upsert(self) -> int:
        """One round."""
        for _ in range(self._repeats):
            await self._connection.execute(UPSERT.format(BARE), self._ids, self._bodies, self._schemas)
        return self._repeats * len(self._ids)

    async def upsert_singly(self, rows: int, *, managed: bool = False) -> int:
        """The first rows, one statement each; `managed`: into the table that it is like."""
        statement = UPSERT.format(self._managed if managed else BARE)
        for row in zip(self._ids[:rows], self._bodies, self._schemas, strict=False):
            await self._connection.execute(statement, *([value] for value in row))
        return rows

    @property
    def side(self) -> Side:
        """The side of a comparison."""
        work: Work = self.upsert
        return Side("asyncpg, unnest, no trigger", work)
