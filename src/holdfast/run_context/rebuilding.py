"""A context from all that verifies of it, past what does not (pure: it asks for snapshots).

Restoring ends before the first damaged snapshot, so what it gives is a state that the run had. This goes on behind it,
without a base if none verifies: the run may never have been in what it gives. So it is for a new run, if a person wants
that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TypeAlias

import msgspec

from holdfast.documents import Run, RunContextSnapshot, SnapshotSummary
from holdfast.run_context.changes import ContextState, Draft
from holdfast.run_context.restoring import Loss, Spoilt, Walk
from holdfast.run_context.snapshots import base_id, state_of, summary_of


class Rebuilt(msgspec.Struct, frozen=True):
    """What is left of a context.

    Attributes:
        base: number of the base that it begins with; None: none verifies, and inputs are lost.
        intact: of the deltas behind it, those that verify.
        changes: of the row, that are in it.
        lost: what of the context is not in it; `seconds` and `changes` are 0.
        partial: not all was looked at; what comes behind is neither in it nor among what is lost.
    """

    state: ContextState
    base: int | None
    intact: int
    changes: int
    lost: Loss
    partial: bool

    @property
    def is_empty(self) -> bool:
        """Nothing is left."""
        return self.base is None and not self.intact and not self.changes and not self.partial


Rebuilding: TypeAlias = Generator[tuple[str, ...], Mapping[str, bytes], Rebuilt]
"""As `Restoring`."""


def rebuilding(
    run_id: str, run: Run, bases: list[int], *, spoilt: Spoilt, enough: Callable[[int], bool] = lambda _: False
) -> Rebuilding:
    """Put a context together.

    Args:
        run: its row.
        bases: numbers of all bases that are stored, the highest first.
        enough: told the bytes looked at so far before more are asked for; true: there it ends.

    Raises:
        SchemaTooNew: an intact snapshot is by a newer version of this program.
    """
    walk = Walk(run_id, run, run.sequence, with_tail=True, spoilt=spoilt)
    base: RunContextSnapshot | None = None
    for number in bases:
        walk.hear((yield (base_id(run_id, number),)))
        if (base := walk.good(base_id(run_id, number), number, is_base=True)) is not None:
            break
    # Deltas below the lowest base were pruned with those before: it held them.
    first = base.sequence if base is not None else min(bases, default=0)
    rest = _Rest(run, base)
    following, size = first + 1, 0
    while following <= run.sequence and not enough(size):
        asked = walk.page(following)
        walk.hear((yield asked))
        for number, identifier in enumerate(asked, following):
            size += len(walk.found.get(identifier, b""))
            delta = walk.good(identifier, number)
            if delta is not None:
                rest.add(delta)
            else:
                rest.missing.append(number)
                if identifier not in walk.found and number in bases:  # it began anew, and does not verify
                    rest.nameless.add(number)
            if walk.is_long():
                yield ()
        following += len(asked)
    return rest.rebuilt(partial=following <= run.sequence)


class _Rest:
    """What was found so far, and what that tells of what was not."""

    def __init__(self, run: Run, base: RunContextSnapshot | None) -> None:
        self._run = run
        self._base = base
        self._draft = Draft(state_of(base)) if base is not None else Draft()
        self._told: dict[int, SnapshotSummary] = {}
        self._set_at: dict[str, int] = {}
        self._intact = 0
        self.missing: list[int] = []
        self.nameless: set[int] = set()
        """Of those: bases, of which no summary tells the names that they held."""
        if base is not None:
            self._tell(base)

    def add(self, delta: RunContextSnapshot) -> None:
        """A delta that verifies."""
        self._draft.apply_delta(delta)
        self._intact += 1
        self._set_at.update(dict.fromkeys((*delta.removed_variables, *delta.variables), delta.sequence))
        self._tell(delta)

    def _tell(self, snapshot: RunContextSnapshot) -> None:
        self._told[snapshot.sequence] = summary_of(snapshot)
        if snapshot.previous is not None:
            self._told.setdefault(snapshot.previous.sequence, snapshot.previous)

    def rebuilt(self, *, partial: bool) -> Rebuilt:
        """What came of it."""
        run = self._run
        if run.newest is not None:
            self._told.setdefault(run.newest.sequence, run.newest)
        changes = 0 if partial else len(run.changes)
        for change in run.changes[:changes]:
            self._draft.apply(change)
            self._set_at.update(dict.fromkeys((*change.removed_variables, *change.variables), run.sequence + 1))
        self._draft.status = run.status
        base = None if self._base is None else self._base.sequence
        return Rebuilt(self._draft.state(), base, self._intact, changes, self._lost(), partial)

    def _lost(self) -> Loss:
        named = (number for number in self.missing if number in self._told and number not in self.nameless)
        told = {number: self._told[number] for number in named}
        names = (name for number, each in told.items() for name in each.variables if self._set_at.get(name, 0) < number)
        no_base = int(self._base is None)
        return Loss(
            steps=sum(max(0, each.steps - self._steps_before(number)) for number, each in told.items()),
            variables=tuple(dict.fromkeys(names)),
            more=sum(each.more for each in told.values()),
            snapshots=len(self.missing) + no_base,
            unknown=len(self.missing) - len(told) + no_base,
        )

    def _steps_before(self, number: int) -> int:
        """Ends of steps up to the snapshot before, as far as anybody tells."""
        return max((each.steps for at, each in self._told.items() if at < number), default=0)
