"""Seeded worlds of runs: a parent with many children, over servers that die, stand still and are cut off at any step.

A run is found in a state that it was to be kept in, never in one before what was acknowledged; each owner goes on from
a state of the one before; no value of a run is ever seen in its parent or in another child; children are counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from holdfast.protocols import Change
from holdfast.testing.simulation import World
from simulation.runs.records import RunRecords
from simulation.runs.workers import Worker
from simulation.write_behind.scene import SETTINGS, Scene
from simulation.write_behind.themes import THEMES, Theme
from simulation.write_behind.worlds import Life

INHERITED = 50
STEPS, CHILDREN = 40, 20
MANY_STEPS, MANY_CHILDREN = 150, 500
"""Of the long form."""
STEP_SECONDS = 5.0
"""No step may take longer, on the average."""


class RunsScene(Scene):
    """One world of runs.

    Attributes:
        steps: of each task of a server.
        children: runs below the parent, at most; so many are begun `at_once`, with so many `inherited` variables.
    """

    kinds = ()
    settings: ClassVar = msgspec.structs.replace(SETTINGS, run_deltas_per_base=3)

    def __init__(self, world: World, theme: Theme, *, steps: int, children: int) -> None:
        super().__init__(world, theme)
        self.steps = steps
        self.children = children
        self.at_once = children // 10
        self.inherited = INHERITED
        self.records = self.runs = RunRecords(world)

    def _committed(self, xid: int, changes: Sequence[Change]) -> None:
        """What L3 has is looked at when all has come to rest."""


async def run_world(
    world: World, theme: str | None = None, *, steps: int = STEPS, children: int = CHILDREN
) -> list[str]:
    """Let everybody live in a world; the faults found.

    Args:
        theme: one of `THEMES`; None: any, by the seed.
    """
    name = theme or world.random.choice(list(THEMES))
    scene = RunsScene(world, THEMES[name](world.random), steps=steps, children=children)
    faults = await Life(scene, lambda _, server: Worker(scene, server), seconds=steps * STEP_SECONDS).run()
    return [*faults, *scene.runs.violations_in(scene.l3.log.rows)]
