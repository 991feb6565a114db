"""`StorageTransaction` over PostgreSQL: one connection of the pool, inside a transaction, until its end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg

from holdfast.audit.chain import AuditNote
from holdfast.errors import TierError
from holdfast.keys import Key
from holdfast.protocols import Affected, Isolation, Row, Write
from holdfast.tiers import l3_audit
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped, meaning
from holdfast.tiers.l3_rows import NoPartition, RowWriter, read_rows
from holdfast.tiers.l3_statements import Statements

# The settings of a held connection suit the statements of L3; a user's own deserve the server's judgement.
PLANS: Final = "SET LOCAL plan_cache_mode = auto"
# No SELECT: that would take the snapshot, after which a user could not say SET TRANSACTION any more.
MARK: Final = "SET LOCAL holdfast.mark = '{}'"
"""It is there until the transaction's end, whoever ends it."""
AFFECTED: Final = """SELECT pg_current_xact_id_if_assigned()::text, current_setting('holdfast.kinds', true),
    current_setting('holdfast.mark', true)"""
LATER: Final = "SELECT pg_current_xact_id()::text"
"""A number above those of all that has ended: whoever sees its end sees theirs."""

VOUCH: Final = "PREPARE holdfast_vouches AS SELECT"
VOUCHED: Final = "EXECUTE holdfast_vouches"
"""Fails if DEALLOCATE ALL or DISCARD ALL took away what was prepared, and with it what the driver has prepared."""
AS_OPENED: Final = """RESET SESSION AUTHORIZATION; RESET ROLE; DISCARD TEMP; DISCARD SEQUENCES;
    DO $$ DECLARE prepared text; BEGIN
        FOR prepared IN SELECT name FROM pg_prepared_statements WHERE from_sql AND name <> 'holdfast_vouches' LOOP
            EXECUTE format('DEALLOCATE %I', prepared);
        END LOOP;
    END $$"""
"""What the driver's own reset leaves of a user's."""

ROLLBACK_SECONDS: Final = 2.0
"""How long an L3 that stands still may keep a caller who gives a transaction up; for its session the same again."""
_MARKS: Final = itertools.count(1)


class PostgresTransaction:
    """One open transaction."""

    def __init__(self, pool: ConnectionPool, rows: RowWriter, statements: Mapping[str, Statements]) -> None:
        self._connection: Any = None
        self._given_away = False
        self._whole = True  # no statement of a user's can have ended it
        self._later = 0
        self._mark = str(next(_MARKS))
        self._pool = pool
        self._rows = rows
        self._statements = statements
        self._lent = AsyncExitStack()
        self._transaction: Any = None

    @property
    def connection(self) -> Any:
        """The connection of asyncpg. Whoever asks for it may change its session, which is put back in the end."""
        self._given_away, self._whole = True, False
        return self._connection

    async def begin(self, isolation: Isolation) -> None:
        """Take a connection and begin."""
        self._connection = await self._lent.enter_async_context(self._pool.connection())
        try:
            with mapped("beginning a transaction"):
                self._transaction = self._connection.transaction(isolation=isolation.value.replace(" ", "_"))
                await self._transaction.start()
                await self._connection.execute(f"{PLANS}; {MARK.format(self._mark)}")
        except BaseException:
            # BEGIN may be under way, or done, though its answer never came: nobody else may inherit that.
            self._connection.terminate()
            await self.rollback()
            raise

    async def load(self, keys: Sequence[Key], *, lock: bool = False) -> Mapping[Key, Row]:
        """Read rows; see `StorageTransaction.load`."""
        with mapped(f"reading {len(keys)} keys"):
            return await read_rows(self._connection, self._statements, keys, lock=lock)

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `StorageTransaction.save`."""
        batches = self._rows.batches(writes)
        with mapped(f"writing {len(writes)} documents", rows=True):
            try:
                # A savepoint: what a refused write began is taken back, and the transaction goes on.
                async with self._connection.transaction():
                    return await self._rows.save(self._connection, batches)
            except NoPartition as missing:
                raise TierError(
                    f"L3: {missing.table} has no partition for this month yet: `holdfast migrate` makes it"
                ) from missing

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `StorageTransaction.delete`."""
        with mapped(f"deleting {key}"):
            return await self._rows.delete(self._connection, key, expected)

    async def audit(self, note: AuditNote) -> None:
        """Record a deed; see `StorageTransaction.audit`."""
        with mapped(f"recording {note.action} of {note.subject}"):
            await l3_audit.append(self._connection, note)

    async def affected(self) -> Affected:
        """What it has changed so far; see `StorageTransaction.affected`."""
        with mapped("asking what a transaction changed"):
            xid, kinds, mark = await self._connection.fetchrow(AFFECTED)
            self._whole = mark == self._mark
            if not self._whole:
                return Affected(int(await self._connection.fetchval(LATER)), ended=True)
        return Affected(int(xid) if xid is not None else None, frozenset(kinds.split(",") if kinds else ()))

    async def commit(self) -> None:
        """Let it take effect; see `StorageTransaction.commit`."""
        transaction, self._transaction = self._transaction, None
        with mapped("committing", writes=True, rows=True):  # constraints may be deferred
            await transaction.commit()
        async with self._lent:
            await self._put_back()

    async def rollback(self) -> int | None:
        """Let nothing of it take effect; see `StorageTransaction.rollback`."""
        async with self._lent:
            if self._connection is not None and not self._connection.is_closed():
                await self._or_end("rolling back", self._roll_back)
                await self._put_back()
        return None if self._whole else self._later

    async def _roll_back(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:  # else COMMIT ended it, or ended the connection
            self._whole = self._whole or await self._is_marked()
            await transaction.rollback()
        if not self._whole:
            self._later = int(await self._connection.fetchval(LATER))

    async def _is_marked(self) -> bool:
        try:
            return bool((await self._connection.fetchrow(AFFECTED))[2] == self._mark)
        except asyncpg.PostgresError:  # a transaction that failed answers nothing any more
            return False

    async def _put_back(self) -> None:
        """Whatever a user told the session to keep, nobody inherits it; what Holdfast set when it connected stays."""
        connection = self._connection
        if self._given_away and not (connection.is_closed() or connection.is_in_transaction()):
            await self._or_end("putting a session back", self._reset)

    async def _reset(self) -> None:
        connection, vouched = self._connection, self._pool.vouched
        await connection.reset()
        if connection in vouched:
            await connection.execute(f"{AS_OPENED}; {VOUCHED}")
        else:
            await connection.reload_schema_state()  # the driver forgets what it prepared: it may be gone
            await connection.execute(f"{AS_OPENED}; {VOUCH}")
            vouched.add(connection)

    async def _or_end(self, what: str, act: Callable[[], Awaitable[None]]) -> None:
        """Do it in time, or end the connection: its transaction and its session end with it."""
        try:
            with mapped(what):
                async with asyncio.timeout(ROLLBACK_SECONDS):
                    await act()
        except TierError:
            self._connection.terminate()

    def understood(self, fault: Exception) -> Exception:
        """See `StorageTransaction.understood`."""
        if isinstance(fault, (asyncpg.PostgresError, asyncpg.InterfaceError)):
            return meaning(fault, "a transaction")
        return fault
