"""All partitions of one reader on this server, and the subscriptions that share what it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from holdfast.clock import Clock
from holdfast.errors import CorruptDocument, SchemaTooNew
from holdfast.events import Event, EventLimits, decode
from holdfast.invalidation.event_queue import Waiting
from holdfast.invalidation.event_reader import PartitionReader, Share
from holdfast.invalidation.subscription import Subscription
from holdfast.protocols import Dead, EventTransport, Handed

HANDED_OUT_MAX: Final = 20
"""After so many times an event goes to the dead letters unhandled: servers die of it, or nothing gets through."""


class Shared:
    """One event that several subscriptions have to handle; an `Origin`. It is settled when all are done with it."""

    def __init__(self, source: PartitionReader, handed: Handed, parts: int) -> None:
        self.source = source
        self._life = source.life
        self._handed = handed
        self._left = parts
        self._dead: Dead | None = None

    def holds(self) -> bool:
        """Whether it may still be handled here."""
        return self.source.holds(self._life)

    def settle(self, fault: str | None = None, *, attempts: int = 1) -> None:
        """One subscription is done with it; a fault says why it was given up."""
        if fault is not None:
            self._dead = Dead(self._handed.rank, self._handed.entry, fault, attempts)
        self._left -= 1
        if self._left <= 0:
            self.source.settle(self._life, self._handed.rank, self._handed.entry, self._dead)

    def park(self) -> None:
        """It takes no room while it waits for another one of its key."""
        self.source.park(self._life, self._handed.rank, self._handed.entry)

    def unpark(self) -> None:
        """It takes room again."""
        self.source.unpark(self._life, self._handed.rank, self._handed.entry)


class Readers:
    """One reader: of a group, or of all broadcast subscriptions of this server.

    Args:
        name, owner: as in `Exchange`.
        forget: whether the position ends with this server.
    """

    def __init__(
        self,
        transport: EventTransport,
        *,
        name: str,
        owner: str,
        forget: bool,
        lease_seconds: float,
        idle_seconds: float,
        limits: EventLimits,
        clock: Clock,
    ) -> None:
        self.name = name
        self.subscriptions: list[Subscription] = []
        self._forget = forget
        self._limits = limits
        share = Share(transport.partitions)
        self._partitions = [
            PartitionReader(
                transport,
                partition,
                reader=name,
                owner=owner,
                share=share,
                take=self._take,
                withdraw=self._withdraw,
                lease_seconds=lease_seconds,
                idle_seconds=idle_seconds,
                clock=clock,
            )
            for partition in range(transport.partitions)
        ]

    @property
    def owned(self) -> Sequence[int]:
        """The partitions that this server works now."""
        return [each.partition for each in self._partitions if each.is_owner]

    @property
    def resets(self) -> int:
        """Times that the position in a partition was found lost."""
        return sum(each.resets for each in self._partitions)

    def start(self) -> None:
        """Read, in the background."""
        for each in self._partitions:
            each.start()

    async def stop(self) -> None:
        """Give all partitions up; may be called twice."""
        await asyncio.gather(*(each.stop(forget=self._forget) for each in self._partitions))

    async def ready(self) -> None:
        """Wait until the reader has its place in each partition: it misses nothing that is published later."""
        for each in self._partitions:
            await each.begun.wait()

    def hint(self, partition: int) -> None:
        """Something was appended there."""
        self._partitions[partition].wake()

    def _take(self, source: PartitionReader, handed: Handed) -> None:
        try:
            event = decode(handed.body, self._limits)
        except (CorruptDocument, SchemaTooNew) as fault:
            Shared(source, handed, 1).settle(str(fault))
            return
        if handed.times > HANDED_OUT_MAX:
            reason = f"it was handed out {handed.times} times and never settled"
            Shared(source, handed, 1).settle(reason, attempts=handed.times)
            return
        concerned = [each for each in self.subscriptions if each.pattern.matches(event.type)]
        if not concerned or handed.only not in ("", self.name):
            Shared(source, handed, 1).settle()
            return
        shared, told = Shared(source, handed, len(concerned)), _as_handed(event, handed)
        for each in concerned:
            each.push(Waiting(told, handed.rank, _lane(event), shared))

    def _withdraw(self, source: PartitionReader) -> None:
        for each in self.subscriptions:
            each.withdraw(source)


def _as_handed(event: Event, handed: Handed) -> Event:
    is_repeat = handed.repeat or handed.times > 1
    metadata = msgspec.structs.replace(event.metadata, attempt=handed.times, duplicate=is_repeat)
    return msgspec.structs.replace(event, metadata=metadata)


def _lane(event: Event) -> tuple[str, str] | None:
    key = event.metadata.key
    return None if key is None else (event.metadata.priority.value, key)
