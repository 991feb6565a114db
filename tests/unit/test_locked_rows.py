"""A row that another transaction keeps locked holds up no write of another row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from fix_races import until
from fix_virtual import ACCEPTED, ONE, Servers, begin, calls
from holdfast import Consistency
from holdfast.keys import Key
from holdfast.protocols import Isolation
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.buffer import Buffer
from holdfast.write_behind.flusher import LOCKED_SECONDS
from holdfast.write_behind.flushing import Batch, Flushing

STRONG = Consistency.STRONG
LOCKED = Key("swarm", "locked")
OTHERS = [f"x{number}" for number in range(8)]
ROUNDS = 20
QUIET_SECONDS, ROUND_SECONDS = 0.1, 1.0
SEEDS = range(3)


class Seen:
    """What became of writes beside a row that is locked.

    Attributes:
        left: the rows of which writes were not decided yet when it became free.
        tries: of how many rows each transaction was that met the lock.
        count: of the locked row in the end.
    """

    def __init__(self) -> None:
        self.left: list[Key] = []
        self.tries: list[int] = []
        self.count: int | None = None

    @property
    def later_tries(self) -> list[int]:
        """Those after it was found."""
        return self.tries[self.tries.index(1) :]


async def beside_a_locked_row(world: World, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Writes of several rows, one of which a transaction keeps locked for a while, in virtual time."""
    servers, seen, flush = Servers(world), Seen(), Flushing.flush

    async def noting(flushing: Flushing, journal: str, epoch: int, batch: Batch, **given: Any) -> Any:
        if LOCKED in batch:
            seen.tries.append(len(batch))
        return await flush(flushing, journal, epoch, batch, **given)

    monkeypatch.setattr(Flushing, "flush", noting)
    async with servers.server(write_behind_quiet_seconds=QUIET_SECONDS) as flows:
        state = flows.store
        await begin(state, LOCKED.id, *OTHERS)
        async with await servers.l3.open_transaction(Isolation.READ_COMMITTED) as holder:
            await holder.lock(LOCKED)
            await state.swarms.patch(LOCKED.id, ONE, durability=ACCEPTED)
            for _ in range(ROUNDS):
                for key in OTHERS:
                    await state.swarms.patch(key, ONE, durability=ACCEPTED)
                await asyncio.sleep(ROUND_SECONDS)
            seen.left = list(flows.write_behind.buffer.queues)

        async def applied() -> bool:
            return not flows.write_behind.buffer.queues

        await until(applied)
        seen.count = await calls(state, LOCKED.id, STRONG)
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_the_others_are_flushed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locked one is found by halves, tried alone from then on, and applied once when it is free."""
    seen = simulate(seed, lambda world: beside_a_locked_row(world, monkeypatch))
    assert (seen.left, seen.count) == ([LOCKED], 1)
    assert len(seen.later_tries) > 2
    assert set(seen.later_tries) == {1}


def test_mutant_it_is_tried_with_the_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for its lock every time."""

    def forgetting(buffer: Buffer, key: Key, moment: float) -> None:
        buffer.give_back([key], moment)

    monkeypatch.setattr(Buffer, "postpone", forgetting)
    seen = [simulate(seed, lambda world: beside_a_locked_row(world, monkeypatch)) for seed in SEEDS]
    assert max(size for each in seen for size in each.later_tries) > 1


def test_mutant_the_lock_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes: nothing else comes to L3."""
    monkeypatch.setattr(MemoryFlush, "load", patiently(MemoryFlush.load))
    seen = simulate(0, lambda world: beside_a_locked_row(world, monkeypatch))
    assert {key.id for key in seen.left} == {LOCKED.id, *OTHERS}


def patiently(load: Any) -> Any:
    """A flush's `load` without a time for the locks of rows."""

    async def loaded(flush: MemoryFlush, keys: Sequence[Key]) -> Any:
        flush._transaction.lock_seconds = None
        return await load(flush, keys)

    return loaded


async def tries_in_a_hurry(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a locked row is tried in ten seconds in which somebody hurries it all the time; virtual."""
    servers, flush, tries = Servers(world), Flushing.flush, list[Batch]()

    async def noting(flushing: Flushing, journal: str, epoch: int, batch: Batch, **given: Any) -> Any:
        tries.append(batch)
        return await flush(flushing, journal, epoch, batch, **given)

    monkeypatch.setattr(Flushing, "flush", noting)
    async with servers.server() as flows:
        await begin(flows.store, LOCKED.id)
        async with await servers.l3.open_transaction(Isolation.READ_COMMITTED) as holder:
            await holder.lock(LOCKED)
            await flows.store.swarms.patch(LOCKED.id, ONE, durability=ACCEPTED)
            for _ in range(100):
                flows.write_behind.lives.hurry([LOCKED])
                await asyncio.sleep(0.1)
        return len(tries)


def test_nobody_hurries_a_locked_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried in its time, so that what waits for it does not keep the others waiting."""
    tries = simulate(0, lambda world: tries_in_a_hurry(world, monkeypatch))
    assert 2 <= tries <= 10.0 / LOCKED_SECONDS + 1


def test_mutant_whoever_hurries_it_has_it_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over and over."""
    hurry = Buffer.hurry

    def at_once(buffer: Buffer, keys: Iterable[Key], now: float) -> None:
        keys = list(keys)
        for key in keys:
            if key in buffer.queues:
                buffer.queues[key].locked = buffer.queues[key].hurried = False
        hurry(buffer, keys, now)

    monkeypatch.setattr(Buffer, "hurry", at_once)
    assert simulate(0, lambda world: tries_in_a_hurry(world, monkeypatch)) > 20
