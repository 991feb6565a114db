"""A scenario and the ids of what was loaded for it. Pure."""

from __future__ import annotations

import msgspec

from holdfast.cli.demo.scenario import Scenario, Step
from holdfast.cli.demo.swarms import part_id


class Cast(msgspec.Struct, frozen=True):
    """A scenario and the ids under which its documents were loaded.

    Attributes:
        swarm: id of the swarm.
        team: id of its team.
        bots: ids of its bots.
        routines: ids of its routines.
    """

    scenario: Scenario
    swarm: str
    team: str
    bots: frozenset[str]
    routines: frozenset[str]

    def loaded_bot(self, step: Step) -> str | None:
        """The id of the bot that acts, if it was loaded."""
        return self._loaded(step.agent, self.bots)

    def loaded_routine(self, step: Step) -> str | None:
        """The id of the routine that runs, if it was loaded."""
        return self._loaded(step.call.name if step.call else None, self.routines)

    def _loaded(self, name: str | None, among: frozenset[str]) -> str | None:
        identifier = part_id(self.swarm, name) if name else None
        return identifier if identifier in among else None
