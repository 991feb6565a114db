"""`EventTransport` over Redis: reliable events in streams, the others over sharded pub/sub.

A partition is one slot: a stream for each priority, with a consumer group for each reader, the readers and their
owners, the dead letters, and a channel. Its number is in braces, so no user's text chooses a slot. Whatever changes a
partition goes through `SecuredCalls`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
from glide import GlideClient, GlideError

from holdfast.errors import OutcomeUnknown, Overloaded, TierError, TierUnavailable
from holdfast.events import PRIORITIES, partition_of
from holdfast.protocols import Append, DeadLetter, Exchange, Exchanged, Handed, Replayed
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_connect import Client, RedisConnector
from holdfast.tiers.l2_lent import LentClients
from holdfast.tiers.l2_scripts import Script
from holdfast.tiers.l2_secured import SecuredCalls, understood

logger = logging.getLogger("holdfast")
PARTITIONS: Final = 16
"""Part of how L2 is laid out: servers of one cluster must agree."""
CLAIM_SECONDS: Final = 60
RETRY_SECONDS: Final = 1.0
STREAMS: Final = [priority.value for priority in PRIORITIES]
REPLAYED: Final = {1: Replayed.DONE, 0: Replayed.NOT_THERE, -1: Replayed.NO_ROOM, -2: Replayed.READER_GONE}
"""What the script's answers mean."""


class RedisEvents:
    """Events of all servers that share a prefix.

    Args:
        connection: for what is not waited for long.
        secured: over a connection of its own.
        connector: opens the client that listens.
        prefix: of every key name.
        backlog_max: entries of one partition and priority that no reader is done with.
        sleep: pauses, seconds.
    """

    partitions = PARTITIONS

    def __init__(
        self,
        connection: RedisConnection,
        secured: SecuredCalls,
        connector: RedisConnector,
        *,
        prefix: bytes,
        backlog_max: int,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._clients = LentClients(connection)
        self._secured = secured
        self._connector = connector
        self._backlog_max = backlog_max
        self._sleep = sleep
        self._bases = [b"%bevents:{%b}" % (prefix, tag_of_partition(number)) for number in range(PARTITIONS)]
        self._by_channel = {base + b":live": number for number, base in enumerate(self._bases)}
        self._append, self._exchange, self._leave, self._sweep, self._replay = (
            Script(f"events_{name}") for name in ("append", "exchange", "leave", "sweep", "replay")
        )
        self._listening: asyncio.Task[None] | None = None
        self._publish = "SPUBLISH"
        self._lost = asyncio.Event()
        secured.on_lost = self._listen_anew

    async def start(self, live: Callable[[bytes], None], hint: Callable[[int], None]) -> None:
        """Begin to listen; see `EventTransport.start`."""
        if self._listening is None:
            listening = self._listen(live, hint)
            self._listening = asyncio.get_running_loop().create_task(listening, name="holdfast events listening")

    async def close(self) -> None:
        """End all that; see `EventTransport.close`."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.wait([listening])
        await self._secured.close()
        await self._clients.close()

    async def send(self, partition: int, body: bytes) -> None:
        """Send an event; see `EventTransport.send`."""
        await self._command([self._publish, self._bases[partition] + b":live", body])

    async def claim(self, reader: str, event: str) -> bool:
        """Claim an event; see `EventTransport.claim`."""
        name = self._bases[partition_of(event, PARTITIONS)] + b":claim:" + f"{reader}:{event}".encode()
        return await self._command(["SET", name, b"", "NX", "EX", str(CLAIM_SECONDS)]) is not None

    async def append(self, partition: int, events: Sequence[Append]) -> Sequence[bool]:
        """Append events; see `EventTransport.append`."""
        taken = await self._appended(partition, events)
        if all(taken):
            return taken
        again = [event for event, was in zip(events, taken, strict=True) if not was]
        try:
            more = iter(await self._appended_after_sweep(partition, again))
        except (TierUnavailable, Overloaded):  # these were not appended, which does not undo what was
            return taken
        return [was or next(more) for was in taken]

    async def exchange(self, partition: int, told: Exchange) -> Exchanged:
        """Settle, and be handed more; see `EventTransport.exchange`."""
        asked = {
            "reader": told.reader,
            "owner": told.owner,
            "epoch": told.epoch,
            "wanted": told.wanted,
            "renewed": told.renewed,
            "room": told.room,
            "settled": told.settled,
            "dead": told.dead,
            "lease": round(told.lease_seconds * 1000),
            "idle": round(told.idle_seconds * 1000),
        }
        epoch, members, created, rows = await self._run(partition, self._exchange, asked)
        return Exchanged(epoch, members, bool(created), [_handed(row) for row in rows])

    async def sweep(self, partition: int) -> None:
        """Remove what is done with; see `EventTransport.sweep`."""
        await self._run(partition, self._sweep, {})

    async def leave(self, partition: int, reader: str, owner: str, *, forget: bool) -> None:
        """Give a partition up; see `EventTransport.leave`."""
        await self._run(partition, self._leave, {"reader": reader, "owner": owner, "forget": forget})

    async def dead_letters(self, partition: int, *, limit: int) -> Sequence[DeadLetter]:
        """The oldest dead letters; see `EventTransport.dead_letters`."""
        words: list[str | bytes] = ["XRANGE", self._bases[partition] + b":dead", "-", "+", "COUNT", str(limit)]
        found = await self._command(words) or {}
        rows = found.items() if isinstance(found, dict) else found
        return [_letter(entry, fields) for entry, fields in rows]

    async def replay(self, partition: int, letter: str) -> Replayed:
        """Append a dead letter's event again; see `EventTransport.replay`."""
        return REPLAYED[await self._run(partition, self._replay, {"letter": letter, "append": True})]

    async def discard(self, partition: int, letter: str) -> bool:
        """Remove a dead letter; see `EventTransport.discard`."""
        return bool(await self._run(partition, self._replay, {"letter": letter, "append": False}))

    async def _appended_after_sweep(self, partition: int, events: Sequence[Append]) -> list[bool]:
        try:
            removed = await self._run(partition, self._sweep, {})
        except TierError as fault:
            logger.debug("events: partition %d could not be swept: %s", partition, fault)
            removed = 0
        return await self._appended(partition, events) if removed else [False] * len(events)

    async def _appended(self, partition: int, events: Sequence[Append]) -> list[bool]:
        rows = [(STREAMS[event.rank], int(event.repeat), event.only) for event in events]
        taken = await self._run(partition, self._append, {"events": rows}, [event.body for event in events])
        return [bool(each) for each in taken]

    async def _run(self, partition: int, script: Script, asked: dict[str, Any], bodies: Sequence[bytes] = ()) -> Any:
        base = self._bases[partition]
        names = [b"readers", *(stream.encode() for stream in STREAMS), b"calls", b"dead"]
        if reader := asked.get("reader"):
            names += [f"reader:{reader}".encode(), f"members:{reader}".encode()]
        common = {
            "base": base.decode(),
            "streams": STREAMS,
            "max": self._backlog_max,
            "command": self._publish,
            "channel": f"{base.decode()}:live",
        }
        arguments = [msgspec.json.encode(common | asked), *bodies]
        return await self._secured.run([b"%b:%b" % (base, name) for name in names], script, arguments)

    async def _command(self, words: list[str | bytes]) -> Any:
        async with self._clients.lent() as client:
            self._know(client)
            try:
                return await client.custom_command(words)
            except GlideError as fault:
                error = understood(fault)
                if isinstance(error, OutcomeUnknown) and self._clients.give_up(client):
                    self._listen_anew()
                raise error from fault

    def _know(self, client: Client) -> None:
        """A server that is no cluster has no sharded channels for this client."""
        self._publish = "PUBLISH" if isinstance(client, GlideClient) else "SPUBLISH"

    def _listen_anew(self) -> None:
        """A node did not answer: the client that listens may have lost it too."""
        self._lost.set()

    async def _listen(self, live: Callable[[bytes], None], hint: Callable[[int], None]) -> None:
        """Hear every channel, for ever."""
        while True:
            try:
                client = await self._connector.open()
            except (GlideError, TierError) as away:
                logger.debug("L2 cannot be listened to: %s", away)
                await self._sleep(RETRY_SECONDS)
                continue
            fault = await self._hear(client, live, hint)
            if fault is not None:
                logger.debug("L2 is no longer listened to: %s", fault)
                await self._sleep(RETRY_SECONDS)

    async def _hear(
        self, client: Client, live: Callable[[bytes], None], hint: Callable[[int], None]
    ) -> BaseException | None:
        """Hear all channels by one client, until that fails, or the client may have lost a node."""
        self._lost.clear()
        reading = asyncio.ensure_future(self._read(client, live, hint))
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait([reading, lost], return_when=asyncio.FIRST_COMPLETED)
            return reading.exception() if reading.done() else None
        finally:
            lost.cancel()
            await client.close()  # this ends the reading; cancelled, it would be answered all the same, and complain
            await asyncio.wait([reading])
            reading.exception()

    async def _read(self, client: Client, live: Callable[[bytes], None], hint: Callable[[int], None]) -> None:
        self._know(client)
        channels = {channel.decode() for channel in self._by_channel}
        if isinstance(client, GlideClient):
            await client.subscribe_lazy(channels)
        else:
            await client.ssubscribe_lazy(channels)
        while True:
            said = await client.get_pubsub_message()
            body, channel = _bytes(said.message), _bytes(said.channel)
            if body:
                live(body)
            elif (partition := self._by_channel.get(channel)) is not None:
                hint(partition)


def tag_of_partition(number: int) -> bytes:
    """What chooses a partition's slot. The letters are those that spread the slots evenly over 2 to 8 nodes."""
    return b"ap%02d" % number


def _handed(row: Sequence[Any]) -> Handed:
    rank, entry, body, times, repeat, only = row
    return Handed(rank, entry.decode(), body, times, repeat == b"1", _text(only))


def _letter(entry: bytes, fields: Sequence[Sequence[bytes]]) -> DeadLetter:
    named = {_text(name): value for name, value in fields}
    return DeadLetter(
        letter=entry.decode(),
        reader=_text(named.get("reader", b"")),
        reason=_text(named.get("reason", b"")),
        attempts=_number(named.get("attempts", b"")),
        rank=_number(named.get("rank", b"")),
        body=named.get("body", b""),
    )


def _text(value: bytes) -> str:
    """As far as it is text: whoever may write to L2 can put anything there, which must hold up nothing."""
    return value.decode(errors="replace")


def _number(value: bytes) -> int:
    return int(value) if value.isdigit() else 0


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
