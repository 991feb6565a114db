"""`JournalBase` over PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg

from holdfast.audit.chain import AuditNote
from holdfast.errors import NotOwner, TierUnavailable
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import DeadWrite, JournalRecord, JournalState, Letter, Row
from holdfast.seq_set import SeqSet
from holdfast.tiers import l3_journal_statements as sql
from holdfast.tiers.l3_audit import noted_columns
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_flush import PostgresFlush
from holdfast.tiers.l3_rows import RowWriter
from holdfast.tiers.l3_statements import rows_and_marks, statements_of

IDLE_MS: Final = 5_000
LOCK_MS: Final = 1_000
LETTERS_MAX: Final = 100_000


class PostgresJournals:
    """`JournalBase` over a pool of held connections.

    Args:
        idle_ms: a flush that does nothing for so long is ended by the server, with its session, and fails if it waits
            so long for one lock. It must be less than the time after which a server counts as dead.
        lock_ms: how long a change of a journal's record waits for a flush.
        letters_max: of more letters the oldest are dropped, with a warning in the log.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        kinds: Mapping[str, Kind[Any]],
        *,
        idle_ms: int = IDLE_MS,
        lock_ms: int = LOCK_MS,
        letters_max: int = LETTERS_MAX,
    ) -> None:
        self._pool = pool
        self._statements = statements_of(kinds)
        self._rows = RowWriter(kinds, self._statements)
        self._positions = {name: position for position, name in enumerate(kinds)}
        self._names = list(kinds)
        self._rows_and_marks = rows_and_marks([kind.table for kind in kinds.values()])
        self._begin = sql.begin(idle_ms)
        self._idle_ms = idle_ms
        self._lock_ms = str(lock_ms)
        self._letters_max = letters_max

    async def register(self, journal: str, server: str) -> None:
        """Enter a journal; see `JournalBase.register`."""
        with mapped(f"entering journal {journal}", writes=True):
            async with self._pool.connection() as connection:
                await connection.execute(sql.REGISTER, journal, server)

    async def beat(self, journal: str, epoch: int) -> bool:
        """Show that its server lives; see `JournalBase.beat`. A flush does not hold it up."""
        with mapped(f"beating for journal {journal}", writes=True):
            async with self._pool.connection() as connection:
                return bool(await connection.fetchval(sql.BEAT, journal, epoch))

    async def records(self) -> Sequence[JournalRecord]:
        """All journals; see `JournalBase.records`."""
        with mapped("reading the journals"):
            async with self._pool.connection() as connection:
                return [_record(record) for record in await connection.fetch(sql.RECORDS)]

    async def take(self, journal: str, epoch: int, taker: str) -> bool:
        """Take a journal over; see `JournalBase.take`. After an unknown outcome the record tells who has it."""
        return await self._change(f"taking journal {journal} over", sql.TAKE, journal, epoch, taker)

    async def enter_state(self, journal: str, epoch: int, state: JournalState) -> bool:
        """Change a journal's state; see `JournalBase.enter_state`."""
        what = f"letting journal {journal} be {state.value}"
        return await self._change(what, sql.ENTER_STATE, journal, epoch, state.value)

    async def forget(self, journal: str, epoch: int) -> bool:
        """Remove a journal; see `JournalBase.forget`."""
        return await self._change(f"forgetting journal {journal}", sql.FORGET, journal, epoch)

    async def open_flush(self, journal: str, epoch: int) -> PostgresFlush:
        """Begin to decide entries; see `JournalBase.open_flush`."""
        async with AsyncExitStack() as lent:
            connection = await lent.enter_async_context(self._pool.connection())
            with mapped(f"opening a flush of journal {journal}"):
                async with self._flush_in_the_way(connection, journal):
                    await connection.execute(self._begin)
                    marks = await connection.fetchrow(sql.OWN, journal, epoch)
                    if marks is not None:
                        await connection.execute(sql.ROWS)
            if marks is None:
                raise NotOwner(f"journal {journal} is not at epoch {epoch}: another server has it, or it was forgotten")
            return PostgresFlush(
                connection,
                lent.pop_all(),
                self._rows,
                self._statements,
                journal=journal,
                decided=SeqSet.parse(marks[0]),
                refused=SeqSet.parse(marks[1]),
                letters_max=self._letters_max,
            )

    async def rows_and_marks(
        self, keys: Sequence[Key], journals: Sequence[str]
    ) -> tuple[Mapping[Key, Row], Mapping[str, SeqSet]]:
        """Rows, and what is decided; see `JournalBase.rows_and_marks`. One statement: one snapshot, one round trip."""
        ids: list[list[str]] = [[] for _ in self._names]
        for key in keys:
            ids[self._positions[key.kind]].append(key.id)
        with mapped(f"reading {len(keys)} keys and {len(journals)} journals"):
            async with self._pool.connection() as connection:
                records = await connection.fetch(self._rows_and_marks, *ids, list(journals))
        rows, marks = {}, {}
        for position, name, version, birth, schema, body in records:
            if position < 0:
                marks[name] = SeqSet.parse(body.decode())
            else:
                rows[Key(self._names[position], name)] = Row(version, birth, schema, body)
        return rows, marks

    async def letters(self, *, limit: int) -> Sequence[DeadWrite]:
        """Writes that were given up; see `JournalBase.letters`."""
        with mapped("reading the letters"):
            async with self._pool.connection() as connection:
                return [_letter(record) for record in await connection.fetch(sql.LETTERS, limit)]

    async def letter(self, identifier: int) -> DeadWrite | None:
        """One of them; see `JournalBase.letter`."""
        with mapped(f"reading letter {identifier}"):
            async with self._pool.connection() as connection:
                record = await connection.fetchrow(sql.LETTER, identifier)
        return None if record is None else _letter(record)

    async def discard(self, identifier: int, note: AuditNote | None = None) -> bool:
        """Remove one; see `JournalBase.discard`."""
        statement, columns = (sql.DISCARD, ()) if note is None else (sql.DISCARD_NOTED, noted_columns(note))
        with mapped(f"discarding letter {identifier}", writes=True):
            async with self._pool.connection() as connection:
                return bool(await connection.fetchval(statement, identifier, *columns))

    async def _change(self, what: str, statement: str, journal: str, epoch: int, *new: str) -> bool:
        with mapped(what, writes=True):
            async with self._pool.connection() as connection, self._flush_in_the_way(connection, journal):
                return bool(await connection.fetchval(statement, journal, epoch, self._lock_ms, *new))

    @asynccontextmanager
    async def _flush_in_the_way(self, connection: Any, journal: str) -> AsyncIterator[None]:
        """Wait for a flush no longer than is set; its session is ended if only its client keeps it."""
        try:
            yield
        except asyncpg.LockNotAvailableError as fault:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            await connection.execute(sql.END_STUCK, journal, self._idle_ms)
            raise TierUnavailable(f"L3: a flush of journal {journal} does not end; try again") from fault


def _record(record: asyncpg.Record) -> JournalRecord:
    journal, server, epoch, beat, state, taker, decided, refused, seconds = record
    marks = SeqSet.parse(decided), SeqSet.parse(refused)
    return JournalRecord(journal, server, epoch, beat, JournalState(state), taker, *marks, seconds)


def _letter(record: asyncpg.Record) -> DeadWrite:
    identifier, journal, kind, key, seq, entry, reason, seconds = record
    return DeadWrite(identifier, journal, Letter(Key(kind, key), seq, entry, reason), seconds)
