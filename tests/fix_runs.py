"""Runs for tests: changes at random, and a run whose changes are decided as servers decide them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from hypothesis import strategies as st

from holdfast.documents import (
    ContextChange,
    ContextVariable,
    ExportDeclaration,
    Run,
    RunContextSnapshot,
    StepRecord,
    encode,
)
from holdfast.keys import Key
from holdfast.run_context.changes import ContextState, Draft
from holdfast.run_context.hybrid_clock import HybridClock
from holdfast.run_context.restoring import Restored, Restoring, restoring
from holdfast.run_context.snapshots import UNLIMITED, base_id, base_of, rebased
from holdfast.run_context.spilling import spill_run

NOON = dt.datetime(2025, 6, 5, 12, 0, tzinfo=dt.UTC)
RUN_ID = "run1"

free_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0, "", "p", b"x", (1, True)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "$b"]), inner, max_size=2),
    max_leaves=5,
)
keys = st.sampled_from("abcde")


@st.composite
def changes(draw: st.DrawFn) -> ContextChange:
    """Changes of few keys, so that they meet."""
    return ContextChange(
        at=NOON + dt.timedelta(seconds=draw(st.integers(0, 100))),
        variables={key: ContextVariable(key=key, value=draw(free_values)) for key in draw(st.lists(keys, max_size=2))},
        intermediate=draw(st.dictionaries(keys, free_values, max_size=2)),
        exports={key: [ExportDeclaration(key=key)] for key in draw(st.lists(keys, max_size=1))},
        removed_variables=draw(st.lists(keys, max_size=2, unique=True)),
        removed_intermediate=draw(st.lists(keys, max_size=2, unique=True)),
        removed_exports=draw(st.lists(keys, max_size=1)),
        steps=[
            StepRecord(step_id=key, status=draw(st.sampled_from(["running", "completed", "failed", "later word"])))
            for key in draw(st.lists(keys, max_size=2, unique=True))
        ],
        current_step=draw(st.none() | keys),
        snapshot=draw(st.booleans()),
        strategies=draw(st.dictionaries(keys, st.sampled_from(["child_wins", "later word"]), max_size=2)),
        merged=draw(st.none() | st.integers(1, 100)),
    )


def in_order(state: ContextState) -> tuple[Any, ...]:
    """A state with the order of its keys, which its bytes have too."""
    return (state, *(list(getattr(state, name)) for name in ("variables", "intermediate", "exports", "steps")))


class Wall:
    """A wall clock that the test sets; seconds since 1970."""

    def __init__(self, seconds: float = 1_749_124_800.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def hybrid_clock(node: str = "n1") -> HybridClock:
    """A clock whose wall stands still."""
    return HybridClock(Wall(), node)


class KeptRun:
    """A run as L3 keeps it.

    Attributes:
        run: its row.
        rows: its snapshots, by id; `bases`: numbers of those that are bases.
        history: what was changed behind each number of a snapshot, beginning with nothing at 0.
        states: the context as of each number.
    """

    def __init__(self, state: ContextState, *, critical: bool = False) -> None:
        row = Run(routine_id="search", critical=critical)
        base = base_of(RUN_ID, row, state, sequence=0, previous=None)
        self.run = rebased(row, base)
        self.rows: dict[str, bytes] = {base_id(RUN_ID, 0): stored_bytes(base)}
        self.bases = [0]
        self.history: list[list[ContextChange]] = [[]]
        self.states = [state]
        self._draft = Draft(state)

    def decide(self, change: ContextChange) -> None:
        """Append a change to the row, and spill it when that is due."""
        self._draft.apply(change)
        self.run = msgspec.structs.replace(self.run, changes=[*self.run.changes, change])
        spilled = spill_run(Key("run", RUN_ID), self.run)
        if spilled is not None:
            self.history.append(list(self.run.changes))
            self.states.append(self._draft.state())
            self.run = spilled.document
            for kind, identifier, document in spilled.history:
                assert kind == "run_snapshot"
                assert isinstance(document, RunContextSnapshot)
                self.rows[identifier] = stored_bytes(document)

    def add_base(self) -> None:
        """Write a base behind the newest delta, as an owner does in the background."""
        number = self.run.sequence
        if number in self.bases:
            return
        base = base_of(RUN_ID, self.run, self.states[number], sequence=number, previous=self.run.newest)
        self.rows[base_id(RUN_ID, number)] = stored_bytes(base)
        self.bases.append(number)
        self.run = msgspec.structs.replace(self.run, base=number)

    @property
    def state(self) -> ContextState:
        """The context as it is now."""
        return self._draft.state()

    def restored(self, *, at: int | None = None, bases: Iterable[int] | None = None) -> Restored:
        """What the rows give."""
        return restored(self.run, self.rows, self.bases if bases is None else bases, at=at)


def restored(run: Run, rows: Mapping[str, bytes], bases: Iterable[int], *, at: int | None = None) -> Restored:
    """Walk over rows, answering each question from them."""
    return answered(restoring(RUN_ID, run, bases, at=at), rows)


def answered(walk: Restoring, rows: Mapping[str, bytes]) -> Restored:
    """What a walk comes to whose questions rows answer."""
    found: Mapping[str, bytes] | None = None
    while True:
        try:
            asked = next(walk) if found is None else walk.send(found)
        except StopIteration as end:
            result: Restored = end.value
            return result
        assert len(asked) <= 200
        found = {identifier: rows[identifier] for identifier in asked if identifier in rows}


def stored_bytes(snapshot: RunContextSnapshot) -> bytes:
    """A snapshot's JSON."""
    return encode(snapshot, UNLIMITED)
