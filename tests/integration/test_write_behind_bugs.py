"""Faults of the system whose state this one is to hold, by their numbers in its history: none of them is here.

Servers of these tests have tiers in memory and the time of day.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from fix_races import until
from fix_write_behind import names_in, noted
from holdfast import (
    Append,
    Conflict,
    CorruptDocument,
    Delete,
    Durability,
    Increment,
    Merge,
    NotFound,
    Set,
    Settings,
    Swarm,
    TierUnavailable,
)
from holdfast.clock import SystemClock
from holdfast.documents.swarm import BlackboardItem
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.protocols import Write
from holdfast.testing import JournalHub, MemoryCache, MemoryJournals, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_journal_base import MemoryFlush, MemoryJournalBase
from holdfast.write_behind.buffer import Buffer
from holdfast.write_behind.flusher import BACKOFF_MAX_SECONDS, BACKOFF_SECONDS

ACCEPTED, COMMITTED = Durability.ACCEPTED, Durability.COMMITTED
KEY = Key("swarm", "s1")
SETTINGS = Settings(write_behind_quiet_seconds=0.02, write_behind_age_seconds=0.1, journal_replicas=0, verify_share=0)
PATIENT = msgspec.structs.replace(SETTINGS, write_behind_quiet_seconds=600.0, write_behind_age_seconds=600.0)


@asynccontextmanager
async def servers(count: int, settings: Settings = SETTINGS) -> AsyncIterator[list[Flows]]:
    """So many servers over one L2 and one L3 in memory, with a row for KEY."""
    clock, hub = SystemClock(), JournalHub()
    l2, l3 = MemoryCache(clock), MemoryStorage(register([]).values())
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(
                connect_flows(l2=l2, l3=l3, streams=MemoryJournals(hub), clock=clock, settings=settings)
            )
            for _ in range(count)
        ]
        await running[0].store.swarms.put(KEY.id, Swarm())
        yield running


@pytest.fixture
async def server() -> AsyncIterator[Flows]:
    """One of them."""
    async with servers(1) as (flows,):
        yield flows


async def accept(flows: Flows, name: str, key: str = KEY.id) -> Any:
    return await flows.store.swarms.patch(key, *noted(name), default=Swarm(), durability=ACCEPTED)


async def committed(flows: Flows, key: Key = KEY) -> Swarm:
    """The row in L3."""
    row = (await flows.resolver._l3.load([key])).rows[key]
    return flows.resolver.decode(key, row)  # type: ignore[no-any-return]


async def version_of(flows: Flows) -> int:
    """Of the row, as the server shows it."""
    entry = await flows.store.swarms.entry(KEY.id)
    assert entry is not None
    return entry.version


class Gate:
    """Holds the first commit of a flush until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        commit = MemoryFlush.commit

        async def held(flush: MemoryFlush) -> None:
            self.reached.set()
            await self.open.wait()
            await commit(flush)

        monkeypatch.setattr(MemoryFlush, "commit", held)


async def write_during_a_flush(server: Flows, gate: Gate) -> list[str]:
    """What is in L3 after a write that came while another one of its key was being committed."""
    first = await accept(server, "1")
    await gate.reached.wait()
    await accept(server, "2")
    gate.open.set()
    await first.reached(COMMITTED, 10)
    await server.store.flush()
    return names_in(await committed(server))


async def test_b1_a_write_during_a_flush_is_written_too(server: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: the original took what came meanwhile for stored, and lost it."""
    assert await write_during_a_flush(server, Gate(monkeypatch)) == ["1", "2"]


async def test_b1_a_flush_that_takes_all_for_stored_is_found(server: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1 as it was: whatever is there when the flush ends counts as stored."""
    decided = Buffer.decided
    monkeypatch.setattr(Buffer, "decided", lambda buffer, key, _: decided(buffer, key, buffer.queues[key].writes))
    assert await write_during_a_flush(server, Gate(monkeypatch)) == ["1"]


async def test_b2_what_is_due_during_a_flush_is_flushed_after_it(
    server: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2: the original's timer went off while a flush was under way, and never again."""
    gate = Gate(monkeypatch)
    await accept(server, "1")
    await gate.reached.wait()
    later = await accept(server, "2")
    buffer, clock = server.write_behind.buffer, SystemClock()
    due_at = later.accepted_at + SETTINGS.write_behind_age_seconds

    async def overdue() -> bool:
        return bool(clock.monotonic() > due_at)

    await until(overdue)
    assert len(buffer) == 2
    gate.open.set()
    await later.reached(COMMITTED, 10)  # nobody hurries it
    assert names_in(await committed(server)) == ["1", "2"]


async def test_b3_one_write_is_written_once(server: Flows) -> None:
    """B3: the original compared a fresh copy by its address, and wrote for ever."""
    receipt = await (await accept(server, "1")).reached(COMMITTED, 10)
    for name in ("2", "3", "4"):  # each takes the time after which the first would be written again
        await (await accept(server, name, "another")).reached(COMMITTED, 10)
    assert await version_of(server) == receipt.version
    assert server.counters.write_behind.flushes == 4
    assert await server.store.flush(timeout=0) == []


async def test_b4_a_failing_l3_is_asked_ever_less_often(server: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    """B4: the original repeated a failed write at each turn, with no pause, no count and no word of it."""
    await (await accept(server, "0")).reached(COMMITTED, 10)
    life = server.write_behind.lives.current
    assert life is not None
    pauses: list[float] = []
    open_flush = MemoryJournalBase.open_flush

    async def fails(base: MemoryJournalBase, journal: str, epoch: int) -> MemoryFlush:
        if len(pauses) < 20:
            raise TierUnavailable("L3 is away")
        return await open_flush(base, journal, epoch)

    async def pause(seconds: float) -> None:
        told = server.store.backlog()
        assert (told.writes, told.fault) == (1, "L3 is away")
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(MemoryJournalBase, "open_flush", fails)
    life.flusher._sleep = pause
    await (await accept(server, "1")).reached(COMMITTED, 10)
    assert server.counters.write_behind.retries == 20
    assert all(BACKOFF_SECONDS <= each <= BACKOFF_MAX_SECONDS for each in pauses)
    assert sum(pauses[10:]) > 4 * sum(pauses[:5])
    assert server.store.backlog().fault is None


async def test_b5_what_is_removed_is_gone(server: Flows) -> None:
    """B5: the original's differences could not say that a key was removed, and took equal lists for changed."""
    swarms = server.store.swarms
    await swarms.put(KEY.id, Swarm(goal="g", metadata={"kept": 1, "removed": 2}, available_tools=["a"]))
    before = await version_of(server)
    await swarms.patch(KEY.id, Delete("metadata", "removed"), Delete("goal"), durability=COMMITTED)
    row = await committed(server)
    assert (row.goal, dict(row.metadata)) == (None, {"kept": 1})
    changed = await version_of(server)
    assert changed > before
    await swarms.patch(KEY.id, Set("available_tools", ["a"]), durability=COMMITTED)
    assert await version_of(server) == changed


async def test_b6_a_change_leaves_the_rest_as_it_is(server: Flows) -> None:
    """B6: the original's partial update replaced the whole configuration by its own description."""
    swarms = server.store.swarms
    whole = Swarm(goal="g", metadata={"a": {"b": 1, "c": 2}})
    await swarms.put(KEY.id, whole)
    await swarms.patch(KEY.id, Merge("metadata", {"a": {"b": 3}}), Set("limits", "max_credits", 7))
    await server.store.flush()
    limits = msgspec.structs.replace(whole.limits, max_credits=7)
    assert await committed(server) == Swarm(goal="g", metadata={"a": {"b": 3, "c": 2}}, limits=limits)


async def test_b7_nothing_stays_of_what_is_decided(server: Flows) -> None:
    """B7: the original kept the state of every conversation that was ever touched."""
    for number in range(300):
        await accept(server, "1", f"k{number}")
    assert await server.store.flush() == []
    life, buffer = server.write_behind.lives.current, server.write_behind.buffer
    assert life is not None
    assert (len(buffer), buffer.size, buffer.queues) == (0, 0, {})
    assert life.journal._kept == {}
    assert all(not shelf.laid for shelf in server._shelves.values())


@pytest.mark.parametrize("durability", list(Durability), ids=lambda each: each.value)
async def test_b8_ten_increments_make_ten(durability: Durability) -> None:
    """B8: the original loaded, changed and saved: ten at once ended at 1."""
    async with servers(2) as (one, other):
        await asyncio.gather(
            *(
                flows.store.swarms.patch(KEY.id, Increment("stats", "total_tool_calls"), durability=durability)
                for flows in (one, other) * 5
            )
        )
        await asyncio.gather(one.store.flush(), other.store.flush())
        assert (await committed(one)).stats.total_tool_calls == 10


async def test_b11_a_write_is_seen_everywhere_and_stays_seen_here() -> None:
    """B11: the original told neither L2 nor others, and read its own past back after an eviction."""
    small = msgspec.structs.replace(PATIENT, l1_swarm_entries_max=1)
    async with servers(2, small) as (one, other):
        assert names_in(await other.store.swarms.get(KEY.id)) == []
        await accept(one, "1")
        await one.store.swarms.get("another")
        await one.store.swarms.put("evicting", Swarm())
        assert names_in(await one.store.swarms.get(KEY.id)) == ["1"]
        assert await one.store.flush() == []

        async def told() -> bool:
            return names_in(await other.store.swarms.get(KEY.id)) == ["1"]

        await until(told)
        await one.store.swarms.put("evicting", Swarm())
        assert names_in(await one.store.swarms.get(KEY.id)) == ["1"]


async def test_b14_what_is_read_cannot_be_changed_in_place() -> None:
    """B14: the original handed out the live object, to which two servers added credits, each on its own."""
    async with servers(2, PATIENT) as (one, other):
        await one.store.swarms.put(KEY.id, Swarm(metadata={"list": [1]}))
        swarm: Any = await one.store.swarms.get(KEY.id)
        with pytest.raises(AttributeError):
            swarm.stats.total_credits = 5
        with pytest.raises(TypeError):
            swarm.metadata["list"].append(2)
        for flows in (one, other):
            await flows.store.swarms.patch(KEY.id, Increment("stats", "total_credits", by=5), durability=ACCEPTED)
        swarm = await one.store.swarms.get(KEY.id)
        assert swarm.stats.total_credits == 5
        await asyncio.gather(one.store.flush(), other.store.flush())
        assert (await committed(one)).stats.total_credits == 10


async def test_b24_two_servers_change_two_items_of_one_blackboard() -> None:
    """B24: the original read the whole, changed it and wrote the whole, so that one of the two was lost."""
    async with servers(2) as (one, other):
        for flows in (one, other):
            await flows.store.swarms.get(KEY.id)
        for number, flows in enumerate((one, other, one, other)):
            item = BlackboardItem(id=f"b{number}", value=number)
            await flows.store.swarms.patch(KEY.id, Set("blackboard", item, item=item.id), durability=ACCEPTED)
        await asyncio.gather(one.store.flush(), other.store.flush())
        board = (await committed(one)).blackboard
        assert {item.id: item.value for item in board} == {f"b{number}": number for number in range(4)}


async def test_b25_what_is_missing_or_unreadable_is_not_taken_for_empty(server: Flows) -> None:
    """B25: the original put an empty context in the place of one that was missing or could not be read."""
    swarms, l3 = server.store.swarms, server.resolver._l3
    with pytest.raises(NotFound):
        await swarms.patch("missing", Increment("stats", "total_tool_calls"))
    bad = b'{"goal":5}'
    await l3.save([Write(Key("swarm", "bad"), Swarm.SCHEMA, bad)])
    with pytest.raises(CorruptDocument):
        await swarms.patch("bad", Append("available_tools", 1), default=Swarm())
    assert server.store.backlog().writes == 0
    rows = (await l3.load([Key("swarm", "missing"), Key("swarm", "bad")])).rows
    assert {key.id: row.body for key, row in rows.items()} == {"bad": bad}


async def test_b28_of_two_writers_of_one_version_one_wins() -> None:
    """B28: the original read version n and wrote n + 1 without comparing: both writers did."""
    async with servers(2) as (one, other):
        version = await version_of(one)
        puts = [
            flows.store.swarms.put(KEY.id, Swarm(name=name), expected_version=version)
            for flows, name in ((one, "one"), (other, "other"))
        ]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        assert sorted(isinstance(each, Conflict) for each in outcomes) == [False, True]
        winner = ("one", "other")[[isinstance(each, Conflict) for each in outcomes].index(False)]
        assert (await committed(one)).name == winner

        def spend(swarm: Swarm) -> Swarm:
            stats = msgspec.structs.replace(swarm.stats, total_credits=swarm.stats.total_credits + 1)
            return msgspec.structs.replace(swarm, stats=stats)

        await asyncio.gather(*(flows.store.swarms.update(KEY.id, spend) for flows in (one, other) * 10))
        assert (await committed(one)).stats.total_credits == 20
