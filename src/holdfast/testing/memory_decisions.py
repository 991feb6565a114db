"""L3's side of what is decided once, in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from holdfast.clock import Clock
from holdfast.documents import RunStatus
from holdfast.documents.review import ReviewStatus
from holdfast.keys import Key
from holdfast.kinds import RUN, Kind
from holdfast.protocols import Isolation, Row
from holdfast.protocols.decisions import DECISIONS_LISTED_MAX, Due
from holdfast.protocols.runs import ENDED, check_limit
from holdfast.testing.memory_storage import MemoryStorage


class MemoryDecisions:
    """`DecisionIndex` in memory.

    Args:
        clock: L3's; its monotonic seconds count from 2000.
    """

    def __init__(self, storage: MemoryStorage, clock: Clock, kind: Kind[Any]) -> None:
        self._storage = storage
        self._clock = clock
        self._kind = kind.name

    async def list(
        self, *, status: str | None = None, run_id: str | None = None, after: int | None = None, limit: int
    ) -> Sequence[tuple[str, Row]]:
        """Those there are, the oldest first; see `DecisionIndex.list`."""
        check_limit(limit, DECISIONS_LISTED_MAX)
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            found = [
                (name, row)
                for name, row, fields in self._rows()
                if status in {None, _status(fields)}
                and run_id in {None, fields.get("runId")}
                and (after is None or row.birth > after)
            ]
        return sorted(found, key=lambda each: each[1].birth)[:limit]

    async def due(self, *, after: Due | None = None, limit: int) -> Sequence[Due]:
        """Open ones that are overdue; see `DecisionIndex.due`."""
        check_limit(limit, DECISIONS_LISTED_MAX)
        now = await self.now()
        open_ones = ((name, fields) for name, _, fields in self._rows() if _status(fields) == ReviewStatus.OPEN)
        deadlines = (Due(at, name) for name, fields in open_ones if (at := _moment(fields.get("deadline"))) is not None)
        return sorted(due for due in deadlines if due.deadline <= now and (after is None or due > after))[:limit]

    async def prune(self, *, older_seconds: float, limit: int, of_ended_runs: bool = False) -> int:
        """Remove old ones that are decided; see `DecisionIndex.prune`."""
        check_limit(limit, DECISIONS_LISTED_MAX)
        long_ago = await self.now() - dt.timedelta(seconds=older_seconds)
        settled = [
            (at, name)
            for name, _, fields in self._rows()
            if _status(fields) != ReviewStatus.OPEN
            and (at := _moment(fields.get("resolvedAt"))) is not None
            and at < long_ago
            and not (of_ended_runs and self._goes_on(fields.get("runId")))
        ]
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED) as transaction:
            found = [await transaction.delete(Key(self._kind, name)) for _, name in sorted(settled)[:limit]]
        return sum(existed for _, existed in found)

    async def now(self) -> dt.datetime:
        """The moment by L3's clock; see `DecisionIndex.now`."""
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            return dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=self._clock.monotonic())

    def _goes_on(self, run_id: object) -> bool:
        row = self._storage.log.rows.get(Key(RUN.name, str(run_id)))
        return row is not None and msgspec.json.decode(row.body).get("status", RunStatus.RUNNING.value) not in ENDED

    def _rows(self) -> Iterator[tuple[str, Row, dict[str, Any]]]:
        for key, row in self._storage.log.rows.items():
            if key.kind == self._kind and isinstance(fields := msgspec.json.decode(row.body), dict):
                yield key.id, row, fields


def _status(fields: dict[str, Any]) -> str:
    return str(fields.get("status", ReviewStatus.OPEN.value))


def _moment(text: object) -> dt.datetime | None:
    try:
        at = msgspec.convert(text, dt.datetime)
    except msgspec.ValidationError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)
