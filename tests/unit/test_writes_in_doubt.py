"""Writes whose commit was not heard of, among others of their key (rule W7)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from fix_left_journals import KEY
from fix_loop import settle
from fix_races import until
from holdfast import Bot, Durability, Increment, OutcomeUnknown, Set
from holdfast.keys import Key
from holdfast.protocols import JournalState
from holdfast.testing import ManualClock, MemoryJournalBase, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.write_behind.buffer import Buffer, KeyQueue, Write
from holdfast.write_behind.flushing import Batch, Flushing

ACCEPTED = Durability.ACCEPTED


async def seen_between_two_halves(monkeypatch: pytest.MonkeyPatch) -> int:
    """What a read sees of 2 increments that are in effect, though nobody heard so, while one of them is settled.

    A third write of their key is refused by L3, so that the next attempt is made by halves: the first increment is
    found to be decided before the second is.
    """
    commit, flush = MemoryFlush.commit, Flushing.flush
    l3 = MemoryStorage(refuses=lambda _, body: b"bad" in body)
    reads: list[asyncio.Future[Bot | None]] = []
    lost = [True]

    async with connect_flows(l3=l3) as flows:
        bots = flows.store.bots
        await bots.put("b1", Bot(metadata={"n": 0}))

        async def unheard(flush: MemoryFlush) -> None:
            await commit(flush)
            if lost and lost.pop():
                await bots.patch("b1", Set("name", "bad"), durability=ACCEPTED)
                raise OutcomeUnknown("L3: sent, and the answer was lost")

        async def read_before(flushing: Flushing, journal: str, epoch: int, batch: Batch, **given: Any) -> Any:
            if [entry.seq for entries in batch.values() for entry in entries] == [2, 3] and not reads:
                reads.append(asyncio.ensure_future(bots.get("b1")))
                await settle()
            return await flush(flushing, journal, epoch, batch, **given)

        monkeypatch.setattr(MemoryFlush, "commit", unheard)
        monkeypatch.setattr(Flushing, "flush", read_before)
        for _ in range(2):
            await bots.patch("b1", Increment("metadata", "n"), durability=ACCEPTED)
        await flows.store.flush()
        (read,) = reads
        bot = await read
        assert bot is not None
        return int(bot.metadata["n"])


async def test_a_write_in_doubt_stays_in_doubt_when_another_one_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid over the row that holds it already, it would be seen twice."""
    assert await seen_between_two_halves(monkeypatch) == 2


async def test_mutant_one_that_is_settled_takes_the_doubt_from_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second increment is counted twice."""
    decided = Buffer.decided

    def certain(buffer: Buffer, key: Key, writes: Iterable[Write]) -> None:
        queue = buffer.queues[key]
        decided(buffer, key, writes)
        queue.doubted.clear()
        for write in queue.writes:
            write.stamp = None

    monkeypatch.setattr(Buffer, "decided", certain)
    assert await seen_between_two_halves(monkeypatch) == 3


async def test_what_another_server_left_undecided_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the takeover of its journal a server knows what is not in effect: reads need not wait for the next one."""
    l3 = MemoryStorage()
    base = MemoryJournalBase(l3, ManualClock())
    async with connect_flows(l3=l3, journals=base) as flows:
        bots, lives = flows.store.bots, flows.write_behind.lives
        await bots.put("b1", Bot(name="old"))
        await bots.patch("b1", Set("name", "new"), durability=ACCEPTED)
        life = lives.current
        assert life is not None
        assert await base.take(life.name, 1, "other")
        assert await base.enter_state(life.name, 2, JournalState.DRAINED)
        lives.replaced(life)

        async def renewed() -> bool:
            return lives.current is not None

        await until(renewed)
        assert not flows.write_behind.buffer.queues[KEY].doubt
        bot = await bots.get("b1")
        assert bot is not None
        assert bot.name == "new"
        assert lives.position(KEY) == (lives.journal, 1)


async def held_beside_one_in_doubt() -> str | None:
    """What L1 answers when a write was accepted behind one that may be in the row L1 has, or may not."""
    async with connect_flows() as flows:
        bots, buffer = flows.store.bots, flows.write_behind.buffer
        await bots.put("b1", Bot(name="old"))
        await bots.patch("b1", Set("name", "first"), durability=ACCEPTED)
        entry = await bots.entry("b1")
        assert entry is not None
        (first,) = buffer.queues[KEY].writes
        first.stamp = entry.version
        buffer.queues[KEY].set_doubt([first])
        flows.write_behind.overlay.changed(KEY)
        await bots.patch("b1", Increment("metadata", "n"), durability=ACCEPTED)
        held = bots.peek("b1")
        return None if held is None else held.name


async def test_nobody_is_shown_what_is_in_doubt() -> None:
    """W7: also not by the write that comes next; whoever asks waits until it is known."""
    assert await held_beside_one_in_doubt() is None


async def test_mutant_the_next_write_is_laid_over_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in doubt is hidden, though it may not be in effect."""
    monkeypatch.setattr(KeyQueue, "doubt", property(lambda _: False))
    assert await held_beside_one_in_doubt() == "old"
