"""Servers that flush, lose answers, stop and replace each other: every entry is applied once, under every seed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fix_journal_bases import DecidesApart, NoLock
from holdfast.errors import NotOwner, TierError
from holdfast.keys import Key
from holdfast.protocols import JournalBase, Write
from holdfast.seq_set import SeqSet
from holdfast.testing import MemoryJournalBase, MemoryStorage
from holdfast.testing.simulation import World, simulate
from holdfast.testing.slow_journal_base import SlowJournalBase
from holdfast.testing.slow_link import SlowLink

KEY = Key("bot", "count")
ENTRIES = SeqSet([(1, 31)])
SERVERS = 3
SEEDS = range(40)


async def flush_some(base: JournalBase, epoch: int, world: World) -> bool:
    """Apply some of what is not decided: each entry adds 1 to the row. True: nothing is left."""
    flush = await base.open_flush("j", epoch)
    try:
        left = [seq for start, end in ENTRIES.ranges() for seq in range(start, end) if seq not in flush.decided]
        chosen = world.random.sample(left, min(len(left), world.random.randint(1, 4)))
        row = (await flush.load([KEY])).get(KEY)
        before = 0 if row is None else int(row.body)
        await flush.save([Write(KEY, 1, b"%d" % (before + len(chosen)))])
        await flush.decide(SeqSet.of(chosen), SeqSet(), [])
        if world.chance(0.05):
            await world.pause(20.0)  # the server stands still: L3 ends its flush, and another one takes over
        await flush.commit()
    finally:
        await flush.rollback()
    return not left


async def serve(base: JournalBase, name: str, world: World) -> None:
    """Flush while the journal is this server's, and take it over at any time."""
    epoch = 1
    while True:
        try:
            if await flush_some(base, epoch, world):
                return
        except (NotOwner, TierError):
            epoch = await owned(base, epoch, name, world)
        await world.pause(0.5)


async def owned(base: JournalBase, epoch: int, name: str, world: World) -> int:
    """The epoch to go on with: as it was, or as L3 says now, after an attempt to take the journal over."""
    await world.pause(3.0)
    try:
        (record,) = await base.records()
        if record.taker != name and await base.take("j", record.epoch, name):
            return record.epoch + 1
    except TierError:
        return epoch
    return record.epoch if record.taker == name else epoch


async def scenario(world: World, of: type[MemoryJournalBase]) -> tuple[int, SeqSet]:
    """Let servers quarrel over a journal until all is decided; the row, and what L3 says is decided."""
    storage = MemoryStorage()
    inner = of(storage, world)
    await inner.register("j", "0")
    links = [SlowLink(world, most_seconds=0.5, lost_share=0.2, late_seconds=2.0) for _ in range(SERVERS)]
    serving: Sequence[asyncio.Task[None]] = [
        asyncio.get_running_loop().create_task(serve(SlowJournalBase(inner, link), str(number), world))
        for number, link in enumerate(links)
    ]
    await asyncio.gather(*serving)
    for link in links:
        await link.drain()
    rows, marks = await inner.rows_and_marks([KEY], ["j"])
    return int(rows[KEY].body), marks["j"]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_entry_is_applied_once(seed: int) -> None:
    """Whatever got lost, came late or was taken over."""
    assert simulate(seed, lambda world: scenario(world, MemoryJournalBase)) == (len(ENTRIES), ENTRIES)


@pytest.mark.parametrize("mutant", [NoLock, DecidesApart], ids=lambda each: each.__name__)
def test_a_mutant_is_caught(mutant: type[MemoryJournalBase]) -> None:
    """With a mechanism switched off some seed applies an entry twice, or not at all."""
    outcomes = [simulate(seed, lambda world: scenario(world, mutant)) for seed in SEEDS]
    assert any(outcome != (len(ENTRIES), ENTRIES) for outcome in outcomes)
