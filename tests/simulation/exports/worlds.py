"""Seeded worlds of exports: a parent merges what hundreds of children export, while servers die and stand still.

Whatever the order in which children end, and however often an owner dies between two of them, or hears no answer, the
parent comes to what a model makes of the children in the order of their births; and when a child completes all that
leaves it does, or nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from holdfast.documents import ContextVariable, Run, Swarm, decode
from holdfast.keys import Key
from holdfast.protocols import Change
from holdfast.testing.simulation import World
from holdfast.write_behind.receipts import PendingWrite
from simulation.exports.model import Child, merged
from simulation.exports.workers import EXPORTS, PARENT, SHARED, SWARM, Worker
from simulation.runs.records import restored_from
from simulation.write_behind.judge import Judge
from simulation.write_behind.records import Records
from simulation.write_behind.scene import Scene
from simulation.write_behind.themes import THEMES, Theme
from simulation.write_behind.worlds import Life

STEPS, CHILDREN, CONFLICTS = 250, 20, 0.2
MANY_STEPS, MANY_CHILDREN, FEW_CONFLICTS = 500, 500, 0.02
"""Of the long form."""
STEP_SECONDS = 5.0


class ExportsRecords(Records):
    """What is judged here is judged at the end."""

    def entered(self, server: str, journal: str, write: PendingWrite) -> None:
        """Entries are looked at no closer here."""

    def died(self, server: str, window_seconds: float) -> None:
        """Nor what was in a process only."""


class ExportsScene(Scene):
    """One world.

    Attributes:
        steps: of each task of a server, at most.
        children: runs below the parent, of which so many are begun and ended `at_once`.
        names: of runs that somebody has tried to begin; `open`: those of children that have not ended.
        is_declared: the parent's variables are in L3.
        is_done: all are merged.
        before: what the parent had when the first was merged.
    """

    kinds = ()

    def __init__(self, world: World, theme: Theme, *, steps: int, children: int, conflicts: float) -> None:
        super().__init__(world, theme)
        self.steps = steps
        self.children = children
        self.at_once = max(2, children // 25)
        self.names: list[str] = []
        self.open: list[str] = []
        self.is_declared = self.is_done = False
        self.before: Mapping[str, ContextVariable] = {}
        self._conflicts = conflicts
        self._salt = world.random.random()
        self.records = ExportsRecords(Judge(), world)

    def keys_of(self, name: str) -> Sequence[str]:
        """The variables that a child exports: its own, but for the share that others write too."""
        chance = random.Random(f"{self._salt}{name}")
        keys = [chance.choice(SHARED) if chance.random() < self._conflicts else f"{name}.{n}" for n in range(EXPORTS)]
        return list(dict.fromkeys(keys))

    def note_before(self, variables: Mapping[str, ContextVariable]) -> None:
        """What the parent has before the first child is merged; every owner must find the same."""
        if self.before and self.before != variables:
            self.records.faults.append("what the parent had before it merged is not the same as before")
        self.before = dict(variables)

    def violations(self) -> Iterator[str]:
        """All faults, when all has come to rest."""
        rows = self.l3.log.rows
        found = {key.id: row for key, row in rows.items() if key.kind == "run"}
        runs = {name: Child(name, row.birth, decode(Run, row.body)) for name, row in found.items()}
        parent = runs.pop(PARENT, None)
        if parent is not None:
            yield from self._faults_of_parent(parent, list(runs.values()))
        swarm = decode(Swarm, rows[Key("swarm", SWARM)].body) if runs else Swarm()
        posted = Counter(item.id for item in swarm.blackboard)
        for child in runs.values():
            yield from self._faults_of_child(child, posted[f"{child.name}/out"])

    def _committed(self, xid: int, changes: Sequence[Change]) -> None:
        """What L3 has is looked at when all has come to rest."""

    def _faults_of_parent(self, parent: Child, children: Sequence[Child]) -> Iterator[str]:
        state = restored_from(PARENT, parent.run, self.l3.log.rows).state
        last = max((child.birth for child in children), default=0)
        if self.is_done and state.merged != last:
            yield f"all was merged, but only up to {state.merged} of {last}"
        if not state.merged:
            return
        for child in children:
            if child.birth <= state.merged and child.run.status not in {"completed", "cancelled"}:
                yield f"{child.name} was merged, and is {child.run.status}"
        expected = merged(self.before, children, state.merged)
        found = {key: variable.value for key, variable in state.variables.items()}
        for key in expected.keys() | found.keys():
            if expected.get(key) != found.get(key):
                yield f"{key} is {found.get(key)}, not {expected.get(key)}"

    def _faults_of_child(self, child: Child, posted: int) -> Iterator[str]:
        """All has left it, or nothing; `posted`: so many items of it are on the blackboard."""
        completed = child.run.status == "completed"
        is_posted = completed and int(child.name.removeprefix("ct")) % 10 == 0
        if (Key("export", f"{child.name}/out") in self.l3.log.rows) != completed:
            yield f"{child.name} is {child.run.status}, and its export is {'not ' if completed else ''}there"
        if posted != int(is_posted):
            yield f"{child.name} is {child.run.status}, and {posted} times on the blackboard"
        exported = set(self.keys_of(child.name)) if completed else set()
        if set(child.run.exported) != exported:
            yield f"{child.name} is {child.run.status}, and has exported {sorted(child.run.exported)}"


async def run_world(
    world: World,
    theme: str | None = None,
    *,
    steps: int = STEPS,
    children: int = CHILDREN,
    conflicts: float = CONFLICTS,
) -> list[str]:
    """Let everybody live in a world; the faults found.

    Args:
        theme: one of `THEMES`; None: any, by the seed.
        conflicts: the share of exports of variables that others write too.
    """
    name = theme or world.random.choice(list(THEMES))
    scene = ExportsScene(world, THEMES[name](world.random), steps=steps, children=children, conflicts=conflicts)
    faults = await Life(scene, lambda _, server: Worker(scene, server), seconds=steps * STEP_SECONDS).run()
    return [*faults, *scene.violations()]
