"""The contract of the audit log in L3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from holdfast.audit.chain import AuditEntry, AuditNote, Link

AUDIT_LISTED_MAX: Final = 1000
"""Entries in one answer."""


class AuditRows(Protocol):
    """The audit log: entries are added, read, and nothing else. Every method raises a `TierError` if it could not be.

    What is to be recorded together with a deed is given to its transaction: `StorageTransaction.audit`.
    """

    async def append(self, note: AuditNote) -> None:
        """Add an entry, in a transaction of its own; it is committed when this returns.

        Entries are numbered and chained in the order in which they are committed, whoever adds them.

        Raises:
            OutcomeUnknown: sent, and the reply was lost.
        """
        ...

    async def list(self, *, after: int, limit: int) -> Sequence[AuditEntry]:
        """The entries behind a number, in order.

        Args:
            limit: 1 to `AUDIT_LISTED_MAX`, else a ValueError.
        """
        ...

    async def head(self) -> Link:
        """What the newest entry is, by the log's own account; `GENESIS`: there is none."""
        ...
