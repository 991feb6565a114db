"""`KeyRows` over PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import asyncpg

from holdfast.errors import KeyRetired
from holdfast.protocols.data_keys import DATA_KEYS_LISTED_MAX, DataKeyRow, MasterKeyUse, NewestKey
from holdfast.protocols.runs import check_limit
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_errors import mapped

_LIST: Final = "SELECT id, master_id, wrapped FROM holdfast.data_keys WHERE id > $1 ORDER BY id LIMIT $2"
_FIND: Final = "SELECT id, master_id, wrapped FROM holdfast.data_keys WHERE id = ANY ($1::text[])"
_OUTDATED: Final = """
SELECT id FROM holdfast.data_keys
WHERE id = ANY ($1::text[]) AND number <= (SELECT max(retired_behind) FROM holdfast.master_keys)"""
_NEWEST: Final = """
SELECT id, master_id, wrapped, number <= COALESCE((SELECT max(retired_behind) FROM holdfast.master_keys), 0)
FROM holdfast.data_keys WHERE master_id = ANY ($1::text[]) ORDER BY number DESC LIMIT 1"""
_ADD: Final = "INSERT INTO holdfast.data_keys (id, master_id, wrapped) VALUES ($1, $2, $3)"
_REWRAP: Final = """
UPDATE holdfast.data_keys SET master_id = $2, wrapped = $3 WHERE id = $1 AND wrapped = $4 RETURNING true"""
_RETIRE: Final = "SELECT holdfast.retire_master_keys($1::text[], $2)"
_MASTERS: Final = """
SELECT id, (SELECT count(*) FROM holdfast.data_keys WHERE master_id = m.id), retired_at
FROM holdfast.master_keys AS m ORDER BY id"""


class PostgresKeys:
    """`KeyRows` over a pool of held connections."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def list(self, *, after: str | None = None, limit: int) -> Sequence[DataKeyRow]:
        """Rows in order of their ids; see `KeyRows.list`."""
        check_limit(limit, DATA_KEYS_LISTED_MAX)
        with mapped("listing data keys"):
            async with self._pool.connection() as connection:
                return [DataKeyRow(*record) for record in await connection.fetch(_LIST, after or "", limit)]

    async def find(self, ids: Sequence[str]) -> Mapping[str, DataKeyRow]:
        """Those of some ids; see `KeyRows.find`."""
        return {record[0]: DataKeyRow(*record) for record in await self._fetched(_FIND, ids)}

    async def outdated(self, ids: Sequence[str]) -> frozenset[str]:
        """Those that were there when a master key was retired; see `KeyRows.outdated`."""
        return frozenset(record[0] for record in await self._fetched(_OUTDATED, ids))

    async def newest(self, master_ids: Sequence[str]) -> NewestKey | None:
        """The row that was added last; see `KeyRows.newest`."""
        with mapped("reading the newest data key"):
            async with self._pool.connection() as connection:
                record = await connection.fetchrow(_NEWEST, list(master_ids))
        return None if record is None else NewestKey(DataKeyRow(*record[:3]), record[3])

    async def add(self, row: DataKeyRow) -> None:
        """Add a row; see `KeyRows.add`."""
        with mapped(f"adding data key {row.id}", writes=True), _refused(row.master_id):
            async with self._pool.connection() as connection:
                await connection.execute(_ADD, row.id, row.master_id, row.wrapped)

    async def rewrap(self, row: DataKeyRow, wrapped_before: bytes) -> bool:
        """Wrap a row anew; see `KeyRows.rewrap`."""
        with mapped(f"wrapping data key {row.id} anew", writes=True), _refused(row.master_id):
            async with self._pool.connection() as connection:
                arguments = (row.id, row.master_id, row.wrapped, wrapped_before)
                return bool(await connection.fetchval(_REWRAP, *arguments))

    async def retire(self, master_ids: Sequence[str], *, first: str) -> None:
        """Let master keys wrap nothing any more; see `KeyRows.retire`."""
        with mapped("retiring master keys", writes=True), _refused(first):
            async with self._pool.connection() as connection:
                await connection.execute(_RETIRE, list(master_ids), first)

    async def _fetched(self, query: str, ids: Sequence[str]) -> Sequence[asyncpg.Record]:
        check_limit(len(ids) or 1, DATA_KEYS_LISTED_MAX)
        possible = [each for each in ids if "\0" not in each]  # PostgreSQL refuses a question with such a text
        with mapped(f"reading {len(ids)} data keys"):
            async with self._pool.connection() as connection:
                found: Sequence[asyncpg.Record] = await connection.fetch(query, possible)
                return found

    async def masters(self) -> Sequence[MasterKeyUse]:
        """All master keys that are known; see `KeyRows.masters`."""
        with mapped("counting data keys"):
            async with self._pool.connection() as connection:
                return [MasterKeyUse(*record) for record in await connection.fetch(_MASTERS)]


@contextlib.contextmanager
def _refused(master_id: str) -> Iterator[None]:
    """What L3 says of a retired master key."""
    try:
        yield
    except asyncpg.ObjectNotInPrerequisiteStateError as fault:
        raise KeyRetired(master_id) from fault
