"""What the suite of `JournalBase` is built on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

from holdfast.errors import Error, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import FlushTransaction, JournalBase, JournalRecord, Letter, Storage, Write
from holdfast.seq_set import SeqSet

JOURNAL: Final = "j1"
OTHER: Final = "j2"
KEY: Final = Key("bot", "b1")
BODY: Final = b'{"name": "first"}'
NEWER: Final = b'{"name": "second"}'
NONE: Final = SeqSet()
ROUNDS: Final = 10
PATIENT_SECONDS: Final = 30.0
"""Longer than any check takes."""


class JournalBases(Protocol):
    """Makes what a check needs, over one L3 that is empty."""

    @property
    def storage(self) -> Storage:
        """Its rows."""
        ...

    def base(
        self, *, idle_seconds: float = PATIENT_SECONDS, lock_seconds: float = PATIENT_SECONDS, letters_max: int = 1000
    ) -> JournalBase:
        """What one more server knows of journals.

        Args:
            idle_seconds: after which L3 ends a flush that does nothing.
            lock_seconds: how long `take` waits for one.
            letters_max: how many letters are kept.
        """
        ...

    async def refuse(self, key: Key) -> None:
        """Let a constraint refuse every document of a key."""
        ...


class JournalChecks:
    """What all checks use.

    Attributes:
        base, other: what two servers know of journals.
    """

    def __init__(self, bases: JournalBases) -> None:
        self.bases = bases
        self.storage = bases.storage
        self.base = bases.base()
        self.other = bases.base()

    async def begin(self, journal: str = JOURNAL) -> FlushTransaction:
        """Register a journal and open its first flush."""
        await self.base.register(journal, "server 1")
        return await self.base.open_flush(journal, 1)

    async def decide(self, *seqs: int, refused: SeqSet = NONE, letters: tuple[Letter, ...] = ()) -> None:
        """Let one flush of the journal decide these."""
        flush = await self.begin()
        await flush.decide(SeqSet.of(seqs), refused, letters)
        await flush.commit()

    async def let_others_act(self) -> None:
        """Give other tasks, and what they asked of L3, their turns."""
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
            await self.other.records()

    async def record(self, journal: str = JOURNAL) -> JournalRecord:
        """What is known of a journal."""
        return next(each for each in await self.other.records() if each.journal == journal)

    async def bodies(self, *keys: Key) -> list[bytes | None]:
        """The bodies of rows, as anybody sees them."""
        rows = (await self.storage.load(keys)).rows
        return [rows[key].body if key in rows else None for key in keys]


async def taken_at_last(base: JournalBase, journal: str, epoch: int) -> bool:
    """Take a journal as soon as L3 has ended the flush that is in the way."""
    while True:
        try:
            return await base.take(journal, epoch, "server 2")
        except TierUnavailable:
            await asyncio.sleep(0)


async def raises(error: type[Error], call: Awaitable[object]) -> Error:
    """The error that a call must raise."""
    try:
        result = await call
    except error as fault:
        return fault
    raise AssertionError(f"{error.__name__} was expected, not {result!r}")


def letter(seq: int, reason: str = "poison") -> Letter:
    """A letter with a number."""
    return Letter(KEY, seq, b"\x00entry %d" % seq, reason)


def write(key: Key = KEY, body: bytes = BODY, expected: int | None = None) -> Write:
    """A document to be put."""
    return Write(key, 1, body, expected)
