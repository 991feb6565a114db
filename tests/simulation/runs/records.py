"""What runs were told to keep, and who was told that it is kept, held against what is found of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from math import inf
from typing import Any, NamedTuple

from holdfast.documents import Run, decode
from holdfast.entry import Durability
from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.run_context.changes import ContextState
from holdfast.run_context.restoring import Restored, restoring
from holdfast.run_context.snapshots import base_number
from holdfast.testing.simulation import World
from holdfast.write_behind.receipts import PendingWrite
from simulation.write_behind.judge import Judge
from simulation.write_behind.records import Records

Values = dict[str, Any]


def values_of(state: ContextState) -> Values:
    """The variables of a context."""
    return {key: variable.value for key, variable in state.variables.items()}


class Acknowledged(NamedTuple):
    """That a state has survived, told at a moment."""

    number: int
    moment: int
    durability: Durability


class Reign:
    """A run under one epoch.

    Attributes:
        began: when its owner began to take it over; moments are numbers that rise.
        states: those that were to be kept, in order, beginning with the one it was taken over in.
        ended: the run was told to end.
    """

    def __init__(self, began: float, values: Values) -> None:
        self.began = began
        self.states = [values]
        self.acknowledged: list[Acknowledged] = []
        self.ended = False

    def least(self, before: float) -> int:
        """The number of the state that whoever takes the run over from a moment on has at least."""
        return max(
            (
                each.number
                for each in self.acknowledged
                if each.durability is Durability.COMMITTED or each.moment < before
            ),
            default=0,
        )


class Kept:
    """One run.

    Attributes:
        inherited: what it began with.
        reigns: by epoch, those that anybody has heard of.
        attempts: when takeovers began of which it is not known what they did.
    """

    def __init__(self, inherited: Values, parent: str | None) -> None:
        self.inherited = inherited
        self.parent = parent
        self.reigns: dict[int, Reign] = {}
        self.attempts: dict[int, int] = {}

    def shows(self, values: Values) -> bool:
        """Whether it was ever to be kept so."""
        return any(values in reign.states for reign in self.reigns.values()) or values == self.inherited


class Seen(NamedTuple):
    """What was found of a run; `least`: the reign and number that were committed before it was asked for."""

    run: str
    values: Values
    least: tuple[int, int]


class RunRecords(Records):
    """The record of one world."""

    def __init__(self, world: World) -> None:
        super().__init__(Judge(), world)
        self.runs: dict[str, Kept] = {}
        self.admitted: set[str] = set()
        self.taken = 0
        self._shown: list[Seen] = []
        self._moments = count(1)

    def entered(self, server: str, journal: str, write: PendingWrite) -> None:
        """Entries are looked at no closer here."""

    def died(self, server: str, window_seconds: float) -> None:
        """Nor what was in a process only: it was not acknowledged."""

    def now(self) -> int:
        """A moment."""
        return next(self._moments)

    def beginning(self, run_id: str, inherited: Mapping[str, Any], parent: str | None) -> None:
        """Somebody begins a run."""
        self.runs[run_id] = Kept(dict(inherited), parent)
        self.runs[run_id].reigns[1] = Reign(-inf, dict(inherited))

    def begun(self, run_id: str) -> None:
        """L3 has taken it in."""
        self.admitted.add(run_id)

    def taking(self, run_id: str) -> int:
        """Somebody begins to take it over; returns the moment."""
        moment = self.now()
        self.runs[run_id].attempts[moment] = moment
        return moment

    def taken_over(self, run_id: str, epoch: int, moment: int, state: ContextState) -> None:
        """Somebody has it."""
        kept = self.runs[run_id]
        del kept.attempts[moment]
        if epoch in kept.reigns:
            self.faults.append(f"{run_id}: taken over twice under epoch {epoch}")
        kept.reigns[epoch] = Reign(moment, values_of(state))
        self.taken += 1

    def saving(self, run_id: str, epoch: int, values: Mapping[str, Any]) -> int:
        """A state is to be kept; returns its number."""
        states = self.runs[run_id].reigns[epoch].states
        states.append(dict(values))
        return len(states) - 1

    def saved(self, run_id: str, epoch: int, index: int, durability: Durability) -> None:
        """It was told that it has survived so much."""
        if durability.covers(Durability.JOURNALED):
            told = Acknowledged(index, self.now(), durability)
            self.runs[run_id].reigns[epoch].acknowledged.append(told)

    def least(self, run_id: str) -> tuple[int, int]:
        """The newest epoch and state that are known to be committed."""
        reigns = self.runs[run_id].reigns
        return max((epoch, reign.least(-inf)) for epoch, reign in reigns.items())

    def shown(self, run_id: str, state: ContextState, least: tuple[int, int] = (0, 0)) -> None:
        """Somebody has read it."""
        self.reads += 1
        self._shown.append(Seen(run_id, values_of(state), least))

    def violations_in(self, rows: Mapping[Key, Row]) -> list[str]:
        """All faults, when all has come to rest."""
        faults = list(self.faults)
        for run_id, kept in self.runs.items():
            faults += [f"{run_id}: {fault}" for fault in self._faults_in(run_id, kept, rows)]
        for seen in self._shown:
            faults += [f"{seen.run}, as it was read: {fault}" for fault in self._faults_in_read(seen)]
        return faults

    def _faults_in(self, run_id: str, kept: Kept, rows: Mapping[Key, Row]) -> Iterator[str]:
        row = rows.get(Key("run", run_id))
        if row is None:
            if run_id in self.admitted:
                yield "admitted, and not there"
            return
        run = decode(Run, row.body)
        found = restored_from(run_id, run, rows)
        if found.lost or found.damaged:
            yield f"lost {found.lost}, damaged {found.damaged}"
        yield from self._strangers(kept, run_id, values_of(found.state))
        yield from self._faults_in_reigns(kept, run, values_of(found.state))
        children = [each for each in self.runs.values() if each.parent == run_id]
        there = [name for name, each in self.runs.items() if each in children and Key("run", name) in rows]
        if run.children != len(there):
            yield f"{run.children} children are counted, and {len(there)} are there"

    def _faults_in_reigns(self, kept: Kept, run: Run, final: Values) -> Iterator[str]:
        """Each goes on from a state of the one before, and none that was acknowledged in time is lost."""
        told = sorted(kept.reigns.items())
        for (epoch, reign), after in zip(told, [*told[1:], None], strict=True):
            values = final if after is None else after[1].states[0]
            last = run.epoch if after is None else after[0]
            # Of epochs in between nobody has heard: whoever began them may have begun before what was told later.
            began = (
                [*kept.attempts, inf if after is None else after[1].began] if last > epoch + (after is not None) else []
            )
            before = min(began, default=inf if after is None else after[1].began)
            if values not in reign.states:
                yield f"epoch {epoch}: {values} is none of {reign.states[-5:]}"
            elif (index := reign.states.index(values)) < (least := reign.least(before)):
                yield f"epoch {epoch}: state {index} is found, and {least} was acknowledged: {reign.acknowledged[-5:]}"

    def _faults_in_read(self, seen: Seen) -> Iterator[str]:
        kept = self.runs[seen.run]
        yield from self._strangers(kept, seen.run, seen.values)
        if not kept.shows(seen.values):
            yield f"{seen.values} was never to be kept"
        epoch, index = seen.least
        places = [
            (number, reign.states.index(seen.values))
            for number, reign in kept.reigns.items()
            if seen.values in reign.states
        ]
        if places and max(places) < (epoch, index):
            yield f"{max(places)} was read after {seen.least} was committed"

    def _strangers(self, kept: Kept, run_id: str, values: Values) -> Iterator[str]:
        """What a run shows is its own, or what it began with."""
        for key, value in values.items():
            if not str(value).startswith(f"{run_id}:") and kept.inherited.get(key) != value:
                yield f"{key} is {value}"


def restored_from(run_id: str, run: Run, rows: Mapping[Key, Row]) -> Restored:
    """A run's context, as L3 has it."""
    names = [key.id for key in rows if key.kind == "run_snapshot" and key.id.startswith(f"{run_id}/")]
    walk = restoring(run_id, run, [number for name in names if (number := base_number(name)) is not None])
    asked: Sequence[str] = next(walk)
    while True:
        found = {name: rows[Key("run_snapshot", name)].body for name in asked if Key("run_snapshot", name) in rows}
        try:
            asked = walk.send(found)
        except StopIteration as end:
            result: Restored = end.value
            return result
