"""What did not verify, for a person to look at: ``state.quarantine``."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.audit.chain import AuditAction
from holdfast.audit.log import noted
from holdfast.protocols import Quarantined, QuarantineRows
from holdfast.write_behind.dead_writes import BY_HAND

LIST_LIMIT = 100


class Quarantine:
    """Lists, shows and discards evidence. Nothing of it is ever served; to discard it mends nothing.

    Args:
        actor: who this server is, where a call does not say.
    """

    def __init__(self, rows: QuarantineRows, *, actor: str) -> None:
        self._rows = rows
        self._actor = actor

    async def list(self, *, after: int = 0, limit: int = LIST_LIMIT) -> Sequence[Quarantined]:
        """Entries behind a number, in order, without their bytes.

        Args:
            limit: 1 to 1000.

        Raises:
            TierError: L3 cannot be asked.
        """
        return await self._rows.list(after=after, limit=limit)

    async def get(self, number: int) -> Quarantined | None:
        """One entry, with its bytes; None: it is not there. Raises as `list` does."""
        return await self._rows.find(number)

    async def discard(self, number: int, *, actor: str | None = None, reason: str = BY_HAND) -> bool:
        """Remove an entry for good, and record that; False: it is not there any more.

        Args:
            actor, reason: for the audit log; the actor is by default this server.

        Raises:
            InvalidKey: `actor` or `reason` is empty, too long, or nothing that L3 can store.
            TierError: neither was done.
        """
        who = self._actor if actor is None else actor
        note = noted(AuditAction.DISCARDED, f"quarantine:{number}", actor=who, reason=reason)
        return await self._rows.discard(number, note)
