"""One server process of the demo: `python -m holdfast.cli.demo.server`.

It connects to the tiers that the environment names, then carries out commands from its standard input,
several at a time, until that closes. Its standard output carries replies only.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

import holdfast
from holdfast import (
    Collection,
    Consistency,
    Durability,
    HoldfastError,
    InvalidOperation,
    Receipt,
    StateStore,
    Swarm,
)
from holdfast.cli.demo.messages import (
    LINE_BYTES_MAX,
    Behind,
    Command,
    Failure,
    Read,
    ReadCommand,
    ReadReply,
    Ready,
    Reply,
    StepCommand,
    StepReply,
    decode_command,
    encode_line,
)
from holdfast.cli.demo.operations import change_operations, note_operations
from holdfast.cli.demo.replay import ChangeRefusedError
from holdfast.cli.demo.swarms import outcome_of, run_of, steps_of, with_change, with_step_noted
from holdfast.write_behind.operations import Operation

COMMANDS_AT_ONCE = 32


class DisturbedError(Exception):
    """A swarm is not as this run of the demo left it; the message says what was found."""


class Meter:
    """Reads and writes of one command, timed.

    Args:
        state: the open store.
        clock: seconds, as fine as the machine has them.
    """

    def __init__(self, state: StateStore, clock: Callable[[], float]) -> None:
        self.reads: list[Read] = []
        self.writes: list[float] = []
        self.behind = Behind()
        self._state = state
        self._clock = clock
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
        begun = self._clock()
        entry = await collection.entry(identifier)
        tier = entry.tier.value if entry else None
        self.reads.append(Read(collection.kind.name, tier, self._clock() - begun))
        if entry is None:
            raise DisturbedError(f"{collection.kind.name} {identifier} is missing")

    async def swarm(self, identifier: str, run: str, consistency: Consistency) -> Swarm:
        """Read a swarm of this run.

        Raises:
            DisturbedError: there is none, or one of another run.
        """
        begun = self._clock()
        entry = await self._state.swarms.entry(identifier, consistency=consistency)
        tier = entry.tier.value if entry else None
        strong = consistency is Consistency.STRONG
        self.reads.append(Read(self._state.swarms.kind.name, tier, self._clock() - begun, strong))
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

        Args:
            operations: None: there are none.
        """
        begun = self._clock()
        if operations is None or not await self._patched(identifier, operations, begun):
            await self._state.swarms.update(identifier, change)
        self.writes.append(self._clock() - begun)

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
        ended = self._clock()
        for _, receipt in self._accepted:
            await receipt.reached(Durability.COMMITTED, 0)
        commits = Counter(receipt.version for _, receipt in self._accepted)  # those of one commit share the row's
        window = max((ended - begun for begun, _ in self._accepted), default=0.0)
        self.behind = msgspec.structs.replace(self.behind, commits=list(commits.values()), window_seconds=window)


async def take_step(meter: Meter, command: StepCommand) -> StepReply:
    """Take one step: read afresh, change the blackboard item by item, note the call and the events.

    The writes are accepted by write-behind, and this server sees them at once. Another one takes the next step, and
    reads L3: so the step ends when they are there.
    """
    # This one may be old, as any cached read, and is not used: it brings the swarm into L2, so that a write which
    # failed to fence L2 would show when the cold server reads.
    await meter.swarm(command.swarm, command.run, Consistency.BOUNDED)
    before = await meter.swarm(command.swarm, command.run, Consistency.STRONG)
    await meter.configuration(command)
    swarm, step, at = before, command.step, command.at
    for change in step.changes:
        operations = change_operations(swarm, change, at)
        await meter.write(command.swarm, operations, partial(with_change, change=change, at=at))
        swarm = with_change(swarm, change, at)
    noting = partial(with_step_noted, identifier=command.swarm, step=step, at=at)
    await meter.write(command.swarm, note_operations(command.swarm, step, at), noting)
    after = await meter.swarm(command.swarm, command.run, Consistency.BOUNDED)
    await meter.flush()
    return StepReply(command.id, steps_of(before), steps_of(after), meter.reads, meter.writes, meter.behind)


async def read_swarm(meter: Meter, command: ReadCommand) -> ReadReply:
    """Read a swarm through the caches, then past them."""
    cached = await meter.swarm(command.swarm, command.run, Consistency.BOUNDED)
    strong = await meter.swarm(command.swarm, command.run, Consistency.STRONG)
    return ReadReply(command.id, outcome_of(command.swarm, cached), outcome_of(command.swarm, strong), meter.reads)


async def answer(state: StateStore, command: Command, clock: Callable[[], float]) -> Reply:
    """Carry out one command; what Holdfast refuses becomes a `Failure`."""
    meter = Meter(state, clock)
    try:
        if isinstance(command, StepCommand):
            return await take_step(meter, command)
        return await read_swarm(meter, command)
    except (HoldfastError, DisturbedError, ChangeRefusedError) as error:
        return Failure(command.id, f"{type(error).__name__}: {error}")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect, say so, and answer commands until the input ends."""
    places = asyncio.Semaphore(COMMANDS_AT_ONCE)

    async def carry_out(state: StateStore, line: bytes) -> None:
        try:
            writer.write(encode_line(await answer(state, decode_command(line), time.perf_counter)))
            await writer.drain()
        finally:
            places.release()

    async with holdfast.connect() as state, asyncio.TaskGroup() as group:
        writer.write(encode_line(Ready(os.getpid())))
        await writer.drain()
        while line := await reader.readline():
            await places.acquire()
            group.create_task(carry_out(state, line))


async def open_pipes() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """This process's standard input and output as streams."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def main() -> int:
    """Serve until the input ends; the status is 1 if the tiers cannot be reached."""
    try:
        await serve(*await open_pipes())
    except HoldfastError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
