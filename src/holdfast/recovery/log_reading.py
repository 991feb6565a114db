"""What was done about faults of state, by all servers: ``state.recovery_log``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from holdfast.errors import InvalidDocument
from holdfast.keys import check_text
from holdfast.protocols import LineFilter, LoggedLine, RecoveryLogRows
from holdfast.recovery.escalation_rules import SUBJECT_BYTES_MAX

LIST_LIMIT = 100


class RecoveryLog:
    """Shows the recovery log. Lines of a server that could not reach L3 come when it can."""

    def __init__(self, rows: RecoveryLogRows) -> None:
        self._rows = rows

    async def list(
        self,
        *,
        recovery_id: str | None = None,
        subject: str | None = None,
        since: dt.datetime | None = None,
        before: int | None = None,
        limit: int = LIST_LIMIT,
    ) -> Sequence[LoggedLine]:
        """Lines for which all of this holds, the newest first.

        Args:
            subject: what was affected, as in ``bot:b1``, ``run:r1`` or ``tier:l2``.
            since: those of then and later, by the clocks of the servers that wrote them; with its zone.
            before: the number of the last one known.
            limit: 1 to 1000.

        Raises:
            InvalidDocument: `since` has no zone.
            InvalidKey: an id or a subject that no line can have.
            TierError: L3 cannot be asked.
        """
        return await self._rows.newest(lines_of(recovery_id, subject, since), before=before, limit=limit)

    async def follow(self, after: int, *, limit: int = LIST_LIMIT) -> Sequence[LoggedLine]:
        """The lines behind a number, in order: what is new since that one was read. As `list`."""
        return await self._rows.list(after=after, limit=limit)


def lines_of(recovery_id: str | None, subject: str | None, since: dt.datetime | None) -> LineFilter:
    """Which lines are meant (pure). Raises as `RecoveryLog.list`."""
    for what, text in (("recovery id", recovery_id), ("subject", subject)):
        if text is not None:
            check_text(what, text, SUBJECT_BYTES_MAX)
    if since is not None and since.utcoffset() is None:
        raise InvalidDocument("since", "has no time zone")
    return LineFilter(recovery_id=recovery_id, subject=subject, since=since)
