"""The contract of `RunIndex`: runs are found, snapshots listed, pruned and dropped."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from holdfast.changes import ChangeOperation
from holdfast.documents import RunStatus
from holdfast.errors import AppendOnly, NotFound
from holdfast.keys import Key
from holdfast.protocols import ChangeSource, JournalBase, JournalState, RunFilter, RunIndex, Storage, Write
from holdfast.protocols.runs import LISTED_MAX, PRUNED_MAX, UNOWNED

RUN_ID: Final = "r1"
EVERY: Final = RunFilter()
BODY: Final = b'{"runId": "r1", "routineId": "x", "sequence": 1}'


class RunIndexes(Protocol):
    """Makes what a check needs, over one L3 without rows and journals."""

    @property
    def storage(self) -> Storage:
        """Its rows."""
        ...

    @property
    def journals(self) -> JournalBase:
        """What it knows of journals."""
        ...

    @property
    def feed(self) -> ChangeSource:
        """Its change feed."""
        ...

    def index(self) -> RunIndex:
        """What one more server sees of runs."""
        ...

    async def age(self, journal: str, seconds: float) -> None:
        """Make it that many seconds longer since anything of a journal changed."""
        ...

    async def put_old(self, key: Key, body: bytes, *, months: int) -> None:
        """Write a snapshot as it was done so many months ago."""
        ...


class RunIndexSuite:
    """The checks; the takeover time is 10 seconds."""

    def __init__(self, indexes: RunIndexes) -> None:
        self.indexes = indexes
        self.storage, self.journals, self.feed = indexes.storage, indexes.journals, indexes.feed
        self.index, self.other = indexes.index(), indexes.index()

    async def check_runs_are_found_by_each_field(self) -> None:
        """By swarm, status, parent, routine, and by several at once; what is not asked for restricts nothing."""
        await self.begin("a", swarmId="s1", routineId="x")
        await self.begin("b", swarmId="s1", routineId="y", parentRunId="a", status="paused")
        await self.begin("c", swarmId="s2", routineId="x", parentRunId="a")
        assert await self.ids(RunFilter(swarm_id="s1")) == ["b", "a"]
        assert await self.ids(RunFilter(status="paused")) == ["b"]
        assert await self.ids(RunFilter(parent_run_id="a")) == ["c", "b"]
        assert await self.ids(RunFilter(routine_id="x")) == ["c", "a"]
        assert await self.ids(RunFilter(parent_run_id="a", routine_id="x")) == ["c"]
        assert await self.ids(RunFilter(swarm_id="s2", status="paused")) == []
        assert await self.ids(EVERY) == ["c", "b", "a"]

    async def check_children_come_in_the_order_of_their_births(self) -> None:
        """The oldest first, however they changed since; by pages, of one parent alone."""
        for name in ("c", "a", "b"):
            await self.begin(name, parentRunId="p")
        await self.begin("x", parentRunId="p2")
        await self.begin("y")
        await self.begin("c", parentRunId="p", status="completed")
        first = await self.index.children("p", after=0, limit=2)
        assert [name for name, _ in first] == ["c", "a"]
        loaded = (await self.storage.load([Key("run", "c")])).rows[Key("run", "c")]
        assert first[0][1] == loaded
        rest = await self.index.children("p", after=first[-1][1].birth, limit=2)
        assert [name for name, _ in rest] == ["b"]
        assert await self.index.children("p", after=rest[-1][1].birth, limit=2) == []
        assert await self.index.children("nobody", after=0, limit=2) == []

    async def check_a_run_is_found_by_what_it_is_now(self) -> None:
        """A changed field is looked up by its new value, and the order is still that of beginning."""
        await self.begin("a")
        await self.begin("b")
        await self.begin("a", status="completed")
        assert await self.ids(RunFilter(status="completed")) == ["a"]
        assert await self.ids(RunFilter(status="running")) == ["b"]
        assert await self.ids(EVERY) == ["b", "a"]

    async def check_rows_come_as_they_are_stored(self) -> None:
        """With version, birth and body."""
        await self.begin("a", swarmId="s1")
        loaded = (await self.storage.load([Key("run", "a")])).rows[Key("run", "a")]
        assert [(name, row) for name, row in await self.index.list(EVERY, limit=1)] == [("a", loaded)]

    async def check_a_run_without_a_status_is_running(self) -> None:
        """As its document is read."""
        await self.storage.save([Write(Key("run", "a"), 1, b'{"routineId": "x"}')])
        assert await self.ids(RunFilter(status="running")) == ["a"]
        assert await self.ids(RunFilter(orphaned=True)) == ["a"]

    async def check_any_text_can_be_in_a_run(self) -> None:
        """A NUL, quotes, backslashes before what looks like one, a name longer than any id: it is kept and found."""
        await self.begin("a", swarmId="s1", error="\0", inputs={"\0": "\\u0000", "b": "\\\0"})
        await self.begin("b", swarmId="s'\\\"1", routineId="x" * 9000)
        await self.begin("c", swarmId="\\u0000", parentRunId="a\\\\u0000", error="\0")
        assert await self.ids(RunFilter(swarm_id="s1")) == ["a"]
        assert await self.ids(RunFilter(swarm_id="s'\\\"1")) == ["b"]
        assert await self.ids(RunFilter(swarm_id="\\u0000", parent_run_id="a\\\\u0000")) == ["c"]
        await self.journals.register("j\\u0000", "server 1")
        await self.begin("c", swarmId="\\u0000", journal="j\\u0000", error="\0")
        assert await self.ids(RunFilter(swarm_id="\\u0000", orphaned=True)) == []

    async def check_pages_follow_each_other(self) -> None:
        """Each begins behind the birth of the last run of the one before; nothing twice, nothing left out."""
        for number in range(7):
            await self.begin(f"r{number}", swarmId="s1")
        seen: list[str] = []
        after = None
        while page := await self.index.list(RunFilter(swarm_id="s1"), after=after, limit=3):
            assert len(page) <= 3
            seen += [name for name, _ in page]
            after = page[-1][1].birth
            await self.begin(f"late{len(seen)}", swarmId="s1")
        assert seen == [f"r{number}" for number in reversed(range(7))]

    async def check_orphans(self) -> None:
        """Runs that are not ended, of a journal that is not live any more, that is not known, or that is not named."""
        await self.journals.register("j1", "server 1")
        for status in RunStatus:
            await self.begin(f"of j1 {status}", journal="j1", status=status.value)
        await self.begin("of none")
        await self.begin("of unknown", journal="j2")
        assert await self.ids(RunFilter(orphaned=True)) == ["of unknown", "of none"]
        open_ = [f"of j1 {status}" for status in reversed(RunStatus) if status not in UNOWNED]
        for state in (JournalState.RELEASED, JournalState.TAKEN, JournalState.DRAINED):
            assert await self.journals.enter_state("j1", 1, state)
            assert await self.ids(RunFilter(orphaned=True)) == ["of unknown", "of none", *open_]
        assert await self.ids(RunFilter(orphaned=True, status="blocked")) == ["of j1 blocked"]
        assert await self.journals.forget("j1", 1)
        assert (await self.ids(RunFilter(orphaned=True)))[2:] == open_

    async def check_a_server_of_the_same_name_does_not_hide_orphans(self) -> None:
        """The next process of a machine often has the name of the one before."""
        await self.journals.register("j1", "server 1")
        await self.begin("a", owner="server 1", journal="j1")
        assert await self.ids(RunFilter(orphaned=True)) == []
        assert await self.journals.take("j1", 1, "server 2")
        await self.journals.register("j2", "server 1")
        assert await self.ids(RunFilter(orphaned=True)) == ["a"]

    async def check_a_server_that_does_not_beat_is_dead(self) -> None:
        """After the takeover time, though nobody is there to take its journal over; once it beats again, it is not."""
        await self.journals.register("j1", "server 1")
        await self.begin("a", journal="j1")
        assert await self.ids(RunFilter(orphaned=True)) == []
        await self.indexes.age("j1", 5)
        assert await self.ids(RunFilter(orphaned=True)) == []
        await self.indexes.age("j1", 5)
        assert await self.ids(RunFilter(orphaned=True)) == ["a"]
        assert await self.ids(RunFilter(orphaned=True, routine_id="x", status="running")) == ["a"]
        assert await self.ids(RunFilter(orphaned=True, routine_id="y")) == []
        assert await self.journals.beat("j1", 1)
        assert await self.ids(RunFilter(orphaned=True)) == []

    async def check_bases_are_listed_from_the_highest(self) -> None:
        """Their numbers alone, in pages by the last one; neither deltas nor other runs' bases."""
        await self.history(12, bases=(0, 3, 10))
        for run in ("r", "r10", "r1/x", "r1/00000003.base"):
            await self.snapshot(4, run=run, base=True)
        assert await self.index.bases(RUN_ID, limit=10) == [10, 3, 0]
        assert await self.index.bases(RUN_ID, limit=2) == [10, 3]
        assert await self.index.bases(RUN_ID, below=3, limit=2) == [0]
        assert await self.index.bases(RUN_ID, below=0, limit=2) == []
        assert await self.index.bases("r2", limit=2) == []

    async def check_snapshots_are_listed_in_order(self) -> None:
        """A delta, the base of its number, the next delta; with their sizes, and pages by the last id."""
        for number in (2, 1, 10):
            await self.snapshot(number)
        await self.snapshot(2, base=True, body=BODY + b" " * 100)
        listed = await self.index.snapshots(RUN_ID, limit=10)
        ids = [each.id for each in listed]
        assert ids == ["r1/00000001", "r1/00000002", "r1/00000002.base", "r1/00000010"]
        assert [each.bytes for each in listed] == [len(BODY), len(BODY), len(BODY) + 100, len(BODY)]
        assert all(each.at.tzinfo is not None for each in listed)
        assert [each.id for each in await self.index.snapshots(RUN_ID, after=ids[1], limit=1)] == ids[2:3]
        assert await self.index.snapshots(RUN_ID, after=ids[-1], limit=10) == []

    async def check_runs_do_not_take_each_others_snapshots(self) -> None:
        """Neither those of a run whose name begins the same, nor those of one named like a snapshot."""
        runs = [RUN_ID, "r", "r10", "r1/x", "r1/0", "r1/00000001", "R1", "r1/00000001.base", "é", "r_", "r%"]
        for run in runs:
            for number in (0, 5):
                await self.snapshot(number, run=run, base=True)
        for run in runs:
            wanted = [f"{run}/00000000.base", f"{run}/00000005.base"]
            assert [each.id for each in await self.index.snapshots(run, limit=10)] == wanted
        assert await self.index.prune(RUN_ID, 5, 10) == 1
        for run in runs[1:]:
            assert len(await self.index.snapshots(run, limit=10)) == 2

    async def check_pruning(self) -> None:
        """What is numbered below the base goes, deltas and bases; the base and all from its number on stays."""
        await self.history(6, bases=(0, 3, 5))
        assert await self.index.prune(RUN_ID, 3, 100) == 3
        assert await self.numbers() == ["3", "3.base", "4", "5", "5.base", "6"]
        assert await self.index.prune(RUN_ID, 3, 100) == 0
        assert await self.index.prune(RUN_ID, 5, 100) == 3
        assert await self.numbers() == ["5", "5.base", "6"]

    async def check_pruning_is_bounded(self) -> None:
        """So many at once, the oldest first, so that what is left is always a whole end of the history."""
        await self.history(9, bases=(0, 9))
        assert [await self.index.prune(RUN_ID, 9, 4) for _ in range(4)] == [4, 4, 1, 0]
        assert await self.numbers() == ["9", "9.base"]

    async def check_a_base_must_be_there(self) -> None:
        """Otherwise nothing goes: not a delta of that number, nor the base of another run will do."""
        await self.history(4, bases=(0,))
        await self.snapshot(4, run="r2", base=True)
        for below in (4, 3, 99_999_999, 100_000_000, -1):
            await raises(NotFound, self.index.prune(RUN_ID, below, 10))
        assert await self.numbers() == ["0.base", "1", "2", "3", "4"]

    async def check_what_was_pruned_is_told_and_never_written_again(self) -> None:
        """The feed has each as deleted, a read finds nothing, and its id stays taken."""
        await self.history(2, bases=(0, 2))
        cursor = (await self.feed.poll(None)).cursor
        assert await self.index.prune(RUN_ID, 2, 10) == 2
        poll = await self.feed.poll(cursor)
        gone = [Key("run_snapshot", f"r1/{name}") for name in ("00000000.base", "00000001")]
        assert [(change.key, change.operation) for change in poll.changes] == [
            (key, ChangeOperation.DELETE) for key in gone
        ]
        assert (await self.storage.load(gone)).rows == {}
        for key in gone:
            await raises(AppendOnly, self.storage.save([Write(key, 1, BODY)]))

    async def check_history_still_cannot_be_deleted(self) -> None:
        """Neither before nor after a pruning, in a transaction or apart."""
        await self.history(2, bases=(0, 2))
        for _ in range(2):
            await raises(AppendOnly, self.storage.delete(Key("run_snapshot", "r1/00000002")))
            await self.index.prune(RUN_ID, 2, 10)
        assert await self.numbers() == ["2", "2.base"]

    async def check_two_prune_at_once(self) -> None:
        """Each snapshot is removed by one of them."""
        await self.history(40, bases=(0, 40))
        both = await asyncio.gather(*(each.prune(RUN_ID, 40, 30) for each in (self.index, self.other)))
        assert sum(both) + await self.index.prune(RUN_ID, 40, 100) == 40
        assert await self.numbers() == ["40", "40.base"]

    async def check_months_of_ended_runs_are_dropped(self) -> None:
        """Whole months, when so many more have passed; the younger stay."""
        await self.begin(RUN_ID, status="completed")
        for months in (4, 3, 2, 1):
            await self.old(10 - months, months=months)
        await self.snapshot(10)
        retained = await self.index.retain(2)
        assert retained.dropped == (ago(4), ago(3))
        assert retained.kept == {}
        assert await self.numbers() == ["8", "9", "10"]
        assert (await self.index.retain(2)).dropped == ()
        assert (await self.index.retain(0)).dropped == (ago(2), ago(1))
        assert await self.numbers() == ["10"]

    async def check_what_a_run_may_need_is_never_dropped(self) -> None:
        """A run that is not ended keeps all of its months, and the answer says which; others go."""
        await self.begin("live", status="paused")
        await self.begin("over", status="failed")
        for run, months in (("over", 3), ("over", 2), ("live", 2), ("unknown", 2), ("unknown", 1)):
            await self.old(months, months=months, run=run)
        retained = await self.index.retain(0)
        assert retained.dropped == (ago(3), ago(1))
        assert retained.kept == {ago(2): "run live is not ended"}
        assert len(await self.index.snapshots("over", limit=10)) == 1
        await self.begin("live", status="cancelled")
        assert (await self.index.retain(0)).dropped == (ago(2),)

    async def check_what_was_dropped_is_told_and_never_written_again(self) -> None:
        """Caches may hold any of it: the feed tells it, and ids stay taken."""
        await self.old(1, months=2)
        cursor = (await self.feed.poll(None)).cursor
        assert (await self.index.retain(0)).dropped == (ago(2),)
        poll = await self.feed.poll(cursor)
        key = Key("run_snapshot", "r1/00000001")
        assert any(change.key in {key, Key("run_snapshot", "")} for change in poll.changes)
        assert (await self.storage.load([key])).rows == {}
        await raises(AppendOnly, self.storage.save([Write(key, 1, BODY)]))

    async def check_months_are_made_once(self) -> None:
        """Whoever comes second finds nothing to do."""
        await self.index.make_ahead(4)
        assert await self.index.make_ahead(4) == 0
        assert await self.index.make_ahead(5) > 0

    async def check_limits(self) -> None:
        """No call does any number of things."""
        await self.history(1, bases=(0, 1))
        for limit in (0, -1, LISTED_MAX + 1):
            await raises(ValueError, self.index.list(EVERY, limit=limit))
            await raises(ValueError, self.index.snapshots(RUN_ID, limit=limit))
            await raises(ValueError, self.index.bases(RUN_ID, limit=limit))
        for limit in (0, -1, PRUNED_MAX + 1):
            await raises(ValueError, self.index.prune(RUN_ID, 1, limit))
        for months in (-1, 12):
            await raises(ValueError, self.index.make_ahead(months))
        for months in (-1, 1201):
            await raises(ValueError, self.index.retain(months))

    async def begin(self, run: str, **fields: Any) -> None:
        """Write a run's row."""
        body = msgspec.json.encode({"routineId": "x", "status": "running"} | fields)
        await self.storage.save([Write(Key("run", run), 1, body)])

    async def snapshot(self, number: int, *, run: str = RUN_ID, base: bool = False, body: bytes = BODY) -> None:
        """Write a snapshot."""
        await self.storage.save([Write(snapshot_key(number, run=run, base=base), 1, body)])

    async def old(self, number: int, *, months: int, run: str = RUN_ID) -> None:
        """Write a snapshot as it was done so many months ago."""
        await self.indexes.put_old(snapshot_key(number, run=run), BODY, months=months)

    async def history(self, deltas: int, *, bases: Sequence[int]) -> None:
        """Write deltas 1, 2, ... and bases of the run."""
        keys = [snapshot_key(number) for number in range(1, deltas + 1)]
        keys += [snapshot_key(number, base=True) for number in bases]
        await self.storage.save([Write(key, 1, BODY) for key in keys])

    async def ids(self, which: RunFilter) -> list[str]:
        """The ids of runs, as another server finds them."""
        return [name for name, _ in await self.other.list(which, limit=100)]

    async def numbers(self) -> list[str]:
        """The run's snapshots: their numbers, and which are bases."""
        named = [each.id.removeprefix(f"{RUN_ID}/") for each in await self.other.snapshots(RUN_ID, limit=100)]
        return [str(int(name[:8])) + name[8:] for name in named]


def snapshot_key(number: int, *, run: str = RUN_ID, base: bool = False) -> Key:
    """The key of a snapshot."""
    return Key("run_snapshot", f"{run}/{number:08}{'.base' if base else ''}")


def ago(months: int) -> dt.date:
    """The first day of a month before this one."""
    today = dt.datetime.now(dt.UTC).date()
    year, month = divmod(today.year * 12 + today.month - 1 - months, 12)
    return dt.date(year, month + 1, 1)


async def raises(error: type[Exception], call: Any) -> None:
    """A call must fail so."""
    try:
        result = await call
    except error:
        return
    raise AssertionError(f"{error.__name__} was expected, not {result!r}")
