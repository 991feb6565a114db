"""`FlushTransaction` over PostgreSQL: one connection of the pool that has its journal's lock, until its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg

from holdfast.errors import AppendOnly, Conflict, SerializationFailure, TierError
from holdfast.keys import Key
from holdfast.protocols import Letter, Row, Write
from holdfast.seq_set import SeqSet
from holdfast.tiers import l3_journal_statements as sql
from holdfast.tiers.l3_errors import mapped
from holdfast.tiers.l3_rows import NoPartition, RowWriter, read_rows
from holdfast.tiers.l3_statements import ENSURE_MONTH, Statements

ROLLBACK_SECONDS: Final = 2.0
REASON_CHARACTERS_MAX: Final = 2_000

logger = logging.getLogger("holdfast")


class PostgresFlush:
    """One open flush.

    Args:
        lent: gives the connection back.
        decided: what was decided before it, and `refused` what of that was refused.
        letters_max: of more letters the oldest are dropped.
    """

    def __init__(
        self,
        connection: Any,
        lent: AsyncExitStack,
        rows: RowWriter,
        statements: Mapping[str, Statements],
        *,
        journal: str,
        decided: SeqSet,
        refused: SeqSet,
        letters_max: int,
    ) -> None:
        self.decided, self.refused = decided, refused
        self._connection = connection
        self._lent = lent
        self._rows = rows
        self._statements = statements
        self._journal = journal
        self._letters_max = letters_max
        self._failed = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """Read rows and lock them; see `FlushTransaction.load`."""
        with self._acting(f"reading {len(keys)} keys", rows=False):
            return await read_rows(self._connection, self._statements, keys, lock=True)

    async def save(self, writes: Sequence[Write]) -> Mapping[Key, int]:
        """Write all or none; see `FlushTransaction.save`.

        What may be refused is written last, under a savepoint: rows that are there are locked by `load` and wait for
        nobody, so their order among the others is of no matter, and in order of keys the two sorts would alternate.
        """
        sure = [write for write in writes if self._rows.is_sure(write)]
        refusable = [write for write in writes if not self._rows.is_sure(write)]
        batches = self._rows.batches(sure) + self._rows.batches(refusable)
        try:
            with self._acting(f"writing {len(writes)} documents"):
                if refusable:
                    return await self._save_or_nothing(batches)
                return await self._rows.save(self._connection, batches)
        except NoPartition as missing:
            with mapped(f"making this month's partition of {missing.table}"):
                await self._connection.execute("ROLLBACK")
                await self._connection.execute(ENSURE_MONTH, missing.table)
            raise SerializationFailure(
                f"L3: {missing.table} had no partition for this month; it has one now"
            ) from missing

    async def _save_or_nothing(self, batches: Sequence[Sequence[Write]]) -> Mapping[Key, int]:
        await self._connection.execute(sql.SAVEPOINT)
        try:
            versions = await self._rows.save(self._connection, batches)
        except (Conflict, AppendOnly):
            await self._connection.execute(sql.BACK)
            raise
        await self._connection.execute(sql.RELEASE)
        return versions

    async def delete(self, key: Key, *, expected: int | None = None) -> tuple[int, bool]:
        """Delete a row; see `FlushTransaction.delete`."""
        with self._acting(f"deleting {key}"):
            return await self._rows.delete(self._connection, key, expected)

    async def decide(self, decided: SeqSet, refused: SeqSet, letters: Sequence[Letter]) -> None:
        """Note what this transaction decides; see `FlushTransaction.decide`.

        The oldest letters make room for new ones: nobody may have to read them before writes go on.
        """
        with self._acting(f"deciding {len(decided)} entries of journal {self._journal}", rows=False):
            await self._connection.execute(sql.DECIDE, self._journal, decided.text, refused.text)
            if letters:
                dropped = await self._connection.fetch(sql.KEEP, self._journal, *_columns(letters), self._letters_max)
                if dropped:
                    logger.warning(
                        "of the writes that were given up, the newest %d are kept: %d older ones were dropped",
                        self._letters_max,
                        len(dropped),
                    )

    async def commit(self) -> None:
        """Let all of it take effect; see `FlushTransaction.commit`."""
        connection = self._connection
        if self._failed or connection is None:
            raise TierError("L3: the flush has failed or ended before: nothing of it takes effect now")
        try:
            with self._acting("committing a flush", commits=True):
                _check_committed(await connection.execute("COMMIT"))
        except BaseException:
            connection.terminate()
            raise
        self._connection = None
        await self._lent.aclose()

    async def rollback(self) -> None:
        """Let nothing of it take effect; see `FlushTransaction.rollback`."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        async with self._lent:
            try:
                with mapped("rolling a flush back"):
                    async with asyncio.timeout(ROLLBACK_SECONDS):
                        await connection.execute("ROLLBACK")
            except TierError:
                connection.terminate()

    @contextlib.contextmanager
    def _acting(self, what: str, *, rows: bool = True, commits: bool = False) -> Iterator[None]:
        """After any error but these two it cannot be committed; the server would answer COMMIT without an error."""
        try:
            with mapped(what, writes=commits, rows=rows), _in_the_way(what):
                yield
        except (Conflict, AppendOnly):
            raise
        except BaseException:
            self._failed = True
            raise


def _check_committed(done: str) -> None:
    """The server ends a transaction that has failed with a rollback, whatever it is asked, and without an error."""
    if done != "COMMIT":
        raise TierError(f"L3: a flush was rolled back instead of committed: the server said {done}")


@contextlib.contextmanager
def _in_the_way(what: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.LockNotAvailableError as fault:
        raise SerializationFailure(f"L3: {what}: a lock that another transaction has for too long") from fault


def _columns(letters: Sequence[Letter]) -> list[list[Any]]:
    return [
        [letter.seq for letter in letters],
        [letter.key.kind for letter in letters],
        [letter.key.id for letter in letters],
        [letter.entry for letter in letters],
        [_storable(letter.reason) for letter in letters],
    ]


def _storable(reason: str) -> str:
    """A user's error may say anything; what PostgreSQL cannot store must not keep a flush from its commit."""
    return reason[:REASON_CHARACTERS_MAX].replace("\0", "?").encode(errors="replace").decode()
