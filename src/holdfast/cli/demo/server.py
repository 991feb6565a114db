"""One server process of the demo: `python -m holdfast.cli.demo.server`.

It connects to the tiers that the environment names, then carries out commands from its standard input,
several at a time, until that closes. Its standard output carries replies only.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable

import holdfast
from holdfast import Consistency, HoldfastError, StateStore
from holdfast.cli.demo.executions import orphans, read_execution
from holdfast.cli.demo.messages import (
    LINE_BYTES_MAX,
    Command,
    Failure,
    HeldReply,
    OrphansCommand,
    OrphansReply,
    ReadCommand,
    ReadReply,
    Ready,
    Reply,
    StepCommand,
    decode_command,
    encode_line,
)
from holdfast.cli.demo.meter import DisturbedError, Meter
from holdfast.cli.demo.replay import ChangeRefusedError
from holdfast.cli.demo.stepping import Hold, take_step
from holdfast.cli.demo.swarms import outcome_of

COMMANDS_AT_ONCE = 32


async def read_swarm(state: StateStore, meter: Meter, command: ReadCommand) -> ReadReply:
    """Read a swarm through the caches, then past them, and the run that made it."""
    cached = await meter.swarm(command.swarm, command.run, Consistency.BOUNDED)
    strong = await meter.swarm(command.swarm, command.run, Consistency.STRONG)
    return ReadReply(
        command.id,
        outcome_of(command.swarm, cached),
        outcome_of(command.swarm, strong),
        meter.reads,
        await read_execution(state, command.execution),
    )


async def answer(state: StateStore, command: Command, clock: Callable[[], float], hold: Hold) -> Reply:
    """Carry out one command; what Holdfast refuses becomes a `Failure`."""
    meter = Meter(state, clock)
    try:
        if isinstance(command, StepCommand):
            return await take_step(state, meter, command, hold)
        if isinstance(command, OrphansCommand):
            return OrphansReply(command.id, await orphans(state, command.run))
        return await read_swarm(state, meter, command)
    except (HoldfastError, DisturbedError, ChangeRefusedError) as error:
        return Failure(command.id, f"{type(error).__name__}: {error}")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect, say so, and answer commands until the input ends."""
    places = asyncio.Semaphore(COMMANDS_AT_ONCE)
    ending = asyncio.Event()

    async def say(reply: Reply) -> None:
        writer.write(encode_line(reply))
        await writer.drain()

    async def carry_out(state: StateStore, line: bytes) -> None:
        command = decode_command(line)

        async def hold(writes: int) -> None:
            await say(HeldReply(command.id, writes))
            await ending.wait()  # as a rule the kill comes first

        try:
            await say(await answer(state, command, time.perf_counter, hold))
        finally:
            places.release()

    async with holdfast.connect() as state, asyncio.TaskGroup() as group:
        await say(Ready(os.getpid()))
        while line := await reader.readline():
            await places.acquire()
            group.create_task(carry_out(state, line))
        ending.set()


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
