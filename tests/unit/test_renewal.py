"""A server whose journal was taken over goes on, whatever happens meanwhile (rule W9)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fix_virtual import ACCEPTED, CALM, COMMITTED, JOURNALED, ONE, Servers, begin, calls, life_of, tasks
from holdfast import Closed, Consistency, Durability
from holdfast.errors import TierUnavailable
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Appended, JournalState
from holdfast.testing import JournalHub, MemoryJournals
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind import renewal
from holdfast.write_behind.lives import Life, Lives

SEEDS = range(5)


class Lingering(MemoryJournals):
    """An append under way, which lets a flush end when it is cancelled, and takes a moment to end itself."""

    def __init__(self, hub: JournalHub) -> None:
        super().__init__(hub)
        self.hangs = False
        self.cancelled = asyncio.Event()

    async def append(
        self, journal: str, entries: Sequence[tuple[int, bytes]], *, expected: int, keep_from: int
    ) -> Appended:
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                await asyncio.sleep(0.01)
                raise
        return await super().append(journal, entries, expected=expected, keep_from=keep_from)


def faults_told() -> list[BaseException]:
    """The faults that background work shows from now on."""
    told: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    return told


async def taken_over(servers: Servers, flows: Flows) -> Life:
    """A life whose journal was taken over and drained by another server; its own knows nothing of it yet."""
    life = life_of(flows)
    await life.heartbeat.stop()
    await servers.until_drained(life.name)
    return life


async def ended_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[BaseException]]:
    """Three increments of three rows, the first of which a flush commits, whose answer comes while its life is stopped.

    Returns the counts, and the faults that were shown.
    """
    servers, faults = Servers(world), faults_told()
    streams = Lingering(servers.hub)
    commit, committed = MemoryFlush.commit, asyncio.Event()

    async def heard_late(flush: MemoryFlush) -> None:
        await commit(flush)
        if not committed.is_set():
            committed.set()
            await streams.cancelled.wait()

    async with servers.server(streams=streams, **CALM) as flows:
        state, lives = flows.store, flows.write_behind.lives
        await begin(state, "x", "y", "z")
        await state.swarms.patch("x", ONE, durability=JOURNALED)
        streams.hangs = True
        monkeypatch.setattr(MemoryFlush, "commit", heard_late)
        lives.hurry([Key("swarm", "x")])
        await committed.wait()
        for key in "yz":
            await state.swarms.patch(key, ONE, durability=ACCEPTED)
        life = life_of(flows)
        await asyncio.sleep(0.05)  # virtual: the append of these hangs
        assert await servers.base.take(life.name, 1, "other")
        assert await servers.base.enter_state(life.name, 2, JournalState.DRAINED)
        lives.replaced(life)
        streams.hangs = False
        for _ in range(3):
            await state.swarms.patch("x", ONE, durability=COMMITTED)
        assert await state.flush() == []
        return [await calls(state, key, Consistency.STRONG) for key in "xyz"], faults


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flush_may_end_while_its_life_is_stopped(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write is in effect once, and those that were not decided go on."""
    assert simulate(seed, lambda world: ended_meanwhile(world, monkeypatch)) == ([4, 1, 1], [])


def test_mutant_a_life_that_works_on_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its flush settles is not expected to be gone."""
    stop, stopping = Life.stop, list[asyncio.Future[None]]()

    async def works_on(life: Life) -> None:
        if not stopping:
            stopping.append(asyncio.ensure_future(stop(life)))
            return
        await stopping[0]
        await stop(life)

    monkeypatch.setattr(Life, "stop", works_on)
    _, faults = simulate(0, lambda world: ended_meanwhile(world, monkeypatch))
    assert [type(fault) for fault in faults] == [KeyError]


async def failed_once(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[int | None, list[BaseException]]:
    """An increment of a row, which another server applies that takes over; then a write of another, after a fault.

    Returns the count, and the faults that were shown.
    """
    servers, faults, settle = Servers(world), faults_told(), renewal.settle
    fault = RuntimeError("a fault of this package")

    def failing(*given: Any) -> Any:
        if not faults:
            monkeypatch.setattr(renewal, "settle", settle)
            raise fault
        return settle(*given)

    async with servers.server(**CALM) as flows, servers.server(**CALM):
        state, lives = flows.store, flows.write_behind.lives
        await begin(state, "x", "y")
        await state.swarms.patch("x", ONE, durability=JOURNALED)
        life = await taken_over(servers, flows)
        monkeypatch.setattr(renewal, "settle", failing)
        lives.replaced(life)
        await asyncio.sleep(0.1)  # virtual: it has failed, and is not tried again yet
        await state.swarms.patch("y", ONE, durability=ACCEPTED)
        assert await state.flush() == []
        return await calls(state, "x", Consistency.STRONG), faults


def test_a_renewal_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No new life is begun over the writes of a former one before it is known what became of them."""
    count, faults = simulate(0, lambda world: failed_once(world, monkeypatch))
    assert (count, [str(fault) for fault in faults]) == (1, ["a fault of this package"])


def test_mutant_a_renewal_that_fails_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next write begins a life over the buffer as it is: what the other server has applied is applied again."""
    monkeypatch.setattr(Lives, "_renew", Lives._renewed)
    count, _ = simulate(0, lambda world: failed_once(world, monkeypatch))
    assert count == 2


async def seconds_held(world: World, durability: Durability, commit_seconds: float) -> float:
    """For how long a caller is held who writes during a renewal that does not end, since L2 is away."""
    servers = Servers(world)
    async with servers.server(write_behind_commit_seconds=1.0, **CALM) as flows:
        state, lives = flows.store, flows.write_behind.lives
        await begin(state, "x", "y")
        await state.swarms.patch("x", ONE, durability=JOURNALED)
        life = life_of(flows)
        servers.hub.away = True
        assert await servers.base.take(life.name, 1, "other")
        lives.replaced(life)
        lives._commit_seconds = commit_seconds
        began = world.monotonic()
        with pytest.raises(TierUnavailable):
            await state.swarms.patch("y", ONE, durability=durability)
        return world.monotonic() - began


@pytest.mark.parametrize("durability", [ACCEPTED, JOURNALED, COMMITTED])
def test_a_renewal_holds_no_caller_for_long(durability: Durability) -> None:
    """It may take as long as an outage of L2; virtual seconds."""
    assert simulate(0, lambda world: seconds_held(world, durability, 1.0)) == pytest.approx(1.0, abs=0.01)


def test_mutant_a_caller_waits_for_the_renewal() -> None:
    """As long as it takes."""
    assert simulate(0, lambda world: seconds_held(world, ACCEPTED, 60.0)) == pytest.approx(60.0, abs=0.01)


async def closed_while_replaced(world: World) -> tuple[list[str], type[BaseException] | None]:
    """The tasks that are left when a server is closed during a renewal that does not end, and a receipt's error."""
    servers = Servers(world)
    async with servers.server(**CALM) as flows:
        state, lives = flows.store, flows.write_behind.lives
        await begin(state, "x")
        receipt = await state.swarms.patch("x", ONE, durability=JOURNALED)
        life = life_of(flows)
        assert await servers.base.take(life.name, 1, "other")
        lives.replaced(life)
        waiting = asyncio.ensure_future(receipt.reached(COMMITTED))
        await asyncio.sleep(1.0)  # virtual
    (fault,) = await asyncio.gather(waiting, return_exceptions=True)
    return tasks(), type(fault) if isinstance(fault, BaseException) else None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_may_be_closed_while_it_is_replaced(seed: int) -> None:
    """Nothing of it goes on, and whoever waits is told that its writes are decided elsewhere."""
    assert simulate(seed, closed_while_replaced) == ([], Closed)


async def seconds_to_close(world: World) -> float:
    """How long a server takes to close that finds out then that it was replaced; virtual."""
    servers = Servers(world)
    async with servers.server(**CALM) as flows:
        await begin(flows.store, "x")
        receipt = await flows.store.swarms.patch("x", ONE, durability=JOURNALED)
        assert await servers.base.take(life_of(flows).name, 1, "other")
        began = world.monotonic()
    seconds = world.monotonic() - began
    with pytest.raises(Closed):
        await receipt.reached(COMMITTED)
    return seconds


def test_one_that_is_replaced_while_it_closes_waits_for_nobody() -> None:
    """Nobody here can decide its writes any more."""
    assert simulate(0, seconds_to_close) < 1.0


def test_mutant_it_waits_for_what_nobody_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a close may take."""
    replaced = Lives.replaced
    monkeypatch.setattr(Lives, "replaced", lambda lives, life: None if lives._closed else replaced(lives, life))
    assert simulate(0, seconds_to_close) >= 25.0
