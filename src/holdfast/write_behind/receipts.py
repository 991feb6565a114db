"""A write that was accepted: what is known of it, and who waits for it to have survived more."""

from __future__ import annotations

import asyncio
from copy import copy
from typing import Self

from holdfast.entry import Durability, Receipt
from holdfast.errors import Closed, HoldfastError, Refused, Undecided
from holdfast.keys import Key
from holdfast.write_behind.entries import Entry


class PendingWrite(Receipt):
    """One accepted write; it is the receipt that its caller holds.

    Attributes:
        entry: what it does. After its server was replaced, it may be entered again under another number.
        data: the entry as the journal has it.
        accepted_at: monotonic seconds.
        absent_through: no row up to this version holds it.
        stamp: while its transaction is being committed, the version that its row will have; overlays lower ones only.
        tentative: what the transaction of unknown outcome would have decided: None: applied.
        appended: L2 has taken its entry, though perhaps not safely enough for JOURNALED.
        unsecured: it cannot become JOURNALED; whoever asks for that waits for COMMITTED.
    """

    __slots__ = (
        "_end",
        "_waiting",
        "absent_through",
        "accepted_at",
        "appended",
        "data",
        "entry",
        "stamp",
        "tentative",
        "unsecured",
    )

    def __init__(self, entry: Entry, data: bytes, accepted_at: float, absent_through: int = 0) -> None:
        super().__init__(0, Durability.ACCEPTED)
        self.entry = entry
        self.data = data
        self.accepted_at = accepted_at
        self.absent_through = absent_through
        self.stamp: int | None = None
        self.tentative: Refused | None = None
        self.appended = False
        self.unsecured = False
        self._end: HoldfastError | None = None
        self._waiting: list[tuple[Durability, asyncio.Future[None]]] = []

    @property
    def key(self) -> Key:
        """Of the row it is for."""
        return self.entry.key

    @property
    def size(self) -> int:
        """Bytes of its entry."""
        return len(self.data)

    @property
    def in_journal(self) -> bool:
        """Whether L2 has its entry, as far as is known."""
        return self.durability.covers(Durability.JOURNALED) or self.appended

    def enter_again(self, entry: Entry, data: bytes, absent_through: int = 0) -> None:
        """It is in no journal and no row now, and goes into another journal as this entry."""
        self.entry, self.data, self.absent_through = entry, data, max(self.absent_through, absent_through)
        self.appended, self.unsecured, self.stamp, self.tentative = False, False, None, None

    @property
    def is_decided(self) -> bool:
        """Whether it was applied or refused."""
        return self.durability is Durability.COMMITTED or isinstance(self._end, Refused)

    @property
    def is_over(self) -> bool:
        """Whether nobody here will decide it any more."""
        return self.is_decided or self._end is not None

    def awaits(self, durability: Durability) -> bool:
        """Whether somebody waits for that durability, or for more."""
        return any(wanted.covers(durability) for wanted, _ in self._waiting)

    async def reached(self, durability: Durability, timeout: float | None = None) -> Self:
        """Wait until the write has survived that much; see `Receipt.reached`."""
        durability = Durability(durability)
        if self._end is not None:
            raise copy(self._end)  # one error for many callers would gather all their tracebacks
        if self.durability.covers(durability):
            return self
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (durability, future)
        self._waiting.append(place)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError as late:
            raise Undecided(
                f"{self.key}: the write was accepted and is not {durability.value} after {timeout:g} s; it is not given"
                " up: await its receipt further",
                self,
            ) from late
        finally:
            if place in self._waiting:
                self._waiting.remove(place)
        return self

    def journaled(self, replicas: int) -> None:
        """The journal holds its entry."""
        if self.durability is Durability.ACCEPTED:
            self.replicas = replicas
            self._rise(Durability.JOURNALED)

    def committed(self, version: int, *, existed: bool = True) -> None:
        """It is in effect."""
        self.version, self.existed = version, existed
        self._rise(Durability.COMMITTED)

    def refused(self, why: Refused) -> None:
        """It is not in effect, and never will be."""
        self._finish(why)

    def left(self, why: Closed) -> None:
        """Nobody here will decide it any more."""
        if not self.is_decided:
            self._finish(why)

    def _finish(self, why: HoldfastError) -> None:
        self._end = why
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(copy(why))
        self._waiting.clear()

    def _rise(self, durability: Durability) -> None:
        self.durability = durability
        for wanted, future in self._waiting:
            if durability.covers(wanted) and not future.done():
                future.set_result(None)
        self._waiting = [each for each in self._waiting if not each[1].done()]
