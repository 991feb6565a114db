"""This server's journal in L2: what was accepted goes there in order, and is dropped there when it is decided.

The first write goes out at once. Those that come while it is on its way go out together when it is back; if none of
them is waited for, at most 10 ms later. An entry that is decided before its turn is left out: L3 knows more by then.

After a failover the stream may end before what was acknowledged. All that is not decided is kept here, so the stream is
made whole before anything else is acknowledged (rule W9).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from holdfast.background import Background
from holdfast.clock import Clock
from holdfast.entry import Durability
from holdfast.errors import Overloaded, TierError
from holdfast.protocols import FaultSink, JournalBehind, JournalSealed, JournalStreams, Source
from holdfast.write_behind.receipts import PendingWrite

logger = logging.getLogger("holdfast")

GROUP_SECONDS: Final = 0.01
"""The most that an entry nobody waits for stays here, while L2 answers."""
ROUND_BYTES_MAX: Final = 1024 * 1024
ROUND_ENTRIES_MAX: Final = 1000
RETRY_SECONDS: Final = 0.25


class JournalWriter:
    """Appends to one journal.

    Args:
        replicas_min: an entry that fewer replicas have is not JOURNALED.
        on_unsecured: told of writes that are waited for and cannot become JOURNALED now.
        on_sealed: told, once, that another server has taken the journal over.
        faults: is told when L2 has no room: whether it answers at all, its guard knows.

    Attributes:
        journal: its name.
        unfit: why L2 cannot keep it, in words; None: it can.
    """

    def __init__(
        self,
        streams: JournalStreams,
        journal: str,
        *,
        replicas_min: int,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        on_unsecured: Callable[[Iterable[PendingWrite]], None],
        on_sealed: Callable[[], None],
        faults: FaultSink,
    ) -> None:
        self.journal = journal
        self.unfit: str | None = None
        self._streams = streams
        self._replicas_min = replicas_min
        self._clock = clock
        self._sleep = sleep
        self._on_unsecured = on_unsecured
        self._on_sealed = on_sealed
        self._faults = faults
        self._last = 0
        self._next = 1
        self._waiting: deque[PendingWrite] = deque()
        self._kept: dict[int, PendingWrite] = {}  # appended and undecided, in order
        self._wake = asyncio.Event()
        self._loop = Background(self._run, "journal")
        self._away = False
        self._is_short = False  # of replicas: what was appended last, fewer had than should
        self._is_checked = False

    @property
    def secures(self) -> bool:
        """Whether what is added becomes JOURNALED, as far as is known."""
        return not self.is_away and not self._is_short

    @property
    def number(self) -> int:
        """The number of the next entry that is added."""
        return self._next

    @property
    def is_away(self) -> bool:
        """Whether L2 takes nothing now."""
        return self._away or self.unfit is not None

    def add(self, write: PendingWrite) -> None:
        """Append a write, which has the next number, in its turn."""
        self._next = write.entry.seq + 1
        if self.is_away:
            self._unsecure([write])
        if self.unfit is None:
            self._waiting.append(write)
            self._wake.set()

    def hurry(self) -> None:
        """Somebody waits for a write that was added."""
        self._wake.set()

    def decided(self, writes: Iterable[PendingWrite]) -> None:
        """These need not be kept any longer."""
        for write in writes:
            self._kept.pop(write.entry.seq, None)

    def start(self) -> None:
        """Begin to append in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End; may be called twice."""
        await self._loop.stop()

    async def drain(self) -> None:
        """Append what waits, if L2 takes it; then nothing is under way."""
        await self.stop()
        if self.unfit is None:
            try:
                while self._has_waiting() or self._is_behind():
                    await self._round()
            except Exception as fault:  # noqa: BLE001 - whatever it is, the end of the server goes on
                logger.warning(
                    "journal %s: %d writes could not be appended: %s", self.journal, len(self._waiting), fault
                )

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._work()
            except JournalSealed:
                self._on_sealed()
                return
            except Exception as fault:  # noqa: BLE001 - the loop must outlive any fault: what it holds is nowhere else
                self._fail(fault)
                await self._sleep(RETRY_SECONDS)
                self._wake.set()

    async def _work(self) -> None:
        """Append until nothing waits."""
        if not self._is_checked:
            await self._check()
        if self._away:  # those that waited may have been committed meanwhile: whether L2 is back, only it can tell
            await self._streams.append(self.journal, [], expected=self._last, keep_from=next(iter(self._kept), 1))
            self._away = False
        while self._has_waiting() or self._is_behind():
            began = self._clock.monotonic()
            await self._round()
            if not self._is_waited_for():
                await self._pause(began + GROUP_SECONDS - self._clock.monotonic())

    async def _check(self) -> None:
        self.unfit, self._is_checked = await self._streams.unfit(), True
        if self.unfit is not None:
            logger.warning("L2 cannot keep a journal, so that writes are committed at once: %s", self.unfit)
            self._unsecure(self._waiting)
            self._waiting.clear()

    async def _round(self) -> None:
        batch = self._batch()
        keep_from = min(batch[0].entry.seq, next(iter(self._kept), batch[0].entry.seq))
        try:
            appended = await self._streams.append(
                self.journal,
                [(write.entry.seq, write.data) for write in batch],
                expected=self._last,
                keep_from=keep_from,
            )
        except JournalBehind as behind:
            logger.warning("journal %s ends at %d, not %d: it is made whole", self.journal, behind.last, self._last)
            self._last = behind.last
            return
        self._last = appended.last
        for write in batch:
            self._appended(write, appended.replicas)

    def _batch(self) -> list[PendingWrite]:
        """What goes out next: what the stream has lost before what it never had."""
        lost = [write for seq, write in self._kept.items() if seq > self._last] if self._is_behind() else []
        batch: list[PendingWrite] = []
        room = ROUND_BYTES_MAX
        for write in (*lost, *self._waiting):
            if len(batch) == ROUND_ENTRIES_MAX or (batch and write.size > room):
                break
            if not write.is_decided:
                batch.append(write)
                room -= write.size
        return batch

    def _is_behind(self) -> bool:
        return bool(self._kept) and next(reversed(self._kept)) > self._last

    def _appended(self, write: PendingWrite, replicas: int) -> None:
        while self._waiting and self._waiting[0].entry.seq <= write.entry.seq:
            self._waiting.popleft()  # those before it were decided, and left out
        write.appended = True
        if not write.is_decided:
            self._kept[write.entry.seq] = write
        self._is_short = replicas < self._replicas_min
        if not self._is_short:
            write.journaled(replicas)
        else:
            write.replicas = replicas
            self._unsecure([write])

    def _has_waiting(self) -> bool:
        while self._waiting and self._waiting[0].is_decided:
            self._waiting.popleft()
        return bool(self._waiting)

    def _is_waited_for(self) -> bool:
        return any(write.awaits(Durability.JOURNALED) for write in self._waiting)

    async def _pause(self, seconds: float) -> None:
        """Let others gather, unless somebody comes who waits."""
        deadline = self._clock.monotonic() + seconds
        while (left := deadline - self._clock.monotonic()) > 0 and not self._is_waited_for():
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _fail(self, fault: Exception) -> None:
        if not isinstance(fault, TierError):  # a fault of this package, shown as such
            asyncio.get_running_loop().call_exception_handler(
                {"message": "holdfast: an append to a journal failed", "exception": fault}
            )
        if not self._away:
            logger.warning(
                "journal %s: L2 takes nothing, so that writes are committed at once: %s", self.journal, fault
            )
            if isinstance(fault, Overloaded):
                self._faults.report(fault, Source.L2)
        self._away = True
        self._unsecure(self._waiting)

    def _unsecure(self, writes: Iterable[PendingWrite]) -> None:
        writes = list(writes)
        for write in writes:
            write.unsecured = True
        self._on_unsecured(writes)
