"""Whoever decides that an accepted write is refused tells its own subscribers so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from fix_events import Notes, until
from fix_left_journals import KEY, entry, leave, named
from holdfast import Bot, Durability, InvalidTopic, Merge, Refused, Set
from holdfast.documents import encode
from holdfast.flows import Flows
from holdfast.invalidation.topics import WRITE_REFUSED
from holdfast.protocols import JournalState, Write
from holdfast.seq_set import SeqSet
from holdfast.testing import JournalHub, ManualClock, MemoryFeed, MemoryJournalBase, MemoryJournals, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.write_behind import flusher, making
from holdfast.write_behind.refusals import DETAIL_CHARACTERS_MAX, refusal_data

SECRET = "secret"


class Scene:
    """A server with a subscriber, and what it decides by."""

    def __init__(self, flows: Flows, l3: MemoryStorage, base: MemoryJournalBase, streams: MemoryJournals) -> None:
        self.flows = flows
        self.l3 = l3
        self.base = base
        self.streams = streams
        self.notes = Notes()
        flows.store.subscribe("**", self.notes)

    async def heard(self) -> list[Mapping[str, Any]]:
        """The data of all that was told of refused writes until now."""
        self.flows.bus.announce("the/end", None)

        async def ended() -> bool:
            return any(event.type == "the/end" for event in self.notes.events)

        await until(ended)
        return [event.data for event in self.notes.events if event.type == WRITE_REFUSED]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A server that has written a bot."""
    l3, streams = MemoryStorage(), MemoryJournals(JournalHub())
    base = MemoryJournalBase(l3, ManualClock())
    async with connect_flows(l3=l3, journals=base, streams=streams) as flows:
        await flows.store.bots.put("b1", Bot(name="old"))
        yield Scene(flows, l3, base, streams)


async def refuse_at_a_flush(scene: Scene) -> tuple[str, str]:
    """The row was deleted before."""
    receipt = await scene.flows.store.bots.patch("b1", Set("name", SECRET), durability=Durability.JOURNALED)
    journal = scene.flows.write_behind.lives.journal
    await scene.l3.delete(KEY)
    await scene.flows.store.flush()
    with pytest.raises(Refused):
        await receipt.reached(Durability.COMMITTED)
    assert journal is not None
    return journal, "gone"


async def refuse_at_a_takeover(scene: Scene) -> tuple[str, str]:
    """The row that the dead server had seen is another one now."""
    await leave(scene.base, scene.streams, [named(1, SECRET, birth=4711)])
    await scene.flows.takeover.look()
    return "j", "gone"


async def refuse_what_cannot_be_read(scene: Scene) -> tuple[str, str]:
    """An entry is damaged."""
    await leave(scene.base, scene.streams, [(1, b"x" * 40)])
    await scene.flows.takeover.look()
    return "j", "poison"


async def refuse_at_a_renewal(scene: Scene) -> tuple[str, str]:
    """Another server has taken the journal over, and refused what was in it."""
    receipt = await scene.flows.store.bots.patch("b1", Set("name", SECRET), durability=Durability.JOURNALED)
    journal = scene.flows.write_behind.lives.journal
    assert journal is not None
    assert await scene.base.take(journal, 1, "other")
    flush = await scene.base.open_flush(journal, 2)
    await flush.decide(SeqSet.of([1]), SeqSet.of([1]), [])
    await flush.commit()
    assert await scene.base.enter_state(journal, 2, JournalState.DRAINED)
    await scene.flows.store.flush()
    with pytest.raises(Refused):
        await receipt.reached(Durability.COMMITTED)
    return journal, "not_owner"


WAYS = [refuse_at_a_flush, refuse_at_a_takeover, refuse_what_cannot_be_read, refuse_at_a_renewal]


@pytest.mark.parametrize("refuse", WAYS)
async def test_a_refused_write_is_told(scene: Scene, refuse: Callable[[Scene], Awaitable[tuple[str, str]]]) -> None:
    """Which it was and why, once, and nothing of what it would have written."""
    journal, reason = await refuse(scene)
    (data,) = await scene.heard()
    assert (data["journal"], data["seq"], data["reason"]) == (journal, 1, reason)
    assert set(data) == {"kind", "id", "reason", "detail", "journal", "seq"}
    assert SECRET not in str(data)
    if refuse is not refuse_what_cannot_be_read:
        assert (data["kind"], data["id"]) == ("bot", "b1")


@pytest.mark.parametrize("refuse", WAYS)
async def test_mutant_nobody_is_told(
    refuse: Callable[[Scene], Awaitable[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the announcements the same scenes are silent: it is they that the test above hears."""
    monkeypatch.setattr(making, "announcing", lambda *_: lambda *_: None)
    l3, streams = MemoryStorage(), MemoryJournals(JournalHub())
    base = MemoryJournalBase(l3, ManualClock())
    async with connect_flows(l3=l3, journals=base, streams=streams) as flows:
        await flows.store.bots.put("b1", Bot(name="old"))
        scene = Scene(flows, l3, base, streams)
        await refuse(scene)
        assert await scene.heard() == []


async def test_a_takeover_tells_of_each_refused_write_alone(scene: Scene) -> None:
    """What it applied it does not tell; what it refused is counted."""
    await leave(
        scene.base,
        scene.streams,
        [named(1), entry(2, Merge("metadata", {"a": 1}), birth=1), named(3, birth=1), named(4)],
    )
    await scene.flows.takeover.look()
    assert [data["seq"] for data in await scene.heard()] == [2, 3]
    assert scene.flows.counters.write_behind.refused == 2


async def test_nobody_else_may_tell_it(scene: Scene) -> None:
    """The topic is the store's own, and no group's."""
    with pytest.raises(InvalidTopic, match="the store itself tells it"):
        await scene.flows.store.publish(WRITE_REFUSED, {})
    with pytest.raises(InvalidTopic, match="subscribe without a group"):
        scene.flows.store.subscribe(WRITE_REFUSED, Notes(), group="g")


def test_the_detail_is_cut_short() -> None:
    """A user's class may say anything of its values."""
    data = refusal_data(Refused(KEY, "poison", "x" * 10_000), "j", 1)
    assert len(data["detail"]) == DETAIL_CHARACTERS_MAX


async def committed_meanwhile(l3: MemoryStorage) -> None:
    """By another server, or another program."""
    await l3.save([Write(KEY, Bot.SCHEMA, encode(Bot(name="committed")), None)])


async def deleted_meanwhile(l3: MemoryStorage) -> None:
    """Likewise."""
    await l3.delete(KEY)


async def read_after(meanwhile: Callable[[MemoryStorage], Awaitable[None]]) -> Bot | None:
    """What a server reads whose `Set` was refused, before the feed has told it why."""
    l3, streams = MemoryStorage(), MemoryJournals(JournalHub())
    feed = MemoryFeed(l3)
    base = MemoryJournalBase(l3, ManualClock())
    async with connect_flows(l3=l3, feed=feed, journals=base, streams=streams) as flows:
        await flows.store.bots.put("b1", Bot(name="old"))
        await flows.store.bots.get("b1")
        receipt = await flows.store.bots.patch("b1", Set("name", SECRET), durability=Durability.JOURNALED)
        await flows.feed.refresh()
        feed.hold()
        await meanwhile(l3)
        await flows.store.flush()
        with pytest.raises(Refused):
            await receipt.reached(Durability.COMMITTED)
        bot = await flows.store.bots.get("b1")
        feed.release()
        return bot


@pytest.mark.parametrize(
    ("meanwhile", "read"), [(committed_meanwhile, Bot(name="committed")), (deleted_meanwhile, None)]
)
async def test_whoever_is_refused_reads_the_row_that_refused_it(
    meanwhile: Callable[[MemoryStorage], Awaitable[None]], read: Bot | None
) -> None:
    """And not what its write was made on, for which the same would be refused again."""
    assert await read_after(meanwhile) == read


@pytest.mark.parametrize("meanwhile", [committed_meanwhile, deleted_meanwhile])
async def test_mutant_the_caches_are_not_told_of_that_row(
    meanwhile: Callable[[MemoryStorage], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory answers with what was there before, within its bound."""
    monkeypatch.setattr(flusher, "refused_by", lambda _settled: {})
    assert await read_after(meanwhile) == Bot(name="old")
