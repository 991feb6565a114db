"""Short forms for L3 in memory: a row is put, a row is looked at, the outbox is read."""

from __future__ import annotations

from holdfast.keys import Key
from holdfast.protocols import Change, Row, Write
from holdfast.testing import MemoryStorage

KEY = Key("bot", "b1")
OTHER = Key("bot", "b2")
TEAM = Key("team", "t1")


async def put(storage: MemoryStorage, key: Key = KEY, body: bytes = b"{}") -> int:
    """Write a row as a server does; returns its version."""
    return (await storage.save([Write(key, 1, body)]))[key]


async def row_of(storage: MemoryStorage, key: Key = KEY) -> Row | None:
    """The row of a key; None: there is none."""
    return (await storage.load([key])).rows.get(key)


def outbox(storage: MemoryStorage) -> list[Change]:
    """The changes that the outbox holds, transaction by transaction."""
    return [entry.change for entry in storage.log.entries()]
