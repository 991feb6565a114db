"""Seeded worlds in which documents are taken over from servers that live, stand still or are dead, at any step.

What was acknowledged before a taker began is applied before it writes; what its old owner writes later is refused, and
told so; nothing is lost in silence, applied twice, or shown twice. Items become history meanwhile, each once.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.protocols import Change
from holdfast.testing.simulation import World
from simulation.owners.held import HELD, MOVED
from simulation.owners.records import OwnerRecords
from simulation.owners.workers import Worker
from simulation.write_behind.scene import Scene
from simulation.write_behind.themes import THEMES, Theme
from simulation.write_behind.worlds import Life


class OwnersScene(Scene):
    """One world, of documents that have owners."""

    kinds = (HELD, MOVED)

    def __init__(self, world: World, theme: Theme) -> None:
        super().__init__(world, theme)
        self.records = self.owners = OwnerRecords(world)

    def _committed(self, xid: int, changes: Sequence[Change]) -> None:
        self.owners.committed(self.l3.log.rows)


async def run_world(world: World, theme: str | None = None) -> list[str]:
    """Let everybody live in a world; the faults found.

    Args:
        theme: one of `THEMES`; None: any, by the seed.
    """
    name = theme or world.random.choice(list(THEMES))
    return await Life(OwnersScene(world, THEMES[name](world.random)), Worker).run()
