"""What is on its way to external systems, and what was given up: ``state.deliveries``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from holdfast.audit.chain import AuditAction, AuditNote
from holdfast.audit.log import noted
from holdfast.documents import Delivery, decode
from holdfast.errors import CorruptDocument
from holdfast.protocols import DeliveryQueue, DeliveryRow
from holdfast.write_behind.dead_writes import BY_HAND

LIST_LIMIT: Final = 100


class ListedDelivery(msgspec.Struct, frozen=True):
    """A delivery without its value.

    Attributes:
        run_id, key, exporter: what of which run goes where; empty: its document cannot be read.
        attempts: that were begun.
        dead: it was given up.
        error: why the last attempt failed.
        wait_seconds: until the next one; 0 or less: it is due.
    """

    id: str
    run_id: str
    key: str
    exporter: str
    attempts: int
    dead: bool
    error: str | None
    wait_seconds: float


class Deliveries:
    """Lists, retries and discards deliveries.

    Args:
        actor: who this server is, where a call does not say.
    """

    def __init__(self, queue: DeliveryQueue, *, actor: str) -> None:
        self._queue = queue
        self._actor = actor

    async def list(
        self, *, dead: bool | None = None, after: str | None = None, limit: int = LIST_LIMIT
    ) -> Sequence[ListedDelivery]:
        """Deliveries that were not brought out, in order of their ids.

        Args:
            dead: only those that were given up, or were not.
            after: the id of the last one known.
            limit: 1 to 1000.
        """
        return [_listed(row) for row in await self._queue.list(dead=dead, after=after, limit=limit)]

    async def retry(self, identifier: str, *, actor: str | None = None, reason: str = BY_HAND) -> bool:
        """Begin anew with a delivery, with all its attempts, and record that; False: it is not there any more.

        It is due now; if an attempt is under way, when that has failed, or its server's lease is over.

        Args:
            actor, reason: for the audit log; the actor is by default this server.

        Raises:
            InvalidKey: `actor` or `reason` is empty, too long, or nothing that L3 can store.
            TierError: neither was done.
        """
        return await self._queue.retry(identifier, self._noted(AuditAction.REPLAYED, identifier, actor, reason))

    async def discard(self, identifier: str, *, actor: str | None = None, reason: str = BY_HAND) -> bool:
        """Remove a delivery for good, and record that; False: it is not there any more. All else as `retry`."""
        return await self._queue.discard(identifier, self._noted(AuditAction.DISCARDED, identifier, actor, reason))

    def _noted(self, action: AuditAction, identifier: str, actor: str | None, reason: str) -> AuditNote:
        who = self._actor if actor is None else actor
        return noted(action, f"delivery:{identifier}", actor=who, reason=reason)


def _listed(row: DeliveryRow) -> ListedDelivery:
    try:
        told = decode(Delivery, row.body, what=f"delivery:{row.id}")
        names = told.run_id, told.key, told.exporter
    except CorruptDocument:  # it is listed all the same, to be discarded
        names = "", "", ""
    return ListedDelivery(row.id, *names, row.attempts, row.dead, row.error, row.wait_seconds)
