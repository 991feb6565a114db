"""The figures of docs/adr/0001: `python -m benchmarks.adr_document_column`.

One table for each candidate type of the document column, like ours and with our version trigger.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from benchmarks.context import open_context
from benchmarks.documents import SIZES, documents_of, size_text
from benchmarks.measuring import ROUNDS, steady_collector
from holdfast.cli import run as run_loop
from holdfast.documents import encode

ROWS: Final = 1000
IDS: Final = 100
QUERIES: Final = 20
JSONB_VERSION: Final = b"\x01"  # in front of the text, in jsonb's binary format


@dataclass(frozen=True, slots=True)
class Candidate:
    """A type of the document column.

    Attributes:
        table: its table's name, without the schema.
        type: of the column. For text, asyncpg takes and gives `str`, for the others bytes.
        check: a constraint to add.
    """

    name: str
    table: str
    type: str
    check: str = ""

    @property
    def upsert(self) -> str:
        """The statement of `holdfast.tiers.l3_statements`."""
        return f"""INSERT INTO adr.{self.table} AS t (id, document, schema)
            SELECT * FROM unnest($1::text[], $2::{self.type}[], $3::int2[])
            ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document, schema = EXCLUDED.schema
            RETURNING t.id, t.version"""  # noqa: S608 - constants

    @property
    def create(self) -> str:
        """The table, with the columns and the trigger of a kind's."""
        table = f"adr.{self.table}"
        check = f", ADD CHECK ({self.check})" if self.check else ""
        return f"""CREATE TABLE {table} (LIKE holdfast."Chat" INCLUDING ALL);
            ALTER TABLE {table} ALTER document TYPE {self.type} USING document::text::{self.type}{check};
            CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION holdfast.stamp()"""

    @property
    def select(self) -> str:
        """Rows by id."""
        return f"SELECT id, version, document FROM adr.{self.table} WHERE id = ANY($1::text[])"  # noqa: S608 - constants


CANDIDATES: Final = (
    Candidate("json", "as_json", "json"),
    Candidate("jsonb", "as_jsonb", "jsonb"),
    Candidate("text", "as_text", "text"),
    Candidate("text, `CHECK (document IS JSON)`", "as_checked", "text", "document IS JSON"),
)

PROBES: Final[Mapping[str, str]] = {
    "NUL in a string": r"""'{"a": "\u0000"}'""",
    "order of keys": """'{"bb": 1, "a": 2}'""",
    "a key twice": """'{"a": 1, "a": 2}'""",
    "numbers": """'[1.10, 1e2, 12345678901234567890123]'""",
    "half a surrogate pair": r"""'{"a": "\ud800"}'""",
}


async def main() -> None:
    """Measure and print the table."""
    async with open_context() as context:
        connection = context.postgres
        for name in ("json", "jsonb"):
            await _as_bytes(connection, name)
        await _probe(connection)
        for size in SIZES:
            await connection.execute("DROP SCHEMA IF EXISTS adr CASCADE; CREATE SCHEMA adr")
            for candidate in CANDIDATES:
                await connection.execute(candidate.create)
            await _measure(connection, size)


async def _as_bytes(connection: asyncpg.Connection[Any], name: str) -> None:
    mark = JSONB_VERSION if name == "jsonb" else b""
    await connection.set_type_codec(
        name,
        schema="pg_catalog",
        encoder=(lambda body: mark + body) if mark else bytes,
        decoder=(lambda data: data[1:]) if mark else bytes,
        format="binary",
    )


async def _probe(connection: asyncpg.Connection[Any]) -> None:
    for what, literal in PROBES.items():
        print(f"{what}, {literal}:")
        for kind in ("json", "jsonb"):
            try:
                answer = await connection.fetchval(f"SELECT ({literal}::{kind})::text")
            except asyncpg.PostgresError as fault:
                answer = f"refused: {fault}"
            print(f"    {kind:6} {answer}")


async def _measure(connection: asyncpg.Connection[Any], size: int) -> None:
    documents = documents_of(size, ROWS)
    ids, schemas = list(documents), [each.SCHEMA for each in documents.values()]
    bodies = [encode(each) for each in documents.values()]
    source = random.Random(size)
    batches = [source.sample(ids, IDS) for _ in range(QUERIES)]
    rates: dict[str, tuple[list[float], list[float]]] = {each.name: ([], []) for each in CANDIDATES}
    texts = [body.decode() for body in bodies]
    with steady_collector():
        for number in range(ROUNDS + 1):
            for candidate in CANDIDATES if number % 2 else reversed(CANDIDATES):
                await connection.execute(f"VACUUM adr.{candidate.table}")
                given = texts if candidate.type == "text" else bodies
                begun = time.perf_counter()
                await connection.fetch(candidate.upsert, ids, given, schemas)
                written = time.perf_counter()
                for batch in batches:
                    await connection.fetch(candidate.select, batch)
                ended = time.perf_counter()
                writes, reads = rates[candidate.name]
                writes.append(ROWS / (written - begun))
                reads.append(IDS * QUERIES / (ended - written))
    print(f"\n{size_text(size)}: upserts and reads, rows a second (lowest to highest round); bytes a row on disk")
    for candidate in CANDIDATES:
        writes, reads = (each[1:] for each in rates[candidate.name])
        print(f"| {candidate.name} | {_spread(writes)} | {_spread(reads)} | {await _bytes(connection, candidate)} |")


async def _bytes(connection: asyncpg.Connection[Any], candidate: Candidate) -> int:
    """Of the table, its TOAST and its index, packed."""
    await connection.execute(f"VACUUM FULL adr.{candidate.table}")
    table = f"adr.{candidate.table}"
    size: int = await connection.fetchval("SELECT pg_total_relation_size($1::text::regclass)", table)
    return round(size / ROWS)


def _spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


if __name__ == "__main__":
    run_loop(main())
