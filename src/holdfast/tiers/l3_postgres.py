"""L3: `Storage` over PostgreSQL, the only source of truth.

Each call is one statement wherever one suffices; writes of several sorts share one transaction. Rows are
always locked in key order (ids are collated "C", so Python's order of UTF-8 bytes is the server's), which
keeps writers of overlapping sets from deadlocking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from holdfast.errors import AppendOnly, Conflict, StorageNotReady
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import Coherence, Loaded, Row, Write
from holdfast.tiers import l3_statements
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_statements import Statements

MADE_ROWS: Final = 64
"""Rows in one statement if their documents are still to be made: making the next and writing go side by side."""
CHUNK_ROWS: Final = 1000
"""Rows in one statement; more go in several statements of one transaction."""


class _NoPartition(Exception):
    def __init__(self, table: str) -> None:
        self.table = table


class PostgresStorage:
    """`Storage` over a pool of held connections."""

    def __init__(self, pool: ConnectionPool, kinds: Mapping[str, Kind[Any]]) -> None:
        self._pool = pool
        self._kinds = kinds
        self._statements = {
            kind.name: Statements.of(kind.table, append_only=kind.append_only) for kind in kinds.values()
        }
        self._names = list(kinds)
        self._load_many = l3_statements.load_many([kind.table for kind in kinds.values()])
        self._identity: tuple[str, bytes, Coherence] | None = None
        pool.greet = self._ask_identity

    def coherence(self) -> Coherence:
        """The newest identity known; see `Storage.coherence`."""
        if self._identity is None:
            raise StorageNotReady("L3: nothing was read yet")
        return self._identity[2]

    async def load(self, keys: Sequence[Key]) -> Loaded:
        """Read rows; see `Storage.load`."""
        by_kind: dict[str, list[str]] = {}
        for key in keys:
            by_kind.setdefault(key.kind, []).append(key.id)
        if len(by_kind) == 1:
            ((kind, ids),) = by_kind.items()
            names, statement, arguments = [kind], self._statements[kind].load, [ids]
        else:
            names, statement = self._names, self._load_many
            arguments = [by_kind.get(kind, []) for kind in names]
        with mapped(f"reading {len(keys)} keys"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(statement, *arguments)
                if not records or records[0][0] != -1:
                    await self._ask_identity(connection)
                    records = await connection.fetch(statement, *arguments)
        rows = {
            Key(names[kind], identifier): Row(version, birth, schema, document)
            for kind, identifier, version, birth, schema, document in records
            if kind >= 0
        }
        return Loaded(self._read_coherence(records[0]), rows)

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `Storage.save`."""
        try:
            return await self._save(writes)
        except _NoPartition as missing:
            # The first write of a month that no server prepared: the whole was rolled back, so it can be done
            # again.
            with mapped(f"making this month's partition of {missing.table}"):
                async with self._pool.connection() as connection:
                    await connection.execute(l3_statements.ENSURE_MONTH, missing.table)
            return await self._save(writes)

    async def _save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        batches = list(_batches(writes, self._kinds))
        if len(batches) == 1 and (len(batches[0]) == 1 or batches[0][0].expected is None):
            # One statement commits by itself. Several conditional rows need a transaction, to undo the ones
            # that held.
            with mapped(_words(writes), writes=True):
                async with self._pool.connection() as connection:
                    return await self._save_batch(connection, batches[0], _columns(batches[0]))
        async with self._pool.connection() as connection:
            transaction = connection.transaction()
            with mapped(_words(writes)):
                await transaction.start()
            try:
                with mapped(_words(writes)):
                    versions = await self._save_batches(connection, batches)
            except BaseException:
                await _roll_back(transaction)
                raise
            with mapped(_words(writes), writes=True):
                await transaction.commit()
        return versions

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        if self._kinds[key.kind].append_only:
            raise AppendOnly(f"{key}: documents of kind {key.kind} are history and stay")
        with mapped(f"deleting {key}", writes=True):
            async with self._pool.connection() as connection:
                record = await connection.fetchrow(self._statements[key.kind].delete, key.id, expected)
        deleted, found = bool(record["deleted"]), record["found"]
        if expected is not None and not deleted and not (expected == 0 and found is None):
            # Found at the expected version and yet not deleted: another writer changed it in between.
            raise Conflict(key, expected=expected, actual=None if found == expected else found or 0)
        return record["drawn"], deleted

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows in order of ids; see `Storage.scan`."""
        with mapped(f"scanning kind {kind}"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(self._statements[kind].scan, after or "", limit)
        return [
            (Key(kind, identifier), Row(version, birth, schema, document))
            for identifier, version, birth, schema, document in records
        ]

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        await self._pool.close()

    async def _ask_identity(self, connection: Any) -> None:
        """Ask a new connection which L3 it leads to. A crash empties the row; whoever comes first draws a new one."""
        with mapped("asking which L3 this is"):
            while not (records := await connection.fetch(l3_statements.COHERENCE)):
                await connection.execute(l3_statements.ENSURE_INCARNATION)
        self._read_coherence(records[0])

    def _read_coherence(self, record: asyncpg.Record) -> Coherence:
        """The identity row as `Coherence`; parsed only when it changed."""
        known = self._identity
        incarnation, generations = record[1], record[5]
        if known is None or known[0] != incarnation or known[1] != generations:
            decoded = msgspec.json.decode(generations, type=dict[str, int])
            known = self._identity = (incarnation, generations, Coherence(UUID(incarnation), decoded))
        return known[2]

    async def _save_batches(self, connection: Any, batches: Sequence[Sequence[Write]]) -> dict[Key, int]:
        """Write batch after batch; while the server writes one, the documents of the next are made."""
        versions: dict[Key, int] = {}
        sent: asyncio.Task[dict[Key, int]] | None = None
        try:
            for batch in batches:
                columns = _columns(batch)
                if sent is not None:
                    versions |= await sent
                sent = asyncio.create_task(self._save_batch(connection, batch, columns))
                await asyncio.sleep(0)  # it goes out now
            return versions | (await sent if sent is not None else {})
        except BaseException:
            if sent is not None:
                sent.cancel()
                await asyncio.wait([sent])  # the connection does one thing at a time, and is to be rolled back
                _ = sent.cancelled() or sent.exception()  # the first fault is the one to see
            raise

    async def _save_batch(self, connection: Any, batch: Sequence[Write], columns: list[Any]) -> dict[Key, int]:
        """Write rows of one kind and one sort of expectation."""
        kind = batch[0].key.kind
        statements = self._statements[kind]
        statement = statements.upsert
        if batch[0].expected == 0:
            statement = statements.insert
        elif batch[0].expected is not None:
            if len(batch) > 1:
                await connection.fetch(statements.lock, columns[0])
            statement = statements.replace
            columns.append([write.expected for write in batch])
        records = await self._write(connection, kind, statement, columns)
        drawn = dict(records)
        if len(drawn) < len(batch):
            refused = next(write for write in batch if write.key.id not in drawn)
            raise Conflict(
                refused.key,
                expected=refused.expected or 0,
                actual=await self._version(connection, refused.key),
            )
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
                raise _NoPartition(self._kinds[kind].table) from fault
            raise

    async def _version(self, connection: Any, key: Key) -> int:
        """The version that a refused write met, 0 for none. Read after the refusal, so only good for the message."""
        return int(await connection.fetchval(self._statements[key.kind].version, key.id) or 0)


def _batches(writes: Iterable[Write], kinds: Mapping[str, Kind[Any]]) -> Iterable[list[Write]]:
    """Writes in key order, cut where kind or sort of expectation changes, at most `CHUNK_ROWS` each."""

    def sort(write: Write) -> tuple[str, int]:
        if kinds[write.key.kind].append_only:
            return write.key.kind, 0
        return write.key.kind, 2 if write.expected is None else min(write.expected, 1)

    # Text in Python's order is in the order of its UTF-8 bytes, which is the server's.
    in_order = sorted(writes, key=lambda write: write.key)
    for (kind, _), group in groupby(in_order, key=sort):
        rows = list(group)
        if kinds[kind].append_only:
            if refused := next((write for write in rows if write.expected), None):
                raise AppendOnly(f"{refused.key}: documents of kind {kind} are history and cannot be changed")
            rows = [msgspec.structs.replace(write, expected=0) for write in rows]
        size = CHUNK_ROWS if isinstance(rows[0].body, bytes) else MADE_ROWS
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _columns(batch: Sequence[Write]) -> list[Any]:
    return [
        [write.key.id for write in batch],
        [write.made() for write in batch],
        [write.schema for write in batch],
    ]


async def _roll_back(transaction: Any) -> None:
    try:
        await transaction.rollback()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        # The connection is gone, and with it the transaction; the pool throws it away. The first error is the
        # one to see.
        return


def _words(writes: Sequence[Write]) -> str:
    return f"writing {writes[0].key}" if len(writes) == 1 else f"writing {len(writes)} documents"
