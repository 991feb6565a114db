"""One partition of one reader: owned under a lease, read on, settled; and how its partitions are shared out.

A call that fails may have taken effect, so its successor tells everything again and asks for all that was handed out
and not settled. Whenever it is in doubt whether this is still the owner, a new **life** begins: what came before is not
handled any more, since another may be at it, and comes again, in its order.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.events import PRIORITIES
from holdfast.protocols import Dead, EventTransport, Exchange, Exchanged, Handed

logger = logging.getLogger("holdfast")
ROOM: Final = 64
"""Events of one partition and priority that are handed out and not settled, at most, but for those that are parked."""
OPEN_MAX: Final = 1024
"""The same with those that are parked: behind so many of keys that fail, all others of the partition wait."""
IDLE_SECONDS: Final = 2.0
"""Between two calls at most; sooner if a lease needs it, or something asks for one."""
GAP_SECONDS: Final = 0.002
"""Between two calls at least: what is settled meanwhile goes with one of them."""
RETRY_SECONDS: Final = 0.2
STOP_SECONDS: Final = 3.0
"""How long the end of a reader waits for L2."""
SWEEP_SECONDS: Final = 1.0
"""Between two times that what is done with is removed."""
IDLE_SWEEP_SECONDS: Final = 60.0
"""The same while nothing is done with: other readers may be forgotten by then."""


class Share:
    """How many of a reader's partitions this owner has and may have."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._members = 1
        self.owned: set[PartitionReader] = set()

    def told(self, members: int) -> None:
        """So many owners share the partitions."""
        self._members = max(1, members)

    @property
    def wants_more(self) -> bool:
        """One more would not be too many."""
        return len(self.owned) < self._fair

    @property
    def has_too_many(self) -> bool:
        """One less would be enough."""
        return len(self.owned) > self._fair

    @property
    def _fair(self) -> int:
        return math.ceil(self._partitions / self._members)


class PartitionReader:
    """Reads one partition for ever, while it owns it, and hands on what it is handed.

    Args:
        reader, owner: as in `Exchange`.
        take: called with each event, and the life it is of.
        withdraw: called when a new life begins.
        lease_seconds, idle_seconds: as in `Exchange`.

    Attributes:
        life: what came in an earlier one is not to be handled.
        resets: times that the position was found lost; what lay between was not read.
    """

    def __init__(
        self,
        transport: EventTransport,
        partition: int,
        *,
        reader: str,
        owner: str,
        share: Share,
        take: Callable[[PartitionReader, Handed], None],
        withdraw: Callable[[PartitionReader], None],
        lease_seconds: float,
        idle_seconds: float,
        clock: Clock,
    ) -> None:
        self.partition = partition
        self.life = 0
        self.resets = 0
        self.begun = asyncio.Event()
        self._transport = transport
        self._reader, self._owner = reader, owner
        self._share = share
        self._take, self._withdraw = take, withdraw
        self._lease_seconds, self._idle_seconds = lease_seconds, idle_seconds
        self._clock = clock
        self._epoch = 0
        self._valid_until = -math.inf
        self._in_doubt = False
        self._open: list[dict[str, None]] = [{} for _ in PRIORITIES]
        self._parked: list[set[str]] = [set() for _ in PRIORITIES]
        self._settled: list[dict[str, None]] = [{} for _ in PRIORITIES]
        self._dead: dict[tuple[int, str], Dead] = {}
        self._leaving = False
        self._failing_since: float | None = None
        self._has_warned = False
        self._swept_at = -math.inf
        self._unswept = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_owner(self) -> bool:
        """Whether the partition is worked here, as far as is known."""
        return self._epoch > 0

    def start(self) -> None:
        """Read, in the background."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="holdfast events reader")

    async def stop(self, *, forget: bool) -> None:
        """Tell what is settled, and give the partition up, with `forget` the reader too; may be called twice."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        try:
            async with asyncio.timeout(STOP_SECONDS):
                if self._epoch and (any(self._settled) or self._dead):
                    await self._transport.exchange(self.partition, self._told(room=0, wanted=False))
                await self._transport.leave(self.partition, self._reader, self._owner, forget=forget)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the lease ends what is left, and others are to stop too
            logger.debug("events: partition %d is left to its lease: %s", self.partition, fault)
        self._lose()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def holds(self, life: int) -> bool:
        """Whether what came in that life may still be handled here. If the lease ran out, a new life begins."""
        if life != self.life:
            return False
        if self._clock.monotonic() < self._valid_until:
            return True
        self._begin_life()
        return False

    def settle(self, life: int, rank: int, entry: str, dead: Dead | None = None) -> None:
        """An event is done with; what is settled from an earlier life is settled anew by whoever has it now."""
        if life != self.life:
            return
        self._open[rank].pop(entry, None)
        self._parked[rank].discard(entry)
        if dead is not None:
            self._dead[rank, entry] = dead
        else:
            self._settled[rank][entry] = None
        self._wake.set()

    def park(self, life: int, rank: int, entry: str) -> None:
        """An event waits for another of its key: it does not keep those of other keys from being read."""
        if life == self.life:
            self._parked[rank].add(entry)
            self._wake.set()

    def unpark(self, life: int, rank: int, entry: str) -> None:
        """It waits no more."""
        if life == self.life:
            self._parked[rank].discard(entry)

    async def _run(self) -> None:
        while True:
            failed = await self._call()
            await asyncio.sleep(RETRY_SECONDS if failed else GAP_SECONDS)
            if not failed:
                await self._until_due()
            self._wake.clear()

    async def _until_due(self) -> None:
        timer = asyncio.get_running_loop().call_later(min(IDLE_SECONDS, self._lease_seconds / 3), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _call(self) -> bool:
        """One exchange; says whether it failed."""
        try:
            if self._leaving and not any(self._open) and not any(self._settled) and not self._dead:
                await self._give_up()
            else:
                await self._exchange()
            await self._sweep()
        except HoldfastError as fault:
            self._in_doubt = True
            self._log(fault)
            return True
        except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault of this package, shown as such
            self._in_doubt = True
            self._report("a partition of events could not be read", fault)
            return True
        self._failing_since = None
        return False

    def _log(self, fault: HoldfastError) -> None:
        """Warn once of a partition that fails for longer than a lease: nobody may be reading it any more."""
        now = self._clock.monotonic()
        if self._failing_since is None:
            self._failing_since, self._has_warned = now, False
        if not self._has_warned and now - self._failing_since >= self._lease_seconds:
            self._has_warned = True
            logger.warning("events: reader %s cannot read partition %d: %s", self._reader, self.partition, fault)
        else:
            logger.debug("events: partition %d: %s", self.partition, fault)

    @staticmethod
    def _report(what: str, fault: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": f"holdfast: {what}", "exception": fault})

    async def _exchange(self) -> None:
        wanted = bool(self._epoch) or self._share.wants_more
        if wanted:
            self._share.owned.add(self)  # counted while it is asked for, or all partitions would be
        began, life = self._clock.monotonic(), self.life
        told = self._told(room=0 if self._leaving else ROOM, wanted=wanted)
        answer = await self._transport.exchange(self.partition, told)
        self._share.told(answer.members)
        self.begun.set()
        if answer.created and told.epoch:
            self.resets += 1
            logger.warning("events: reader %s lost its place in partition %d", self._reader, self.partition)
        if answer.epoch == 0:
            self._lose()
            return
        if answer.epoch != told.epoch or answer.created:
            self._lose_track()
            life = self.life
        else:
            self._confirm(told)
        self._epoch, self._valid_until = answer.epoch, began + self._lease_seconds
        # If the lease ran out meanwhile, older events than these are to come again first: all are asked for again.
        self._in_doubt = self.life != life
        if not self._in_doubt:
            self._hand_on(answer)
        if self._share.has_too_many:
            self._leaving = True
            self._share.owned.discard(self)

    def _told(self, *, room: int, wanted: bool) -> Exchange:
        return Exchange(
            reader=self._reader,
            owner=self._owner,
            epoch=self._epoch,
            wanted=wanted,
            renewed=self._in_doubt,
            room=[self._room(rank, room) for rank in range(len(PRIORITIES))],
            settled=[list(entries) for entries in self._settled],
            dead=list(self._dead.values()),
            lease_seconds=self._lease_seconds,
            idle_seconds=self._idle_seconds,
        )

    def _room(self, rank: int, room: int) -> int:
        opened = len(self._open[rank])
        return max(0, min(room - opened + len(self._parked[rank]), OPEN_MAX - opened)) if room else 0

    def _hand_on(self, answer: Exchanged) -> None:
        for event in answer.events:
            entries = self._open[event.rank]
            if event.entry in entries or event.entry in self._settled[event.rank]:
                continue  # it came with an earlier answer
            if (event.rank, event.entry) in self._dead:
                continue
            entries[event.entry] = None
            try:
                self._take(self, event)
            except Exception as fault:  # noqa: BLE001 - one event that we cannot take must not hold up all behind it
                self._report("an event could not be taken", fault)
                reason = f"it could not be taken: {type(fault).__name__}"
                self.settle(self.life, event.rank, event.entry, Dead(event.rank, event.entry, reason, event.times))

    def _confirm(self, told: Exchange) -> None:
        for entries, done in zip(self._settled, told.settled, strict=True):
            for entry in done:
                entries.pop(entry, None)
        self._unswept = self._unswept or bool(told.dead) or any(told.settled)
        for dead in told.dead:
            self._dead.pop((dead.rank, dead.entry), None)

    async def _give_up(self) -> None:
        await self._transport.leave(self.partition, self._reader, self._owner, forget=False)
        self._lose()

    async def _sweep(self) -> None:
        now, seconds = self._clock.monotonic(), SWEEP_SECONDS if self._unswept else IDLE_SWEEP_SECONDS
        if self._epoch and self._swept_at + seconds <= now:
            self._swept_at, self._unswept = now, False
            await self._transport.sweep(self.partition)

    def _lose(self) -> None:
        """It is not ours, or not any more."""
        self._lose_track()
        self._epoch, self._leaving, self._valid_until = 0, False, -math.inf
        self._share.owned.discard(self)

    def _lose_track(self) -> None:
        """What was told and not confirmed is of no account: it comes again."""
        self._begin_life()
        self._dead.clear()
        for entries in self._settled:
            entries.clear()

    def _begin_life(self) -> None:
        self.life += 1
        self._in_doubt = True
        for entries, parked in zip(self._open, self._parked, strict=True):
            entries.clear()
            parked.clear()
        self._withdraw(self)
