"""One direction of a connection through a fault proxy."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass

from holdfast.testing.faults import FIRST_BYTES_MAX, Connection, Fault, FaultBoard, Kind, Way

CHUNK_BYTES = 65_536
WAITING_BYTES_MAX = 262_144  # of one direction of one connection; then its sender is no longer read


@dataclass(slots=True)
class Traffic:
    """Bytes of one direction, over all connections.

    Attributes:
        received: taken from the senders.
        delivered: handed to the kernel for the receivers.
        dropped: lost by `FaultProxy.drop`.
    """

    received: int = 0
    delivered: int = 0
    dropped: int = 0


class ConnectionOver(Exception):
    """The whole connection has to end: one side has reset it, or a fault cuts it."""


class Pipe:
    """One direction of one connection: takes chunks as they come, and delivers each in its turn."""

    def __init__(
        self,
        way: Way,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        traffic: Traffic,
        board: FaultBoard,
        random_: random.Random,
    ) -> None:
        writer.transport.set_write_buffer_limits(0)  # a buffer of ours would still go out during a hold
        self._way: Way = way
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._traffic = traffic
        self._board = board
        self._random = random_
        self._waiting: asyncio.Queue[tuple[float, float, bytes | OSError]] = asyncio.Queue()
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._counts: dict[Fault, int] = {}
        self._is_cut = False

    async def run(self) -> None:
        """Carry bytes until the sender's end was passed on, or the receiver is gone.

        Raises:
            ExceptionGroup: of `ConnectionOver`, or of what a `where` raised.
        """
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(self._take())
            await self._deliver()
            taking.cancel()

    async def _take(self) -> None:
        chunk: bytes | OSError = b"begin"
        while isinstance(chunk, bytes) and chunk:
            while self._waiting_bytes >= WAITING_BYTES_MAX:
                self._room.clear()
                await self._room.wait()
            try:
                chunk = await self._reader.read(CHUNK_BYTES)
                self._note(chunk)
            except OSError as fault:
                chunk = fault  # news like any other: it waits its turn behind a hold
            self._waiting.put_nowait((asyncio.get_running_loop().time(), self._random.random(), chunk))

    def _note(self, chunk: bytes) -> None:
        self._waiting_bytes += len(chunk)
        self._traffic.received += len(chunk)
        if self._way == "to_server":
            self._connection.first_bytes = (self._connection.first_bytes + chunk)[:FIRST_BYTES_MAX]

    async def _deliver(self) -> None:
        chunk: bytes | OSError = b"begin"
        while chunk:
            arrived, share, chunk = await self._waiting.get()
            await self._turn(arrived, share)
            if isinstance(chunk, OSError):
                raise ConnectionOver
            try:
                await self._pass(chunk)
            except OSError:  # the receiver is gone, which the sender learns from the other direction in its turn
                return
            self._waiting_bytes -= len(chunk)
            self._room.set()

    async def _turn(self, arrived: float, share: float) -> None:
        """Wait until a chunk is due and nothing holds it; faults may be switched meanwhile."""
        while True:
            changed = self._board.changed
            held = self._matching("hold")
            late = sum(fault.seconds + fault.jitter_seconds * share for fault in self._matching("delay"))
            remaining = arrived + late - asyncio.get_running_loop().time()
            if not held and remaining <= 0:
                return
            with suppress(TimeoutError):  # it is due, or a fault was switched: either way, look again
                async with asyncio.timeout(None if held else remaining):
                    await changed.wait()

    async def _pass(self, chunk: bytes) -> None:
        """Deliver a chunk, or what faults leave of it; an empty one is the sender's end."""
        if self._writer.transport.is_closing():
            raise ConnectionResetError("the receiver has gone")
        if not chunk:
            self._writer.write_eof()
        elif self._matching("drop"):
            self._traffic.dropped += len(chunk)
        else:
            await self._write(chunk)

    async def _write(self, chunk: bytes) -> None:
        cuts = self._matching("cut")
        left = min((fault.after_bytes - self._counts.get(fault, 0) for fault in cuts), default=len(chunk) + 1)
        passing = chunk[:left]
        self._writer.write(passing)
        await self._writer.drain()
        self._traffic.delivered += len(passing)
        for fault in cuts:
            self._counts[fault] = self._counts.get(fault, 0) + len(passing)
        if left <= len(chunk):
            self._is_cut = True
            raise ConnectionOver

    def end(self) -> None:
        """Close the receiver's side if this direction was cut: a reset could lose what was delivered.

        Not before both directions stand still, or the other one would take it for news of the receiver.
        """
        if self._is_cut:
            self._writer.close()

    def _matching(self, kind: Kind) -> list[Fault]:
        return self._board.matching(kind, self._way, self._connection)
