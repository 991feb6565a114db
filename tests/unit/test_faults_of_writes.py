"""Which faults of writes and reads begin a recovery: L3's own, with the documents that are affected, and no others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from fix_recovery import Scene, scene
from holdfast import Bot, OutcomeUnknown, SerializationFailure
from holdfast.errors import HoldfastError, Overloaded, RowRefused, StorageFull, TierError
from holdfast.testing.memory_transaction import MemoryTransaction
from holdfast.writing import REPORTED_MAX

ADA = Bot(name="Ada")


def fails(fault: HoldfastError) -> Callable[..., Awaitable[Any]]:
    """What does nothing but fail."""

    async def fail(*_: object, **__: object) -> Any:
        raise fault

    return fail


async def subjects(at: Scene, ends: int) -> set[str]:
    """What recoveries were of, once so many have ended."""
    await at.so(lambda: len(at.ends) >= ends)
    return {f"{each.data['errorType']} {each.data['subject']}" for each in at.ends}


@pytest.mark.parametrize(
    ("fault", "of"),
    [
        (OutcomeUnknown("the reply was lost"), {"transaction_failed bot:b1", "transaction_failed bot:b2"}),
        (TierError("L3: internal error"), {"transaction_failed bot:b1", "transaction_failed bot:b2"}),
        (StorageFull("no room"), {"transaction_failed tier:l3"}),
    ],
)
async def test_a_commit_that_fails_is_told_with_what_it_wrote(
    fault: HoldfastError, of: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each document is looked at again; a full disk is of L3 as a whole."""
    async with scene() as at:
        with monkeypatch.context() as patch, pytest.raises(type(fault)):  # noqa: PT012 - the block's end is the point
            patch.setattr(MemoryTransaction, "commit", fails(fault))
            async with at.flows.store.transaction() as tx:
                await tx.bots.put_many({"b1": ADA, "b2": ADA})
        assert await subjects(at, len(of)) == of


async def test_a_disk_that_is_full_before_the_commit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """L3 says so of the statement that needs the room."""
    async with scene() as at:
        with monkeypatch.context() as patch, pytest.raises(StorageFull):  # noqa: PT012 - as above
            async with at.flows.store.transaction() as tx:
                patch.setattr(MemoryTransaction, "save", fails(StorageFull("no room")))
                await tx.bots.put("b1", ADA)
        assert await subjects(at, 1) == {"transaction_failed tier:l3"}


async def test_of_a_large_write_some_documents_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery for each of thousands would be a load of its own."""
    async with scene() as at:
        monkeypatch.setattr(at.l3, "save", fails(OutcomeUnknown("the reply was lost")))
        with pytest.raises(OutcomeUnknown):
            await at.flows.store.bots.put_many({f"b{number}": ADA for number in range(3 * REPORTED_MAX)})
        assert at.counters.reported == REPORTED_MAX


@pytest.mark.parametrize("fault", [SerializationFailure("in the way"), RowRefused("a constraint"), Overloaded("full")])
async def test_what_is_the_callers_begins_no_recovery(fault: HoldfastError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others were in the way, the row is not allowed, or there is no room in the queue."""
    async with scene() as at:
        with monkeypatch.context() as patch, pytest.raises(type(fault)):  # noqa: PT012 - as above
            patch.setattr(MemoryTransaction, "commit", fails(fault))
            async with at.flows.store.transaction() as tx:
                await tx.bots.put("b1", ADA)
        assert at.counters.reported == 0


async def test_sql_that_ended_its_transaction_is_no_fault_of_l3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outcome is unknown all the same."""
    async with scene() as at:
        healthy = MemoryTransaction.affected

        async def ended(self: MemoryTransaction) -> Any:
            return msgspec.structs.replace(await healthy(self), ended=True)

        monkeypatch.setattr(MemoryTransaction, "affected", ended)
        with pytest.raises(OutcomeUnknown, match="ended its transaction"):
            async with at.flows.store.transaction() as tx:
                await tx.bots.put("b1", ADA)
        assert at.counters.reported == 0


async def test_a_read_that_finds_no_room_begins_no_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would ask an L3 once more that has too much to do."""
    async with scene() as at:
        with monkeypatch.context() as patch:
            patch.setattr(at.l3, "load", fails(Overloaded("full")))
            for _ in range(3):
                with pytest.raises(Overloaded):
                    await at.flows.store.bots.get("b1")
            assert at.counters.reported == 0
            patch.setattr(at.l3, "load", fails(TierError("L3: internal error")))
            with pytest.raises(TierError):
                await at.flows.store.bots.get("b1")
            assert at.counters.reported == 1
