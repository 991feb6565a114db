"""The verifier over tiers in memory: what it finds, explains, repairs and leaves alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from fix_races import KEY, until, until_l2_is_trusted
from fix_verifier import ADA, EVE, plant_in_l1, plant_in_memory_l2, put_twice
from holdfast import Bot, Settings
from holdfast.documents import encode
from holdfast.entry import MISSING, Tier
from holdfast.flows import Flows
from holdfast.invalidation import verifier
from holdfast.invalidation.repairing import Repairer
from holdfast.invalidation.verifier import INCONSISTENT
from holdfast.keys import Key
from holdfast.protocols import Loaded, Row
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage
from holdfast.testing.door import connect_flows

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


async def test_stopped_with_the_server(flows: Flows) -> None:
    """No task is left behind."""
    task = flows.verifier._task
    assert task is not None
    await flows.stop()
    assert task.done()
    assert not [each for each in asyncio.all_tasks() if each.get_name() == "holdfast verifier"]
