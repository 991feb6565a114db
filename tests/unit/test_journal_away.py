"""A journal whose L2 was away: asking whether it is back drops nothing that is not decided."""

from __future__ import annotations

import pytest

from fix_loop import settle
from holdfast import Bot, Durability, Increment, Set, Swarm
from holdfast.testing import JournalHub, MemoryJournals
from holdfast.testing.clock import ManualClock
from holdfast.testing.door import connect_flows


async def kept_after_an_outage() -> list[int]:
    """The entries in the stream after L2 was away while a write was committed, and came back."""
    hub = JournalHub()
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await settle()

    async with connect_flows(streams=MemoryJournals(hub), clock=ManualClock(), sleep=sleep) as flows:
        store = flows.store
        await store.swarms.put("s1", Swarm())
        await store.bots.put("b1", Bot(name="old"))
        for _ in range(3):
            await store.swarms.patch("s1", Increment("stats", "total_tool_calls"), durability=Durability.JOURNALED)
        journal = store.backlog().journal
        assert journal is not None
        hub.away = True
        await store.bots.patch("b1", Set("name", "new"), durability=Durability.JOURNALED)  # committed at once
        hub.away = False
        for _ in range(20):
            await settle()
        life = flows.write_behind.lives.current
        assert life is not None
        assert not life.journal.is_away
        return [seq for seq, _ in await MemoryJournals(hub).read(journal, after=0, limit=10)]


async def test_what_is_not_decided_stays() -> None:
    """Whoever took over would find nothing else of what was acknowledged."""
    assert (await kept_after_an_outage())[:3] == [1, 2, 3]


async def test_mutant_all_that_was_acknowledged_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chaos over real servers found it: 315 acknowledged writes were gone with their server."""
    append = MemoryJournals.append

    async def dropping(self, journal, entries, *, expected, keep_from):  # type: ignore[no-untyped-def]
        return await append(self, journal, entries, expected=expected, keep_from=keep_from if entries else expected)

    monkeypatch.setattr(MemoryJournals, "append", dropping)
    assert (await kept_after_an_outage())[:3] != [1, 2, 3]
