"""The test kit: time that is set by hand, and tiers that stop, fail and forget when told to."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fix_l2 import MemoryHarness
from holdfast.clock import Clock
from holdfast.errors import TierUnavailable
from holdfast.protocols import Absent, Fill, Write
from holdfast.testing import ManualClock, MemoryStorage, PausingCache, PausingStorage
from holdfast.testing.conformance.l2_harness import COHERENCE, KEY, VIEW, L2Suite, row


def test_time_stands_still_until_it_is_advanced() -> None:
    """The clock starts where it is told to and moves by what it is told."""
    clock: Clock = ManualClock(start=5.0)
    assert [clock.monotonic() for _ in range(3)] == [5.0, 5.0, 5.0]
    advanced = ManualClock()
    start = advanced.monotonic()
    advanced.advance(0.25)
    advanced.advance(0)
    assert advanced.monotonic() == start + 0.25


@pytest.mark.parametrize("seconds", [-1.0, -1e-9])
def test_time_never_goes_back(seconds: float) -> None:
    """Monotonic time has one direction: the mistake is in the test, and is named."""
    clock = ManualClock(start=5.0)
    with pytest.raises(ValueError, match="monotonic time cannot go back by"):
        clock.advance(seconds)
    assert clock.monotonic() == 5.0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), max_size=20))
def test_readings_never_fall(advances: list[float]) -> None:
    """Whatever passes, a later reading is at least an earlier one."""
    clock = ManualClock()
    readings = [clock.monotonic()]
    for seconds in advances:
        clock.advance(seconds)
        readings.append(clock.monotonic())
    assert readings == sorted(readings)


async def test_a_storage_that_is_away_fails_every_call_and_comes_back_with_its_rows() -> None:
    """Away means unreachable, not empty."""
    storage = MemoryStorage()
    await storage.save([Write(KEY, 1, b"{}")])
    storage.away = True
    for call in (
        storage.load([KEY]),
        storage.save([Write(KEY, 1, b"[]")]),
        storage.delete(KEY),
        storage.scan("bot", after=None, limit=1),
    ):
        with pytest.raises(TierUnavailable, match="L3 in memory is away"):
            await call
    storage.away = False
    assert (await storage.load([KEY])).rows[KEY].body == b"{}"


async def test_a_storage_notes_the_keys_of_each_load() -> None:
    """Tests count queries by it."""
    storage = MemoryStorage()
    await storage.load([KEY])
    await storage.load([])
    assert storage.loads == [(KEY,), ()]


async def test_a_storage_that_crashed_is_another_incarnation_with_its_rows() -> None:
    """As after a failover: identity new, data and generations as they were; the seed decides the identities."""
    storage, twin = MemoryStorage(seed=3), MemoryStorage(seed=3)
    await storage.save([Write(KEY, 1, b"{}")])
    before = await storage.load([KEY])
    assert before.coherence == (await twin.load([])).coherence
    storage.crash()
    after = await storage.load([KEY])
    assert after.rows == before.rows
    assert after.coherence.incarnation != before.coherence.incarnation
    assert after.coherence.generations == before.coherence.generations


async def test_a_raised_generation_is_above_every_version_so_far() -> None:
    """It is drawn from the sequence of the versions, and voids one scope."""
    storage = MemoryStorage()
    version = (await storage.save([Write(KEY, 1, b"{}")]))[KEY]
    generation = storage.raise_generation("kind:bot")
    coherence = (await storage.load([])).coherence
    assert generation > version
    assert (coherence.floor("bot"), coherence.floor("team")) == (generation, 1)


async def test_a_paused_load_was_answered_and_has_not_arrived() -> None:
    """What is written during the stop is not in the answer; the stop is for the next load alone."""
    storage = PausingStorage(MemoryStorage())
    await storage.save([Write(KEY, 1, b"1")])
    pause = storage.pause_next_load()
    loading = asyncio.get_running_loop().create_task(storage.load([KEY]))
    await pause.reached.wait()
    await storage.save([Write(KEY, 1, b"2")])
    assert (await storage.load([KEY])).rows[KEY].body == b"2"
    assert not loading.done()
    pause.release()
    assert (await loading).rows[KEY].body == b"1"


async def test_a_paused_save_is_committed_and_not_yet_reported() -> None:
    """Others see its row while its writer does not know its version; the stop is for the next save alone."""
    storage = PausingStorage(MemoryStorage())
    pause = storage.pause_next_save()
    saving = asyncio.get_running_loop().create_task(storage.save([Write(KEY, 1, b"1")]))
    await pause.reached.wait()
    row = (await storage.load([KEY])).rows[KEY]
    assert row.body == b"1"
    assert (await storage.save([Write(KEY, 1, b"2")]))[KEY] > row.version
    assert not saving.done()
    pause.release()
    assert await saving == {KEY: row.version}


async def test_a_paused_fill_has_not_arrived() -> None:
    """It stops on its way, so what happens meanwhile comes first."""
    harness = MemoryHarness()
    suite, l2 = L2Suite(harness), harness.open()
    await suite.begin_anew(l2, 90)
    cache = PausingCache(l2.cache)
    pause = cache.pause_next_fill()
    fill = Fill(KEY, row(5), 900.0, await suite.missed(l2))
    filling = asyncio.get_running_loop().create_task(cache.fill([fill], COHERENCE))
    await pause.reached.wait()
    assert isinstance((await cache.read([KEY], VIEW))[KEY], Absent)
    await suite.fence(l2, {KEY: 6})
    pause.release()
    assert await filling == 0
    assert await cache.fill([Fill(KEY, row(6), 900.0, await suite.missed(l2))], COHERENCE) == 1
