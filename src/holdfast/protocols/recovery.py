"""The contracts of recovery's records in L3: what was done about faults, and what did not verify."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from holdfast.audit.chain import AuditNote

LINES_LISTED_MAX: Final = 1000
"""Lines of the recovery log, or entries of the quarantine, in one answer."""
APPENDED_MAX: Final = 500
"""Lines that are added at once."""
KEPT_MAX: Final = 64
"""Entries that are put into quarantine at once."""
MET_MAX: Final = 16
"""Names of times that the same was met, which are remembered."""


class RecoveryLine(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a recovery.

    Attributes:
        id: unique; a line that is there is not added again.
        recovery_id: of all lines of one recovery.
        at: when it was done, by the clock of the server that did it; with its zone.
        error_type: a `StateErrorType`, and `severity` a `Severity`, as it was classified.
        subject: what is affected: ``bot:b1``, ``run:r1``, ``tier:l2``.
        step: a `RecoveryAction` or a `Fallback`; of the first and the last line ``detected`` and ``completed``.
        outcome: a word.
        detail: in words, without values.
        millis: how long it took.
    """

    id: str
    recovery_id: str
    at: dt.datetime
    server: str
    error_type: str
    severity: str
    subject: str
    step: str
    outcome: str
    detail: str = ""
    millis: int = 0


class LineFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines are meant: those for which all of this holds; what is None restricts nothing.

    Attributes:
        since: `at` is not before it; with its zone.
    """

    recovery_id: str | None = None
    subject: str | None = None
    since: dt.datetime | None = None

    def takes(self, line: RecoveryLine) -> bool:
        """Whether a line is one of them."""
        return (
            self.recovery_id in (None, line.recovery_id)
            and self.subject in (None, line.subject)
            and (self.since is None or line.at >= self.since)
        )


class LoggedLine(NamedTuple):
    """A line in its place; `number` rises in the order of adding, which is not always that of `at`."""

    number: int
    line: RecoveryLine


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What did not verify.

    Attributes:
        tier: a `Source`.
        kind, id: of the document that it was to be.
        version: of the row; None: not known.
        fault: what is wrong with it, in words.
        evidence: its first bytes, `EVIDENCE_BYTES_MAX` at most, and `size` how many there were.
        server: that met it, `at` when, by its clock and with its zone; `count`: how often.
        met: names these times that it was met: under one name they are counted once; empty: each time they are kept.
            Not told with what is kept.
    """

    tier: str
    kind: str
    id: str
    version: int | None = None
    fault: str
    evidence: bytes
    size: int
    server: str
    at: dt.datetime
    count: int = 1
    met: str = ""


class Quarantined(NamedTuple):
    """Evidence as it is kept.

    Attributes:
        number: names it; rises in the order of adding.
        found: as it was met first; but `count` and `at` are how often, and when last, the same was met.
    """

    number: int
    found: Evidence


class RecoveryLogRows(Protocol):
    """The recovery log. Every method raises a `TierError` if L3 could not do it."""

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        """Add lines that are not there yet, at most `APPENDED_MAX`; of all lines the newest `rows_max` are kept.

        Raises:
            OutcomeUnknown: sent, and the reply was lost; to repeat it does no harm.
        """
        ...

    async def list(self, *, after: int = 0, limit: int) -> Sequence[LoggedLine]:
        """The lines behind a number, in order.

        Args:
            limit: 1 to `LINES_LISTED_MAX`, else a ValueError.
        """
        ...

    async def newest(self, which: LineFilter, *, before: int | None = None, limit: int) -> Sequence[LoggedLine]:
        """Those of these lines that have the highest numbers, below one if there is one, the newest first.

        Args:
            limit: as of `list`.
        """
        ...


class QuarantineRows(Protocol):
    """What did not verify, for a person to look at. Every method raises a `TierError` if L3 could not do it."""

    async def keep(self, found: Sequence[Evidence], *, rows_max: int) -> None:
        """Keep evidence, at most `KEPT_MAX` of it at once; of all, what was added last, `rows_max`, is kept.

        The same bytes of one document in one tier are kept once, with the sum of their counts.

        Raises:
            OutcomeUnknown: sent, and the reply was lost; to repeat it, with the same `met`, does no harm, unless it
                has been met `MET_MAX` times since.
        """
        ...

    async def list(self, *, after: int = 0, limit: int) -> Sequence[Quarantined]:
        """Entries behind a number, in order, without their bytes.

        Args:
            limit: 1 to `LINES_LISTED_MAX`, else a ValueError.
        """
        ...

    async def find(self, number: int) -> Quarantined | None:
        """One entry, with its bytes; None: it is not there."""
        ...

    async def discard(self, number: int, note: AuditNote) -> bool:
        """Remove an entry, together with a record of that; False: it is not there, and nothing is recorded."""
        ...
