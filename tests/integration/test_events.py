"""Events between real servers: who gets what over a real cluster, and the commands that look at dead letters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import count

import msgspec
import pytest

import holdfast
from fix_cluster import Cluster
from fix_commands import name_servers, run_command
from fix_events import Notes, until
from fix_l2 import RedisHarness
from fix_single import Single
from holdfast import Delivery, Overloaded, Priority, Settings
from holdfast.events import partition_of
from holdfast.invalidation.event_reader import ROOM
from holdfast.node import OpenStore
from holdfast.tiers.l2_events import tag_of_partition
from holdfast.tiers.l2_topology import SLOTS, slot_of

RELIABLE = Delivery.RELIABLE


@pytest.fixture
async def two(settings: Settings) -> AsyncIterator[tuple[OpenStore, OpenStore]]:
    """Two servers on the same tiers."""
    async with holdfast.connect(settings) as a, holdfast.connect(settings) as b:
        yield a, b


async def until_heard(*servers: OpenStore) -> None:
    """Wait until each server hears what is sent."""
    notes = [Notes() for _ in servers]
    subscriptions = [state.subscribe("probe", each) for state, each in zip(servers, notes, strict=True)]

    async def heard() -> bool:
        await servers[0].publish("probe")
        return all(each.events for each in notes)

    await until(heard)
    for each in subscriptions:
        await each.close()


async def test_broadcasts_reach_all_and_groups_one(two: tuple[OpenStore, OpenStore]) -> None:
    """Whichever server publishes, reliably or not."""
    broadcast, group = [Notes(), Notes()], [Notes(), Notes()]
    for state, every, one in zip(two, broadcast, group, strict=True):
        await state.subscribe("x/*", every).ready()
        await state.subscribe("x/*", one, group="g").ready()
    await until_heard(*two)
    for number in range(200):
        delivery = RELIABLE if number % 2 else Delivery.FIRE_AND_FORGET
        await two[number % 3 % 2].publish("x/1", number, delivery=delivery, key=f"k{number % 7}")

    async def all_there() -> bool:
        shared = sum(len(each.events) for each in group)
        return shared >= 200 and all(len(each.events) >= 200 for each in broadcast)

    await until(all_there)
    for each in broadcast:
        assert sorted(each.data) == list(range(200))
    assert sorted(group[0].data + group[1].data) == list(range(200))
    assert not any(event.metadata.duplicate for each in (*broadcast, *group) for event in each.events)


async def test_one_of_two_broadcasts_leaves_with_events_queued(settings: Settings) -> None:
    """The other reads on, past all that was handed out and never handled, and what is kept for nobody goes."""
    async with holdfast.connect(settings) as state:
        slow, fast = Notes(), Notes()
        slow.failures = 1
        leaving = state.subscribe("x", slow)
        await state.subscribe("x", fast).ready()
        slow.gate.clear()
        for number in range(ROOM):
            await state.publish("x", number, delivery=RELIABLE, key="k")
        await fast.until(ROOM)
        await slow.until(1)
        slow.gate.set()
        await leaving.close()
        for number in range(ROOM):
            await state.publish("x", ROOM + number, delivery=RELIABLE, key="k")
        await fast.until(2 * ROOM)
        assert fast.data == list(range(2 * ROOM))


async def test_a_key_that_fails_holds_up_no_other(settings: Settings) -> None:
    """Though more of its events wait than are read at once; all come in their order in the end."""
    async with holdfast.connect(msgspec.structs.replace(settings, event_attempts_max=20)) as state:
        seen, fails = list[tuple[str | None, int]](), [True]

        async def handler(event: holdfast.Event) -> None:
            if event.metadata.key == "bad" and fails:
                raise ValueError("not yet")
            seen.append((event.metadata.key, event.data))

        await state.subscribe("x", handler).ready()
        good = next(key for key in map(str, count()) if partition_of(key, 16) == partition_of("bad", 16))
        for number in range(2 * ROOM):
            await state.publish("x", number, delivery=RELIABLE, key="bad")
        await state.publish("x", 0, delivery=RELIABLE, key=good)

        async def handled(number: int) -> bool:
            return len(seen) == number

        await until(lambda: handled(1))
        assert seen == [(good, 0)]
        fails.clear()
        await until(lambda: handled(2 * ROOM + 1))
        assert [number for key, number in seen if key == "bad"] == list(range(2 * ROOM))


async def test_partitions_are_shared_out_and_taken_over(settings: Settings) -> None:
    """Two members have half of them each; the one that stays has all."""
    async with holdfast.connect(settings) as a:
        first = a.subscribe("x", Notes(), group="g")
        async with holdfast.connect(settings) as b:
            second = b.subscribe("x", Notes(), group="g")

            async def shared() -> bool:
                return [len(state.bus._readers[each].owned) for state, each in ((a, first), (b, second))] == [8, 8]

            await until(shared)

        async def has_all() -> bool:
            return len(a.bus._readers[first].owned) == 16

        await until(has_all)


async def test_urgent_events_overtake_a_backlog(two: tuple[OpenStore, OpenStore]) -> None:
    """Published last, handled next."""
    notes = Notes()
    notes.gate.clear()
    await two[0].subscribe("x", notes, group="g").ready()
    await asyncio.gather(
        *(two[1].publish("x", number, delivery=RELIABLE, priority=Priority.LOW, key="k") for number in range(300))
    )
    await notes.until(1)
    await two[1].publish("x", "urgent", delivery=RELIABLE, priority=Priority.CRITICAL, key="k")

    async def read() -> bool:
        return bool(two[0].bus.subscriptions[0]._queue._kept[0])

    await until(read)
    notes.gate.set()
    await notes.until(301)
    assert notes.data == [0, "urgent", *range(1, 300)]


async def test_a_key_keeps_its_order_however_it_is_published(two: tuple[OpenStore, OpenStore]) -> None:
    """Also all at once, from one server."""
    notes = Notes()
    await two[0].subscribe("x", notes, group="g").ready()
    await asyncio.gather(*(two[1].publish("x", number, delivery=RELIABLE, key="k") for number in range(2000)))
    await notes.until(2000)
    assert notes.data == list(range(2000))


async def test_dead_letters_by_the_command_line(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are listed as JSON, replayed to their group, and discarded."""
    name_servers(settings, monkeypatch)
    notes = Notes()
    notes.failures = 2
    async with holdfast.connect(msgspec.structs.replace(settings, event_attempts_max=1)) as state:
        await state.subscribe("x", notes, group="g").ready()
        await asyncio.gather(*(state.publish("x", number, delivery=RELIABLE, key="k") for number in range(2)))

        async def given_up() -> bool:
            return len(await state.dead_letters.list()) == 2

        await until(given_up)
        await run_command("events", "dead-letters", "list")
        letters = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(each["event"]["data"], each["reason"]) for each in letters] == [
            (0, "ValueError: no 0"),
            (1, "ValueError: no 1"),
        ]
        for words, expected in (
            (["replay", letters[0]["id"]], 0),
            (["discard", letters[1]["id"]], 0),
            (["discard", letters[1]["id"], letters[0]["id"]], 1),
        ):
            assert await run_command("events", "dead-letters", *words) == expected
        assert capsys.readouterr().out.splitlines() == [
            f"{letters[0]['id']}: replayed",
            f"{letters[1]['id']}: discarded",
            f"{letters[1]['id']}: not there",
            f"{letters[0]['id']}: not there",
        ]
        await notes.until(3)
        assert (notes.data[2], notes.events[2].metadata.duplicate) == (0, True)
        assert await state.dead_letters.list() == []
        notes_of = [(entry.note.action, entry.note.subject) for entry in await state.audit.list()]
        assert notes_of[:2] == [
            ("replayed", f"dead_letter:{letters[0]['id']}"),
            ("discarded", f"dead_letter:{letters[1]['id']}"),
        ]


async def test_a_dead_letter_of_a_server_that_is_gone_is_not_replayed_to_nobody(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command says so, and the letter is kept until it is discarded."""
    name_servers(settings, monkeypatch)
    notes = Notes()
    notes.failures = 1
    async with holdfast.connect(settings) as observer:
        async with holdfast.connect(msgspec.structs.replace(settings, event_attempts_max=1)) as state:
            await state.subscribe("x", notes).ready()
            await state.publish("x", 1, delivery=RELIABLE)

            async def given_up() -> bool:
                return len(await state.dead_letters.list()) == 1

            await until(given_up)
        (letter,) = await observer.dead_letters.list()
        assert await run_command("events", "dead-letters", "replay", letter.id) == 1
        assert capsys.readouterr().out == f"{letter.id}: kept: its reader is gone; discard it\n"
        assert await observer.dead_letters.list() == [letter]
        assert await run_command("events", "dead-letters", "discard", letter.id, "--by", "ada") == 0
        assert (await observer.audit.list())[-1].note.actor == "ada"


@pytest.mark.parametrize("limit", ["0", "-1", "10001"])
async def test_a_limit_that_shows_nothing_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything connects."""
    with pytest.raises(SystemExit) as ended:
        await run_command("events", "dead-letters", "list", "--limit", limit)
    assert ended.value.code == 2
    assert "limit" in capsys.readouterr().err


async def test_events_for_nobody_take_no_memory(two: tuple[OpenStore, OpenStore], l2_harness: RedisHarness) -> None:
    """Without a subscription or a group there is nothing to keep them for; when the last one ends, it all goes."""
    partition = partition_of("k", 16)
    stream = f"{l2_harness.prefix.decode()}events:{{{tag_of_partition(partition).decode()}}}:medium"
    await two[0].publish("x", 1, delivery=RELIABLE, key="k")
    assert await l2_harness.command("EXISTS", stream) == 0
    subscription = two[1].subscribe("x", Notes())
    await subscription.ready()
    await two[0].publish("x", 1, delivery=RELIABLE, key="k")
    assert await l2_harness.command("XLEN", stream) == 1
    await subscription.close()
    assert await l2_harness.command("XINFO", "GROUPS", stream) == []


async def test_memory_that_has_run_out_refuses_and_is_freed(cluster: Cluster, settings: Settings) -> None:
    """Publishing is refused with `Overloaded`; what waits is handled and settled all the same."""
    notes = Notes()
    notes.gate.clear()
    async with holdfast.connect(msgspec.structs.replace(settings, redis_urls=cluster.urls)) as state:
        await state.subscribe("x", notes, group="g").ready()
        for number in range(200):
            await state.publish("x", number, delivery=RELIABLE, key="k")
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(Overloaded):
            await state.publish("x", "refused", delivery=RELIABLE, key="k")
        notes.gate.set()
        await notes.until(200)
        assert notes.data == list(range(200))
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "maxmemory", "100mb")
        await state.publish("x", "taken", delivery=RELIABLE, key="k")
        await notes.until(201)


async def test_moved_slots_are_followed(cluster: Cluster, settings: Settings) -> None:
    """While a slot moves to another node and back nothing is lost, and a key keeps its order."""
    notes, numbers, stop = Notes(), count(), asyncio.Event()
    own = msgspec.structs.replace(settings, redis_urls=cluster.urls)
    slot = slot_of(tag_of_partition(partition_of("k", 16)))
    source = int(slot >= SLOTS // 2)

    async def published(state: OpenStore) -> int:
        while not stop.is_set():
            await state.publish("x", next(numbers), delivery=RELIABLE, key="k")
        return next(numbers)

    async with holdfast.connect(own) as state:
        await state.subscribe("x", notes, group="g").ready()
        publishing = asyncio.ensure_future(published(state))
        for start, end in ((source, 1 - source), (1 - source, source)):
            await notes.until(len(notes.events) + 20)
            await asyncio.to_thread(cluster.move, slot, start, end)
        await notes.until(len(notes.events) + 20)
        stop.set()
        total = await publishing

        async def all_there() -> bool:
            return len(set(notes.data)) == total

        await until(all_there)
    assert list(dict.fromkeys(notes.data)) == list(range(total))
    seen = set[int]()
    for event in notes.events:
        assert event.metadata.duplicate or event.data not in seen
        seen.add(event.data)


async def test_a_single_server_carries_events(single: Single, settings: Settings) -> None:
    """No cluster, no shards, and a user that may touch keys and channels of the prefix alone."""
    own = msgspec.structs.replace(settings, redis_urls=single.urls, key_prefix="vrooli:")
    notes = Notes()
    async with holdfast.connect(own) as a, holdfast.connect(own) as b:
        await b.subscribe("x", notes, group="g").ready()
        await until_heard(a, b)
        for number in range(50):
            await a.publish("x", number, delivery=RELIABLE if number % 2 else Delivery.FIRE_AND_FORGET, key="k")
        await notes.until(50)
        assert sorted(notes.data) == list(range(50))
