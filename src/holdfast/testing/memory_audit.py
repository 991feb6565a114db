"""The audit log of L3 in memory: committed, lost, copied and restored with the rows."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.audit.chain import AuditEntry, AuditNote, Link
from holdfast.protocols import Isolation
from holdfast.protocols.audit import AUDIT_LISTED_MAX
from holdfast.protocols.runs import check_limit
from holdfast.testing.memory_storage import MemoryStorage


class MemoryAudit:
    """`AuditRows` in memory. The day of an entry is of no matter: a second for each."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    async def append(self, note: AuditNote) -> None:
        """Add an entry; see `AuditRows.append`."""
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED) as transaction:
            await transaction.audit(note)

    async def list(self, *, after: int, limit: int) -> Sequence[AuditEntry]:
        """The entries behind a number; see `AuditRows.list`."""
        check_limit(limit, AUDIT_LISTED_MAX)
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            return self._entries[after : after + limit]

    async def head(self) -> Link:
        """What the newest entry is; see `AuditRows.head`."""
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            return self._storage.log.marks.audit_head

    @property
    def _entries(self) -> tuple[AuditEntry, ...]:
        return self._storage.log.marks.audit
