"""L3's data keys in memory.

Each server of a test has one `MemoryKeys` over the `MemoryStorage` they share. They are committed, lost, copied and
restored with the rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from holdfast.errors import KeyRetired, TierError
from holdfast.keys import Key
from holdfast.protocols import DataKeyRow, Isolation, MasterKeyUse, NewestKey
from holdfast.protocols.data_keys import DATA_KEYS_LISTED_MAX
from holdfast.protocols.runs import check_limit
from holdfast.testing.memory_marks import Marks
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.testing.memory_transaction import MemoryTransaction

RETIRED_AT: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


class MemoryKeys:
    """`KeyRows` in memory."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    async def list(self, *, after: str | None = None, limit: int) -> Sequence[DataKeyRow]:
        """Rows in order of their ids; see `KeyRows.list`."""
        check_limit(limit, DATA_KEYS_LISTED_MAX)
        async with self._transaction():
            held = self._marks.data_keys
            return [held[key_id] for key_id in sorted(held) if key_id > (after or "")][:limit]

    async def find(self, ids: Sequence[str]) -> Mapping[str, DataKeyRow]:
        """Those of some ids; see `KeyRows.find`."""
        check_limit(len(ids) or 1, DATA_KEYS_LISTED_MAX)
        async with self._transaction():
            return {key_id: row for key_id, row in self._marks.data_keys.items() if key_id in ids}

    async def outdated(self, ids: Sequence[str]) -> frozenset[str]:
        """Those that were there when a master key was retired; see `KeyRows.outdated`."""
        check_limit(len(ids) or 1, DATA_KEYS_LISTED_MAX)
        async with self._transaction():
            return self._marks.outdated_keys & self._marks.data_keys.keys() & {*ids}

    async def newest(self, master_ids: Sequence[str]) -> NewestKey | None:
        """The row that was added last; see `KeyRows.newest`."""
        async with self._transaction():
            found = [row for row in self._marks.data_keys.values() if row.master_id in master_ids]
            return NewestKey(found[-1], found[-1].id in self._marks.outdated_keys) if found else None

    async def add(self, row: DataKeyRow) -> None:
        """Add a row; see `KeyRows.add`."""
        async with self._locked() as transaction:
            self._check_not_retired(row.master_id)
            if row.id in self._marks.data_keys:
                raise TierError(f"L3 in memory: there is a data key {row.id}")
            transaction.note(lambda marks: _with_row(marks, row)._replace(outdated_keys=marks.outdated_keys - {row.id}))

    async def rewrap(self, row: DataKeyRow, wrapped_before: bytes) -> bool:
        """Wrap a row anew; see `KeyRows.rewrap`."""
        async with self._locked() as transaction:
            held = self._marks.data_keys.get(row.id)
            if held is None or held.wrapped != wrapped_before:
                return False
            self._check_not_retired(row.master_id)
            transaction.note(lambda marks: _with_row(marks, row))
        return True

    async def retire(self, master_ids: Sequence[str], *, first: str) -> None:
        """Let master keys wrap nothing any more; see `KeyRows.retire`."""
        async with self._locked() as transaction:
            self._check_not_retired(first)
            retired = {each: self._marks.masters.get(each) or RETIRED_AT for each in master_ids if each != first}
            if any(self._marks.masters.get(each) is None for each in retired):
                transaction.note(lambda marks: marks._replace(outdated_keys=frozenset(marks.data_keys)))
            transaction.note(lambda marks: marks._replace(masters={first: None, **marks.masters, **retired}))

    async def masters(self) -> Sequence[MasterKeyUse]:
        """All master keys that are known; see `KeyRows.masters`."""
        async with self._transaction():
            used = [row.master_id for row in self._marks.data_keys.values()]
            return [MasterKeyUse(each, used.count(each), at) for each, at in sorted(self._marks.masters.items())]

    @property
    def _marks(self) -> Marks:
        return self._storage.log.marks

    def _check_not_retired(self, master_id: str) -> None:
        if self._marks.masters.get(master_id) is not None:
            raise KeyRetired(master_id)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[MemoryTransaction]:
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED) as transaction:
            yield transaction

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[MemoryTransaction]:
        """A transaction that has the lock of all data keys."""
        async with self._transaction() as transaction:
            await transaction.lock(Key("", "data keys"))  # no kind has this name
            yield transaction


def _with_row(marks: Marks, row: DataKeyRow) -> Marks:
    masters = {row.master_id: None, **marks.masters}
    return marks._replace(data_keys={**marks.data_keys, row.id: row}, masters=masters)
