"""Writing rows on one connection: what `PostgresStorage` and `PostgresTransaction` share.

Rows are always locked in key order (ids are collated "C", so Python's order of text is the server's), which keeps
writers of overlapping sets from deadlocking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import asyncpg
import msgspec

from holdfast.errors import AppendOnly, Conflict
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.one_ahead import OneAhead
from holdfast.protocols import Row, Write
from holdfast.tiers.l3_statements import Statements

MADE_ROWS: Final = 64
"""Rows in one statement if their documents are still to be made: making the next and writing go side by side."""
TURN_BYTES: Final = 32 * 1024
"""Of documents that are made before others have a turn: a statement of more than the system takes at once goes out in
parts, each when the loop runs, and the server waits for the last."""
CHUNK_ROWS: Final = 1000
"""Rows in one statement; more go in several statements of one transaction."""


_key = attrgetter("key")


class NoPartition(Exception):
    """A table of history has no partition for this month yet."""

    def __init__(self, table: str) -> None:
        self.table = table


class RowWriter:
    """Writes and deletes rows of all kinds."""

    def __init__(self, kinds: Mapping[str, Kind[Any]], statements: Mapping[str, Statements]) -> None:
        self._kinds = kinds
        self._statements = statements

    def is_sure(self, write: Write) -> bool:
        """Whether a write has no expectation that may not hold."""
        return write.expected is None and not self._kinds[write.key.kind].append_only

    def batches(self, writes: Iterable[Write]) -> list[list[Write]]:
        """Writes in key order, cut where kind, schema or sort of expectation changes, at most `CHUNK_ROWS` each."""
        return list(_batches(writes, self._kinds))

    async def save(self, connection: Any, batches: Sequence[Sequence[Write]]) -> dict[Key, int]:
        """Write batch after batch; while the server writes one, the documents of the next are made.

        Raises:
            Conflict, AppendOnly: earlier batches, and a part of this one, may be written.
            NoPartition: the server refused the statement, and with it the transaction.
        """
        if len(batches) == 1:
            return await self._save_batch(connection, batches[0], [write.made() for write in batches[0]])
        versions: dict[Key, int] = {}
        async with OneAhead[dict[Key, int]]() as ahead:
            for batch in batches:
                bodies = await _made_in_turns(batch)
                versions |= await ahead.begin(self._save_batch(connection, batch, bodies)) or {}
            return versions | (await ahead.end() or {})

    async def delete(self, connection: Any, key: Key, expected: int | None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        if self._kinds[key.kind].append_only:
            raise AppendOnly(f"{key}: documents of kind {key.kind} are history and stay")
        record = await connection.fetchrow(self._statements[key.kind].delete, key.id, expected)
        deleted, found = bool(record["deleted"]), record["found"]
        if expected is not None and not deleted and not (expected == 0 and found is None):
            # Found at the expected version and yet not deleted: another writer changed it in between.
            raise Conflict(key, expected=expected, actual=None if found == expected else found or 0)
        return record["drawn"], deleted

    async def _save_batch(self, connection: Any, batch: Sequence[Write], bodies: list[bytes]) -> dict[Key, int]:
        """Write rows of one kind, schema and sort of expectation."""
        columns: list[Any] = [[write.key.id for write in batch], bodies, batch[0].schema]
        kind = batch[0].key.kind
        statements = self._statements[kind]
        statement = statements.upsert
        tags: list[Any] = [] if self._kinds[kind].tags is None else [[array_text(write.tags) for write in batch]]
        if len(batch) == 1 and batch[0].expected is None:
            statement, columns = statements.upsert_one, [columns[0][0], columns[1][0], columns[2]]
            tags = [batch[0].tags] if tags else []
        elif batch[0].expected == 0:
            statement = statements.insert
        elif batch[0].expected is not None:
            if len(batch) > 1:
                await connection.fetch(statements.lock, columns[0])
            statement = statements.replace
            columns.append([write.expected for write in batch])
        drawn = dict(await self._write(connection, kind, statement, columns + tags))
        if len(drawn) < len(batch):
            refused = next(write for write in batch if write.key.id not in drawn)
            actual = await self._version(connection, refused.key)
            raise Conflict(refused.key, expected=refused.expected or 0, actual=actual)
        return {write.key: drawn[write.key.id] for write in batch}

    async def _write(self, connection: Any, kind: str, statement: str, columns: list[Any]) -> Any:
        try:
            return await connection.fetch(statement, *columns)
        except asyncpg.UniqueViolationError as fault:
            if not self._kinds[kind].append_only:
                raise
            raise AppendOnly(
                f"kind {kind}: {fault.detail or fault} Its documents are history and cannot be written again"
            ) from fault
        except asyncpg.CheckViolationError as fault:
            if fault.constraint_name is None:  # no CHECK of a table, so there was no partition
                raise NoPartition(self._kinds[kind].table) from fault
            raise

    async def _version(self, connection: Any, key: Key) -> int:
        """The version that a refused write met, 0 for none. Read after the refusal, so only good for the message."""
        return int(await connection.fetchval(self._statements[key.kind].version, key.id) or 0)


async def read_rows(
    connection: Any, statements: Mapping[str, Statements], keys: Iterable[Key], *, lock: bool
) -> dict[Key, Row]:
    """Read rows as a transaction sees them; locked in key order, if they are to be."""
    rows: dict[Key, Row] = {}
    for kind, asked in sorted(asked_by_kind(keys).items()):
        statement = statements[kind].read_locked if lock else statements[kind].read
        for identifier, version, birth, schema, document in await connection.fetch(statement, list(asked)):
            rows[asked[identifier]] = Row(version, birth, schema, document)
    return rows


def asked_by_kind(keys: Iterable[Key]) -> dict[str, dict[str, Key]]:
    """Keys by kind and id: answers name rows by the very keys asked for, since making others costs as much as a row."""
    asked: dict[str, dict[str, Key]] = {}
    for key in keys:
        asked.setdefault(key.kind, {})[key.id] = key
    return asked


def _batches(writes: Iterable[Write], kinds: Mapping[str, Kind[Any]]) -> Iterable[list[Write]]:
    def sort(write: Write) -> tuple[str, int, int]:
        if write.expected is None and not kinds[write.key.kind].append_only:
            return write.key.kind, write.schema, 2
        return write.key.kind, write.schema, min(write.expected or 0, 1)

    # Text in Python's order is in the order of its UTF-8 bytes, which is the server's.
    in_order = sorted(writes, key=_key)
    for (kind, _, _), group in groupby(in_order, key=sort):
        rows = list(group)
        if kinds[kind].append_only:
            if refused := next((write for write in rows if write.expected), None):
                raise AppendOnly(f"{refused.key}: documents of kind {kind} are history and cannot be changed")
            rows = [msgspec.structs.replace(write, expected=0) for write in rows]
        size = CHUNK_ROWS if isinstance(rows[0].body, bytes) else MADE_ROWS
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def array_text(tags: Iterable[str]) -> str:
    """A text array as PostgreSQL reads it from text; whatever a tag holds stays inside its quotes."""
    quoted = [tag.replace("\\", "\\\\").replace('"', '\\"') for tag in tags]
    return '{"' + '","'.join(quoted) + '"}' if quoted else "{}"


async def _made_in_turns(batch: Sequence[Write]) -> list[bytes]:
    """The documents of a batch, made while the statement before goes out."""
    bodies, room = [], TURN_BYTES
    for write in batch:
        body = write.made()
        bodies.append(body)
        room -= len(body)
        if room <= 0:
            room = TURN_BYTES
            await asyncio.sleep(0)
    return bodies
