"""What L3 in memory knows of journals, through crashes, copies and in a simulation."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import JournalState, Letter, Write
from holdfast.seq_set import SeqSet
from holdfast.testing import ManualClock, MemoryJournalBase, MemoryStorage
from holdfast.testing.simulation import World, simulate

KEY = Key("bot", "b1")
ONE = SeqSet.of([1])
NONE = SeqSet()


async def decided_by(base: MemoryJournalBase, number: int) -> None:
    """Let a flush write a row and note that this entry is decided."""
    flush = await base.open_flush("j", 1)
    await flush.save([Write(KEY, 1, b"%d" % number)])
    await flush.decide(SeqSet.of([number]), SeqSet.of([number]), [Letter(KEY, number, b"", "poison")])
    await flush.commit()


async def seen(base: MemoryJournalBase) -> tuple[int, SeqSet, list[int]]:
    """The row's number, what is decided, and the numbers of the letters."""
    rows, marks = await base.rows_and_marks([KEY], ["j"])
    return int(rows[KEY].body), marks["j"], [each.letter.seq for each in await base.letters(limit=10)]


async def test_what_a_crash_loses_is_undecided_with_its_rows() -> None:
    """Rows and marks of lost commits go together; those of older commits stay together."""
    storage = MemoryStorage()
    base = MemoryJournalBase(storage, ManualClock())
    await base.register("j", "server")
    for number in (1, 2, 3):
        await decided_by(base, number)
    storage.crash(lose=2)
    assert await seen(base) == (1, ONE, [1])


async def test_marks_are_in_the_files() -> None:
    """A cold copy has the marks of its rows, and a restart loses neither."""
    storage = MemoryStorage()
    base = MemoryJournalBase(storage, ManualClock())
    await base.register("j", "server")
    await decided_by(base, 1)
    files = storage.copy()
    await decided_by(base, 2)
    storage.restart()
    assert await seen(base) == (2, SeqSet.of([1, 2]), [1, 2])
    storage.restore(files)
    assert await seen(base) == (1, ONE, [1])


async def test_a_crash_ends_the_flushes() -> None:
    """A flush that was open has no effect, its commit is of unknown outcome, and its lock is free."""
    storage = MemoryStorage()
    base = MemoryJournalBase(storage, ManualClock())
    await base.register("j", "server")
    flush = await base.open_flush("j", 1)
    waiting = asyncio.ensure_future(base.open_flush("j", 1))
    await asyncio.sleep(0)
    storage.restart()
    with pytest.raises(OutcomeUnknown):
        await flush.commit()
    await flush.rollback()
    with pytest.raises(TierUnavailable):
        await waiting
    await (await base.open_flush("j", 1)).rollback()


async def test_nothing_is_known_while_l3_is_away() -> None:
    """Every call says so, that of an open flush too."""
    storage = MemoryStorage()
    base = MemoryJournalBase(storage, ManualClock())
    await base.register("j", "server")
    flush = await base.open_flush("j", 1)
    storage.away = True
    calls = [
        base.register("k", "server"),
        base.beat("j", 1),
        base.records(),
        base.take("j", 1, "other"),
        base.enter_state("j", 1, JournalState.RELEASED),
        base.forget("j", 1),
        base.open_flush("j", 1),
        base.rows_and_marks([], []),
        base.letters(limit=1),
        base.letter(1),
        base.discard(1),
        flush.load([KEY]),
        flush.save([Write(KEY, 1, b"1")]),
        flush.delete(KEY),
        flush.decide(ONE, NONE, []),
        flush.commit(),
    ]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, (TierUnavailable, OutcomeUnknown))
    await flush.rollback()


async def test_ages_are_of_l3s_clock() -> None:
    """A record and a letter tell how long ago they were changed."""
    clock = ManualClock()
    base = MemoryJournalBase(MemoryStorage(), clock)
    await base.register("j", "server")
    await decided_by(base, 1)
    clock.advance(5.0)
    assert [record.seconds for record in await base.records()] == [5.0]
    assert [each.seconds for each in await base.letters(limit=1)] == [5.0]


async def race(world: World) -> list[tuple[str, int]]:
    """A server that stops inside a flush, its successor, and what each of them did when."""
    storage, done = MemoryStorage(), []
    first, second = MemoryJournalBase(storage, world), MemoryJournalBase(storage, world)
    await first.register("j", "first")
    hanging = await first.open_flush("j", 1)
    await hanging.decide(ONE, NONE, [])

    async def write_on(number: int) -> None:
        await world.pause(1.0)
        await storage.save([Write(Key("bot", f"{number}"), 1, b"1")])
        done.append(("write", number))

    async def take_over() -> None:
        begun = world.monotonic()
        while True:
            try:
                assert await second.take("j", 1, "second")
                break
            except TierUnavailable:
                done.append(("waits", round(world.monotonic() - begun)))
        assert 4.9 < world.monotonic() - begun < 6.1
        assert (await second.records())[0].decided == NONE

    await asyncio.gather(take_over(), *(write_on(number) for number in range(5)))
    return done


def test_a_simulated_takeover_repeats() -> None:
    """In virtual time L3 ends the idle flush, the taker waits no longer; the same seed is the same run."""
    runs = [simulate(seed, race) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert [what for what, _ in runs[0]].count("waits") == 5


async def test_deciding_for_a_dead_server_does_not_make_it_seem_alive() -> None:
    """Others decide its entries too: how old its beat is stays what it is."""
    storage, clock = MemoryStorage(), ManualClock()
    base = MemoryJournalBase(storage, clock)
    await base.register("j", "server")
    clock.advance(5.0)
    flush = await base.open_flush("j", 1)
    await flush.decide(SeqSet.of([1]), SeqSet(), [])
    await flush.commit()
    (record,) = await base.records()
    assert (record.decided, record.seconds) == (SeqSet.of([1]), 5.0)
