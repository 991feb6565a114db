"""Whatever lies in L2, no reader crashes, takes much memory or is given a wrong value: the right one comes from L3."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import valkey

import holdfast
from faults.l2_entries import Entries, Sample
from fix_races import until_l2_is_trusted
from fix_tiers import flows_of
from holdfast import Bot, CorruptDocument, Settings
from holdfast.keys import Key, redis_key
from holdfast.node import OpenStore
from holdfast.tiers import codec as codec_module
from holdfast.tiers.codec import Codec

pytestmark = pytest.mark.xdist_group("fuzz")

INFLATED_MAX = 8 << 20
PEAK_MAX = 2 * INFLATED_MAX + (4 << 20)
"""Of memory in one call: what it may inflate to, once more while it is copied, and the entry itself."""
NAME = b"vrooli:bot:b1"
DOCUMENTS = 250


@contextmanager
def traced() -> Iterator[None]:
    """Count what Python allocates in this block."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def read_back(codec: Codec, sample: Sample) -> str:
    """What became of an entry, in a word; "wrong": it was read as a row that it is not."""
    try:
        entry = codec.decode(NAME, sample.data)
    except CorruptDocument:
        return "corrupt"
    if entry is None:
        return "unknown format"
    if entry.row is None:
        return "fence"
    return "right" if entry.row == sample.row else "wrong"


def through_the_codec(codec: Codec, entries: Entries, count: int) -> tuple[Counter[str], int]:
    """Decode so many; what became of them by their sort, and the most memory that one took, bytes."""
    became, peak = Counter[str](), 0
    with traced():
        for _ in range(count):
            sample = entries.next(NAME)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            became[f"{sample.sort}: {read_back(codec, sample)}"] += 1
            peak = max(peak, tracemalloc.get_traced_memory()[1] - before)
    return became, peak


@pytest.mark.parametrize(
    "count", [5_000, pytest.param(100_000, id="prove_fuzz", marks=[pytest.mark.prove, pytest.mark.timeout(500)])]
)
def test_no_entry_crashes_the_codec_or_is_read_wrong(count: int) -> None:
    """C5: each entry is right, corrupt, a fence or of an unknown format; a gibibyte takes a few megabytes."""
    became, peak = through_the_codec(Codec(inflated_bytes_max=INFLATED_MAX), Entries(random.Random(1)), count)
    sys.stdout.write(f"{count} entries, at most {peak / (1 << 20):.1f} MiB for one: {dict(sorted(became.items()))}\n")
    assert [each for each in became if each.endswith("wrong")] == []
    assert became["valid: right"] > count // 20
    assert became["bomb: corrupt"] > count // 200
    assert {each for each in became if each.startswith("bomb")} == {"bomb: corrupt"}
    assert peak <= PEAK_MAX


class Anything:
    """Equal to every checksum."""

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def test_without_checksums_entries_are_read_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant of C5: every checksum matches."""
    entries = Entries(random.Random(1))
    samples = [entries.next(NAME) for _ in range(1_000)]
    monkeypatch.setattr(codec_module, "crc32", lambda *_: Anything())
    assert Counter(read_back(Codec(), each) for each in samples)["wrong"] > 100


def test_without_a_limit_a_small_entry_takes_all_memory() -> None:
    """Mutant of C5: an entry may inflate to 64 times as much."""
    _, peak = through_the_codec(Codec(inflated_bytes_max=64 * INFLATED_MAX), Entries(random.Random(1)), 500)
    assert peak > PEAK_MAX


def plant(client: Any, name: bytes, entries: Entries, source: random.Random) -> None:
    """Put an entry, or a key of another type, in the place of what a key of L2 holds."""
    client.delete(name)
    what = source.randrange(20)
    if what == 0:
        client.lpush(name, b"x")
    elif what == 1:
        client.hset(name, "name", "1")
    elif what == 2:
        client.xadd(name, {"name": "1"})
    else:
        client.set(name, entries.next(name).data)


async def through_the_door(state: OpenStore, settings: Settings, rounds: int) -> tuple[int, list[str]]:
    """Read all documents so many times over entries nobody wrote; how many failed in L2, and what was wrong."""
    source, flows, wrong = random.Random(2), flows_of(state), list[str]()
    entries, bots = Entries(source), {f"b{number}": Bot(name=f"right {number}") for number in range(DOCUMENTS)}
    await state.bots.put_many(bots)
    await until_l2_is_trusted(flows)
    names = [redis_key(settings.key_prefix.encode(), Key("bot", each)) for each in bots]
    with valkey.ValkeyCluster.from_url(settings.redis_urls[0]) as client:  # type: ignore[no-untyped-call]
        for _ in range(rounds):
            for name in names:
                plant(client, name, entries, source)
            assert await flows.feed.refresh()
            flows.caches["bot"].flush()
            found = await state.bots.get_many(bots)
            wrong += [f"{each}: {found.get(each)}" for each, bot in bots.items() if found.get(each) != bot]
            await flows.resolver.drain()
    return flows.counters.l2.errors, wrong


@pytest.mark.parametrize(
    "rounds", [4, pytest.param(40, id="prove_fuzz", marks=[pytest.mark.prove, pytest.mark.timeout(500)])]
)
async def test_no_wrong_value_is_served(settings: Settings, rounds: int) -> None:
    """C5: over entries of all sorts, and keys of other types, every answer is L3's."""
    async with holdfast.connect(settings) as state:
        errors, wrong = await through_the_door(state, settings, rounds)
    sys.stdout.write(f"{rounds * DOCUMENTS} reads over such entries, {errors} unreadable, {len(wrong)} wrong\n")
    assert wrong == []
    assert errors > rounds * DOCUMENTS // 4
