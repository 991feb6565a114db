"""The verifier over PostgreSQL and a Valkey cluster: planted faults are found by its own rounds, and no others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

import holdfast
from fix_feed import connected
from fix_races import KEY, until, until_l2_is_trusted, until_l2_was_told, watermarks
from fix_tiers import flows_of
from fix_verifier import ADA, EVE, plant_in_l1, plant_in_redis, put_twice
from holdfast import Bot, Tier
from holdfast.documents import encode
from holdfast.flows import Flows
from holdfast.invalidation import verifier
from holdfast.invalidation.consistency import Finding
from holdfast.invalidation.repairing import Repairer
from holdfast.invalidation.verifier import Verifier
from holdfast.node import OpenStore
from holdfast.protocols import Cached, Coherence, Row, SharedCache
from holdfast.settings import Settings
from holdfast.testing.views import FixedView
from holdfast.tiers.l2_redis import RedisCache

SAMPLES = 1500
ROUND_SECONDS = 0.02


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Every answer is verified."""
    return msgspec.structs.replace(settings, verify_share=1.0, verify_checks_max=1000)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a second for a round."""
    monkeypatch.setattr(verifier, "ROUND_SECONDS", ROUND_SECONDS)


@pytest.fixture
async def state(settings: Settings) -> AsyncIterator[OpenStore]:
    """A server that verifies."""
    async with holdfast.connect(settings) as opened:
        yield opened


async def found(state: OpenStore, tier: Tier) -> Finding:
    """Its finding of a tier, once there is one."""

    async def there() -> bool:
        await state.bots.get(KEY.id)
        return any(finding.tier is tier for finding in state.consistency().findings)

    await until(there)
    return next(finding for finding in state.consistency().findings if finding.tier is tier)


async def test_a_stale_entry_planted_in_l1(state: OpenStore) -> None:
    """It is found, explained and repaired."""
    old, new = await put_twice(flows_of(state))
    plant_in_l1(flows_of(state), KEY, ADA, old)
    assert state.bots.peek(KEY.id) == ADA
    finding = await found(state, Tier.L1)
    assert (finding.served, finding.truth, finding.repaired) == (old, new, True)
    assert finding.cause.startswith(f"Word of version {new} came ")
    assert finding.cause.endswith(f" s ago, after version {old} was filled: its fence did not remove the entry.")
    assert any(f"told of version {new}" in line for line in finding.history)
    assert state.bots.peek(KEY.id) == EVE


@asynccontextmanager
async def believing(settings: Settings, l2: RedisCache) -> AsyncIterator[tuple[OpenStore, int, int]]:
    """A server that came after Eve took Ada's place, and believes an L2 in which Ada was planted; both versions.

    The plant has a valid checksum, the present generation, and lies on a node whose watermark covers the change.
    """
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(holdfast.connect(settings))
        await until_l2_is_trusted(flows_of(first))
        old, new = await put_twice(flows_of(first))
        await until_l2_was_told(l2, new)
        late = await stack.enter_async_context(holdfast.connect(settings))
        await until_l2_is_trusted(flows_of(first), flows_of(late))
        relay = flows_of(first).relay
        assert relay is not None
        marks = await watermarks(relay._sink)
        generation = max(mark.generation for mark in marks if mark is not None)
        row = Row(old, old, Bot.SCHEMA, encode(ADA))
        coherence = flows_of(late).view.coherence
        await plant_in_redis(l2, KEY, row, coherence, generation=max(generation, coherence.highest))
        yield late, old, new


async def answered(l2: SharedCache, coherence: Coherence) -> int:
    """The version that L2 answers with to somebody who was told nothing; 0: none."""
    answer = (await l2.read([KEY], FixedView(coherence), lease=False))[KEY]
    return answer.row.version if isinstance(answer, Cached) else 0


async def test_a_stale_entry_planted_in_l2(settings: Settings, l2: RedisCache) -> None:
    """It is found, explained and taken out of L2 and of the L1 that was filled from it."""
    async with believing(settings, l2) as (late, old, new):
        coherence = flows_of(late).view.coherence
        assert await answered(l2, coherence) == old
        assert await late.bots.get(KEY.id) == ADA
        finding = await found(late, Tier.L2)
        assert (finding.served, finding.truth, finding.repaired) == (old, new, True)
        assert "filled by another server" in finding.cause
        assert f"This server was not told of version {new}" in finding.cause
        assert await late.bots.get(KEY.id) == EVE
        assert await answered(l2, coherence) in {0, new}
        async with holdfast.connect(settings) as next_one:
            await until_l2_is_trusted(flows_of(late), flows_of(next_one))
            for _ in range(2):
                assert await next_one.bots.get(KEY.id) == EVE


async def test_without_the_repair_it_stays(settings: Settings, l2: RedisCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: found, and served for ever."""

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(Repairer, "repair", nothing)
    async with believing(settings, l2) as (late, old, _):
        assert await late.bots.get(KEY.id) == ADA
        assert not (await found(late, Tier.L2)).repaired
        assert await late.bots.get(KEY.id) == ADA
        assert await answered(l2, flows_of(late).view.coherence) == old


async def test_switched_off_it_stays(settings: Settings, l2: RedisCache) -> None:
    """With a share of 0 nothing is sampled, whatever is served."""
    off = msgspec.structs.replace(settings, verify_share=0.0)
    async with believing(off, l2) as (late, _, _):
        for _ in range(100):
            assert await late.bots.get(KEY.id) == ADA
        await flows_of(late).verifier.round()
        assert late.consistency().l2.samples == 0
        assert late.consistency().l1.samples == 0


async def test_a_row_changed_behind_the_triggers_is_found(state: OpenStore, settings: Settings) -> None:
    """What draws no version, nobody is told of: only the verifier notices, and says so."""
    await state.bots.put(KEY.id, ADA)
    assert await flows_of(state).feed.refresh()
    async with connected(settings.postgres_url) as sql:
        await sql.execute('ALTER TABLE holdfast."User" DISABLE TRIGGER ALL')
        await sql.execute("""UPDATE holdfast."User" SET document = $1::text::json""", encode(EVE).decode())
    finding = await found(state, Tier.L1)
    assert finding.served == finding.truth
    assert "triggers were off" in finding.cause
    assert finding.repaired
    assert state.bots.peek(KEY.id) == EVE


async def run_writer(servers: Sequence[OpenStore], settings: Settings) -> None:
    """Change keys all the time, by Holdfast and by SQL, and read them everywhere, until enough was verified."""
    numbers = itertools.count()

    async def work(server: OpenStore) -> None:
        while not is_enough(servers):
            number = next(numbers)
            name = f"b{number % 7}"
            if number % 13 == 0:
                await server.bots.delete(name)
            elif number % 3 == 0:
                await server.bots.put(name, Bot(name=str(number)))
            for other in range(7):
                await server.bots.get(f"b{(number + other) % 7}")
            await asyncio.sleep(0)

    async def by_hand() -> None:
        async with connected(settings.postgres_url) as sql:
            while True:
                body = encode(Bot(name=f"by hand {next(numbers)}")).decode()
                await sql.execute("""UPDATE holdfast."User" SET document = $1::text::json WHERE id = 'b3'""", body)
                await asyncio.sleep(0.005)

    hand = asyncio.ensure_future(by_hand())
    try:
        async with asyncio.timeout(120):
            await asyncio.gather(*(work(server) for server in servers for _ in range(2)))
    finally:
        hand.cancel()
        await asyncio.wait([hand])


def is_enough(servers: Sequence[OpenStore]) -> bool:
    """Each has verified so many answers, or one has found something."""
    reports = [server.consistency() for server in servers]
    return any(report.findings for report in reports) or all(
        report.l1.samples + report.l2.samples >= SAMPLES for report in reports
    )


async def two_verified(settings: Settings) -> list[Flows]:
    """Two servers among writers that never rest, and what they found."""
    async with holdfast.connect(settings) as one, holdfast.connect(settings) as two:
        await until_l2_is_trusted(flows_of(one), flows_of(two))
        await run_writer([one, two], settings)
        return [flows_of(one), flows_of(two)]


async def test_a_writer_that_never_rests_causes_no_false_alarm(settings: Settings) -> None:
    """Of thousands of answers many differ from L3 when it is asked, and none is called stale."""
    reports = [flows.verifier.report() for flows in await two_verified(settings)]
    assert [report.findings for report in reports] == [(), ()]
    assert sum(report.l1.differing + report.l2.differing for report in reports) > 20
    assert sum(report.l2.samples for report in reports) > 20


async def test_judged_by_l3_alone_it_does(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: nobody waits for a poll, and what is lawfully old is called stale."""

    async def no_wait(*_: object) -> bool:
        return True

    monkeypatch.setattr(Verifier, "_has_heard_since", no_wait)
    assert sum(len(flows.verifier.report().findings) for flows in await two_verified(settings)) > 0
