"""Finding the write that cannot be taken, without changing the order of the others."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from holdfast.errors import HoldfastError, RowRefused, SerializationFailure
from holdfast.keys import Key
from holdfast.write_behind.bisecting import bisected

A, B, C = (Key("bot", name) for name in "abc")
Batch = dict[Key, list[int]]


class Table:
    """Takes writes, but for some.

    Args:
        refused: are refused with all that goes along with them.
        locked: keys that are locked, so many times.
    """

    def __init__(self, *, refused: Iterable[int] = (), locked: dict[Key, int] | None = None) -> None:
        self.refused = set(refused)
        self.locked = locked or {}
        self.taken: list[int] = []
        self.given_up: list[int] = []
        self.postponed: list[Key] = []

    async def flush(self, batch: Batch) -> None:
        fault = self._fault(batch)
        if fault is not None:
            raise fault
        self.taken += [write for writes in batch.values() for write in writes]

    def _fault(self, batch: Batch) -> HoldfastError | None:
        if any(write in self.refused for writes in batch.values() for write in writes):
            return RowRefused("no")
        for key in batch:
            if self.locked.get(key, 0):
                self.locked[key] -= 1
                return SerializationFailure(f"{key} is locked")
        return None

    async def give_up(self, write: int, reason: str) -> None:
        assert reason == "no"
        self.given_up.append(write)

    def postpone(self, key: Key, fault: SerializationFailure) -> None:
        self.postponed.append(key)

    async def take(self, batch: Batch) -> None:
        await bisected(batch, self.flush, self.give_up, self.postpone)


@pytest.mark.parametrize("bad", [{1}, {3}, {8}, {1, 8}, {2, 3, 4}, {5, 6, 7}, set(range(1, 9))], ids=str)
async def test_each_bad_write_is_found(bad: set[int]) -> None:
    """All others are taken, those of one key in their order."""
    table = Table(refused=bad)
    await table.take({A: [1, 2, 3, 4], B: [5, 6], C: [7, 8]})
    assert table.given_up == sorted(bad)
    assert table.taken == [write for write in range(1, 9) if write not in bad]


async def test_a_locked_key_holds_up_no_other() -> None:
    """It alone is postponed."""
    table = Table(locked={B: 99})
    await table.take({A: [1], B: [2, 3], C: [4]})
    assert (table.taken, table.postponed) == ([1, 4], [B])


async def test_no_write_overtakes_one_of_its_key_that_is_postponed() -> None:
    """The row is locked while the first half of a key's writes is tried, and free again a moment later."""
    table = Table(refused={4}, locked={A: 1})
    await table.take({A: [1, 2, 3, 4], B: [5]})
    assert (table.taken, table.postponed, table.given_up) == ([5], [A], [])
