"""Brings what recovery records to L3: lines of the recovery log, evidence for the quarantine, and whom to ask.

Records are kept here until L3 has them, with the time at which they were made: so the log of an outage of L3 is merged
when that is over. What is kept is bounded; then the oldest makes room, and is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from holdfast.background import Background
from holdfast.errors import Closed, HoldfastError, RowRefused, TierError
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols import Evidence, QuarantineRows, RecoveryLine, RecoveryLogRows
from holdfast.protocols.escalations import EscalationRequest, FaultEscalator
from holdfast.protocols.recovery import APPENDED_MAX, KEPT_MAX

LINES_WAITING_MAX: Final = 5000
EVIDENCE_WAITING_MAX: Final = 64
"""4 MiB at most."""
REQUESTS_WAITING_MAX: Final = 256
GATHER_SECONDS: Final = 0.05
"""What is recorded meanwhile comes with it."""
RETRY_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 2.0
"""How long closing waits for L3 to take what is left."""

logger = logging.getLogger("holdfast")

Written = TypeVar("Written", RecoveryLine, Evidence, EscalationRequest)


def may_pass(fault: HoldfastError) -> bool:
    """Whether L3 may take the same later: the fault is its own, or unknown, or the store is closed; it is of no row."""
    return isinstance(fault, (TierError, Closed)) and not isinstance(fault, RowRefused)


class RecoveryRecorder:
    """Writes behind, in the background while it is started.

    Args:
        escalator: asks people.
        lines_max, evidence_max: how much L3 keeps.

    Attributes:
        fault: why the last attempt to write failed; None: it did not.
    """

    def __init__(
        self,
        log: RecoveryLogRows,
        quarantine: QuarantineRows,
        escalator: FaultEscalator,
        *,
        lines_max: int,
        evidence_max: int,
        counters: RecoveryCounters,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._log, self._quarantine, self._escalator = log, quarantine, escalator
        self._lines_max, self._evidence_max = lines_max, evidence_max
        self._counters = counters
        self._sleep = sleep
        self._lines: deque[RecoveryLine] = deque()
        self._evidence: OrderedDict[Any, Evidence] = OrderedDict()
        self._requests: deque[EscalationRequest] = deque()
        self._taken: deque[Evidence] = deque()
        """L3 may have it: it is written again as it was, and what is the same is met anew."""
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
        except (TierError, Closed, TimeoutError) as fault:
            logger.warning(
                "%d lines of the recovery log, %d entries of the quarantine, %d escalations could not be written: %s",
                len(self._lines),
                len(self._evidence) + len(self._taken),
                len(self._requests),
                fault,
            )

    @property
    def waiting(self) -> int:
        """Lines, entries and escalations that L3 does not have yet."""
        return len(self._lines) + len(self._evidence) + len(self._taken) + len(self._requests)

    def line(self, line: RecoveryLine) -> None:
        """Record a line; it never raises, nor waits."""
        if len(self._lines) >= LINES_WAITING_MAX:
            self._lines.popleft()
            self._lose_line()
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
            self._lose_evidence()
        self._evidence[name] = found
        self._wake.set()

    def ask(self, request: EscalationRequest) -> None:
        """Have a person asked once L3 takes that; about the same fault once. As `line`."""
        if any(_fault_of(each) == _fault_of(request) for each in self._requests):
            return
        if len(self._requests) >= REQUESTS_WAITING_MAX:
            self._requests.popleft()
            self._lose_request()
        self._requests.append(request)
        self._wake.set()

    async def write(self) -> None:
        """Bring what waits now to L3. What that refuses alone is dropped, and counted, and holds up nothing.

        Raises:
            TierError, Closed: L3 did not take it now; what it may not have is kept.
        """

        async def append(lines: Sequence[RecoveryLine]) -> None:
            await self._log.append(lines, rows_max=self._lines_max)

        async def keep(found: Sequence[Evidence]) -> None:
            await self._quarantine.keep(found, rows_max=self._evidence_max)

        async def ask(requests: Sequence[EscalationRequest]) -> None:
            for request in requests:
                await self._escalator.escalate(request)

        await _write_all(self._lines, append, APPENDED_MAX, self._lose_line)
        while self._taken or self._evidence:
            if not self._taken:
                self._taken.extend(self._evidence.values())
                self._evidence.clear()
            await _write_all(self._taken, keep, KEPT_MAX, self._lose_evidence)
        await _write_all(self._requests, ask, 1, self._lose_request)

    def _lose_line(self) -> None:
        self._counters.lines_lost += 1

    def _lose_request(self) -> None:
        self._counters.requests_lost += 1

    def _lose_evidence(self) -> None:
        self._counters.evidence_lost += 1

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


async def _write_all(
    waiting: deque[Written],
    write: Callable[[Sequence[Written]], Awaitable[None]],
    at_once: int,
    lose: Callable[[], None],
) -> None:
    """Write what waits, the oldest first, and forget it.

    Args:
        lose: called for each that L3 refuses, which is forgotten too.

    Raises:
        TierError, Closed: `may_pass`; what may not be written waits.
    """
    size = at_once
    while waiting:
        batch = list(islice(waiting, size))
        try:
            await write(batch)
        except HoldfastError as fault:
            if may_pass(fault):
                raise
            if len(batch) > 1:  # one of them is to blame, and halves tell which
                size = len(batch) // 2
                continue
            lose()
            logger.warning("a record of recovery is refused by L3, and left out: %s", fault)
        else:
            size = min(2 * size, at_once)
        done = set(map(id, batch))  # others may have been pushed out meanwhile
        while waiting and id(waiting[0]) in done:
            waiting.popleft()


def _fault_of(request: EscalationRequest) -> tuple[str, str, str]:
    return request.error_type, request.subject, request.evidence
