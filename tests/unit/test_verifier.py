"""The verifier over tiers in memory: what it finds, explains, repairs and leaves alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from fix_races import KEY, until, until_l2_is_trusted
from fix_verifier import plant_in_l1, plant_in_memory_l2
from holdfast import Bot, Settings
from holdfast.documents import encode
from holdfast.entry import MISSING, Tier
from holdfast.flows import Flows
from holdfast.invalidation import verifier
from holdfast.invalidation.consistency import Sample, Suspect
from holdfast.invalidation.repairing import Repairer
from holdfast.invalidation.verifier import INCONSISTENT, Verifier
from holdfast.keys import Key
from holdfast.protocols import Loaded, Row
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.tiers.l1_local import LocalEntry

ADA, EVE = Bot(name="Ada"), Bot(name="Eve")
ALL = Settings(verify_share=1.0, verify_checks_max=1000)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def l3() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def source(l3: MemoryStorage) -> MemoryFeed:
    return MemoryFeed(l3)


@pytest.fixture
def l2(clock: ManualClock) -> MemoryCache:
    return MemoryCache(clock)


@pytest.fixture
def emitted() -> list[tuple[str, Mapping[str, Any]]]:
    return []


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds come when a test calls for them."""
    monkeypatch.setattr(verifier, "ROUND_SECONDS", 3600.0)


@pytest.fixture
async def flows(
    l2: MemoryCache,
    l3: MemoryStorage,
    source: MemoryFeed,
    clock: ManualClock,
    emitted: list[tuple[str, Mapping[str, Any]]],
) -> AsyncIterator[Flows]:
    """A server that verifies every answer."""
    async with connect_flows(l2=l2, l3=l3, feed=source, clock=clock, settings=ALL) as opened:
        opened.verifier._emit = lambda topic, data: emitted.append((topic, data))
        yield opened


async def put_twice(flows: Flows) -> tuple[int, int]:
    """Ada, then Eve, of which the feed has told; their versions."""
    versions = [(await flows.store.bots.put(KEY.id, each)).version for each in (ADA, EVE)]
    assert await flows.feed.refresh()
    return versions[0], versions[1]


async def test_a_stale_entry_of_l1_is_found_explained_and_repaired(
    flows: Flows, clock: ManualClock, emitted: list[tuple[str, Mapping[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    """It is served until the verifier comes; then L3's value is, and the finding says why, without its content."""
    old, new = await put_twice(flows)
    clock.advance(0.1)
    plant_in_l1(flows, KEY, ADA, old)
    assert flows.store.bots.peek(KEY.id) == ADA
    with caplog.at_level(logging.WARNING, "holdfast"):
        await flows.verifier.round()
    assert flows.store.bots.peek(KEY.id) == EVE
    report = flows.store.consistency()
    assert (report.l1.samples, report.l1.differing, report.l1.stale, report.l1.repaired) == (1, 1, 1, 1)
    (finding,) = report.findings
    assert (finding.key, finding.tier, finding.served, finding.truth) == (KEY, Tier.L1, old, new)
    assert finding.repaired
    assert f"Word of version {new} came 0.100 s ago, after version {old} was filled" in finding.cause
    assert f"0.100 s ago: a write or a check of this server told of version {new}" in finding.history
    assert emitted == [(INCONSISTENT, finding.data())]
    assert [record.getMessage() for record in caplog.records] == [str(finding)]
    assert "Ada" not in caplog.text + str(finding.data())
    assert "Eve" not in caplog.text + str(finding.data())


async def test_a_missing_row_that_is_there_is_found(flows: Flows) -> None:
    """That a row is missing is an answer too."""
    receipt = await flows.store.bots.put(KEY.id, ADA)
    await flows.store.bots.put("other", ADA)
    assert await flows.feed.refresh()
    plant_in_l1(flows, KEY, MISSING, 0)
    assert await flows.store.bots.get(KEY.id) is None
    for _ in range(2):  # L1 counts hits of documents only, and these say how many answers are drawn
        flows.store.bots.peek("other")
    await flows.verifier.round()
    assert await flows.store.bots.get(KEY.id) == ADA
    (finding,) = flows.store.consistency().findings
    assert (finding.served, finding.truth, finding.repaired) == (0, receipt.version, True)


async def test_a_row_that_is_gone_is_found(flows: Flows) -> None:
    """What was deleted is not served again."""
    receipt = await flows.store.bots.put(KEY.id, ADA)
    await flows.store.bots.delete(KEY.id)
    assert await flows.feed.refresh()
    plant_in_l1(flows, KEY, ADA, receipt.version)
    flows.store.bots.peek(KEY.id)
    await flows.verifier.round()
    assert await flows.store.bots.get(KEY.id) is None
    (finding,) = flows.store.consistency().findings
    assert (finding.truth, finding.repaired) == (0, True)
    assert "Word of the row's absence came" in finding.cause


async def test_other_contents_at_the_same_version_are_found(flows: Flows) -> None:
    """A copy that is damaged, or a row that was changed behind the triggers' back."""
    receipt = await flows.store.bots.put(KEY.id, ADA)
    plant_in_l1(flows, KEY, EVE, receipt.version)
    flows.store.bots.peek(KEY.id)
    await flows.verifier.round()
    assert flows.store.bots.peek(KEY.id) == ADA
    (finding,) = flows.store.consistency().findings
    assert (finding.served, finding.truth, finding.repaired) == (receipt.version, receipt.version, True)
    assert "changed without drawing a version" in finding.cause


async def stale_in_l2(flows: Flows, l2: MemoryCache, l3: MemoryStorage, *, lift: int = 0) -> tuple[int, int]:
    """L2 holds Ada where L3 holds Eve; nobody knows but L3. The versions held and true.

    Args:
        lift: what the held version is above Ada's.
    """
    old, new = await put_twice(flows)
    everything = l3.log.snapshot()

    async def told() -> bool:
        return all(contents.mark and contents.mark.snapshot.covers(everything) for contents in l2.dump().values())

    await until(told)
    row = Row(old + lift, old, Bot.SCHEMA, encode(ADA))
    generation = max(contents.mark.generation for contents in l2.dump().values() if contents.mark is not None)
    plant_in_memory_l2(l2, KEY, row, flows.view.coherence, generation=generation)
    return row.version, new


async def test_a_stale_entry_of_l2_is_found_explained_and_repaired(
    flows: Flows, l2: MemoryCache, l3: MemoryStorage, clock: ManualClock
) -> None:
    """A server that came later believes L2; its verifier takes the entry from L2 and from its own L1."""
    await until_l2_is_trusted(flows)
    old, new = await stale_in_l2(flows, l2, l3)
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as late:
        await until_l2_is_trusted(flows, late)
        assert await late.store.bots.get(KEY.id) == ADA
        await late.verifier.round()
        assert await late.store.bots.get(KEY.id) == EVE
        report = late.store.consistency()
        assert (report.l2.samples, report.l2.stale, report.l2.repaired) == (1, 1, 1)
        finding = next(each for each in report.findings if each.tier is Tier.L2)
        assert (finding.served, finding.truth) == (old, new)
        assert "relied on the node's watermark" in finding.cause
        assert "another server" in finding.cause
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as later:
        await until_l2_is_trusted(flows, later)
        assert await later.store.bots.get(KEY.id) == EVE


async def test_an_entry_of_l2_above_the_rows_version_is_repaired(
    flows: Flows, l2: MemoryCache, l3: MemoryStorage, clock: ManualClock
) -> None:
    """Versions are compared for equality: one that is too high, as of an earlier life of the id, is as wrong."""
    await until_l2_is_trusted(flows)
    await stale_in_l2(flows, l2, l3, lift=100)
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as late:
        await until_l2_is_trusted(flows, late)
        assert await late.store.bots.get(KEY.id) == ADA
        await late.verifier.round()
        assert await late.store.bots.get(KEY.id) == EVE
        assert late.store.consistency().l2.repaired == 1


async def test_other_contents_at_the_same_version_of_l2_are_repaired(
    flows: Flows, l2: MemoryCache, l3: MemoryStorage, clock: ManualClock
) -> None:
    """C5: and the right ones can be filled again."""
    await until_l2_is_trusted(flows)
    await stale_in_l2(flows, l2, l3, lift=1)  # Eve's version
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as late:
        await until_l2_is_trusted(flows, late)
        assert await late.store.bots.get(KEY.id) == ADA
        await late.verifier.round()
        assert await late.store.bots.get(KEY.id) == EVE
        assert late.store.consistency().l2.repaired == 1
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as later:
        await until_l2_is_trusted(flows, later)
        for _ in range(2):
            assert await later.store.bots.get(KEY.id) == EVE


async def test_a_repair_that_is_left_out_shows(
    flows: Flows, monkeypatch: pytest.MonkeyPatch, l2: MemoryCache, l3: MemoryStorage, clock: ManualClock
) -> None:
    """Mutant: without the repair both tiers go on answering with the past, and the report says so."""

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(Repairer, "repair", nothing)
    await until_l2_is_trusted(flows)
    await stale_in_l2(flows, l2, l3)
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as late:
        await until_l2_is_trusted(flows, late)
        assert await late.store.bots.get(KEY.id) == ADA
        flows.store.bots.peek(KEY.id)
        await late.verifier.round()
        assert await late.store.bots.get(KEY.id) == ADA
        report = late.store.consistency()
        assert (report.l2.stale, report.l2.repaired) == (1, 0)
        assert {finding.repaired for finding in report.findings} == {False}


async def test_an_entry_that_stays_in_l2_is_not_called_repaired(
    flows: Flows, l2: MemoryCache, l3: MemoryStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: this server forbids the entry for itself and leaves it to the others; it looks, and says so."""

    async def nothing(*_: object) -> int:
        return 0

    await until_l2_is_trusted(flows)
    await stale_in_l2(flows, l2, l3)
    monkeypatch.setattr(l2, "withdraw", nothing)
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as late:
        await until_l2_is_trusted(flows, late)
        assert await late.store.bots.get(KEY.id) == ADA
        await late.verifier.round()
        assert await late.store.bots.get(KEY.id) == EVE
        assert (late.store.consistency().l2.stale, late.store.consistency().l2.repaired) == (1, 0)


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


async def test_without_l2_its_sample_is_unsettled(
    flows: Flows, l2: MemoryCache, l3: MemoryStorage, clock: ManualClock
) -> None:
    """L2 was away when the entry was to be looked at again."""
    await until_l2_is_trusted(flows)
    await stale_in_l2(flows, l2, l3)
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=ALL) as late:
        await until_l2_is_trusted(flows, late)
        assert await late.store.bots.get(KEY.id) == ADA
        l2.away = True
        await late.verifier.round()
        assert (late.store.consistency().l2.unsettled, late.store.consistency().l2.stale) == (1, 0)
        l2.away = False


async def test_a_share_of_zero_samples_nothing(
    l2: MemoryCache, l3: MemoryStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched off it draws nothing, asks nothing and runs nothing."""
    off = Settings(verify_share=0.0)
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=off) as flows:
        await until_l2_is_trusted(flows)
        old, _ = await put_twice(flows)
        plant_in_l1(flows, KEY, ADA, old)
        for _ in range(100):
            flows.store.bots.peek(KEY.id)
        asked = len(l3.loads)
        await flows.verifier.round()
        assert len(l3.loads) == asked
        assert flows.verifier._task is None
        assert flows.store.consistency().l1.samples == 0


async def test_the_checks_of_a_round_are_limited_and_share_one_query(
    l2: MemoryCache, l3: MemoryStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many answers are given: 7 a round here, in one query, of whose rows at most 4 are sent whole."""
    limited = Settings(verify_share=1.0, verify_checks_max=7)
    async with connect_flows(l2=l2, l3=l3, clock=clock, settings=limited) as flows:
        bots = {f"b{number}": ADA for number in range(100)}
        await flows.store.bots.put_many(bots)
        for identifier in bots:
            assert flows.store.bots.peek(identifier) == ADA
        asked: list[Loaded] = []
        load = l3.load

        async def noted(keys: Sequence[Key], known: Mapping[Key, int] = {}) -> Loaded:
            asked.append(await load(keys, known))
            return asked[-1]

        monkeypatch.setattr(l3, "load", noted)
        await flows.verifier.round()
        assert [len(loaded.rows) for loaded in asked] == [7]
        assert sum(bool(row.body) for row in asked[0].rows.values()) == verifier.BODIES_MAX
        assert flows.store.consistency().l1.samples == 7


async def test_the_loop_verifies_and_outlives_its_faults(
    l3: MemoryStorage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L3 goes away for a while; what was drawn meanwhile is lost, and the rounds go on."""
    monkeypatch.setattr(verifier, "ROUND_SECONDS", 0.001)
    async with connect_flows(l3=l3, clock=clock, settings=ALL) as flows:
        await flows.store.bots.put(KEY.id, ADA)

        async def failed() -> bool:
            flows.store.bots.peek(KEY.id)
            return flows.verifier.fault is not None

        async def verified() -> bool:
            flows.store.bots.peek(KEY.id)
            return flows.verifier.fault is None and flows.store.consistency().l1.samples > before

        l3.away = True
        await until(failed)
        before = flows.store.consistency().l1.samples
        l3.away = False
        await until(verified)
        await flows.verifier.stop()
        await flows.verifier.stop()


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


async def test_stopped_with_the_server(flows: Flows) -> None:
    """No task is left behind."""
    task = flows.verifier._task
    assert task is not None
    await flows.stop()
    assert task.done()
    assert not [each for each in asyncio.all_tasks() if each.get_name() == "holdfast verifier"]
