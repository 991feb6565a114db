"""The contract of `DecisionIndex`: what is decided once is found, what is overdue, what is old."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from holdfast.keys import Key
from holdfast.protocols import DecisionIndex, Due, Storage, Write
from holdfast.protocols.decisions import DECISIONS_LISTED_MAX

HOUR = dt.timedelta(hours=1)


class DecisionIndexes(Protocol):
    """Makes what a check needs, over one L3 that has none of the kind."""

    @property
    def kind(self) -> str:
        """The name of the kind."""
        ...

    @property
    def storage(self) -> Storage:
        """Its rows."""
        ...

    @property
    def index(self) -> DecisionIndex:
        """Its side of the kind."""
        ...


class DecisionIndexSuite:
    """The checks."""

    def __init__(self, indexes: DecisionIndexes) -> None:
        self.kind, self.storage, self.index = indexes.kind, indexes.storage, indexes.index

    async def check_each_is_found_by_run_and_status(self) -> None:
        """The oldest first, as they are now; one without a status is open."""
        await self.put("a", runId="r1")
        await self.put("b", runId="r2", status="resolved")
        await self.put("c", runId="r1", status="timed_out")
        await self.put("a", runId="r1", status="resolved")
        await self.put("d", runId="r1")
        assert await self.ids() == ["a", "b", "c", "d"]
        assert await self.ids(run_id="r1") == ["a", "c", "d"]
        assert await self.ids(status="resolved") == ["a", "b"]
        assert await self.ids(status="open") == ["d"]
        assert await self.ids(status="resolved", run_id="r1") == ["a"]
        assert await self.ids(run_id="nobody") == []

    async def check_rows_come_as_they_are_stored(self) -> None:
        """With version, birth and body."""
        await self.put("a", runId="r1")
        loaded = (await self.storage.load([Key(self.kind, "a")])).rows[Key(self.kind, "a")]
        assert list(await self.index.list(limit=1)) == [("a", loaded)]

    async def check_pages_follow_each_other(self) -> None:
        """Each begins behind the birth of the last one of the page before; a limit is a limit."""
        for number in range(5):
            await self.put(f"v{number}", runId="r1")
        seen: list[str] = []
        after = None
        while page := await self.index.list(run_id="r1", after=after, limit=2):
            seen += [name for name, _ in page]
            after = page[-1][1].birth
        assert seen == [f"v{number}" for number in range(5)]
        for call in (self.index.list(limit=0), self.index.due(limit=DECISIONS_LISTED_MAX + 1)):
            try:
                await call
            except ValueError:
                continue
            raise AssertionError("a limit that is none was taken")

    async def check_overdue_ones_are_found_by_the_clock_of_l3(self) -> None:
        """Open ones whose deadline has passed, those of long ago first; none that is decided or has no deadline."""
        now = await self.index.now()
        await self.put("late", runId="r1", deadline=now - HOUR)
        await self.put("later", runId="r1", deadline=now - 2 * HOUR)
        await self.put("same", runId="r1", deadline=now - 2 * HOUR)
        await self.put("to come", runId="r1", deadline=now + HOUR)
        await self.put("decided", runId="r1", status="resolved", deadline=now - HOUR)
        await self.put("for ever", runId="r1")
        assert [each.id for each in await self.index.due(limit=10)] == ["later", "same", "late"]
        seen: list[Due] = []
        while page := await self.index.due(after=seen[-1] if seen else None, limit=1):
            seen += page
        assert seen == [Due(now - 2 * HOUR, "later"), Due(now - 2 * HOUR, "same"), Due(now - HOUR, "late")]
        await self.put("late", runId="r1", status="timed_out", deadline=now - HOUR)
        assert [each.id for each in await self.index.due(limit=10)] == ["later", "same"]

    async def check_what_was_decided_long_ago_is_removed(self) -> None:
        """The oldest first, so many at once; nothing that is open, or does not say when it was decided."""
        now = await self.index.now()
        await self.put("older", runId="r1", status="timed_out", resolvedAt=now - 4 * HOUR)
        await self.put("old", runId="r1", status="resolved", resolvedAt=now - 3 * HOUR)
        await self.put("new", runId="r1", status="resolved", resolvedAt=now - HOUR)
        await self.put("open", runId="r1", deadline=now - 9 * HOUR, resolvedAt=now - 9 * HOUR)
        await self.put("unsaid", runId="r1", status="resolved", resolvedAt="long ago")
        await self.put("some other", runId="r1", status="from a newer version")
        assert [await self.pruned(limit=1) for _ in range(3)] == [1, 1, 0]
        assert await self.ids() == ["new", "open", "unsaid", "some other"]
        assert await self.pruned(older_seconds=0.0) == 1
        assert await self.ids() == ["open", "unsaid", "some other"]
        for limit in (0, DECISIONS_LISTED_MAX + 1):
            try:
                await self.pruned(limit=limit)
            except ValueError:
                continue
            raise AssertionError("a limit that is none was taken")

    async def check_what_a_run_may_need_stays(self) -> None:
        """As long as it has not ended; what lies before others keeps none of them."""
        now = await self.index.now()
        states = {"r1": None, "r2": "paused", "r3": "completed", "r4": "failed", "r5": "cancelled", "r6": "running"}
        for run, status in states.items():
            await self.run(run, **({} if status is None else {"status": status}))
        for place, run in enumerate(("r1", "r2", "r3", "r4", "r5", "r6", "r7")):
            await self.put(f"of {run}", runId=run, status="resolved", resolvedAt=now - (9 - place) * HOUR)
        assert await self.pruned(limit=2, of_ended_runs=True) == 2
        assert await self.ids() == ["of r1", "of r2", "of r5", "of r6", "of r7"]
        assert await self.pruned(of_ended_runs=True) == 2
        assert await self.ids() == ["of r1", "of r2", "of r6"]
        await self.run("r2", status="completed")
        assert await self.pruned(of_ended_runs=True) == 1
        assert await self.pruned() == 2

    async def check_any_document_can_be_stored(self) -> None:
        """What is no deadline, a NUL, a text longer than any id: no row is refused for its index."""
        await self.put("a", runId="r1", deadline="tomorrow")
        await self.put("b", runId="\0", deadline="2025-13-45T99:00:00Z", variable="\0")
        await self.put("c", runId="x" * 9000, deadline=5)
        await self.storage.save([Write(Key(self.kind, "d"), 1, b"[1]")])
        assert await self.index.due(limit=10) == []
        assert await self.ids(run_id="r1") == ["a"]
        await self.put("e", runId="r1", status="resolved", resolvedAt="2025-13-45T99:00:00Z")
        await self.put("f", runId="\0", status="\0", resolvedAt="\0")
        assert await self.pruned(older_seconds=0.0) == 0

    async def put(self, identifier: str, **fields: Any) -> None:
        """Store one."""
        await self.storage.save([Write(Key(self.kind, identifier), 1, msgspec.json.encode(fields))])

    async def run(self, identifier: str, **fields: Any) -> None:
        """Store a run."""
        await self.storage.save([Write(Key("run", identifier), 1, msgspec.json.encode(fields))])

    async def pruned(self, *, older_seconds: float = 2 * HOUR.total_seconds(), limit: int = 10, **which: bool) -> int:
        """How many were removed."""
        return await self.index.prune(older_seconds=older_seconds, limit=limit, **which)

    async def ids(self, **which: Any) -> Sequence[str]:
        """The ids of those for which this holds."""
        return [name for name, _ in await self.index.list(**which, limit=100)]
