"""From snapshots to the context they hold, and to what is lost where they are damaged (pure: it asks for them).

It takes the newest base that verifies, and the deltas behind it while they verify and each names the one before. What
comes behind the first that does not is lost: changes may build on one another, so none is taken out of their order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from holdfast.documents import ContextChange, Run, RunContextSnapshot, SnapshotSummary
from holdfast.errors import ContextCorrupt
from holdfast.run_context.changes import ContextState, Draft, combined, ends_in
from holdfast.run_context.snapshots import (
    base_id,
    is_same,
    named_by,
    snapshot_id,
    snapshot_in,
    state_of,
    summary_of,
)

IDS_MAX: Final = 200
"""Snapshots that are asked for at once; `FIRST_IDS_MAX` before the run's row, or an answer, says how large they are."""
FIRST_IDS_MAX: Final = 32
PAGE_BYTES: Final = 8 * 1024 * 1024
"""No more are asked for at once than have so many bytes, if they are as large as the last ones."""


LOOKED_AT_BYTES: Final = 64 * 1024
"""Others have their turn each time that so much was looked at, which takes about a millisecond."""


class Loss(msgspec.Struct, frozen=True):
    """What a context has lost; false if that is nothing.

    Attributes:
        steps: ends of steps that were recorded and are lost.
        variables: names of variables of which a change is lost; `more`: of how many others at most, for a snapshot is
            told of by no more than 100 names.
        seconds: from the last change that is there to the last that was made.
        snapshots: snapshots behind the last good one, and `changes`: changes of the row that built on them.
        unknown: of these snapshots, those of which nobody tells any more what they held; 0, and `more` too: `variables`
            is complete. Each snapshot is told of by the next, so this takes two in a row that are damaged.
    """

    steps: int = 0
    variables: tuple[str, ...] = ()
    more: int = 0
    seconds: float = 0.0
    snapshots: int = 0
    changes: int = 0
    unknown: int = 0

    def __bool__(self) -> bool:
        return self.snapshots > 0


NOTHING_LOST: Final = Loss()


class Restored(msgspec.Struct, frozen=True):
    """A context as its snapshots hold it.

    Attributes:
        sequence: of the last snapshot in it, and `newest` what that was: the `previous` of a base that begins anew.
        base: number of the base that was taken.
        damaged: ids of the snapshots that were tried and are missing, unreadable or not what was stored.
    """

    state: ContextState
    sequence: int
    newest: SnapshotSummary
    base: int
    lost: Loss = NOTHING_LOST
    damaged: tuple[str, ...] = ()


Restoring: TypeAlias = Generator[tuple[str, ...], Mapping[str, bytes], Restored]
"""Yields ids of snapshots, is sent the JSON of those that are there, by id, as stored, and returns what came of it.

At times it yields none: to look into many takes milliseconds, and others may have their turn.
"""


Spoilt: TypeAlias = Callable[[str, bytes], None]
"""Told id and stored bytes of each snapshot that is there and does not verify; it must neither raise nor wait."""


def restoring(
    run_id: str, run: Run, bases: Iterable[int], *, spoilt: Spoilt = lambda *_: None, at: int | None = None
) -> Restoring:
    """Restore a run's context.

    Args:
        run: its row.
        bases: numbers of all bases that are stored.
        at: as of the snapshot of this number; None: as of now, the changes in the row included.

    Raises:
        ContextCorrupt: no base verifies.
        SchemaTooNew: an intact snapshot is by a newer version of this program.
    """
    end = run.sequence if at is None else min(at, run.sequence)
    walk = Walk(run_id, run, end, with_tail=at is None, spoilt=spoilt)
    for number in sorted({number for number in bases if 0 <= number <= end}, reverse=True):
        # The deltas are asked for together with the base: as a rule it is good, and the row knows how large they are.
        if number == run.base:
            walk.fit(run.sequence - run.base + 1, run.base_bytes + run.delta_bytes)
        page = walk.page(number + 1)
        walk.hear((yield (base_id(run_id, number), *page)))
        base = walk.good(base_id(run_id, number), number, is_base=True)
        if base is not None:
            asked_up_to = number + len(page)
            return (yield from walk.onward(Draft(state_of(base)), summary_of(base), number, asked_up_to))
    raise ContextCorrupt(run_id, tuple(walk.damaged))


def following(
    run_id: str, run: Run, state: ContextState, newest: SnapshotSummary, *, spoilt: Spoilt = lambda *_: None
) -> Restoring:
    """Go on from a state without the row's changes that was restored before, to what the run is now.

    What the deltas behind it have lost may be in a base behind them: then `restoring` is to find out.

    Args:
        newest: of the last snapshot in the state, not above the run's.
    """
    walk = Walk(run_id, run, run.sequence, with_tail=True, spoilt=spoilt)
    return (yield from walk.onward(Draft(state), newest, run.base, newest.sequence))


class Walk:
    """One restoring: what was found last, how many may be asked for at once, and what was bad."""

    __slots__ = ("at_once", "damaged", "end", "found", "looked_at", "run", "run_id", "spoilt", "with_tail")

    def __init__(self, run_id: str, run: Run, end: int, *, with_tail: bool, spoilt: Spoilt) -> None:
        self.run_id = run_id
        self.run = run
        self.end = end
        self.with_tail = with_tail
        self.spoilt = spoilt
        self.found: Mapping[str, bytes] = {}
        self.at_once = min(FIRST_IDS_MAX, IDS_MAX)
        self.damaged: dict[str, None] = {}
        self.looked_at = 0

    def hear(self, found: Mapping[str, bytes]) -> None:
        """Take an answer."""
        self.found = found
        self.fit(len(found), sum(map(len, found.values())))

    def fit(self, count: int, size: int) -> None:
        """Ask for as many at once as fit together, if the next are as large as these."""
        if size:
            self.at_once = max(2, min(IDS_MAX, PAGE_BYTES * count // size))

    def is_long(self) -> bool:
        """Whether enough was looked at since this was last true for others to have their turn."""
        if self.looked_at < LOOKED_AT_BYTES:
            return False
        self.looked_at = 0
        return True

    def page(self, first: int) -> tuple[str, ...]:
        """The ids of deltas to ask for, from this number."""
        return self._ids(first, self.end)

    def _ids(self, first: int, last: int) -> tuple[str, ...]:
        return tuple(
            snapshot_id(self.run_id, number) for number in range(first, min(first + self.at_once - 1, last + 1))
        )

    def good(self, identifier: str, number: int, *, is_base: bool = False) -> RunContextSnapshot | None:
        """The snapshot of this id, if it is intact and in its own place; otherwise it is noted as damaged."""
        body = self.found.get(identifier, b"")
        self.looked_at += len(body)
        snapshot = snapshot_in(body)
        if snapshot is None and body:
            self.spoilt(identifier, body)
        if snapshot is not None:
            place = (snapshot.run_id, snapshot.sequence, snapshot.is_base)
            if place == (self.run_id, number, is_base) and self._is_newest(snapshot):
                return snapshot
        self.damaged[identifier] = None
        return None

    def _is_newest(self, snapshot: RunContextSnapshot) -> bool:
        """Whether a snapshot is the one that the row names, if it has its number."""
        newest = self.run.newest
        return newest is None or snapshot.sequence != newest.sequence or is_same(named_by(snapshot), newest)

    def onward(self, draft: Draft, newest: SnapshotSummary, base: int, asked_up_to: int) -> Restoring:
        """From a good state through the deltas, to the end or to the first bad one.

        Args:
            draft: the state, which has all up to `newest`.
            asked_up_to: the number of the last delta that was asked for already.
        """
        last: RunContextSnapshot | SnapshotSummary = newest
        for number in range(newest.sequence + 1, self.end + 1):
            if number > asked_up_to:
                asked = self.page(number)
                self.hear((yield asked))
                asked_up_to += len(asked)
            delta = self._next(number, last)
            if delta is None:
                break
            draft.apply_delta(delta)
            last = delta
            if self.is_long():
                yield ()
        newest = last if isinstance(last, SnapshotSummary) else summary_of(last)
        lost = NOTHING_LOST if newest.sequence == self.end else (yield from self._lost(newest))
        if self.with_tail:
            draft.status = self.run.status
            for change in () if lost else self.run.changes:
                draft.apply(change)
        return Restored(draft.state(), newest.sequence, newest, base, lost, tuple(self.damaged))

    def _next(self, number: int, last: RunContextSnapshot | SnapshotSummary) -> RunContextSnapshot | None:
        identifier = snapshot_id(self.run_id, number)
        delta = self.good(identifier, number)
        if delta is not None and is_same(delta.previous, last):
            return delta
        self.damaged[identifier] = None
        return None

    def _lost(self, kept: SnapshotSummary) -> Generator[tuple[str, ...], Mapping[str, bytes], Loss]:
        """What the snapshots behind `kept`, and the row's changes, held: by their own word or that of the next."""
        told: dict[int, SnapshotSummary] = {}
        first, last = kept.sequence + 1, min(self.end + 1, self.run.sequence)  # the next tells of the last that is lost
        while first <= last:
            asked = self._ids(first, last)
            self.hear((yield asked))
            for number, identifier in enumerate(asked, first):
                if self.is_long():
                    yield ()
                delta = self.good(identifier, number)
                if delta is not None:
                    told[number] = summary_of(delta)
                    if delta.previous is not None:
                        told.setdefault(delta.previous.sequence, delta.previous)
            first += len(asked)
        if self.run.newest is not None:
            told.setdefault(self.run.newest.sequence, self.run.newest)
        behind = [told[number] for number in range(kept.sequence + 1, self.end + 1) if number in told]
        return self._loss(kept, behind)

    def _loss(self, kept: SnapshotSummary, behind: list[SnapshotSummary]) -> Loss:
        tail = combined(self.run.changes) if self.with_tail else ContextChange()
        last = behind[-1] if behind else kept
        names = [name for summary in behind for name in summary.variables]
        end = tail.at or last.at
        seconds = (end - kept.at).total_seconds() if end is not None and kept.at is not None else 0.0
        snapshots = self.end - kept.sequence
        return Loss(
            steps=last.steps - kept.steps + ends_in(tail.steps),
            variables=tuple(dict.fromkeys((*names, *tail.removed_variables, *tail.variables))),
            more=sum(summary.more for summary in behind),
            seconds=max(seconds, 0.0),
            snapshots=snapshots,
            changes=len(self.run.changes) if self.with_tail else 0,
            unknown=snapshots - len(behind),
        )
