"""A refusal whose commit was not heard of stays a refusal: the next transaction knows that it is decided, not how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import pytest

from fix_left_journals import KEY
from holdfast import Bot, Durability, OutcomeUnknown, Refused, Set
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.testing import MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_journal_base import MemoryFlush
from holdfast.write_behind.flusher import Batch, Flusher
from holdfast.write_behind.flushing import Settled
from holdfast.write_behind.receipts import PendingWrite

Write = Callable[[Flows, MemoryStorage], Awaitable[PendingWrite]]


class Unheard:
    """The answers of the next commits of flushes are lost, after they took effect or before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: bool) -> None:
        healthy, left = MemoryFlush.commit, list(outcomes)

        async def commit(flush: MemoryFlush) -> None:
            if not left:
                await healthy(flush)
                return
            if left.pop(0):
                await healthy(flush)
            raise OutcomeUnknown("L3: sent, and the answer was lost")

        monkeypatch.setattr(MemoryFlush, "commit", commit)


async def gone(flows: Flows, l3: MemoryStorage) -> PendingWrite:
    """A write whose row is deleted before its flush."""
    receipt = await flows.store.bots.patch("b1", Set("name", "new"), durability=Durability.JOURNALED)
    await l3.delete(KEY)
    assert isinstance(receipt, PendingWrite)
    return receipt


async def poison(flows: Flows, l3: MemoryStorage) -> PendingWrite:
    """A write whose row L3 refuses."""
    receipt = await flows.store.bots.patch("b1", Set("name", "bad"), durability=Durability.JOURNALED)
    assert isinstance(receipt, PendingWrite)
    return receipt


async def is_refused(monkeypatch: pytest.MonkeyPatch, write: Write, outcomes: tuple[bool, ...]) -> bool:
    """Whether a write that is refused is told as refused; False: as committed."""
    l3 = MemoryStorage(refuses=lambda _, body: b"bad" in body)
    async with connect_flows(l3=l3) as flows:
        await flows.store.bots.put("b1", Bot(name="old"))
        receipt = await write(flows, l3)
        Unheard(monkeypatch, *outcomes)
        await flows.store.flush()
        try:
            await receipt.reached(Durability.COMMITTED, 30)
        except Refused:
            return True
    return False


WRITES = [gone, poison]


@pytest.mark.parametrize("outcomes", [(True,), (False,), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("write", WRITES)
async def test_an_unheard_refusal_stays_one(
    monkeypatch: pytest.MonkeyPatch, write: Write, outcomes: tuple[bool, ...]
) -> None:
    """Whichever of its attempts took effect."""
    assert await is_refused(monkeypatch, write, outcomes)


@pytest.mark.parametrize("write", WRITES)
async def test_mutant_what_an_attempt_decided_is_forgotten(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    """If the next attempt asks neither the one before nor the marks, a refusal is told as a commit."""
    stamp = Flusher._stamp

    def forgetting(flusher: Flusher, batch: Batch, settled: Mapping[Key, Settled]) -> None:
        for key, writes in batch.items():
            settled[key].withheld = frozenset()
            for each in writes:
                each.tentative = None
        stamp(flusher, batch, settled)

    monkeypatch.setattr(Flusher, "_stamp", forgetting)
    assert not await is_refused(monkeypatch, write, (True,))
