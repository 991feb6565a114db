"""`StorageTransaction` over PostgreSQL: one connection of the pool, inside a transaction, until its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg

from holdfast.errors import TierError
from holdfast.keys import Key
from holdfast.protocols import Affected, Isolation, Row, Write
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped, meaning
from holdfast.tiers.l3_rows import NoPartition, RowWriter
from holdfast.tiers.l3_statements import Statements

# The settings of a held connection suit the statements of L3; a user's own deserve the server's judgement.
PLANS: Final = "SET LOCAL plan_cache_mode = auto"
AFFECTED: Final = "SELECT pg_current_xact_id_if_assigned()::text, current_setting('holdfast.kinds', true)"


ROLLBACK_SECONDS: Final = 2.0
"""How long an L3 that stands still may keep a caller who gives a transaction up."""


class PostgresTransaction:
    """One open transaction.

    Attributes:
        connection: asyncpg's.
    """

    def __init__(self, pool: ConnectionPool, rows: RowWriter, statements: Mapping[str, Statements]) -> None:
        self.connection: Any = None
        self._pool = pool
        self._rows = rows
        self._statements = statements
        self._lent = AsyncExitStack()
        self._transaction: Any = None

    async def begin(self, isolation: Isolation) -> None:
        """Take a connection and begin."""
        self.connection = await self._lent.enter_async_context(self._pool.connection())
        try:
            with mapped("beginning a transaction"):
                self._transaction = self.connection.transaction(isolation=isolation.value.replace(" ", "_"))
                await self._transaction.start()
                await self.connection.execute(PLANS)
        except BaseException:
            # BEGIN may be under way, or done, though its answer never came: nobody else may inherit that.
            if self.connection is not None:
                self.connection.terminate()
            await self.rollback()
            raise

    async def load(self, keys: Sequence[Key], *, lock: bool = False) -> Mapping[Key, Row]:
        """Read rows; see `StorageTransaction.load`."""
        by_kind: dict[str, list[str]] = {}
        for key in keys:
            by_kind.setdefault(key.kind, []).append(key.id)
        rows: dict[Key, Row] = {}
        with mapped(f"reading {len(keys)} keys"):
            for kind in sorted(by_kind):
                statement = self._statements[kind].read_locked if lock else self._statements[kind].read
                for identifier, version, birth, schema, document in await self.connection.fetch(
                    statement, by_kind[kind]
                ):
                    rows[Key(kind, identifier)] = Row(version, birth, schema, document)
        return rows

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `StorageTransaction.save`."""
        batches = self._rows.batches(writes)
        with mapped(f"writing {len(writes)} documents"):
            try:
                # A savepoint: what a refused write began is taken back, and the transaction goes on.
                async with self.connection.transaction():
                    return await self._rows.save(self.connection, batches)
            except NoPartition as missing:
                raise TierError(
                    f"L3: {missing.table} has no partition for this month yet: `holdfast migrate` makes it"
                ) from missing

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `StorageTransaction.delete`."""
        with mapped(f"deleting {key}"):
            return await self._rows.delete(self.connection, key, expected)

    async def affected(self) -> Affected:
        """What it has changed so far; see `StorageTransaction.affected`."""
        with mapped("asking what a transaction changed"):
            xid, kinds = await self.connection.fetchrow(AFFECTED)
        return Affected(int(xid) if xid is not None else None, frozenset(kinds.split(",") if kinds else ()))

    async def commit(self) -> None:
        """Let it take effect; see `StorageTransaction.commit`."""
        with mapped("committing", writes=True):
            await self._transaction.commit()
        await self._lent.aclose()

    async def rollback(self) -> None:
        """Let nothing of it take effect; see `StorageTransaction.rollback`."""
        async with self._lent:
            if self.connection is None or self.connection.is_closed() or not self.connection.is_in_transaction():
                return
            try:
                with mapped("rolling back"):
                    async with asyncio.timeout(ROLLBACK_SECONDS):
                        await self._transaction.rollback()
            except TierError:
                self.connection.terminate()  # and with it the transaction

    def understood(self, fault: Exception) -> Exception:
        """See `StorageTransaction.understood`."""
        if isinstance(fault, (asyncpg.PostgresError, asyncpg.InterfaceError)):
            return meaning(fault, "a transaction")
        return fault
