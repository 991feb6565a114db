"""Accepted writes for tests."""

from __future__ import annotations

from holdfast import Bot
from holdfast.documents import Limits
from holdfast.keys import Key
from holdfast.kinds import BOT, Kind
from holdfast.write_behind.entries import Entry, encode_entry
from holdfast.write_behind.operations import Operation, Set
from holdfast.write_behind.receipts import PendingWrite

B1, B2 = Key("bot", "b1"), Key("bot", "b2")
KINDS: dict[str, Kind[Bot]] = {"bot": BOT}
LIMITS = Limits(1 << 20, 64)


def pending(seq: int, *operations: Operation, key: Key = B1, at: float = 0.0, birth: int = 0) -> PendingWrite:
    """A write that was accepted; by default it puts a whole bot of the number's name."""
    operations = operations or (Set(Bot(name=str(seq))),)
    entry = Entry(seq, key, operations, birth, 0, None, (None,) * len(operations), 1, 0)
    return PendingWrite(entry, encode_entry(entry, KINDS), at)
