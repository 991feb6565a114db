"""The mode of a server over tiers in memory: which it is, what it does, and how it is left. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fix_bots import ADA
from holdfast import Bot, Durability, Event, Increment, Settings, Swarm, TierUnavailable
from holdfast.errors import Overloaded, Undecided
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Loaded
from holdfast.protocols.guards import TierHealth, TierState
from holdfast.recovery.breaker import Circuit
from holdfast.recovery.health import LOOK_SECONDS, RULES, HealthKeeper
from holdfast.recovery.modes import Mode
from holdfast.testing import MemoryCache, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_guard import MemoryGuard
from holdfast.testing.simulation import World, simulate
from holdfast.write_behind.buffer import Buffer

SOON = 2 * LOOK_SECONDS
SETTLED = RULES.settle_seconds + SOON
ONE = Increment("stats", "total_tool_calls")
JOURNALED = Durability.JOURNALED


class Stage:
    """A server, its tiers, and what it told."""

    def __init__(self, flows: Flows, l2: MemoryCache, l3: MemoryStorage) -> None:
        self.flows = flows
        self.store = flows.store
        self.l2 = l2
        self.l3 = l3
        self.events: list[dict[str, Any]] = []

    async def hear(self, event: Event) -> None:
        self.events.append(event.data)

    async def entered(self, *modes: Mode) -> None:
        """Wait a moment until these are the modes that it has told of."""
        async with asyncio.timeout(SOON):
            while [event["mode"] for event in self.events] != [*modes]:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)

    def mode(self) -> Mode:
        return self.store.health().mode


def staged(scenario: Callable[[Stage], Awaitable[None]], **settings: Any) -> None:
    """Run a scenario."""

    async def run(world: World) -> None:
        l2, l3 = MemoryCache(world), MemoryStorage()
        async with connect_flows(
            l2=l2, l3=l3, clock=world, settings=Settings(**{"verify_share": 0.0, "journal_replicas": 0, **settings})
        ) as flows:
            stage = Stage(flows, l2, l3)
            await stage.store.subscribe("state/mode/*", stage.hear).ready()
            await scenario(stage)

    simulate(1, run)


def test_a_healthy_server_says_so() -> None:
    """Both tiers, the feed's age, and what waits."""

    async def scenario(stage: Stage) -> None:
        await asyncio.sleep(1.0)
        health = stage.store.health()
        assert (health.mode, health.l2.state, health.l3.state) == (Mode.NORMAL, TierState.THERE, TierState.THERE)
        assert health.why == "every tier answers"
        assert health.seconds > 0.9
        assert health.feed_seconds is not None
        assert health.feed_seconds < 0.25
        assert health.staleness_seconds == 0.25
        assert (health.backlog.writes, health.backlog.oldest_seconds) == (0, 0.0)
        assert stage.events == []

    staged(scenario)


def test_without_l2_it_is_bypassed() -> None:
    """At once, and until L2 has answered for a while; reads and writes go on. The mode is told and counted."""

    async def scenario(stage: Stage) -> None:
        stage.l2.away = True
        await asyncio.sleep(SOON)
        await stage.entered(Mode.L2_BYPASSED)
        assert stage.events[0]["was"] == "normal"
        assert "L2 is away" in stage.events[0]["why"]
        await stage.store.bots.put("b1", ADA)
        asked = stage.flows.counters.l2.round_trips
        stage.flows.caches["bot"].flush()
        assert await stage.store.bots.get("b1") == ADA
        assert stage.flows.counters.l2.round_trips == asked  # who is away is not asked for each read
        stage.l2.away = False
        await asyncio.sleep(SOON)
        stage.flows.caches["bot"].flush()
        assert await stage.store.bots.get("b1") == ADA
        assert stage.flows.counters.l2.round_trips > asked
        await asyncio.sleep(RULES.settle_seconds - 2 * SOON)
        assert stage.mode() is Mode.L2_BYPASSED
        await asyncio.sleep(2 * SOON)
        await stage.entered(Mode.L2_BYPASSED, Mode.NORMAL)
        counters = stage.flows.counters.modes
        assert counters.changes == 2
        assert counters.seconds["l2_bypassed"] == pytest.approx(RULES.settle_seconds + SOON, abs=2 * SOON)

    staged(scenario)


def test_an_outage_soon_after_another_is_recovered_from_too() -> None:
    """What is mended is left alone for a second: an outage that begins in it is reported until that is over."""

    async def scenario(stage: Stage) -> None:
        for number in (1, 2):
            stage.l2.away = True
            await asyncio.sleep(2.0)
            stage.l2.away = False
            async with asyncio.timeout(5.0):
                while stage.flows.counters.recovery.returned < number:  # noqa: ASYNC110 - it ends that way
                    await asyncio.sleep(0.01)

    staged(scenario)


def test_mutant_an_outage_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the second one would be in no log."""
    monkeypatch.setattr("holdfast.recovery.health.REPORT_SECONDS", float("inf"))
    with pytest.raises(TimeoutError):
        test_an_outage_soon_after_another_is_recovered_from_too()


def test_a_tier_that_comes_and_goes_does_not_settle() -> None:
    """It must have answered for two seconds without a break."""

    async def scenario(stage: Stage) -> None:
        for _ in range(5):
            stage.l2.away = True
            await asyncio.sleep(1.0)
            stage.l2.away = False
            await asyncio.sleep(1.0)
        await stage.entered(Mode.L2_BYPASSED)

    staged(scenario)


def test_without_l3_writes_that_must_be_committed_are_refused_at_once() -> None:
    """The error names the mode; writes behind go on, reads are answered as old as the caller allows, and say so."""

    async def scenario(stage: Stage) -> None:
        swarms, bots = stage.store.swarms, stage.store.bots
        await swarms.put("s1", Swarm(goal="x"))
        await bots.put("b1", ADA)
        await swarms.patch("s1", ONE, durability=JOURNALED)
        stage.l3.away = True
        await asyncio.sleep(1.0)
        await stage.entered(Mode.WRITE_BUFFERING)
        loop = asyncio.get_running_loop()
        began = loop.time()
        refused: list[Callable[[], Awaitable[Any]]] = [
            lambda: bots.put("b1", Bot(name="Eve")),
            lambda: bots.put_many({"b1": Bot(name="Eve")}),
            lambda: bots.delete("b1"),
            lambda: swarms.put("s1", Swarm()),  # behind a write that waits
            lambda: stage.store.transact(lambda transaction: transaction.bots.get("b1")),
        ]
        for write in refused:
            with pytest.raises(TierUnavailable, match="mode write_buffering: L3 is away"):
                await write()
        assert loop.time() == began
        await swarms.patch("s1", ONE, durability=JOURNALED)
        assert stage.store.health().backlog.writes == 2
        entry = await bots.entry("b1", max_stale=60.0)
        assert entry is not None
        assert (entry.value, entry.stale) == (ADA, True)
        assert stage.store.health().staleness_seconds > 0.9
        stage.l3.away = False
        await bots.put("b1", Bot(name="Eve"))  # as soon as L3 answers, whatever the mode's word is
        asked = await stage.store.escalations.open("tier:l3", failed="it was away")
        await stage.store.escalations.resolve(asked, decision="seen", by="ann", reason="it is back")
        await stage.entered(Mode.WRITE_BUFFERING)
        await asyncio.sleep(SETTLED)
        await stage.entered(Mode.WRITE_BUFFERING, Mode.NORMAL)
        assert await stage.store.flush() == []
        swarm = await swarms.get("s1")
        assert swarm is not None
        assert swarm.stats.total_tool_calls == 2

    staged(scenario)


def test_mutant_a_write_behind_one_that_waits_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check it waits until the one before is committed, for as long as it may."""
    monkeypatch.setattr(HealthKeeper, "check_writes", lambda _self: None)

    async def scenario(stage: Stage) -> None:
        await stage.store.swarms.put("s1", Swarm())
        await stage.store.swarms.patch("s1", ONE, durability=JOURNALED)
        stage.l3.away = True
        began = asyncio.get_running_loop().time()
        with pytest.raises(TierUnavailable):
            await stage.store.swarms.put("s1", Swarm())
        assert asyncio.get_running_loop().time() - began >= 30.0

    staged(scenario)


def test_a_full_buffer_makes_it_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more writes can be kept: it would be wrong to say they are."""
    monkeypatch.setattr(Buffer, "is_crowded", lambda _self, _now: False)

    async def scenario(stage: Stage) -> None:
        await stage.store.swarms.put("s1", Swarm())
        await stage.store.swarms.patch("s1", ONE, durability=Durability.ACCEPTED)
        stage.l3.away = True
        await stage.store.swarms.patch("s1", ONE, durability=Durability.ACCEPTED)
        with pytest.raises(Overloaded):
            await stage.store.swarms.patch("s1", ONE, durability=Durability.ACCEPTED)
        assert stage.mode() is Mode.READ_ONLY
        stage.l3.away = False

    staged(scenario, write_behind_writes_max=2)


async def begun(stage: Stage) -> None:
    """A journal that has taken a write."""
    await stage.store.swarms.put("s1", Swarm())
    await stage.store.swarms.patch("s1", ONE, durability=JOURNALED)
    await stage.store.flush()


async def not_begun(stage: Stage) -> None:
    """The first write would have to enter its journal in L3."""
    await stage.store.swarms.put("s1", Swarm())


async def crowded(stage: Stage) -> None:
    """It has waited for so long that each write would wait for its commit."""
    await begun(stage)
    stage.l3.away = True
    await stage.store.swarms.patch("s1", ONE, durability=JOURNALED)
    await asyncio.sleep(5.0)


@pytest.mark.parametrize(
    ("before", "settings", "mode", "refusal"),
    [
        (begun, {}, Mode.WRITE_BUFFERING, ()),
        (not_begun, {}, Mode.READ_ONLY, TierUnavailable),
        (crowded, {"write_behind_crowded_seconds": 2.0}, Mode.READ_ONLY, Overloaded),  # at once, and not accepted
        (begun, {"journal_replicas": 2}, Mode.READ_ONLY, Undecided),  # nothing in memory has as many
    ],
)
def test_it_says_that_writes_are_kept_only_if_they_are(
    before: Callable[[Stage], Awaitable[None]], settings: dict[str, Any], mode: Mode, refusal: Any
) -> None:
    """A patch as swarms have it by default returns then, and else not."""

    async def scenario(stage: Stage) -> None:
        await before(stage)
        stage.l3.away = True
        await asyncio.sleep(1.0)
        assert stage.mode() is mode
        patch = stage.store.swarms.patch("s1", ONE)
        if mode is Mode.WRITE_BUFFERING:
            await patch
        else:
            with pytest.raises(refusal):
                await patch
        stage.l3.away = False

    staged(scenario, write_behind_commit_seconds=3.0, **settings)


def test_a_feed_that_is_not_heard_is_named() -> None:
    """It alone is silent: no mode follows, but reads take longer, and this is why."""

    async def scenario(stage: Stage) -> None:
        await stage.flows.feed.stop()
        await asyncio.sleep(5.0)
        health = stage.store.health()
        assert health.mode is Mode.NORMAL
        assert "the change feed was not heard for 5 s" in health.why

    staged(scenario)


def test_without_both_it_answers_from_memory() -> None:
    """And says why."""

    async def scenario(stage: Stage) -> None:
        await stage.store.bots.put("b1", ADA)
        stage.l2.away = stage.l3.away = True
        await asyncio.sleep(1.0)
        assert stage.mode() is Mode.MEMORY_ONLY
        assert "L2 is away" in stage.store.health().why
        assert "L3 is away" in stage.store.health().why
        assert await stage.store.bots.get("b1", max_stale=60.0) == ADA
        stage.l2.away = stage.l3.away = False
        await asyncio.sleep(SETTLED)
        assert stage.mode() is Mode.NORMAL

    staged(scenario)


def test_direct_access_to_l3_can_be_forced() -> None:
    """Reads pass L2 by, also beneath a worse mode, until it is over; it shows why, and when it is."""

    async def scenario(stage: Stage) -> None:
        bots, counters = stage.store.bots, stage.flows.counters
        await bots.put("b1", ADA)
        stage.flows.health.degrade(10.0, "L2 holds what does not verify")
        assert stage.mode() is Mode.L2_BYPASSED
        assert stage.store.health().why == "L2 holds what does not verify"
        asked = counters.l2.round_trips
        stage.flows.caches["bot"].flush()
        assert await bots.get("b1") == ADA
        assert counters.l2.round_trips == asked
        stage.l3.away = True
        await asyncio.sleep(1.0)
        assert stage.mode() is Mode.READ_ONLY
        stage.l3.away = False
        await asyncio.sleep(SETTLED)
        assert stage.mode() is Mode.L2_BYPASSED
        stage.flows.caches["bot"].flush()
        assert await bots.get("b1") == ADA
        assert counters.l2.round_trips == asked
        await asyncio.sleep(10.0 - 1.0 - SETTLED + SOON)
        await stage.entered(Mode.L2_BYPASSED, Mode.READ_ONLY, Mode.L2_BYPASSED, Mode.NORMAL)
        stage.flows.caches["bot"].flush()
        assert await bots.get("b1") == ADA
        assert counters.l2.round_trips > asked

    staged(scenario)


class Slow(MemoryStorage):
    """L3 that takes a second for a query, and counts how many it works on."""

    under_way = most = 0

    async def load(self, keys: Any, known: Any = {}) -> Loaded:  # noqa: B006 - as its base
        if not keys:  # whether it is there
            return await super().load(keys, known)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(1.0)
        self.under_way -= 1
        return await super().load(keys, known)


def test_l3_is_not_stampeded_while_l2_is_away() -> None:
    """However many ask, half of the connections read; what finds no room to wait is refused at once."""

    async def run(world: World) -> None:
        l2, l3 = MemoryCache(world), Slow()
        settings = Settings(verify_share=0.0, l3_connections_max=8)
        async with connect_flows(l2=l2, l3=l3, clock=world, settings=settings) as flows:
            l2.away = True
            await asyncio.sleep(SOON)
            assert flows.store.health().mode is Mode.L2_BYPASSED
            flows.resolver._l3_batcher._waiting_max = 3000
            l3.most = 0
            loads = []
            refused = 0
            for number in range(10_000):
                try:
                    loads.append(flows.resolver.load(Key("bot", f"b{number}")))
                except Overloaded:
                    refused += 1
            results = await asyncio.gather(*loads, return_exceptions=True)
            refused += sum(isinstance(each, Overloaded) for each in results)
            assert refused > 5000
            assert sum(not isinstance(each, BaseException) for each in results) >= 3000
            assert l3.most == 4

    simulate(1, run)


class Nodes(MemoryGuard):
    """A tier of two nodes, one of which is cut off; its check fails as nobody foresaw."""

    def __init__(self) -> None:
        super().__init__(object())
        self.checks = 0

    in_doubt = True
    opened = 2

    def health(self) -> TierHealth:
        return TierHealth.of({"a": Circuit.CLOSED, "b": Circuit.OPEN}, "no answer")

    async def check(self) -> None:
        self.checks += 1
        if self.checks < 3:
            raise ZeroDivisionError


def test_a_tier_in_doubt_is_asked_again_and_again() -> None:
    """Whatever its check raises, the looks go on. A tier of which some nodes answer is degraded, and used."""
    nodes, shown = Nodes(), []

    async def run(world: World) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: shown.append(context))
        async with connect_flows(clock=world, l2_guard=nodes, settings=Settings(verify_share=0.0)) as flows:
            await asyncio.sleep(2.0)
            health = flows.store.health()
            assert (health.mode, health.l2.state) == (Mode.NORMAL, TierState.DEGRADED)
            assert flows.counters.modes.cut_off == {"L2": 2, "L3": 0}
            await flows.health.stop()
            await flows.health.stop()

    simulate(1, run)
    assert nodes.checks > 10
    assert len(shown) == 2
