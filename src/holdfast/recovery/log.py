"""Brings what recovery records to L3: lines of the recovery log, and evidence for the quarantine.

Records are kept here until L3 has them, with the time at which they were made: so the log of an outage of L3 is merged
when that is over. What is kept is bounded; then the oldest makes room, and is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from holdfast.background import Background
from holdfast.errors import TierError
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols import Evidence, QuarantineRows, RecoveryLine, RecoveryLogRows
from holdfast.protocols.recovery import APPENDED_MAX, KEPT_MAX

LINES_WAITING_MAX: Final = 5000
EVIDENCE_WAITING_MAX: Final = 64
"""4 MiB at most."""
GATHER_SECONDS: Final = 0.05
"""What is recorded meanwhile comes with it."""
RETRY_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 2.0
"""How long closing waits for L3 to take what is left."""

logger = logging.getLogger("holdfast")


class RecoveryRecorder:
    """Writes behind, in the background while it is started.

    Args:
        lines_max, evidence_max: how much L3 keeps.

    Attributes:
        fault: why the last attempt to write failed; None: it did not.
    """

    def __init__(
        self,
        log: RecoveryLogRows,
        quarantine: QuarantineRows,
        *,
        lines_max: int,
        evidence_max: int,
        counters: RecoveryCounters,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._log, self._quarantine = log, quarantine
        self._lines_max, self._evidence_max = lines_max, evidence_max
        self._counters = counters
        self._sleep = sleep
        self._lines: deque[RecoveryLine] = deque()
        self._evidence: OrderedDict[Any, Evidence] = OrderedDict()
        self._wake = asyncio.Event()
        self.fault: Exception | None = None
        self._loop = Background(self._run, "recovery log")

    def start(self) -> None:
        """Begin in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """Write what is left, for a while, and end; may be called twice."""
        await self._loop.stop()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.write()
        except (TierError, TimeoutError) as fault:
            logger.warning("%d lines of the recovery log could not be written: %s", len(self._lines), fault)

    @property
    def waiting(self) -> int:
        """Lines and entries that L3 does not have yet."""
        return len(self._lines) + len(self._evidence)

    def line(self, line: RecoveryLine) -> None:
        """Record a line; it never raises, nor waits."""
        if len(self._lines) >= LINES_WAITING_MAX:
            self._lines.popleft()
            self._counters.lines_lost += 1
        self._lines.append(line)
        self._wake.set()

    def evidence(self, found: Evidence) -> None:
        """Put what did not verify into quarantine; the same once, with the sum of the counts. As `line`."""
        name = (found.tier, found.kind, found.id, found.evidence)
        held = self._evidence.pop(name, None)
        if held is not None:
            found = msgspec.structs.replace(held, count=held.count + found.count, at=found.at)
        elif len(self._evidence) >= EVIDENCE_WAITING_MAX:
            self._evidence.popitem(last=False)
            self._counters.evidence_lost += 1
        self._evidence[name] = found
        self._wake.set()

    async def write(self) -> None:
        """Bring what waits now to L3.

        Raises:
            TierError: L3 did not take it; what it may not have is kept.
        """
        while self._lines:
            batch = [self._lines[place] for place in range(min(len(self._lines), APPENDED_MAX))]
            await self._log.append(batch, rows_max=self._lines_max)
            written = {line.id for line in batch}  # others may have been pushed out meanwhile
            while self._lines and self._lines[0].id in written:
                self._lines.popleft()
        while self._evidence:
            taken = list(self._evidence.items())[:KEPT_MAX]
            await self._quarantine.keep([found for _, found in taken], rows_max=self._evidence_max)
            for name, found in taken:
                held = self._evidence.get(name)
                if held is found:
                    del self._evidence[name]
                elif held is not None:  # it was met again meanwhile
                    self._evidence[name] = msgspec.structs.replace(held, count=held.count - found.count)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self._sleep(GATHER_SECONDS)
            self._wake.clear()
            try:
                await self.write()
                self.fault = None
            except TierError as fault:
                if self.fault is None:  # once, not every second of an outage
                    logger.warning("what recovery did cannot be recorded now, and is kept: %s", fault)
                await self._again(fault)
            except Exception as fault:  # noqa: BLE001 - without a next attempt nothing would be recorded any more
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "holdfast: recording what recovery did failed", "exception": fault}
                )
                await self._again(fault)

    async def _again(self, fault: Exception) -> None:
        self.fault = fault
        self._wake.set()
        await self._sleep(RETRY_SECONDS)
