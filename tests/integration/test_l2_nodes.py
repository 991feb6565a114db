"""Watermarks and data on real nodes: parts, damage, foreign keys, leases, and a node that starts anew."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fix_l2 import RedisHarness, connection_to, started
from fix_single import Single
from holdfast.errors import CorruptDocument
from holdfast.keys import Key
from holdfast.protocols import Failed
from holdfast.testing.conformance.l2_harness import KEY, mark_of, row
from holdfast.tiers.l2_fences import FENCES_MAX
from holdfast.tiers.l2_watermarks import decode

MANY = {Key("bot", f"many{number}"): 6 for number in range(3 * FENCES_MAX + 1)}


@pytest.fixture
async def alone(single: Single) -> AsyncIterator[RedisHarness]:
    """L2 on a single server, under a user that may touch only its prefix."""
    connection = connection_to(*single.urls)
    yield RedisHarness(connection, b"vrooli:")
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
