"""What a server of the demo reads and writes for one command, timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from holdfast import Collection, Consistency, Durability, InvalidOperation, Receipt, StateStore, Swarm
from holdfast.cli.demo.messages import Behind, Read, StepCommand
from holdfast.cli.demo.operations import count_operation
from holdfast.cli.demo.swarms import run_of, with_write_counted
from holdfast.write_behind.operations import Operation


class DisturbedError(Exception):
    """A swarm is not as this run of the demo left it; the message says what was found."""


class Meter:
    """Reads and writes of one command, timed.

    Attributes:
        clock: seconds, as fine as the machine has them.
    """

    def __init__(self, state: StateStore, clock: Callable[[], float]) -> None:
        self.reads: list[Read] = []
        self.writes: list[float] = []
        self.behind = Behind()
        self._state = state
        self.clock = clock
        self._accepted: list[tuple[float, Receipt]] = []

    async def configuration(self, command: StepCommand) -> None:
        """Read the team, the bot and the routine of a step, each from the nearest tier.

        Raises:
            DisturbedError: one is missing.
        """
        state = self._state
        for collection, identifier in (
            (state.teams, command.team),
            (state.bots, command.bot),
            (state.routines, command.routine),
        ):
            if identifier is not None:
                await self._part(collection, identifier)

    async def _part(self, collection: Collection[Any], identifier: str) -> None:
        begun = self.clock()
        entry = await collection.entry(identifier)
        tier = entry.tier.value if entry else None
        self.reads.append(Read(collection.kind.name, tier, self.clock() - begun))
        if entry is None:
            raise DisturbedError(f"{collection.kind.name} {identifier} is missing")

    async def swarm(self, identifier: str, run: str, consistency: Consistency) -> Swarm:
        """Read a swarm of this run.

        Raises:
            DisturbedError: there is none, or one of another run.
        """
        begun = self.clock()
        entry = await self._state.swarms.entry(identifier, consistency=consistency)
        tier = entry.tier.value if entry else None
        strong = consistency is Consistency.STRONG
        self.reads.append(Read(self._state.swarms.kind.name, tier, self.clock() - begun, strong))
        if entry is None:
            raise DisturbedError(f"swarm {identifier} is missing")
        found = run_of(entry.value)
        if found != run:
            raise DisturbedError(
                f"swarm {identifier} in {tier} belongs to run {found}, not {run}: "
                "another demo runs on these servers, or this tier answers with the past"
            )
        return entry.value

    async def write(
        self, identifier: str, operations: Sequence[Operation] | None, change: Callable[[Swarm], Swarm]
    ) -> None:
        """Change a swarm by operations, as far as that goes, or else by a pure function that does the same.

        Either way the change and its place in the count of writes are there together, or neither is.

        Args:
            operations: None: there are none.
        """
        begun = self.clock()
        counted = None if operations is None else (*operations, count_operation())
        if counted is None or not await self._patched(identifier, counted, begun):
            await self._state.swarms.update(identifier, lambda swarm: with_write_counted(change(swarm)))
        self.writes.append(self.clock() - begun)

    async def _patched(self, identifier: str, operations: Sequence[Operation], begun: float) -> bool:
        """Have operations accepted; False if Holdfast takes them for none, and accepted nothing."""
        try:
            receipt = await self._state.swarms.patch(identifier, *operations)
        except InvalidOperation:
            return False
        journaled = self.behind.journaled + (receipt.durability is Durability.JOURNALED)
        self._accepted.append((begun, receipt))
        self.behind = msgspec.structs.replace(self.behind, accepted=len(self._accepted), journaled=journaled)
        return True

    async def flush(self) -> None:
        """Bring all that was accepted to L3, where the next server looks.

        Raises:
            HoldfastError: a write was refused, or is not decided in time.
        """
        await self._state.flush()
        ended = self.clock()
        for _, receipt in self._accepted:
            await receipt.reached(Durability.COMMITTED, 0)
        commits = Counter(receipt.version for _, receipt in self._accepted)  # those of one commit share the row's
        window = max((ended - begun for begun, _ in self._accepted), default=0.0)
        self.behind = msgspec.structs.replace(self.behind, commits=list(commits.values()), window_seconds=window)
