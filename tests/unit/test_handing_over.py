"""What a server has written to a document is decided before another one takes it over, or that one knows it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fix_owners import KEY, KINDS, TASK, Task, append, items_of, raise_epoch
from holdfast import Consistency, Durability, Refused, Settings
from holdfast.documents import Limits
from holdfast.errors import NotOwner, TierUnavailable
from holdfast.flows import Flows
from holdfast.kinds import register
from holdfast.protocols import JournalRecord
from holdfast.row_decoding import RowDecoder
from holdfast.testing import JournalHub, ManualClock, MemoryJournals, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.write_behind.flushing import Flushing
from holdfast.write_behind.overlay import Overlay
from holdfast.write_behind.publishing import FlushPublisher

SETTINGS = Settings(write_behind_quiet_seconds=600.0, write_behind_age_seconds=600.0, verify_share=0.0)
"""Nothing is due before somebody waits for it."""


class Two:
    """Two servers: an owner that lives, and one that takes over; nobody hears of the other by the feed."""

    def __init__(self, old: Flows, new: Flows, hub: JournalHub) -> None:
        self.old, self.new, self.hub = old, new, hub

    async def decide(self) -> int:
        """Decide what the owner has written."""
        return await self.new.handing_over.decide_for(KEY, "old")

    @property
    def journal(self) -> str:
        """The owner's."""
        name = self.old.write_behind.lives.journal
        assert name is not None
        return name


@asynccontextmanager
async def two_servers() -> AsyncIterator[Two]:
    """Two servers over tiers in memory, and a document of epoch 1 that the owner has read."""
    clock, hub = ManualClock(), JournalHub()
    l3 = MemoryStorage(register(KINDS).values())

    def server(name: str) -> Any:
        return connect_flows(
            kinds=KINDS, l3=l3, streams=MemoryJournals(hub), clock=clock, settings=SETTINGS, server=name
        )

    async with server("old") as old, server("new") as new:
        for flows in (old, new):
            await flows.feed.stop()
            await flows.takeover.stop()
            flows.handing_over._sleep = _turn
        await old.store.collection(TASK).put(KEY.id, Task())
        yield Two(old, new, hub)


async def _turn(_: float) -> None:
    await asyncio.sleep(0)


async def shown_after_its_flush() -> list[str]:
    """What the owner shows when it has found out by its own flush, and its feed has told it nothing."""
    async with two_servers() as two:
        await append(two.old.store, "a", owner=1)
        assert await items_of(two.old.store) == ["a"]
        assert await two.decide() == 1
        assert await two.old.store.flush() == []
        return await items_of(two.old.store)


async def test_what_was_decided_elsewhere_is_still_shown_when_it_is_laid_over_no_longer() -> None:
    """W7: no cache of the owner answers with the row of before."""
    assert await shown_after_its_flush() == ["a"]


async def test_mutant_caches_keep_what_a_taker_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If they are not told, the owner's own write vanishes until the feed comes."""
    monkeypatch.setattr(FlushPublisher, "doubt", lambda *_: None)
    assert await shown_after_its_flush() == []


async def test_what_is_written_meanwhile_lies_over_what_was_decided() -> None:
    """Each is shown once, in order, before and after the owner has found out."""
    async with two_servers() as two:
        await append(two.old.store, "a", owner=1)
        await two.decide()
        await append(two.old.store, "b", owner=1)
        for _ in range(2):
            assert await items_of(two.old.store) == ["a", "b"]
            await two.old.store.flush()


async def test_what_a_taker_refused_is_told_as_refused() -> None:
    """Its reason is `not_owner`: the marks tell that it was refused, and not why."""
    async with two_servers() as two:
        late = await append(two.old.store, "a", owner=1)
        await raise_epoch(two.new.store)
        await two.decide()
        assert two.new.counters.write_behind.refused == 1
        await two.old.store.flush()
        with pytest.raises(Refused) as refused:
            await late.reached(Durability.COMMITTED)
        assert refused.value.reason == "not_owner"
        assert await items_of(two.old.store) == []


async def shown_by_an_owner_of_before() -> list[str]:
    """What it shows of a row of the next epoch, while it has not found out what became of its own write."""
    async with two_servers() as two:
        await append(two.old.store, "a", owner=1)
        await raise_epoch(two.new.store)
        assert two.old.store.backlog().writes == 1
        return await items_of(two.old.store, Consistency.STRONG)


async def test_what_will_be_refused_is_not_laid_over() -> None:
    """A row of a later epoch has what was written under an earlier one, or never will have it."""
    assert await shown_by_an_owner_of_before() == []


async def test_mutant_what_will_be_refused_is_laid_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without looking at epochs a server shows what it has lost."""
    monkeypatch.setattr(Overlay, "_epoch_of", lambda *_: 0)
    assert await shown_by_an_owner_of_before() == ["a"]


async def test_a_write_under_an_earlier_epoch_than_is_known_is_not_accepted() -> None:
    """One under a later epoch is: this server has not heard of it yet."""
    async with two_servers() as two:
        await raise_epoch(two.old.store)
        with pytest.raises(NotOwner, match="epoch 2"):
            await append(two.old.store, "a", owner=1)
        assert two.old.store.backlog().writes == 0
        await append(two.old.store, "b", owner=3)
        assert two.old.store.backlog().writes == 1


async def test_while_l2_is_away_nobody_goes_on() -> None:
    """What the owner had acknowledged there cannot be known; nothing is decided."""
    async with two_servers() as two:
        await append(two.old.store, "a", owner=1)
        two.hub.away = True
        with pytest.raises(TierUnavailable, match="is not known"):
            await two.decide()
        two.hub.away = False
        (record,) = await two.new._given.journals.records()
        assert len(record.decided) == 0


async def test_a_journal_that_another_server_takes_over_meanwhile() -> None:
    """It is gone on with at the new epoch, though it was read at the old one."""
    async with two_servers() as two:
        await append(two.old.store, "a", owner=1)
        base: Any = two.new._given.journals
        before, records = await base.records(), base.records
        assert await base.take(two.journal, 1, "a third")
        await two.new._given.streams.seal(two.journal)
        told = [before]

        async def late() -> Sequence[JournalRecord]:
            found: Sequence[JournalRecord] = told.pop() if told else await records()
            return found

        base.records = late
        assert await two.decide() == 1
        base.records = records
        assert await items_of(two.new.store) == ["a"]


async def test_only_the_entries_of_the_key_are_decided() -> None:
    """Those of other keys wait for their time, and a journal of another server is not looked at."""
    async with two_servers() as two:
        await two.old.store.collection(TASK).put("other", Task())
        for number in range(3):
            await append(two.old.store, f"o{number}", key="other")
            last = await append(two.old.store, f"k{number}")
        assert await two.new.handing_over.decide_for(KEY, "somebody") == 0
        assert await two.decide() == last.entry.seq
        (record,) = await two.new._given.journals.records()
        assert [seq for seq in range(1, 7) if seq in record.decided] == [2, 4, 6]


async def test_what_was_applied_elsewhere_is_not_given_up() -> None:
    """An entry that L3 refused of this server, and took from another one meanwhile, is no letter."""
    async with two_servers() as two:
        write = await append(two.old.store, "a", owner=1)
        await two.decide()
        kinds = register(KINDS)
        flushing = Flushing(two.old._given.journals, kinds, Limits(), RowDecoder(kinds).stored)
        assert await flushing.refuse(two.journal, 1, [write.entry], "L3 refused it") == {}
        assert await two.old._given.journals.letters(limit=10) == []
