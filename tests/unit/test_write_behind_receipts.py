"""The receipt of an accepted write: it rises, it ends once, and whoever waits is told."""

from __future__ import annotations

import asyncio

import pytest

from fix_undecided import B1, pending
from holdfast.entry import Durability
from holdfast.errors import Closed, Refused, Undecided
from holdfast.testing.simulation import World, simulate

ACCEPTED, JOURNALED, COMMITTED = Durability
REFUSED = Refused(B1, "gone", "it was deleted")


def test_whoever_waits_is_told_when_it_has_survived_that_much() -> None:
    """Not before; what it survived more counts too."""

    async def scenario(world: World) -> list[str]:
        write, told = pending(1), list[str]()

        async def wait(durability: Durability) -> None:
            receipt = await write.reached(durability)
            assert receipt is write
            told.append(durability.value)

        waiting = [asyncio.ensure_future(wait(each)) for each in (COMMITTED, JOURNALED, ACCEPTED)]
        await asyncio.sleep(1)
        told.append("|")
        write.journaled(1)
        await asyncio.sleep(1)
        assert (write.replicas, write.version) == (1, 0)
        told.append("|")
        write.committed(7)
        await asyncio.gather(*waiting)
        assert write.version == 7
        return told

    assert simulate(1, scenario) == ["accepted", "|", "journaled", "|", "committed"]


def test_a_committed_write_was_journaled_too_and_does_not_fall_back() -> None:
    """The journal's late answer changes nothing."""

    async def scenario(world: World) -> None:
        write = pending(1)
        waiting = asyncio.ensure_future(write.reached(JOURNALED))
        await asyncio.sleep(1)
        write.committed(7)
        write.journaled(1)
        assert (await waiting).durability is COMMITTED
        assert not write.awaits(ACCEPTED)

    simulate(1, scenario)


def test_a_refusal_reaches_all_who_wait_and_all_who_ask_later() -> None:
    """Each gets an error of its own."""

    async def scenario(world: World) -> None:
        write = pending(1)
        waiting = [asyncio.ensure_future(write.reached(COMMITTED)) for _ in range(2)]
        await asyncio.sleep(1)
        write.refused(REFUSED)
        faults = await asyncio.gather(*waiting, write.reached(ACCEPTED), return_exceptions=True)
        assert [type(fault) for fault in faults] == [Refused] * 3
        assert len({id(fault) for fault in faults}) == 3
        assert write.is_decided
        write.left(Closed("the store was closed"))  # too late
        with pytest.raises(Refused):
            await write.reached(COMMITTED)

    simulate(1, scenario)


def test_whoever_waited_too_long_has_the_receipt_and_may_wait_further() -> None:
    """The write is not given up."""

    async def scenario(world: World) -> None:
        write = pending(1)
        with pytest.raises(Undecided) as late:
            await write.reached(COMMITTED, 2.0)
        assert late.value.receipt is write
        assert not write.awaits(ACCEPTED)
        write.committed(7)
        assert await late.value.receipt.reached(COMMITTED) is write

    simulate(1, scenario)


def test_a_caller_who_is_cancelled_waits_no_more() -> None:
    """And nobody counts it among those who wait."""

    async def scenario(world: World) -> None:
        write = pending(1)
        waiting = asyncio.ensure_future(write.reached(JOURNALED))
        await asyncio.sleep(1)
        assert write.awaits(JOURNALED)
        assert not write.awaits(COMMITTED)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not write.awaits(JOURNALED)
        write.journaled(1)

    simulate(1, scenario)


def test_entered_again_it_is_in_no_journal_and_is_told_what_it_was() -> None:
    """What it has survived it has survived; its place in the old journal counts no more."""
    write, other = pending(1), pending(5)
    write.appended, write.unsecured, write.stamp, write.tentative = True, True, 9, REFUSED
    assert write.in_journal
    write.enter_again(other.entry, other.data)
    assert (write.entry.seq, write.size) == (5, other.size)
    fresh = pending(5)
    for name in ("in_journal", "unsecured", "stamp", "tentative", "durability"):
        assert getattr(write, name) == getattr(fresh, name), name
