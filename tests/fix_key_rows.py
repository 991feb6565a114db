"""L3's data keys for tests, and for the suite of the contract: in memory, over PostgreSQL, and mutants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from holdfast.adapters import connection_pool
from holdfast.protocols import DataKeyRow, NewestKey
from holdfast.settings import Settings
from holdfast.testing import MemoryKeys, MemoryStorage
from holdfast.tiers.l3_connections import ConnectionPool
from holdfast.tiers.l3_keys import PostgresKeys


class MemoryKeyHarness:
    """`KeyHarness` over an L3 in memory."""

    def __init__(self, of: type[MemoryKeys] = MemoryKeys) -> None:
        self._storage = MemoryStorage()
        self._of = of

    def rows(self) -> MemoryKeys:
        return self._of(self._storage)


class TakesAny(MemoryKeys):
    """Mutant: a retired master key is as good as another."""

    def _check_not_retired(self, master_id: str) -> None:
        pass


class Overwrites(MemoryKeys):
    """Mutant: a row is replaced whatever it is by now."""

    async def rewrap(self, row: DataKeyRow, wrapped_before: bytes) -> bool:
        held = self._marks.data_keys.get(row.id)
        return await super().rewrap(row, wrapped_before if held is None else held.wrapped)


class AnyMaster(MemoryKeys):
    """Mutant: the newest row of all, whoever wrapped it."""

    async def newest(self, master_ids: Sequence[str]) -> NewestKey | None:
        return await super().newest(list(self._marks.masters))


class NeverOutdated(MemoryKeys):
    """Mutant: a data key is as good after a rotation as before."""

    async def newest(self, master_ids: Sequence[str]) -> NewestKey | None:
        found = await super().newest(master_ids)
        return None if found is None else NewestKey(found.row, is_outdated=False)


class PostgresKeyHarness:
    """`KeyHarness` over a real PostgreSQL."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def rows(self) -> PostgresKeys:
        return PostgresKeys(self._pool)


@pytest.fixture
async def postgres_keys(settings: Settings) -> AsyncIterator[PostgresKeyHarness]:
    """Data keys in this test's database."""
    pool = connection_pool(settings)
    yield PostgresKeyHarness(pool)
    await pool.close()
