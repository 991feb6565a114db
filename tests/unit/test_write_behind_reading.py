"""Reads with undecided writes laid over: none is missing, and none is shown twice (rule W7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from holdfast import Append, Bot, Settings
from holdfast.entry import Consistency, Durability
from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.testing import JournalHub, MemoryJournalBase, MemoryJournals, MemoryStorage, PausingStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.lives import Lives

ACCEPTED, JOURNALED, COMMITTED = Durability
STRONG = Consistency.STRONG
TAKEOVER_SECONDS = 10.0
B1 = Key("bot", "b1")


class Stage:
    """A server over an L3 whose reads can be stopped."""

    def __init__(self, flows: Flows, l3: PausingStorage, base: MemoryJournalBase) -> None:
        self.flows = flows
        self.l3 = l3
        self.base = base
        self.bots = flows.store.bots

    async def append(self, value: str, durability: Durability = ACCEPTED) -> None:
        """Write one more."""
        await self.bots.patch("b1", Append("capabilities", value), default=Bot(), durability=durability)

    async def shown(self, consistency: Consistency = STRONG) -> list[str]:
        """What a read shows."""
        found = await self.bots.get("b1", consistency=consistency)
        return [] if found is None else [str(each) for each in found.capabilities]


def staged(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def run(world: World) -> None:
        storage = MemoryStorage()
        l3, base = PausingStorage(storage), MemoryJournalBase(storage, world)
        settings = Settings(verify_share=0.0, write_behind_takeover_seconds=TAKEOVER_SECONDS)
        streams = MemoryJournals(JournalHub())
        async with connect_flows(l3=l3, journals=base, streams=streams, clock=world, settings=settings) as flows:
            await scenario(Stage(flows, l3, base))

    simulate(1, run)


def test_what_is_decided_while_it_is_read_is_not_missing() -> None:
    """L3 answered before the commit, and the answer arrives after it: what was laid over it is no more."""

    async def scenario(stage: Stage) -> None:
        await stage.append("1")
        pause = stage.l3.pause_next_load()
        reading = asyncio.ensure_future(stage.shown())
        await pause.reached.wait()
        await stage.append("2", COMMITTED)
        pause.release()
        assert await reading == ["1", "2"]

    staged(scenario)


async def lost_answer(flush: MemoryFlush) -> None:
    """A commit that takes effect, and nobody is told."""
    await flush._transaction.commit()
    flush._timer.cancel()
    raise OutcomeUnknown("the answer was lost")


def test_after_a_commit_of_unknown_outcome_reads_wait_until_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row has the write already: laid over it, it would be shown twice."""

    async def scenario(stage: Stage) -> None:
        await stage.append("1")
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFlush, "commit", lost_answer)
            stage.flows.write_behind.lives.hurry([B1])
            while not stage.flows.write_behind.buffer.queues[B1].doubt:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
        assert await stage.shown() == ["1"]
        assert stage.flows.store.backlog().writes == 0

    staged(scenario)


async def taken_over(stage: Stage) -> None:
    """The server's event loop stands still for long, and another server decides what it has accepted."""
    lives = stage.flows.write_behind.lives
    life = lives.current
    assert life is not None
    await life.heartbeat.stop()
    await life.flusher.stop()
    await asyncio.sleep(2 * TAKEOVER_SECONDS)
    assert await stage.base.take(life.name, 1, "another server")
    entries = [write.entry for write in stage.flows.write_behind.buffer]
    await stage.flows.takeover._flushing.flush(life.name, 2, {B1: entries})


def test_what_another_server_may_have_decided_is_not_shown_twice() -> None:
    """A beat that is too old proves nothing: L3 is asked whose the journal is, and what became of the writes."""

    async def scenario(stage: Stage) -> None:
        await stage.append("1", JOURNALED)
        await taken_over(stage)
        with pytest.raises(TierUnavailable):  # nobody knows before the other one has drained the journal
            await stage.shown()
        await asyncio.sleep(2 * TAKEOVER_SECONDS)
        assert await stage.shown() == ["1"]

    staged(scenario)


def test_without_asking_it_is_shown_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a server takes its journal for its own however old its beat is."""
    monkeypatch.setattr(Lives, "is_sure", True)

    async def scenario(stage: Stage) -> None:
        await stage.append("1", JOURNALED)
        await taken_over(stage)
        assert await stage.shown() == ["1", "1"]

    staged(scenario)


def test_while_l3_is_away_nobody_waits_for_what_it_alone_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who reads then, nor who waits already when it is cut off."""

    async def scenario(stage: Stage) -> None:
        storage, loop = stage.l3.inner, asyncio.get_running_loop()
        assert isinstance(storage, MemoryStorage)
        await stage.append("1")
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFlush, "commit", lost_answer)
            stage.flows.write_behind.lives.hurry([B1])
            while not stage.flows.write_behind.buffer.queues[B1].doubt:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
        waiting, began = asyncio.ensure_future(stage.shown()), loop.time()
        await asyncio.sleep(0)
        storage.away = True
        for reading in (waiting, stage.shown()):
            with pytest.raises(TierUnavailable, match="is not known yet"):
                await reading
        assert loop.time() - began < 0.5
        storage.away = False
        assert await stage.shown() == ["1"]

    staged(scenario)


def test_while_l3_is_away_an_old_beat_is_an_error() -> None:
    """Not an answer that may be wrong."""

    async def scenario(stage: Stage) -> None:
        await stage.append("1", JOURNALED)
        await taken_over(stage)
        storage = stage.l3.inner
        assert isinstance(storage, MemoryStorage)
        storage.away = True
        with pytest.raises(TierUnavailable):
            await stage.shown()
        storage.away = False

    staged(scenario)
