"""A server that is closed while a tier is away leaves its writes to others, and nothing of it goes on."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fix_virtual import ACCEPTED, CALM, COMMITTED, ONE, GatedBase, GatedJournals, Servers, begin, calls, life_of, tasks
from holdfast import Closed, Consistency, Receipt
from holdfast.protocols import JournalState
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.journal import JournalWriter

SEEDS = range(5)
FAULT = RuntimeError("a fault of this package")


async def closed_while_l3_is_away(world: World) -> tuple[list[int | None], list[str]]:
    """Four increments of four rows, the third of which is committed before its turn in the journal.

    Returns the counts once another server has come by, and the tasks that were left before.
    """
    servers = Servers(world)
    streams, base = GatedJournals(servers.hub), GatedBase(servers.l3, world)
    receipts: list[Receipt] = []
    async with servers.server(streams=streams, journals=base, **CALM) as flows:
        state = flows.store
        await begin(state, "a", "b", "c", "d")
        streams.gate.clear()
        receipts.append(await state.swarms.patch("a", ONE, durability=ACCEPTED))
        await asyncio.sleep(0.1)  # virtual: its append is under way
        receipts.append(await state.swarms.patch("b", ONE, durability=ACCEPTED))
        await state.swarms.patch("c", ONE, durability=COMMITTED)
        receipts.append(await state.swarms.patch("d", ONE, durability=ACCEPTED))
        base.away = True
        streams.gate.set()
        journal = life_of(flows).name
    left = tasks()
    assert await servers.state(journal) is JournalState.RELEASED
    for receipt in receipts:
        with pytest.raises(Closed):
            await receipt.reached(COMMITTED)
    async with servers.server(**CALM) as other:
        await servers.until_drained(journal)
        return [await calls(other.store, key, Consistency.STRONG) for key in "abcd"], left


@pytest.mark.parametrize("seed", SEEDS)
def test_its_writes_are_decided_by_the_next_server(seed: int) -> None:
    """Each of them once; the journal is released, so that nobody waits for its beat to stand still."""
    assert simulate(seed, closed_while_l3_is_away) == ([1, 1, 1, 1], [])


async def closed_with_a_fault(world: World) -> tuple[JournalState, list[str]]:
    """The journal's state and the tasks that are left, when the last append fails as no tier does."""
    servers = Servers(world)
    streams, base = GatedJournals(servers.hub), GatedBase(servers.l3, world)
    with contextlib.suppress(RuntimeError):
        async with servers.server(streams=streams, journals=base, **CALM) as flows:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            await begin(flows.store, "a")
            base.away, streams.fault = True, FAULT
            await flows.store.swarms.patch("a", ONE, durability=ACCEPTED)
            journal = life_of(flows).name
    left = [task for task in asyncio.all_tasks() if task.get_name() in tasks()]
    names = tasks()
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return await servers.state(journal), names


def test_no_fault_keeps_a_server_from_its_end() -> None:
    """What could not be appended is lost with the process, and said so; all else is ended."""
    assert simulate(0, closed_with_a_fault) == (JournalState.RELEASED, [])


def test_mutant_a_fault_of_the_last_append_ends_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heart of a server that is closed beats on, so that nobody takes its journal."""

    async def drain(writer: JournalWriter) -> None:
        await writer.stop()
        while writer._has_waiting():
            await writer._round()

    monkeypatch.setattr(JournalWriter, "drain", drain)
    state, left = simulate(0, closed_with_a_fault)
    assert state is JournalState.LIVE
    assert "holdfast journal heartbeat" in left
