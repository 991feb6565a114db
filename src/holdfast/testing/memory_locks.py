"""Row locks of L3 in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from holdfast.errors import SerializationFailure, TierUnavailable
from holdfast.keys import Key


class Locker(Protocol):
    """A transaction, as its locks see it.

    Attributes:
        locked: the keys whose locks it has.
        waits_for: the key whose lock it waits for.
    """

    locked: list[Key]
    waits_for: Key | None


class RowLocks:
    """Who may write which key. A lock is kept until its transaction ends; then it goes to who asked for it first.

    Attributes:
        life: of the connections; another value means that those of before were lost.
    """

    def __init__(self) -> None:
        self.life = 0
        self._holders: dict[Key, Locker] = {}
        self._queues: dict[Key, deque[tuple[Locker, asyncio.Future[None]]]] = {}

    def held(self, kind: str) -> list[Key]:
        """The locked keys of a kind, in order."""
        return sorted(key for key in self._holders if key.kind == kind)

    def try_take(self, key: Key, taker: Locker) -> bool:
        """Lock a key if no other transaction has it."""
        holder = self._holders.get(key)
        if holder is None:
            self._holders[key] = taker
            taker.locked.append(key)
        return holder is None or holder is taker

    async def wait(self, key: Key, taker: Locker) -> None:
        """Lock a key that another transaction has.

        Raises:
            SerializationFailure: the other one waits for this one.
            TierUnavailable: the connection was lost meanwhile.
        """
        if self._closes_circle(key, taker):
            raise SerializationFailure(f"deadlock: {key} is locked by a transaction that waits for this one")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (taker, turn)
        self._queues.setdefault(key, deque()).append(place)
        taker.waits_for = key
        try:
            await turn
        except asyncio.CancelledError:
            # The lock may have come in the same moment; then it is kept until the end, like any other.
            if place in (queue := self._queues.get(key, deque())):
                queue.remove(place)
            raise
        finally:
            taker.waits_for = None

    def release(self, keys: Sequence[Key]) -> None:
        """Give locks to those who wait, or to nobody."""
        for key in keys:
            if queue := self._queues.get(key):
                taker, turn = queue.popleft()
                self._holders[key] = taker
                taker.locked.append(key)
                taker.waits_for = None  # now, not when its task goes on: others may look for a circle before that
                if not turn.done():
                    turn.set_result(None)
                continue
            self._queues.pop(key, None)
            del self._holders[key]

    def break_all(self) -> None:
        """All connections are lost: whoever waits for a lock is told now, and whoever has one when it acts next."""
        self.life += 1
        queues, self._queues = self._queues, {}
        self._holders.clear()
        for queue in queues.values():
            for _, turn in queue:
                if not turn.done():
                    turn.set_exception(TierUnavailable("L3 in memory: the connection was lost"))

    def _closes_circle(self, key: Key, taker: Locker) -> bool:
        waited_for: Key | None = key
        while waited_for is not None:
            holder = self._holders[waited_for]
            if holder is taker:
                return True
            waited_for = holder.waits_for
        return False
