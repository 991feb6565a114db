"""The audit log of all servers: ``state.audit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from holdfast.audit.chain import AuditAction, AuditEntry, AuditNote, Break, ChainWalk, Link
from holdfast.errors import InvalidKey
from holdfast.keys import check_text
from holdfast.protocols import AuditRows, StorageTransaction
from holdfast.protocols.audit import AUDIT_LISTED_MAX

TEXT_BYTES_MAX: Final = 4000
"""Of a subject, an actor's name or a reason, in UTF-8."""
DETAIL_BYTES_MAX: Final = 8000
LIST_LIMIT: Final = 100

Detail = Mapping[str, str | int | bool | None]


class AuditReport(msgspec.Struct, frozen=True):
    """What became of verifying the log.

    Attributes:
        entries: how many hold, from the first on.
        head: the newest of them. Written down elsewhere, it shows later whether the log was made anew.
        broken: where the chain does not hold; None: it does.
    """

    entries: int
    head: Link
    broken: Break | None


class AuditLog:
    """Records who did what, and shows it. Entries are never changed or removed.

    Args:
        server: who this server is, for what nobody else did.
    """

    def __init__(self, rows: AuditRows, *, server: str) -> None:
        self._rows = rows
        self._server = server

    async def note(
        self,
        action: AuditAction,
        subject: str,
        *,
        actor: str | None = None,
        reason: str,
        detail: Detail | None = None,
        transaction: StorageTransaction | None = None,
    ) -> None:
        """Record a deed: before it is done, or in the transaction that does it. If it cannot be recorded, do not do it.

        Args:
            actor: None: this server.
            detail: facts about the deed; never a value of a document.
            transaction: in which it is done; its last statement, since all who record wait for its end.

        Raises:
            InvalidKey: a text is empty, too long, or nothing that L3 can store.
            OutcomeUnknown: sent, and the reply was lost: there may be an entry for what is not done.
            TierError: L3 did not take it; the deed must not be done.
        """
        note = noted(action, subject, actor=self._server if actor is None else actor, reason=reason, detail=detail)
        await (self._rows.append(note) if transaction is None else transaction.audit(note))

    async def list(self, *, after: int = 0, limit: int = LIST_LIMIT) -> list[AuditEntry]:
        """The entries behind a number, in order.

        Args:
            limit: 1 to 1000.

        Raises:
            TierError: L3 cannot be asked.
        """
        return list(await self._rows.list(after=after, limit=limit))

    async def head(self) -> Link:
        """Number and hash of the newest entry. Raises as `list` does."""
        return await self._rows.head()

    async def verify(self, *, anchor: Link | None = None) -> AuditReport:
        """Follow the chain from its first entry to the newest, which others may add to meanwhile.

        Args:
            anchor: number and hash of an entry, written down elsewhere: without one, a log that was made anew as a
                whole cannot be told from the one it replaced.

        Raises:
            TierError: L3 cannot be asked.
        """
        walk = ChainWalk(await self._rows.head(), anchor)
        while not walk.is_over:
            walk.follow(await self._rows.list(after=walk.last.number, limit=AUDIT_LISTED_MAX))
        walk.end()
        return AuditReport(walk.last.number, walk.last, walk.broken)


def noted(action: str, subject: str, *, actor: str, reason: str, detail: Detail | None = None) -> AuditNote:
    """A note that L3 takes (pure).

    Raises:
        InvalidKey: a text is empty, too long, or nothing that L3 can store.
    """
    for what, text in (("subject", subject), ("actor", actor), ("reason", reason)):
        check_text(what, text, TEXT_BYTES_MAX)
    facts = msgspec.json.encode(detail or {}).decode()
    if len(facts.encode()) > DETAIL_BYTES_MAX:
        raise InvalidKey(f"the detail of an audit entry has at most {DETAIL_BYTES_MAX} bytes of JSON")
    return AuditNote(action=str(action), subject=subject, actor=actor, reason=reason, detail=facts)
