"""What L3 in memory has committed: rows, transaction ids, snapshots, and the outbox that the change feed reads.

The rules are PostgreSQL's: a snapshot sees the transactions that were over when it was taken, numbers are drawn when a
statement runs and never given back, and what a crash loses is drawn again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from holdfast.keys import Key
from holdfast.protocols import Change, Invalidation, Row, Snapshot
from holdfast.testing.memory_marks import Marks

LOSABLE_COMMITS: Final = 1000
"""Commits that a crash can take back; older ones are on disk."""
MARKS_KEPT: Final = 5
"""How many tidyings a change outlives."""
RECORDS_KEPT: Final = 1000
"""Records of invalidations; older ones are dropped."""
TIDY_COMMITS: Final = 10_000
"""After so many commits without a tidying the log tidies itself."""


class Entry(NamedTuple):
    """A row of the outbox. Entries sort by `seq`, which is drawn under the key's lock.

    Attributes:
        at: a stamp never given twice, not even after a crash or a restore: the time of day.
    """

    seq: int
    xid: int
    at: int
    change: Change

    @property
    def name(self) -> str:
        """What no other entry of any past has."""
        return f"{self.seq}:{self.xid}:{self.at}"


class Counters(NamedTuple):
    """The newest numbers drawn."""

    xid: int
    seq: int
    version: int


class Voids(NamedTuple):
    """What is known of invalidations, as committed; never changed, only replaced.

    Attributes:
        generations: scope to generation.
        tags: tag to generation, of those not yet forgotten, in the order in which they were raised.
        records: the newest last.
    """

    generations: Mapping[str, int]
    tags: Mapping[str, int] = MappingProxyType({})
    records: tuple[Invalidation, ...] = ()

    def raised(self, scope: str, drawn: int) -> Voids:
        """With a generation raised."""
        return self._replace(generations={**self.generations, scope: drawn})

    def tag_raised(self, tag: str, drawn: int, *, tags_max: int) -> Voids:
        """With a tag's generation raised; beyond so many the older half is forgotten."""
        tags = {each: number for each, number in self.tags.items() if each != tag} | {tag: drawn}
        voids = self._replace(tags=tags).raised("tag", drawn)
        if len(tags) <= tags_max:
            return voids
        forgotten, kept = list(tags.items())[: -(tags_max // 2)], list(tags.items())[-(tags_max // 2) :]
        return voids._replace(tags=dict(kept)).raised("tagged", forgotten[-1][1])

    def recorded(self, record: Invalidation) -> Voids:
        """With a record more."""
        return self._replace(records=(*self.records, record)[-RECORDS_KEPT:])


class Commit(NamedTuple):
    """What is needed to take a commit back: what there was before, and the numbers after it."""

    xid: int
    rows: Mapping[Key, Row | None]
    voids: Voids
    marks: Marks
    after: Counters


class ColdCopy(NamedTuple):
    """Everything a copy of the stopped server's files holds."""

    rows: Mapping[Key, Row]
    voids: Voids
    marks: Marks
    counters: Counters
    outbox: Mapping[int, Sequence[Entry]]
    horizon: Snapshot


class CommitLog:
    """The committed state and the way it came about.

    Args:
        on_commit: called at each commit with its transaction id and its changes, in the order of its statements.

    Attributes:
        rows: what is committed.
        voids: generations and records of invalidations, as committed.
        marks: what is known of journals, as committed.
        horizon: what it sees may have left the outbox; a cursor that does not cover it cannot be continued.
    """

    def __init__(self, on_commit: Callable[[int, Sequence[Change]], None] | None = None) -> None:
        self.rows: dict[Key, Row] = {}
        self.voids = Voids({"all": 1})
        self.marks = Marks()
        self._on_commit = on_commit
        self._xid, self._seq, self._version, self._at = 2, 0, 1, 0
        self._over = self._xid
        self._running: dict[int, None] = {}
        self._snapshot: Snapshot | None = None
        self._outbox: dict[int, Sequence[Entry]] = {}
        self._xids: list[int] = []
        self._durable = self._counters()
        self._commits: deque[Commit] = deque()
        self.horizon = self.snapshot()
        self._marks: deque[Snapshot] = deque(maxlen=MARKS_KEPT)
        self._untidied = 0

    def draw(self) -> int:
        """The sequence's next number, for a version or a generation."""
        self._version += 1
        return self._version

    def start(self) -> int:
        """A transaction is about to write: it gets its id and is running."""
        self._xid += 1
        self._running[self._xid] = None
        return self._xid

    def entry(self, xid: int, change: Change) -> Entry:
        """The outbox row of a change, not committed yet."""
        self._seq += 1
        self._at += 1
        return Entry(self._seq, xid, self._at, change)

    def commit(
        self,
        xid: int,
        rows: Mapping[Key, Row | None],
        entries: Sequence[Entry],
        voids: Voids | None = None,
        notes: Sequence[Callable[[Marks], Marks]] = (),
    ) -> None:
        """A running transaction takes effect, all at once; a row of None is deleted.

        Args:
            notes: what it changes of the marks, whatever these are by now.
        """
        before = {key: self.rows.get(key) for key in rows}
        self._put(rows)
        commit = Commit(xid, before, self.voids, self.marks, self._counters())
        self.voids = voids or self.voids
        for note in notes:
            self.marks = note(self.marks)
        self._commits.append(commit)
        if len(self._commits) > LOSABLE_COMMITS:
            self._durable = self._commits.popleft().after
        if entries:
            self._outbox[xid] = entries
            insort(self._xids, xid)
        self.end(xid)
        self._untidied += 1
        if self._untidied >= TIDY_COMMITS:
            self.tidy()
        if self._on_commit is not None:
            self._on_commit(xid, [entry.change for entry in entries])

    def end(self, xid: int) -> None:
        """A running transaction is over; without a commit nothing of it remains but the numbers it drew."""
        del self._running[xid]
        self._over = max(self._over, xid)
        self._snapshot = None

    def snapshot(self) -> Snapshot:
        """Which transactions whoever reads now sees."""
        if self._snapshot is None:
            # As in PostgreSQL: no transaction above the newest one that is over is told apart.
            xmax = self._over + 1
            running = tuple(xid for xid in self._running if xid < xmax)
            self._snapshot = Snapshot(running[0] if running else xmax, xmax, running)
        return self._snapshot

    def since(self, snapshot: Snapshot) -> list[Entry]:
        """What a snapshot does not see and is committed, in order of `seq`: the difference between it and now."""
        xids = self._xids[bisect_left(self._xids, snapshot.xmax) :]
        xids += [xid for xid in snapshot.running if xid in self._outbox]
        return sorted(entry for xid in xids for entry in self._outbox[xid])

    def entries(self) -> Iterator[Entry]:
        """The whole outbox, by transaction id."""
        return (entry for xid in self._xids for entry in self._outbox[xid])

    def tidy(self, horizon: Snapshot | None = None) -> None:
        """Remove from the outbox what a snapshot sees, by default the one of `MARKS_KEPT` tidyings ago."""
        self._untidied = 0
        if horizon is None:
            horizon = self._marks[0] if len(self._marks) == MARKS_KEPT else self.horizon
            self._marks.append(self.snapshot())
        if self.horizon.covers(horizon):
            return
        self.horizon = horizon
        for xid in [xid for xid in self._xids if horizon.sees(xid)]:
            del self._outbox[xid]
        self._xids = [xid for xid in self._xids if xid in self._outbox]

    def stop(self) -> None:
        """A clean shutdown: what runs is rolled back, and no crash can take back what is committed."""
        self._come_up(self._counters())

    def crash(self, lose: int) -> list[Change]:
        """What runs is rolled back, and so are the newest `lose` commits; their numbers are drawn again.

        Returns:
            The changes lost, in order of `seq`.

        Raises:
            ValueError: there are not so many that can be lost.
        """
        if not 0 <= lose <= len(self._commits):
            raise ValueError(f"a crash can lose 0 to {len(self._commits)} commits now, not {lose}")
        lost: list[Entry] = []
        for _ in range(lose):
            commit = self._commits.pop()
            self._put(commit.rows)
            self.voids, self.marks = commit.voids, commit.marks
            lost += self._outbox.pop(commit.xid, ())
        self._xids = sorted(self._outbox)
        self._marks.clear()
        self._come_up(self._commits[-1].after if self._commits else self._durable)
        if not self.snapshot().covers(self.horizon):
            self.horizon = self.snapshot()
        return [entry.change for entry in sorted(lost)]

    def copy(self) -> ColdCopy:
        """The files of the server as if it were stopped now: without what runs."""
        return ColdCopy(dict(self.rows), self.voids, self.marks, self._counters(), dict(self._outbox), self.horizon)

    def restore(self, copy: ColdCopy) -> None:
        """Continue from a copy, any number of times; all that came after it never was."""
        self.rows, self.voids, self.marks = dict(copy.rows), copy.voids, copy.marks
        self._outbox, self._xids = dict(copy.outbox), sorted(copy.outbox)
        self.horizon = copy.horizon
        self._marks.clear()
        self._come_up(copy.counters)

    def _come_up(self, counters: Counters) -> None:
        self._xid, self._seq, self._version = self._durable = counters
        self._over = self._xid
        self._running.clear()
        self._commits.clear()
        self._snapshot = None

    def _put(self, rows: Mapping[Key, Row | None]) -> None:
        for key, row in rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    def _counters(self) -> Counters:
        return Counters(self._xid, self._seq, self._version)
