"""The contract of L3's side of what is decided once, such as reviews: it is found, what is overdue, what is old."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from holdfast.protocols.storage import Row

DECISIONS_LISTED_MAX: Final = 1000
"""In one answer."""


class Due(NamedTuple):
    """An open one whose deadline has passed."""

    deadline: dt.datetime
    id: str


class DecisionIndex(Protocol):
    """L3's side of a kind that is decided once. Every method raises a `TierError` if it could not be done.

    A limit that is not 1 to `DECISIONS_LISTED_MAX` is a ValueError.
    """

    async def list(
        self, *, status: str | None = None, run_id: str | None = None, after: int | None = None, limit: int
    ) -> Sequence[tuple[str, Row]]:
        """Those there are, with their rows, the oldest first; what is None restricts nothing.

        Args:
            run_id: of the run that it is about.
            after: the `birth` of the last one known: those opened after it.
        """
        ...

    async def due(self, *, after: Due | None = None, limit: int) -> Sequence[Due]:
        """Open ones whose deadline has passed by L3's clock, the one that is due longest first.

        Args:
            after: the last one known.
        """
        ...

    async def prune(self, *, older_seconds: float, limit: int, of_ended_runs: bool = False) -> int:
        """Remove those that were decided longer ago than that by L3's clock, and how many; the oldest ones first.

        An open one is never removed, nor one that does not say when it was decided.

        Args:
            of_ended_runs: only those whose run has ended, or is not there: merges of any other may look at them again.
        """
        ...

    async def now(self) -> dt.datetime:
        """The moment by L3's clock, by which deadlines are set and judged."""
        ...
