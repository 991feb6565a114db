"""The contract of L3's side of run contexts: runs are found, snapshots are listed, pruned and dropped.

Runs are rows of the kind ``run``, their snapshots rows of ``run_snapshot`` under ``<run>/<number, 8 digits>``, or that
with ``.base``. All else about them is a matter of `Storage`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from holdfast.documents import RunStatus
from holdfast.protocols.storage import Row

ENDED: Final = frozenset({RunStatus.COMPLETED.value, RunStatus.FAILED.value, RunStatus.CANCELLED.value})
"""The states of a run that no longer changes."""
UNOWNED: Final = ENDED | {RunStatus.PAUSED.value}
"""Those of a run that no server need run."""
LISTED_MAX: Final = 1000
"""Runs, or snapshots, in one answer."""
PRUNED_MAX: Final = 1000
"""Snapshots that one call removes."""
MONTHS_AHEAD_MAX: Final = 11
MONTHS_KEPT_MAX: Final = 1200


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are meant: those for which all of this holds; what is None restricts nothing.

    Attributes:
        orphaned: only those that are neither ended nor paused and whose `Run.journal` is not live, or not named: their
            server has ended, or was replaced. The journal decides, and not the name, which the next process on that
            machine may well have too. One that has not beaten for the takeover time is not live, whether or not
            anybody is there to take it over.
    """

    swarm_id: str | None = None
    status: str | None = None
    parent_run_id: str | None = None
    routine_id: str | None = None
    orphaned: bool = False


class ListedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot without its body.

    Attributes:
        bytes: of its document in L3, as text.
        at: when it was written, by L3's clock.
    """

    id: str
    bytes: int
    at: dt.datetime


class Retained(msgspec.Struct, frozen=True):
    """What became of months that were to be dropped; each is named by its first day.

    Attributes:
        dropped: these are no more.
        kept: what was in the way, in words.
    """

    dropped: tuple[dt.date, ...]
    kept: Mapping[dt.date, str]


class RunIndex(Protocol):
    """L3's side of run contexts. Every method raises a `TierError` if it could not be done.

    A limit that is not 1 to `LISTED_MAX`, or `PRUNED_MAX`, is a ValueError, and so are more months than are told here.
    Each is made with the takeover time, after which a server that does not beat is dead.
    """

    async def list(self, which: RunFilter, *, after: int | None = None, limit: int) -> Sequence[tuple[str, Row]]:
        """Runs with their rows, the newest first.

        Args:
            after: the `birth` of the last one known: those begun before it.
        """
        ...

    async def children(self, parent_run_id: str, *, after: int, limit: int) -> Sequence[tuple[str, Row]]:
        """The runs begun below a run with their rows, the oldest first: in the order of their births.

        A run is begun below another one under the lock of that one's row: so none turns up later that was born before
        one that is told here.

        Args:
            after: the `birth` of the last one known: those begun after it.
        """
        ...

    async def snapshots(self, run_id: str, *, after: str | None = None, limit: int) -> Sequence[ListedSnapshot]:
        """What snapshots a run has, in order of their ids: a delta, the base of its number, the next delta.

        Args:
            after: the id of the last one known.
        """
        ...

    async def bases(self, run_id: str, *, below: int | None = None, limit: int) -> Sequence[int]:
        """The numbers of a run's bases, the highest first. It reads no snapshot, however large they are.

        Args:
            below: the last number known: those before it.
        """
        ...

    async def prune(self, run_id: str, below: int, limit: int) -> int:
        """Remove snapshots of a run that are numbered below a base, the oldest first; returns how many there were.

        0: none is left, or others are about to remove them. Caches are told as of any delete. An id stays taken:
        nothing can be written under it again. No writer is kept waiting.

        Args:
            below: number of a base that the caller has found intact.

        Raises:
            NotFound: the run has no such base; nothing was removed.
        """
        ...

    async def retain(self, months: int) -> Retained:
        """Drop whole months of snapshots: all but this month and so many before it, 0 to 1200.

        A month is dropped if every run that has a snapshot in it is ended, or is not in L3 at all. One run that is not
        ended keeps all of the month; `prune` lets go of what it needs no more. A month that somebody uses is kept too.
        Ids of what was dropped stay taken.
        """
        ...

    async def make_ahead(self, months: int) -> int:
        """Make the partitions of all history for this month and so many ahead, 0 to 11; returns how many were missing.

        No writer is kept waiting.
        """
        ...


def check_limit(limit: int, most: int) -> None:
    """Raises ValueError unless it is 1 to so many."""
    if not 1 <= limit <= most:
        raise ValueError(f"a limit is 1 to {most}, not {limit}")


def check_months(months: int, most: int) -> None:
    """Raises ValueError unless it is 0 to so many."""
    if not 0 <= months <= most:
        raise ValueError(f"0 to {most} months are possible here, not {months}")
