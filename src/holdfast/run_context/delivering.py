"""Brings values of completed runs to external systems, in the background, on any server that knows how.

Who does is decided in L3, by a lease: for as long nobody else tries. An attempt whose end was not heard is made again
when the lease is over, by whoever comes first; one that its server's end breaks off, at once. The system
outside is told the same idempotency key each time, and is what keeps it from taking effect twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from holdfast.background import Background
from holdfast.documents import Delivery, decode
from holdfast.errors import CorruptDocument, HoldfastError, TierError
from holdfast.fault_words import in_words
from holdfast.keys import Key
from holdfast.kinds import DELIVERY
from holdfast.metrics.counters import DeliveryCounters
from holdfast.protocols import DeliveryQueue, DeliveryRow, FaultSink, Source
from holdfast.run_context.exports import Exporter

logger = logging.getLogger("holdfast")

AT_ONCE: Final = 8
"""Deliveries that one server brings out at once; and claims, so that each begins with its lease."""
POLL_SECONDS: Final = 1.0
LEASE_MARGIN_SECONDS: Final = 15.0
"""Beyond the time an exporter has, for L3 to hear how it went."""
BREAK_OFF_SECONDS: Final = 5.0
"""How long the end of a worker waits for L3 to hear of an attempt that it breaks off."""
BACKOFF_SECONDS: Final = 1.0
BACKOFF_MAX_SECONDS: Final = 600.0
NEGLECTED_SECONDS: Final = 300.0
"""What has been due for longer is taken by nobody, as if its exporter were misspelt; so often that is looked for."""
DEAD: Final = "run/export/dead"


class DeliveryRules(NamedTuple):
    """How often, and how long, it is tried."""

    attempts_max: int
    timeout_seconds: float


class DeliveryWorker:
    """Brings out what is due while it is started.

    Args:
        exporters: by name; those of other servers are left to them.
        masked: takes secrets that this process has seen out of a text.
        announce: told of a delivery that was given up; without its value.
        faults: is told of one that cannot be read.
    """

    def __init__(
        self,
        queue: DeliveryQueue,
        exporters: Mapping[str, Exporter],
        rules: DeliveryRules,
        counters: DeliveryCounters,
        *,
        sleep: Callable[[float], Awaitable[object]],
        random_: random.Random,
        masked: Callable[[str], str],
        announce: Callable[[str, Any], None],
        faults: FaultSink,
    ) -> None:
        self._queue = queue
        self._exporters = exporters
        self._rules = rules
        self._counters = counters
        self._sleep = sleep
        self._random = random_
        self._masked = masked
        self._announce = announce
        self._faults = faults
        self._neglected: set[str] = set()
        self._unheard = False
        """L3 did not say what is due when it was asked last."""
        self._loops = [Background(partial(self._run, name), f"deliveries by {name}") for name in exporters]
        if exporters:
            self._loops.append(Background(self._watch, "deliveries that nobody takes"))

    def start(self) -> None:
        """Begin in the background, for each exporter apart: one that stands still holds up no other."""
        for loop in self._loops:
            loop.start()

    async def stop(self) -> None:
        """End; an exporter that is at work is cancelled, and its delivery made again. May be called twice.

        Such an attempt does not count: L3 is told that it was broken off.
        """
        await asyncio.gather(*(loop.stop() for loop in self._loops))

    async def deliver_due(self, *exporters: str) -> int:
        """Bring out what is due now, some at once; returns how many.

        Args:
            exporters: only by these; none: by any.

        Raises:
            TierError: L3 does not say what is due.
        """
        lease = self._rules.timeout_seconds + LEASE_MARGIN_SECONDS
        names = exporters or tuple(self._exporters)
        rows = await self._queue.claim(names, limit=AT_ONCE, lease_seconds=lease)
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(self._deliver(row))
        return len(rows)

    async def _run(self, exporter: str) -> None:
        while True:
            claimed = 0
            try:
                claimed = await self.deliver_due(exporter)
                self._unheard = False
            except TierError as fault:
                if not self._unheard:  # once, not every second
                    logger.warning("what is to be brought out cannot be told, which will be tried again: %s", fault)
                self._unheard = True
            except Exception as fault:  # noqa: BLE001 - without a next round nothing would leave any more
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: delivering failed", "exception": fault}
                )
            await self._sleep(0.0 if claimed == AT_ONCE else POLL_SECONDS)

    async def look_for_neglected(self) -> None:
        """Log for which exporters deliveries wait that nobody takes, for each once for as long as that is so.

        Raises:
            TierError: L3 does not say.
        """
        found = await self._queue.neglected(NEGLECTED_SECONDS)
        self._counters.neglected = sum(found.values())
        for name in found.keys() - self._neglected:
            logger.warning(
                "%d deliveries have been due for over %.0f s, and nobody takes them: no server has the exporter %r, or"
                " those that do are behind",
                found[name],
                NEGLECTED_SECONDS,
                name,
            )
        self._neglected = set(found)

    async def _watch(self) -> None:
        while True:
            await self._sleep(NEGLECTED_SECONDS)
            try:
                await self.look_for_neglected()
            except HoldfastError as fault:
                logger.warning("whether deliveries are left alone cannot be told, which will be asked again: %s", fault)

    async def _deliver(self, row: DeliveryRow) -> None:
        """One attempt, and what L3 is told of it; nothing is raised: the lease ends by itself."""
        try:
            error = await self._attempt(row)
            if error is None:
                await self._queue.delivered(row.id, row.birth)
                self._counters.delivered += 1
            else:
                await self._failed(row, error)
        except HoldfastError as fault:
            logger.warning("delivery %s: L3 did not hear how it went, so it is made again: %s", row.id, fault)

    async def _attempt(self, row: DeliveryRow) -> str | None:
        """Call the exporter; why it failed, in words, None: it did not."""
        if row.attempts > self._rules.attempts_max:  # each server that tried has died over it
            return "no attempt has come to its end"
        limit = asyncio.timeout(self._rules.timeout_seconds)
        try:
            delivery = self._decoded(row)
            async with limit:
                await self._exporters[delivery.exporter](delivery, idempotency_key(row))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():  # this worker is to end
                await self._break_off(row)
                raise
            return "what it waited for was cancelled"
        except Exception as fault:  # noqa: BLE001 - a user's function
            if isinstance(fault, TimeoutError) and limit.expired():  # else it is the exporter's own
                return f"it took longer than {self._rules.timeout_seconds:g} s"
            return in_words(fault, self._masked)
        return None

    def _decoded(self, row: DeliveryRow) -> Delivery:
        try:
            return decode(Delivery, row.body, what=f"delivery:{row.id}")
        except CorruptDocument as fault:
            self._faults.report(fault, Source.L3, key=Key(DELIVERY.name, row.id), evidence=row.body)
            raise

    async def _break_off(self, row: DeliveryRow) -> None:
        """Tell L3 that no exporter failed: else a delivery would be given up after some restarts of servers."""
        try:
            # Not `asyncio.timeout`: before Python 3.11.4 it is no TimeoutError in a task that was cancelled already.
            await asyncio.wait_for(self._queue.broken_off(row), BREAK_OFF_SECONDS)
        except (HoldfastError, TimeoutError) as fault:
            logger.warning("delivery %s: L3 did not hear that it was broken off, so that counts: %s", row.id, fault)

    async def _failed(self, row: DeliveryRow, error: str) -> None:
        is_dead = row.attempts >= self._rules.attempts_max
        again = None if is_dead else self._backoff(row.attempts)
        if not await self._queue.failed(row, error, again_seconds=again):
            return
        if is_dead:
            self._counters.dead += 1
            logger.error("delivery %s was given up after %d attempts: %s", row.id, row.attempts, error)
            self._announce(DEAD, {"id": row.id, "attempts": row.attempts})
        else:
            self._counters.failures += 1
            logger.warning("delivery %s failed, and is tried again in %.0f s: %s", row.id, again, error)

    def _backoff(self, attempts: int) -> float:
        most = min(BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * 2.0 ** min(attempts, 20))
        return self._random.uniform(most / 2, most)


def idempotency_key(row: DeliveryRow) -> str:
    """What a delivery is known by outside, however often it is tried; a later one of the same id is another."""
    return f"{row.id}@{row.birth}"
