"""L3's side of run contexts in memory.

Each server of a test has one `MemoryRuns` over the `MemoryStorage` they share.
"""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from holdfast.clock import Clock
from holdfast.documents import RunStatus
from holdfast.errors import NotFound
from holdfast.keys import Key
from holdfast.kinds import RUN, RUN_SNAPSHOT
from holdfast.protocols import Isolation, JournalState, ListedSnapshot, Retained, Row, RunFilter
from holdfast.protocols.runs import (
    ENDED,
    LISTED_MAX,
    MONTHS_AHEAD_MAX,
    MONTHS_KEPT_MAX,
    PRUNED_MAX,
    UNOWNED,
    check_limit,
    check_months,
)
from holdfast.testing.memory_storage import MemoryStorage
from holdfast.testing.memory_transaction import MemoryTransaction

_SNAPSHOT: Final = re.compile(r"(.+)/(\d{8})(\.base)?\Z", re.DOTALL)
Dated = Callable[[Row], dt.datetime]


def by_version(row: Row) -> dt.datetime:
    """When a row was written, where the day is of no matter: a second for each number drawn."""
    return dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=row.version)


class MemoryRuns:
    """`RunIndex` in memory. There are no partitions: a month is the snapshots that were written in it.

    Args:
        clock: that of the journals.
        dead_after_seconds: a server whose beat is older is dead; the takeover time.
        dated: when a row was written.
        today: the day it is; by default, that on which by `dated` nothing is old.
    """

    def __init__(
        self,
        storage: MemoryStorage,
        clock: Clock,
        *,
        dead_after_seconds: float = 10.0,
        dated: Dated = by_version,
        today: Callable[[], dt.date] = lambda: dt.date(2000, 1, 1),
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._dead_after_seconds = dead_after_seconds
        self._dated = dated
        self._today = today
        self._made: set[dt.date] = set()

    async def list(self, which: RunFilter, *, after: int | None = None, limit: int) -> Sequence[tuple[str, Row]]:
        """Runs, the newest first; see `RunIndex.list`."""
        check_limit(limit, LISTED_MAX)
        async with await self._open():
            found = [
                (key.id, row)
                for key, row in self._rows(RUN.name)
                if (after is None or row.birth < after) and self._fits(which, msgspec.json.decode(row.body))
            ]
        return sorted(found, key=lambda each: each[1].birth, reverse=True)[:limit]

    async def children(self, parent_run_id: str, *, after: int, limit: int) -> Sequence[tuple[str, Row]]:
        """The runs below a run, the oldest first; see `RunIndex.children`."""
        check_limit(limit, LISTED_MAX)
        which = RunFilter(parent_run_id=parent_run_id)
        async with await self._open():
            rows = [(key.id, row) for key, row in self._rows(RUN.name) if row.birth > after]
        rows.sort(key=lambda each: each[1].birth)
        found = (each for each in rows if self._fits(which, msgspec.json.decode(each[1].body)))
        return list(itertools.islice(found, limit))

    async def snapshots(self, run_id: str, *, after: str | None = None, limit: int) -> Sequence[ListedSnapshot]:
        """What snapshots a run has; see `RunIndex.snapshots`."""
        check_limit(limit, LISTED_MAX)
        async with await self._open():
            found = [each for each in self._snapshots() if each[0] == run_id and each[2].id > (after or "")]
        return [ListedSnapshot(key.id, len(row.body), self._dated(row)) for _, _, key, row in found[:limit]]

    async def bases(self, run_id: str, *, below: int | None = None, limit: int) -> Sequence[int]:
        """The numbers of a run's bases, the highest first; see `RunIndex.bases`."""
        check_limit(limit, LISTED_MAX)
        async with await self._open():
            found = [
                number
                for run, number, key, _ in self._snapshots()
                if run == run_id and key.id.endswith(".base") and (below is None or number < below)
            ]
        return found[::-1][:limit]

    async def prune(self, run_id: str, below: int, limit: int) -> int:
        """Remove snapshots below a base; see `RunIndex.prune`."""
        check_limit(limit, PRUNED_MAX)
        async with await self._open() as transaction:
            if Key(RUN_SNAPSHOT.name, f"{run_id}/{below:08}.base") not in self._storage.log.rows:
                raise NotFound(f"run {run_id} has no base {below}: nothing was pruned")
            doomed = [key for run, number, key, _ in self._snapshots() if run == run_id and number < below]
            return len(transaction.erase(doomed[:limit]))

    async def retain(self, months: int) -> Retained:
        """Drop old months; see `RunIndex.retain`."""
        check_months(months, MONTHS_KEPT_MAX)
        first_kept = _months_later(self._today().replace(day=1), -months)
        by_month: dict[dt.date, list[tuple[str, int, Key, Row]]] = {}
        for each in self._snapshots():
            month = self._dated(each[3]).date().replace(day=1)
            if month < first_kept:
                by_month.setdefault(month, []).append(each)
        dropped, kept = [], dict[dt.date, str]()
        async with await self._open() as transaction:
            for month, snapshots in sorted(by_month.items()):
                needed = next((run for run, *_ in snapshots if self._is_open(run)), None)
                if needed is None:
                    transaction.erase([key for _, _, key, _ in snapshots])
                    dropped.append(month)
                else:
                    kept[month] = f"run {needed} is not ended"
        return Retained(tuple(dropped), kept)

    async def make_ahead(self, months: int) -> int:
        """Make partitions ahead; see `RunIndex.make_ahead`. They are only counted."""
        check_months(months, MONTHS_AHEAD_MAX)
        async with await self._open():
            this = self._today().replace(day=1)
            missing = {_months_later(this, month) for month in range(months + 1)} - self._made
            self._made |= missing
        return len(missing)

    async def _open(self) -> MemoryTransaction:
        return await self._storage.open_transaction(Isolation.READ_COMMITTED)

    def _rows(self, kind: str) -> Iterator[tuple[Key, Row]]:
        return ((key, row) for key, row in self._storage.log.rows.items() if key.kind == kind)

    def _snapshots(self) -> Sequence[tuple[str, int, Key, Row]]:
        """Run, number, key and row of each snapshot, in order of their ids."""
        named = ((_SNAPSHOT.match(key.id), key, row) for key, row in sorted(self._rows(RUN_SNAPSHOT.name)))
        return [(match[1], int(match[2]), key, row) for match, key, row in named if match is not None]

    def _is_open(self, run_id: str) -> bool:
        row = self._storage.log.rows.get(Key(RUN.name, run_id))
        return row is not None and _status(msgspec.json.decode(row.body)) not in ENDED

    def _fits(self, which: RunFilter, run: dict[str, Any]) -> bool:
        fields = {
            "swarmId": which.swarm_id,
            "parentRunId": which.parent_run_id,
            "routineId": which.routine_id,
        }
        if any(value is not None and run.get(field) != value for field, value in fields.items()):
            return False
        if which.status not in {None, _status(run)}:
            return False
        return not which.orphaned or (_status(run) not in UNOWNED and not self._is_live(run.get("journal")))

    def _is_live(self, journal: str | None) -> bool:
        record = self._storage.log.marks.journals.get(journal or "")
        if record is None or record.state is not JournalState.LIVE:
            return False
        return self._clock.monotonic() - record.seconds < self._dead_after_seconds


def _status(run: dict[str, Any]) -> str:
    return str(run.get("status", RunStatus.RUNNING.value))


def _months_later(first_day: dt.date, months: int) -> dt.date:
    years, month = divmod(first_day.year * 12 + first_day.month - 1 + months, 12)
    return dt.date(years, month + 1, 1)
