"""Writes that are decided while they wait for their journal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fix_loop import settle
from holdfast import Bot, Durability, Set
from holdfast.protocols import Appended
from holdfast.testing import JournalHub, MemoryJournals
from holdfast.testing.door import connect_flows
from holdfast.write_behind.journal import JournalWriter
from holdfast.write_behind.receipts import PendingWrite


class HeldJournals(MemoryJournals):
    """Appends when it is let."""

    def __init__(self) -> None:
        super().__init__(JournalHub())
        self.gate = asyncio.Event()
        self.appended: list[list[int]] = []

    async def append(
        self, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        await self.gate.wait()
        done = await super().append(journal, entries, expected=expected, keep_from=keep_from)
        self.appended.append([seq for seq, _ in entries])
        return done


async def durability_behind_one_that_was_decided() -> tuple[Durability, list[list[int]]]:
    """What a write has survived, and what was appended, if one between others is committed before its turn."""
    streams = HeldJournals()
    async with connect_flows(streams=streams) as flows:
        bots = flows.store.bots
        await bots.put_many({f"b{number}": Bot(name="old") for number in range(4)})
        await bots.patch("b0", Set("name", "first"), durability=Durability.ACCEPTED)
        await settle()  # its append is under way
        await bots.patch("b1", Set("name", "second"), durability=Durability.ACCEPTED)
        await bots.patch("b2", Set("name", "third"), durability=Durability.COMMITTED)
        last = asyncio.ensure_future(bots.patch("b3", Set("name", "fourth"), durability=Durability.JOURNALED))
        await settle()
        streams.gate.set()
        await last
        return (await bots.patch("b3", Set("name", "fifth"), durability=Durability.JOURNALED)).durability, [
            *streams.appended
        ]


async def test_one_that_is_committed_before_its_turn_holds_up_no_other() -> None:
    """It is left out, and each of the others is appended once."""
    assert await durability_behind_one_that_was_decided() == (Durability.JOURNALED, [[1], [2, 4], [5]])


async def test_mutant_only_the_first_that_waits_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then one behind a decided one is appended again, which is refused, and the journal counts as away."""
    appended = JournalWriter._appended

    def putting_back(writer: JournalWriter, write: PendingWrite, replicas: int) -> None:
        in_the_way = bool(writer._waiting) and writer._waiting[0] is not write
        appended(writer, write, replicas)
        if in_the_way:
            writer._waiting.appendleft(write)

    monkeypatch.setattr(JournalWriter, "_appended", putting_back)
    durability, _ = await durability_behind_one_that_was_decided()
    assert durability is Durability.COMMITTED
