"""A deletion that is accepted and not committed, and what follows it (rules W5 and W8)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from fix_virtual import ACCEPTED, CALM, COMMITTED, JOURNALED, ONE, Servers, begin, calls, goal
from holdfast import Consistency, Delete, Durability, Receipt, Refused, Set, Swarm
from holdfast.keys import Key
from holdfast.protocols import Write
from holdfast.store import StateStore
from holdfast.testing import ManualClock
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.accepting import WriteBehind
from holdfast.write_behind.flushing import Flushing

LEVELS = (ACCEPTED, JOURNALED, COMMITTED)
STRONG = Consistency.STRONG
STEPS = 80
SEEDS = range(20)
Follow = Callable[[StateStore], Any]
Step = Callable[[str, Durability, str], Awaitable[None]]


async def test_reads_say_that_there_is_nothing() -> None:
    """None, whichever read, in a scope too; nobody is shown a row that was deleted."""
    async with Servers(ManualClock()).server(**CALM) as flows:
        state = flows.store
        await begin(state, "x", "y")
        await state.swarms.patch("x", Delete(), durability=ACCEPTED)
        assert await state.swarms.get("x") is None
        assert await state.swarms.entry("x") is None
        assert state.swarms.peek("x") is None
        assert set(await state.swarms.get_many(["x", "y"])) == {"y"}
        async with state.scope() as scope:
            assert await scope.swarms.get("x") is None


async def put(state: StateStore) -> Receipt:
    """A document in its place."""
    return await state.swarms.put("x", Swarm(goal="new"), durability=JOURNALED)


async def patch(state: StateStore) -> Receipt:
    """An operation that begins one."""
    return await state.swarms.patch("x", Set("goal", "new"), default=Swarm(), durability=JOURNALED)


async def followed(follow: Follow) -> tuple[str | None, str | None, int]:
    """What is read of a row that was deleted and begun anew, before the flush and after it, and what was refused."""
    async with Servers(ManualClock()).server(**CALM) as flows:
        state = flows.store
        await begin(state, "x")
        await state.swarms.patch("x", Delete(), durability=ACCEPTED)
        await follow(state)
        before, unwritten = await goal(state, "x"), await state.flush()
        return before, await goal(state, "x", STRONG), len(unwritten)


@pytest.mark.parametrize("follow", [put, patch])
async def test_what_follows_begins_a_new_row(follow: Follow) -> None:
    """It is applied, as it was shown."""
    assert await followed(follow) == ("new", "new", 0)


@pytest.mark.parametrize("follow", [put, patch])
async def test_mutant_it_is_addressed_to_the_row_that_is_deleted(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, for its row is gone."""
    monkeypatch.setattr(WriteBehind, "_is_new", lambda *_: False)
    assert await followed(follow) == ("new", None, 1)


async def begun_anew_beside_another(monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, int | None, int]:
    """A row deleted and put in a flush that also begins a row, which another server begins in the same moment.

    Returns the goal of the first, the count of the second, and how many were refused.
    """
    servers, save = Servers(ManualClock()), MemoryFlush.save
    async with servers.server(**CALM) as flows, servers.server(**CALM) as other:
        state, is_first = flows.store, [True]

        async def beside(flush: MemoryFlush, writes: Sequence[Write]) -> Mapping[Key, int]:
            if any(write.key.id == "new" for write in writes) and is_first.pop():
                is_first.append(False)
                await other.store.swarms.put("new", Swarm(goal="of another"))
            return await save(flush, writes)

        await begin(state, "x")
        await state.swarms.patch("x", Delete(), Set(Swarm(goal="new")), durability=ACCEPTED)
        await state.swarms.patch("new", ONE, default=Swarm(), durability=ACCEPTED)
        monkeypatch.setattr(MemoryFlush, "save", beside)
        unwritten = await state.flush()
        return await goal(state, "x", STRONG), await calls(state, "new", STRONG), len(unwritten)


async def test_a_row_is_there_that_is_begun_anew_beside_another_that_turns_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the row that turned up is decided anew."""
    assert await begun_anew_beside_another(monkeypatch) == ("new", 1, 0)


async def test_mutant_a_row_that_was_deleted_may_turn_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decided anew with the other one, on what its own transaction has deleted, and is lost."""
    write = Flushing._write

    async def as_if_absent(flushing: Flushing, *given: Any) -> Any:
        transaction, rows, writes, settled, batch = given
        for key in [key for key, each in settled.items() if each.deleted and key in rows]:
            await transaction.delete(key)
        left = {key: row for key, row in rows.items() if not settled[key].deleted}
        return await write(flushing, transaction, left, writes, settled, batch)

    monkeypatch.setattr(Flushing, "_write", as_if_absent)
    found, _, _ = await begun_anew_beside_another(monkeypatch)
    assert found is None


class Model:
    """Documents as a dict, and the same through a server: goal and count by id."""

    def __init__(self, state: StateStore, random_: random.Random) -> None:
        self.rows: dict[str, tuple[str | None, int]] = {}
        self._state = state
        self._random = random_

    async def step(self, number: int) -> None:
        """One operation at random, of a random durability."""
        key, level, name = self._random.choice("ab"), self._random.choice(LEVELS), f"step {number}"
        steps: list[Step] = [
            self._increment,
            self._set,
            self._put,
            self._patch_away,
            self._delete,
            self._update,
            self._wait,
        ]
        (step,) = self._random.choices(steps, weights=[7, 3, 2, 2, 2, 2, 2])
        await step(key, level, name)

    async def check(self, consistency: Consistency = Consistency.BOUNDED) -> None:
        """What is read is what was written."""
        for key in "ab":
            swarm = await self._state.swarms.get(key, consistency=consistency)
            found = None if swarm is None else (swarm.goal, swarm.stats.total_tool_calls)
            assert found == self.rows.get(key), key

    async def _increment(self, key: str, level: Durability, name: str) -> None:
        await self._state.swarms.patch(key, ONE, default=Swarm(goal=name), durability=level)
        found, count = self.rows.get(key, (name, 0))
        self.rows[key] = (found, count + 1)

    async def _set(self, key: str, level: Durability, name: str) -> None:
        await self._state.swarms.patch(key, Set("goal", name), default=Swarm(), durability=level)
        self.rows[key] = (name, self.rows.get(key, (None, 0))[1])

    async def _put(self, key: str, level: Durability, name: str) -> None:
        await self._state.swarms.put(key, Swarm(goal=name), durability=level)
        self.rows[key] = (name, 0)

    async def _patch_away(self, key: str, level: Durability, _: str) -> None:
        if self.rows.pop(key, None) is not None:
            await self._state.swarms.patch(key, Delete(), durability=level)

    async def _delete(self, key: str, _: Durability, __: str) -> None:
        await self._state.swarms.delete(key)
        self.rows.pop(key, None)

    async def _update(self, key: str, _: Durability, name: str) -> None:
        await self._state.swarms.update(key, lambda swarm: msgspec.structs.replace(swarm, goal=name), default=Swarm())
        self.rows[key] = (name, self.rows.get(key, (None, 0))[1])

    async def _wait(self, *_: object) -> None:
        await asyncio.sleep(self._random.uniform(0, 6))  # virtual: until some of it is due


async def as_the_model(world: World) -> None:
    """One caller, whatever the durability of its writes, finds what it wrote."""
    async with Servers(world).server() as flows:
        model = Model(flows.store, world.random)
        for number in range(STEPS):
            await model.step(number)
            await model.check()
        assert await flows.store.flush() == []
        await model.check(STRONG)


@pytest.mark.parametrize("seed", SEEDS)
def test_reads_are_those_of_a_plain_model(seed: int) -> None:
    """Deletions among them, and waits in which a part is flushed."""
    simulate(seed, as_the_model)


def test_mutant_the_model_finds_what_is_addressed_to_a_deleted_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """In some seed."""
    monkeypatch.setattr(WriteBehind, "_is_new", lambda *_: False)
    assert any(differs(seed) for seed in SEEDS)


def differs(seed: int) -> bool:
    """Whether a read was not what the model says, or a write was refused."""
    try:
        simulate(seed, as_the_model)
    except (AssertionError, Refused):
        return True
    return False
