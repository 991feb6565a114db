"""The contract of L3's side of reviews: they are found, and those that are overdue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from holdfast.protocols.storage import Row

REVIEWS_LISTED_MAX: Final = 1000
"""Reviews in one answer."""


class Due(NamedTuple):
    """An open review whose deadline has passed."""

    deadline: dt.datetime
    id: str


class ReviewIndex(Protocol):
    """L3's side of reviews. Every method raises a `TierError` if it could not be done.

    A limit that is not 1 to `REVIEWS_LISTED_MAX` is a ValueError.
    """

    async def list(
        self, *, status: str | None = None, run_id: str | None = None, after: int | None = None, limit: int
    ) -> Sequence[tuple[str, Row]]:
        """Reviews with their rows, the oldest first; what is None restricts nothing.

        Args:
            run_id: of the run that merges.
            after: the `birth` of the last one known: those opened after it.
        """
        ...

    async def due(self, *, after: Due | None = None, limit: int) -> Sequence[Due]:
        """Open reviews whose deadline has passed by L3's clock, the one that is due longest first.

        Args:
            after: the last one known.
        """
        ...

    async def now(self) -> dt.datetime:
        """The moment by L3's clock, by which deadlines are set and judged."""
        ...
