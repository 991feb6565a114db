"""Watermarks and data on real nodes: parts, damage, moved slots, full memory, nodes that start anew or say nothing."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from fix_cluster import HALF, Cluster
from fix_l2 import RedisHarness, RedisL2
from fix_single import Single
from holdfast.clock import SystemClock
from holdfast.errors import CorruptDocument, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import Absent, Cached, Failed, Fill
from holdfast.testing import ManualClock
from holdfast.testing.conformance.l2_harness import COHERENCE, KEY, VIEW, L2Suite, mark_of, row
from holdfast.tiers.l2_client import RedisConnection
from holdfast.tiers.l2_fences import FENCES_MAX
from holdfast.tiers.l2_topology import slot_of
from holdfast.tiers.l2_watermarks import decode, watermark_key

MANY = {Key("bot", f"many{number}"): 6 for number in range(3 * FENCES_MAX + 1)}


def connection_to(
    *urls: str, clock: ManualClock | None = None, request_timeout: float = 5.0, connect_timeout: float = 5.0
) -> RedisConnection:
    """A connection, not yet made."""
    return RedisConnection(
        urls,
        request_timeout_seconds=request_timeout,
        connect_timeout_seconds=connect_timeout,
        monotonic=(clock or SystemClock()).monotonic,
    )


async def started(harness: RedisHarness) -> tuple[L2Suite, RedisL2]:
    """An L2 whose nodes all have a watermark, and the suites' ways to use it."""
    suite, l2 = L2Suite(harness), harness.open()
    await suite.begin_anew(l2, 90)
    return suite, l2


@pytest.fixture
async def alone(single: Single) -> AsyncIterator[RedisHarness]:
    """L2 on a single server, under a user that may touch only its prefix."""
    connection = connection_to(*single.urls)
    yield RedisHarness(connection, b"vrooli:")
    await connection.close()


@pytest.fixture
def clock() -> ManualClock:
    """The clock by which the map of nodes ages."""
    return ManualClock()


@pytest.fixture
async def pair(cluster: Cluster, clock: ManualClock) -> AsyncIterator[RedisHarness]:
    """L2 on a cluster of two nodes."""
    connection = connection_to(*cluster.urls, clock=clock)
    yield RedisHarness(connection, b"two:")  # with it, the suites' key is served by the second node
    await connection.close()


async def test_a_single_server_is_one_node(alone: RedisHarness) -> None:
    """It has one watermark for all slots, and an application's user may do all of it."""
    suite, l2 = await started(alone)
    (target,) = await l2.sink.targets()
    assert target.slots == ((0, 16383),)
    await suite.fence(l2, {KEY: 6})
    assert await suite.fill(l2, row(5)) == 0
    assert await suite.fill(l2, row(6), await suite.missed(l2, lease=True)) == 1
    assert await suite.version(l2) == 6


async def test_a_server_that_starts_anew_is_found_out(alone: RedisHarness, single: Single) -> None:
    """Killed and empty again, it has no watermark; the client's silent reconnect lets nothing of the past through."""
    suite, l2 = await started(alone)
    (target,) = await l2.sink.targets()
    await suite.fill(l2, row(5))
    single.kill()
    single.start()

    async def answers() -> bool:
        return not isinstance(await suite.read(l2), Failed)

    await suite.until(answers)
    assert (await suite.missed(l2)).generation == -1
    assert not await l2.sink.advance(target, mark_of(target), mark_of(target, at=11), {KEY: 6})
    assert await l2.sink.watermark(target) is None
    await suite.begin_anew(l2, 200)
    assert (await suite.missed(l2)).generation == 200


async def test_many_fences_go_in_parts(l2_harness: RedisHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the parts the watermark means the same and is of other bytes; the last part moves it."""
    _suite, l2 = await started(l2_harness)
    seen: dict[str, list[bytes]] = {}
    healthy = l2.sink._compare_and_set

    async def watching(target: Any, expected: bytes, wanted: bytes, fences: Any) -> bool:
        seen.setdefault(target.name, [expected]).append(wanted)
        assert len(fences) <= FENCES_MAX
        return await healthy(target, expected, wanted, fences)

    monkeypatch.setattr(l2.sink, "_compare_and_set", watching)
    keys = await l2_harness.watermark_keys()
    for target, name in zip(await l2.sink.targets(), keys, strict=True):
        assert await l2.sink.advance(target, mark_of(target), mark_of(target, at=11), MANY)
        *parts, last = seen[target.name]
        assert len(set(seen[target.name])) == len(seen[target.name])
        assert {decode(name, part) == mark_of(target) for part in parts} == {True}
        assert decode(name, last) == mark_of(target, at=11)
    assert max(map(len, seen.values())) > 2


@pytest.mark.parametrize("sent", [1, 2])
async def test_a_part_that_is_lost_is_found_out(
    sent: int, alone: RedisHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that forgets a part between two of them refuses the next, though its watermark means the same."""
    _suite, l2 = await started(alone)
    (target,) = await l2.sink.targets()
    healthy, copies = l2.sink._compare_and_set, [await alone.dump()]

    async def forgetful(*arguments: Any) -> bool:
        if len(copies) > sent:
            await alone.restore(copies[sent - 1])
        copies.append(await alone.dump())
        return await healthy(*arguments)

    monkeypatch.setattr(l2.sink, "_compare_and_set", forgetful)
    assert not await l2.sink.advance(target, mark_of(target), mark_of(target, at=11), MANY)
    assert await l2.sink.watermark(target) == mark_of(target)


async def test_another_relay_goes_on_from_a_part(alone: RedisHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that died in the middle leaves a watermark that the next one reads as the last whole one, and can move."""
    _suite, l2 = await started(alone)
    (target,) = await l2.sink.targets()
    healthy = l2.sink._compare_and_set

    async def dying(*arguments: Any) -> bool:
        await healthy(*arguments)
        raise ZeroDivisionError

    monkeypatch.setattr(l2.sink, "_compare_and_set", dying)
    with pytest.raises(ZeroDivisionError):
        await l2.sink.advance(target, mark_of(target), mark_of(target, at=11), MANY)
    other = alone.open().sink
    assert not await other.advance(target, mark_of(target), mark_of(target, at=11), {})
    assert await other.watermark(target) == mark_of(target)
    assert await other.advance(target, mark_of(target), mark_of(target, at=11), MANY)
    assert await other.watermark(target) == mark_of(target, at=11)


async def test_fences_without_a_new_snapshot_leave_other_bytes(alone: RedisHarness) -> None:
    """A node that forgets fences which did not move its watermark's meaning is found out as well."""
    suite, l2 = await started(alone)
    (target,) = await l2.sink.targets()
    old = await alone.dump()
    assert await l2.sink.advance(target, mark_of(target), mark_of(target), {KEY: 6})
    assert await suite.fill(l2, row(5)) == 0
    await alone.restore(old)
    assert not await l2.sink.advance(target, mark_of(target), mark_of(target, at=11), {})


@pytest.mark.parametrize("damage", [b"", b"W", b"W\x01" + bytes(60), b"something else"])
async def test_a_damaged_watermark_counts_as_none(damage: bytes, alone: RedisHarness) -> None:
    """Readers miss and fill nothing, and the relay can begin anew."""
    suite, l2 = await started(alone)
    await suite.fill(l2, row(5))
    (name,) = await alone.watermark_keys()
    await alone.command("SET", name, damage)
    absent = await suite.missed(l2)
    assert absent.generation == -1
    assert await suite.fill(l2, row(6), absent) == 0
    (target,) = await l2.sink.targets()
    assert not await l2.sink.advance(target, mark_of(target), mark_of(target, at=11), {})
    await suite.begin_anew(l2, 200)
    assert await l2.sink.watermark(target) == mark_of(target, generation=200)
    assert await suite.fill(l2, row(5)) == 1


async def test_a_flipped_bit_of_a_watermark_is_noticed(alone: RedisHarness) -> None:
    """A watermark whose generation became another one by damage voids nothing and admits nothing: it is none."""
    suite, l2 = await started(alone)
    (name,) = await alone.watermark_keys()
    await alone.command("SETRANGE", name, "15", b"\xff")
    assert (await suite.missed(l2)).generation == -1


async def test_keys_of_another_type_disturb_nobody(alone: RedisHarness) -> None:
    """What another program left under a watermark's name, or a key's, is a miss, and is written over."""
    suite, l2 = await started(alone)
    (name,) = await alone.watermark_keys()
    await alone.command("DEL", name)
    for taken in (name, alone.name):
        await alone.command("LPUSH", taken, b"x")
    assert (await suite.missed(l2, lease=True)).generation == -1
    await suite.begin_anew(l2, 200)
    assert [(await suite.missed(l2, lease=True)).leased_seconds for _ in range(2)] == [0, 0]
    assert await suite.fill(l2, row(5)) == 1
    await alone.command("DEL", alone.name)
    await alone.command("LPUSH", alone.name, b"x")
    await suite.fence(l2, {KEY: 6})
    assert await suite.fill(l2, row(5)) == 0


async def test_a_damaged_entry_is_an_error_that_can_be_filled_over(alone: RedisHarness) -> None:
    """It is no miss and no value; its answer carries what a fill needs."""
    suite, l2 = await started(alone)
    await suite.fill(l2, row(5))
    await alone.command("SETRANGE", alone.name, "70", b"damaged")
    answer = await suite.read(l2)
    assert isinstance(answer, Failed)
    assert isinstance(answer.error, CorruptDocument)
    assert await suite.fill(l2, row(5), answer.absent) == 1
    assert await suite.version(l2) == 5


async def test_a_lease_leaves_nothing_behind(alone: RedisHarness) -> None:
    """On a key that held nothing it is gone with its time, or at once when it is given back."""
    suite, l2 = await started(alone)
    absent = await suite.missed(l2, lease=True)
    assert 0 < await alone.command("PTTL", alone.name) <= 30_000
    await suite.fill(l2, None, absent)
    assert await alone.command("EXISTS", alone.name) == 0


async def test_a_lease_from_before_the_clock_went_back_holds_nobody_up(alone: RedisHarness) -> None:
    """One that would last longer than any lease counts as over."""
    suite, l2 = await started(alone)
    await suite.fence(l2, {KEY: 6})
    absent = await suite.missed(l2)
    later = struct.pack(">Q", absent.node_time_ms + 3_600_000)
    await alone.command("SETRANGE", alone.name, "8", later)
    assert 0 < (await suite.missed(l2)).leased_seconds <= 30
    assert (await suite.missed(l2, lease=True)).leased_seconds == 0
    assert (await suite.missed(l2)).leased_seconds > 0


async def test_a_full_node_still_answers_and_is_told(cluster: Cluster, pair: RedisHarness) -> None:
    """Without room for fills, hits stay hits, and fences and watermarks arrive: no old value is served."""
    suite, l2 = await started(pair)
    await suite.fill(l2, row(5))
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "maxmemory", 1)
    assert await suite.version(l2) == 5
    assert await suite.fill(l2, row(6)) == 0
    await suite.fence(l2, {KEY: 6})
    assert await suite.version(l2) == 0


async def test_a_moved_slot_is_a_miss_until_the_watermark_lists_it(
    cluster: Cluster, pair: RedisHarness, clock: ManualClock
) -> None:
    """C3: the value moves along, but the new owner's watermark says nothing of it; nor does it take a fill."""
    suite, l2 = await started(pair)
    await suite.fill(l2, row(5))
    assert await suite.version(l2) == 5
    slot = slot_of(pair.name)
    assert slot > HALF
    cluster.move(slot, 1, 0)
    assert (await suite.missed(l2)).generation == -1, "the old owner answered for it"
    clock.advance(2.0)

    async def mapped() -> bool:
        await suite.missed(l2)
        nodes = (await pair.connection.topology()).nodes
        return any((slot, slot) in node.slots for node in nodes)

    await suite.until(mapped)
    absent = await suite.missed(l2, lease=True)
    assert absent.generation == -1
    assert await suite.fill(l2, row(6), absent) == 0
    for target in await l2.sink.targets():
        before = await l2.sink.watermark(target)
        assert before is not None
        assert await l2.sink.advance(target, before, mark_of(target, at=11), {})
    assert await suite.version(l2) == 5


async def test_targets_follow_moved_slots(cluster: Cluster, pair: RedisHarness, clock: ManualClock) -> None:
    """The relay sees within a second who serves what; what it meant for the former owner is refused."""
    _suite, l2 = await started(pair)
    old, _ = await l2.sink.targets()
    cluster.move(100, 0, 1)
    assert (await l2.sink.targets())[0] == old
    clock.advance(1.1)
    first, second = await l2.sink.targets()
    assert first.slots == ((0, 99), (101, HALF - 1))
    assert second.slots == ((100, 100), (HALF, 16383))
    with pytest.raises(TierUnavailable, match="other slots"):
        await l2.sink.advance(old, mark_of(old), mark_of(old, at=11), {})


async def test_a_node_whose_lowest_slot_moved_has_no_watermark(
    cluster: Cluster, pair: RedisHarness, clock: ManualClock
) -> None:
    """Its watermark went along with the slot: reads by the old map, and by the new one, are misses, not errors."""
    _suite, l2 = await started(pair)
    keys = [Key("bot", f"b{number}") for number in range(40)]
    absent = await l2.cache.read(keys, VIEW, lease=False)
    fills = [Fill(key, row(5), 900.0, each) for key, each in absent.items() if isinstance(each, Absent)]
    assert await l2.cache.fill(fills, COHERENCE) == 40
    served = {key for key in keys if slot_of(pair.prefix + str(key).encode()) < HALF}
    cluster.move(0, 0, 1)
    answers = await l2.cache.read(keys, VIEW, lease=False)
    assert {key for key, each in answers.items() if isinstance(each, Absent)} == served
    assert {key for key, each in answers.items() if isinstance(each, Cached)} == set(keys) - served
    clock.advance(1.1)
    receiver, giver = await l2.sink.targets()
    assert (receiver.slots[0], giver.slots[0]) == ((0, 0), (1, HALF - 1))
    left_behind, none = [await l2.sink.watermark(target) for target in (receiver, giver)]
    assert left_behind is not None
    assert left_behind.slots == ((0, HALF - 1),)
    assert none is None
    answers = await l2.cache.read(keys, VIEW, lease=False)
    assert {each.generation for each in answers.values() if isinstance(each, Absent)} == {-1}
    assert await l2.sink.advance(receiver, left_behind, mark_of(receiver, at=11), {})
    assert {key for key, each in (await l2.cache.read(keys, VIEW)).items() if isinstance(each, Cached)} == set(
        keys
    ) - served


async def test_a_fence_in_a_slot_under_way_moves_no_watermark(
    cluster: Cluster, pair: RedisHarness, clock: ManualClock
) -> None:
    """A key that may already be at the next owner cannot be fenced: the node is not told, and says so."""
    suite, l2 = await started(pair)
    slot = slot_of(pair.name)
    _, owner = await l2.sink.targets()
    cluster.begin_move(slot, 1, 0)
    assert (await suite.missed(l2, lease=True)).generation == -1
    with pytest.raises(TierUnavailable):
        await l2.sink.advance(owner, mark_of(owner), mark_of(owner, at=11), {KEY: 6})
    clock.advance(1.1)
    assert await l2.sink.watermark(owner) == mark_of(owner)


async def test_an_l2_that_says_nothing_holds_no_reader_up() -> None:
    """It accepts connections and never answers: readers wait for a request's time once, then not at all."""
    accepted = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = connection_to(f"redis://127.0.0.1:{port}", request_timeout=0.2, connect_timeout=30.0)
    loop, l2 = asyncio.get_running_loop(), RedisHarness(connection, b"vrooli:").open()
    ticks: list[float] = []
    ticking = asyncio.ensure_future(_tick(ticks))
    began = loop.time()
    answers = await asyncio.gather(*(l2.cache.read([KEY], VIEW) for _ in range(20)))
    waited = loop.time() - began
    again = await l2.cache.read([KEY], VIEW)
    ticking.cancel()
    for answer in [*(each[KEY] for each in answers), again[KEY]]:
        assert isinstance(answer, Failed)
        assert isinstance(answer.error, TierUnavailable)
    assert 0.15 < waited < 5.0
    assert loop.time() - began - waited < 0.15, "the second look waited too"
    assert max(later - earlier for earlier, later in pairwise(ticks)) < 2.0, "the loop stood still"
    assert accepted == 1
    with pytest.raises(TierUnavailable):
        await l2.sink.targets()
    await connection.close()
    assert connection._connecting is None
    with pytest.raises(TierUnavailable, match="closed"):
        await connection.topology()
    server.close()
    await server.wait_closed()


async def _tick(ticks: list[float]) -> None:
    while True:
        ticks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)


async def test_an_l2_that_comes_late_is_found(single: Single, clock: ManualClock) -> None:
    """After a failed attempt readers fail at once for a second; then one connects."""
    single.kill()
    connection = connection_to(*single.urls, clock=clock, request_timeout=0.5, connect_timeout=0.1)
    sink = RedisHarness(connection, b"vrooli:").open().sink

    async def refused(match: str) -> None:
        with pytest.raises(TierUnavailable, match=match):
            await sink.targets()
        if connection._connecting is not None:
            await asyncio.wait([connection._connecting])

    await refused("no answer yet|Error")
    single.start()
    await refused("still away")
    clock.advance(1.1)
    await refused("still away")  # but it connects meanwhile
    assert len(await sink.targets()) == 1
    await connection.close()


def test_every_slot_has_a_watermark_key_of_its_own() -> None:
    """The tag lies in the slot, as the servers count it: only what stands between the braces."""
    for slot in (0, 1, 5461, HALF, 16383):
        name = watermark_key(b"vrooli:", slot)
        assert name.startswith(b"vrooli:{")
        assert name.endswith(b"}:watermark")
        assert slot_of(name[name.index(b"{") + 1 : name.index(b"}")]) == slot
