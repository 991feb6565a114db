"""L3: `Storage` over PostgreSQL, the only source of truth.

Each call is one statement wherever one suffices; writes of several sorts share one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.errors import StorageNotReady
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import Coherence, Invalidation, Isolation, Loaded, Row, Target, Write
from holdfast.tiers import l3_statements, l3_voids
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_rows import NoPartition, RowWriter, asked_by_kind
from holdfast.tiers.l3_statements import statements_of
from holdfast.tiers.l3_transaction import PostgresTransaction


class PostgresStorage:
    """`Storage` over a pool of held connections, its `pool`."""

    def __init__(self, pool: ConnectionPool, kinds: Mapping[str, Kind[Any]]) -> None:
        self.pool = pool
        self._kinds = kinds
        self._statements = statements_of(kinds)
        self._rows = RowWriter(kinds, self._statements)
        self._names = list(kinds)
        self._load_many = l3_statements.load_many([kind.table for kind in kinds.values()])
        self._identity: tuple[str, bytes, Coherence] | None = None
        pool.greet = self._ask_identity

    def coherence(self) -> Coherence:
        """The newest identity known; see `Storage.coherence`."""
        if self._identity is None:
            raise StorageNotReady("L3: nothing was read yet")
        return self._identity[2]

    async def load(self, keys: Sequence[Key], known: Mapping[Key, int] = {}) -> Loaded:
        """Read rows; see `Storage.load`."""
        asked = asked_by_kind(keys)
        arguments: list[Any]
        if len(asked) == 1:
            ((kind, by_id),) = asked.items()
            names, statement, arguments = [kind], self._statements[kind].load, [list(by_id)]
            if known:
                statement = self._statements[kind].probe
                arguments.append([known.get(key, 0) for key in by_id.values()])
        else:
            names, statement = self._names, self._load_many
            arguments = [list(asked.get(kind, ())) for kind in names]
        with mapped(f"reading {len(keys)} keys"):
            async with self.pool.connection() as connection:
                records = await connection.fetch(statement, *arguments)
                if not records or records[0][0] != -1:
                    await self._ask_identity(connection)
                    records = await connection.fetch(statement, *arguments)
        keys_of = [asked.get(kind, {}) for kind in names]
        rows = {
            keys_of[kind][identifier]: Row(version, birth, schema, document or b"")
            for kind, identifier, version, birth, schema, document in records
            if kind >= 0
        }
        return Loaded(self._read_coherence(records[0]), rows)

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `Storage.save`."""
        try:
            return await self._save(writes)
        except NoPartition as missing:
            # The first write of a month that no server prepared: the whole was rolled back, so it can be done
            # again.
            with mapped(f"making this month's partition of {missing.table}"):
                async with self.pool.connection() as connection:
                    await connection.execute(l3_statements.ENSURE_MONTH, missing.table)
            return await self._save(writes)

    async def _save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        batches = self._rows.batches(writes)
        if len(batches) == 1 and (len(batches[0]) == 1 or batches[0][0].expected is None):
            # One statement commits by itself. Several conditional rows need a transaction, to undo the ones
            # that held.
            with mapped(_words(writes), writes=True):
                async with self.pool.connection() as connection:
                    return await self._rows.save(connection, batches)
        async with self.pool.connection() as connection:
            transaction = connection.transaction()
            with mapped(_words(writes)):
                await transaction.start()
            try:
                with mapped(_words(writes)):
                    versions = await self._rows.save(connection, batches)
            except BaseException:
                await _roll_back(transaction)
                raise
            with mapped(_words(writes), writes=True):
                await transaction.commit()
        return versions

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `Storage.delete`."""
        with mapped(f"deleting {key}", writes=True):
            async with self.pool.connection() as connection:
                return await self._rows.delete(connection, key, expected)

    async def open_transaction(self, isolation: Isolation) -> PostgresTransaction:
        """Begin a transaction; see `Storage.open_transaction`."""
        transaction = PostgresTransaction(self.pool, self._rows, self._statements)
        await transaction.begin(isolation)
        return transaction

    async def scan(self, kind: str, *, after: str | None, limit: int) -> Sequence[tuple[Key, Row]]:
        """Rows in order of ids; see `Storage.scan`."""
        with mapped(f"scanning kind {kind}"):
            async with self.pool.connection() as connection:
                records = await connection.fetch(self._statements[kind].scan, after or "", limit)
        return [
            (Key(kind, identifier), Row(version, birth, schema, document))
            for identifier, version, birth, schema, document in records
        ]

    async def invalidate(
        self, target: Target, *, reason: str, actor: str, note: AuditNote | None = None
    ) -> Invalidation:
        """Make void what caches hold of a target; see `Storage.invalidate`."""
        async with self.pool.connection() as connection:
            with mapped(f"invalidating {target}", writes=True):
                done = await l3_voids.invalidate(connection, target, reason, actor, note)
                records = await connection.fetch(l3_statements.COHERENCE)
        if records:  # else L3 is being made another one, and whoever asks next will know
            self._read_coherence(records[0])
        return done

    async def count(self, target: Target) -> int:
        """How many rows a target names; see `Storage.count`."""
        with mapped(f"counting {target}"):
            async with self.pool.connection() as connection:
                return await l3_voids.count(connection, target)

    async def invalidations(self, limit: int) -> Sequence[Invalidation]:
        """The newest records; see `Storage.invalidations`."""
        with mapped("reading the records of invalidations"):
            async with self.pool.connection() as connection:
                return await l3_voids.invalidations(connection, limit)

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        await self.pool.close()

    async def _ask_identity(self, connection: Any) -> None:
        """Ask a new connection which L3 it leads to. A crash empties the row; whoever comes first draws a new one."""
        with mapped("asking which L3 this is"):
            try:
                while not (records := await connection.fetch(l3_statements.COHERENCE)):
                    await connection.execute(l3_statements.ENSURE_INCARNATION)
            except asyncpg.UndefinedColumnError as fault:  # a database of before migration 3
                raise StorageNotReady(
                    f"L3: its schema is older than this version ({fault}); run `holdfast migrate`"
                ) from fault
        self._read_coherence(records[0])

    def _read_coherence(self, record: asyncpg.Record) -> Coherence:
        """The identity row as `Coherence`; parsed only when it changed."""
        known = self._identity
        incarnation, generations = record[1], record[5]
        if known is None or known[0] != incarnation or known[1] != generations:
            decoded = msgspec.json.decode(generations, type=dict[str, int])
            known = self._identity = (incarnation, generations, Coherence(UUID(incarnation), decoded))
        return known[2]


async def _roll_back(transaction: Any) -> None:
    try:
        await transaction.rollback()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        # The connection is gone, and with it the transaction; the pool throws it away. The first error is the
        # one to see.
        return


def _words(writes: Sequence[Write]) -> str:
    return f"writing {writes[0].key}" if len(writes) == 1 else f"writing {len(writes)} documents"
