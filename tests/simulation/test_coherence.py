"""Three servers over slow tiers in a seeded simulation, and mutants of every mechanism that keeps their answers right.

Promises checked, of what holds before there is a change feed:

* own writes: a read that begins after this server's own write returned sees that write or a later one;
* strong: a strong read sees every write that was committed before it began;
* L2 holds the truth: when all is quiet, L2 has what L3 has, or nothing;
* no phantoms: every answer was committed once.

Documents carry the number of their write, and L3 in memory gives rising versions, so checking is exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
import pytest

from holdfast import Bot, Consistency, Settings
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.protocols import Cached, Coherence, Fill
from holdfast.resolution import Resolver
from holdfast.testing import MemoryCache, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_cache import Held
from holdfast.testing.simulation import SlowCache, SlowStorage, World, simulate
from holdfast.tiers.l1_local import LocalCache
from holdfast.writing import Writer

IDS = ("b1", "b2", "b3")
STEPS = 30
SHORT_SEEDS = range(200)
MUTANT_SEEDS = range(600)
LONG_SEEDS = range(8_000)
SMALL_L1 = Settings(l1_config_entries_max=1)  # evictions make reads go past L1
Mutation = Callable[[pytest.MonkeyPatch], None]


class History:
    """What was committed, in the order of L3, and what each read must at least see."""

    def __init__(self) -> None:
        self.committed: dict[str, list[int]] = {identifier: [] for identifier in IDS}
        self.faults: list[str] = []
        self.writes = 0

    def next_write(self) -> Bot:
        """A document nobody wrote before."""
        self.writes += 1
        return Bot(name=str(self.writes))

    def position(self, identifier: str) -> int:
        """How many writes of this id are committed now."""
        return len(self.committed[identifier])

    def check(self, what: str, identifier: str, bot: Bot | None, least: int) -> None:
        """Note a fault if an answer is older than the `least`-th write, or was never written."""
        number = int(bot.name) if bot is not None and bot.name else 0
        order = self.committed[identifier]
        if number and number not in order:
            self.faults.append(f"{what} {identifier}: phantom {number}")
        elif (order.index(number) + 1 if number else 0) < least:
            self.faults.append(f"{what} {identifier}: write {number} is older than number {least} of {order}")


class RecordingStorage(MemoryStorage):
    """Notes each write at the moment it is committed."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self.history = history

    async def save(self, writes):  # type: ignore[no-untyped-def]
        versions = await super().save(writes)
        for write in writes:
            self.history.committed[write.key.id].append(int(msgspec.json.decode(write.body)["name"]))
        return versions


async def act(world: World, flows: Flows, history: History, own: dict[str, int]) -> None:
    """One server's work: writes and reads at random, one after the other."""
    bots = flows.store.bots
    for _ in range(STEPS):
        identifier = world.random.choice(IDS)
        await world.pause(0.02)
        chance = world.random.random()
        if chance < 0.3:
            bot = history.next_write()
            await bots.put(identifier, bot)
            own[identifier] = max(own.get(identifier, 0), history.committed[identifier].index(int(bot.name or 0)) + 1)
        elif chance < 0.4:
            least = history.position(identifier)
            answer = await bots.get(identifier, consistency=Consistency.STRONG)
            history.check("strong read of", identifier, answer, least)
        else:
            least = own.get(identifier, 0)
            history.check("read of own", identifier, await bots.get(identifier), least)


async def scenario(world: World) -> list[str]:
    """Three servers, three tasks each, until all is quiet; returns the faults found."""
    history = History()
    l2, l3 = MemoryCache(world), RecordingStorage(history)
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                connect_flows(
                    l2=SlowCache(l2, world, most_seconds=0.01, late_share=0.05, late_seconds=200.0, fail_share=0.1),
                    l3=SlowStorage(l3, world, most_seconds=0.01),
                    clock=world,
                    settings=SMALL_L1,
                )
            )
            for _ in range(3)
        ]
        owns: list[dict[str, int]] = [{} for _ in servers]
        await asyncio.gather(
            *(act(world, flows, history, own) for flows, own in zip(servers, owns, strict=True) for _ in range(3))
        )
        await asyncio.gather(*(flows.resolver.drain() for flows in servers))
        while any(flows.fences.pending for flows in servers):
            await world.pause(1.0)
        coherence = servers[0].resolver.coherence
        for identifier in IDS:
            answer = (await l2.read([Key("bot", identifier)], coherence))[Key("bot", identifier)]
            if isinstance(answer, Cached):
                bot = servers[0].resolver.decode(Key("bot", identifier), answer.row)
                history.check("L2 at rest:", identifier, bot, history.position(identifier))
    return history.faults


def no_tickets(patch: pytest.MonkeyPatch) -> None:
    """L1 takes every fill that is not below what it holds."""
    patch.setattr(LocalCache, "ticket", lambda self: 2**60)


def no_l1_fence(patch: pytest.MonkeyPatch) -> None:
    """Writes do not fence L1."""
    patch.setattr(LocalCache, "fence", lambda self, key, version: None)


def plain_set(patch: pytest.MonkeyPatch) -> None:
    """L2 takes every fill."""

    def fill(self: MemoryCache, fill: Fill, coherence: Coherence) -> bool:
        expires = fill.node_time_ms + round(fill.ttl_seconds * 1000)
        self._held[fill.key] = Held(
            fill.row, fill.row.version, coherence.incarnation, coherence.highest, fill.node_time_ms, expires
        )
        return True

    patch.setattr(MemoryCache, "_fill", fill)


def no_age_check(patch: pytest.MonkeyPatch) -> None:
    """L2 takes fills of reads that began minutes ago."""
    healthy = MemoryCache._fill

    def fill(self: MemoryCache, fill: Fill, coherence: Coherence) -> bool:
        return healthy(self, msgspec.structs.replace(fill, node_time_ms=self._now_ms()), coherence)

    patch.setattr(MemoryCache, "_fill", fill)


def no_l2_fence(patch: pytest.MonkeyPatch) -> None:
    """Writes do not fence L2."""

    async def tell_nobody(self: object, versions: object) -> None:
        return None

    patch.setattr("holdfast.invalidation.fences.FenceSender.send", tell_nobody)


def fences_sent_once(patch: pytest.MonkeyPatch) -> None:
    """A fence that fails is not repeated."""

    async def once(self, versions):  # type: ignore[no-untyped-def]
        await self._l2.fence(versions, self._coherence())

    patch.setattr("holdfast.invalidation.fences.FenceSender.send", once)


def writes_join_old_flights(patch: pytest.MonkeyPatch) -> None:
    """A write leaves the key's flight in place for later readers."""
    patch.setattr(Resolver, "detach", lambda self, key: None)


def strong_joins_flights(patch: pytest.MonkeyPatch) -> None:
    """A strong read takes part in a load that began before it."""
    patch.setattr(Resolver, "load_strong", Resolver.load)


def told_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Caches are fenced before the write is committed, and not after."""
    healthy = Writer._save

    async def save(self, kind, writes):  # type: ignore[no-untyped-def]
        early = {write.key: 2 for write, _ in writes}
        self._tell(early)
        await self._fences.send(early)
        tell, self._tell = self._tell, lambda versions: None
        send, self._fences.send = self._fences.send, _nothing
        try:
            return await healthy(self, kind, writes)
        finally:
            self._tell, self._fences.send = tell, send

    patch.setattr(Writer, "_save", save)


async def _nothing(versions: object) -> None:
    return None


MUTANTS: list[Mutation] = [
    no_tickets,
    no_l1_fence,
    plain_set,
    no_age_check,
    no_l2_fence,
    fences_sent_once,
    writes_join_old_flights,
    strong_joins_flights,
    told_before_commit,
]


def first_faulty(seeds: range) -> tuple[int, list[str]] | None:
    """The first seed whose run breaks a promise."""
    for seed in seeds:
        if faults := simulate(seed, scenario):
            return seed, faults
    return None


def test_no_seed_breaks_a_promise() -> None:
    """Three servers over slow, late and failing tiers keep every promise."""
    assert first_faulty(SHORT_SEEDS) is None


@pytest.mark.parametrize("mutation", MUTANTS, ids=lambda mutation: mutation.__name__)
def test_every_mutant_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one mechanism switched off, some seed breaks a promise."""
    mutation(monkeypatch)
    assert first_faulty(MUTANT_SEEDS) is not None


def test_a_seed_repeats_itself() -> None:
    """The same seed gives the same run, so a failure can be replayed."""

    async def trace(world: World) -> list[float]:
        seen: list[float] = []

        async def walk() -> None:
            for _ in range(5):
                await world.pause(1.0)
                seen.append(world.monotonic())

        await asyncio.gather(walk(), walk(), walk())
        return seen

    assert simulate(3, trace) == simulate(3, trace)
    assert simulate(3, trace) != simulate(4, trace)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_prove_late_fills() -> None:
    """The long form: 8,000 seeds."""
    assert first_faulty(LONG_SEEDS) is None
