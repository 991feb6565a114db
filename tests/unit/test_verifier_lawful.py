"""The verifier over tiers in memory: what it leaves alone, since it is lawful or cannot be told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from fix_races import KEY, until, until_l2_is_trusted
from fix_verifier import ADA, EVE, plant_in_l1, put_twice
from holdfast import Settings
from holdfast.documents import encode
from holdfast.entry import MISSING, Tier
from holdfast.flows import Flows
from holdfast.invalidation import verifier
from holdfast.invalidation.consistency import Sample, Suspect
from holdfast.invalidation.verifier import Verifier
from holdfast.keys import Key
from holdfast.protocols import Loaded
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.tiers.l1_local import LocalEntry

ALL = Settings(verify_share=1.0, verify_checks_max=1000)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def l2(clock: ManualClock) -> MemoryCache:
    return MemoryCache(clock)


@pytest.fixture
def source(l3: MemoryStorage) -> MemoryFeed:
    return MemoryFeed(l3)


@pytest.fixture
async def flows(
    l3: MemoryStorage, source: MemoryFeed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Flows]:
    """A server that verifies every answer, in rounds that the test calls for."""
    monkeypatch.setattr(verifier, "ROUND_SECONDS", 3600.0)
    async with connect_flows(l3=l3, feed=source, clock=clock, settings=ALL) as opened:
        yield opened


async def test_what_the_feed_has_yet_to_bring_is_no_finding(flows: Flows, l3: MemoryStorage) -> None:
    """Within the bound a cached value may be old: it differs, and the poll that was waited for removes it."""
    await flows.store.bots.put(KEY.id, ADA)
    await l3.raw_put(KEY, encode(EVE))
    assert flows.store.bots.peek(KEY.id) == ADA
    await flows.verifier.round()
    report = flows.store.consistency()
    assert (report.l1.samples, report.l1.differing, report.l1.stale) == (1, 1, 0)
    assert report.findings == ()


async def no_wait(*_: object) -> bool:
    """Mutant: nobody waits for a poll."""
    return True


async def test_without_the_poll_it_would_be_a_false_alarm(
    flows: Flows, l3: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the sample is judged by L3's answer alone."""
    monkeypatch.setattr(Verifier, "_has_heard_since", no_wait)
    await flows.store.bots.put(KEY.id, ADA)
    await l3.raw_put(KEY, encode(EVE))
    assert flows.store.bots.peek(KEY.id) == ADA
    await flows.verifier.round()
    assert flows.store.consistency().l1.stale == 1


async def test_without_the_feed_nothing_is_called_stale(flows: Flows, source: MemoryFeed) -> None:
    """What cannot be told is counted apart, and nothing is repaired on suspicion."""
    old, _ = await put_twice(flows)
    plant_in_l1(flows, KEY, ADA, old)
    assert flows.store.bots.peek(KEY.id) == ADA
    source.fail = True
    await flows.verifier.round()
    report = flows.store.consistency()
    assert (report.l1.samples, report.l1.unsettled, report.l1.stale) == (0, 1, 0)


def by_version(suspect: Suspect, held: LocalEntry | None) -> bool:
    """Mutant: an entry of the same version is taken for the same entry."""
    return held is not None and held.version == suspect.sample.version


@pytest.mark.parametrize(("is_given_by", "alarms"), [(Suspect.is_given_by, 0), (by_version, 1)])
async def test_a_row_that_is_missing_again_is_no_finding(
    is_given_by: Any, alarms: int, flows: Flows, l3: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a row is missing has no version: what L1 says now it may have learnt after L3 was asked."""
    monkeypatch.setattr(Suspect, "is_given_by", is_given_by)
    assert await flows.store.bots.get(KEY.id) is None
    entry = flows.caches[KEY.kind].shelf(KEY.kind).entries[KEY.id]
    await l3.raw_put(KEY, encode(ADA))
    load = l3.load

    async def overtaken(keys: Sequence[Key], known: Mapping[Key, int] = {}) -> Loaded:
        monkeypatch.setattr(l3, "load", load)
        loaded = await load(keys, known)
        await l3.raw_delete(KEY)
        assert await flows.feed.refresh()
        assert await flows.store.bots.get(KEY.id) is None
        return loaded

    monkeypatch.setattr(l3, "load", overtaken)
    await flows.verifier.verify([Sample(KEY, Tier.L1, 0, entry, entry.read_at)])
    assert flows.caches[KEY.kind].shelf(KEY.kind).entries[KEY.id].value is MISSING
    report = flows.store.consistency()
    assert (report.l1.differing, report.l1.stale) == (1, alarms)


async def test_an_l3_of_another_incarnation_is_no_finding(flows: Flows, l3: MemoryStorage) -> None:
    """After a crash nothing that was cached counts, so nothing of it can be stale."""
    old, _ = await put_twice(flows)
    plant_in_l1(flows, KEY, ADA, old)
    assert flows.store.bots.peek(KEY.id) == ADA
    l3.crash(0)
    await flows.verifier.round()
    assert flows.store.consistency().findings == ()
    assert flows.store.bots.peek(KEY.id) is None


async def test_a_writer_that_never_rests_causes_no_false_alarm(
    l3: MemoryStorage, l2: MemoryCache, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of answers of both tiers, hundreds of which L3 has moved away from: none is called stale."""
    monkeypatch.setattr(verifier, "ROUND_SECONDS", 0.0)
    async with (
        connect_flows(l3=l3, l2=l2, clock=clock, settings=ALL) as one,
        connect_flows(l3=l3, l2=l2, clock=clock, settings=ALL, seed=1) as two,
    ):
        await until_l2_is_trusted(one, two)
        number = 0

        async def enough() -> bool:
            nonlocal number
            number += 1
            clock.advance(0.001)
            key = KEY._replace(id=f"b{number % 7}")
            for flows in (one, two):
                await flows.store.bots.get(f"b{number % 5}")
            await (l3.raw_delete(key) if number % 11 == 0 else l3.raw_put(key, encode(ADA)))
            if number % 3 == 0:
                flows = (one, two)[number % 2]
                await flows.store.bots.put(key.id, EVE)
            for flows in (one, two):
                await flows.store.bots.get(key.id)
            reports = [flows.store.consistency() for flows in (one, two)]
            return all(sum(tier.samples for tier in (each.l1, each.l2)) > 1500 for each in reports)

        await until(enough)
        for flows in (one, two):
            report = flows.store.consistency()
            assert report.findings == ()
            assert report.l1.differing > 20
            assert report.l2.samples > 20
