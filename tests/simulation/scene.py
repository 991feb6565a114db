"""The servers of a world and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from holdfast import Bot, Settings
from holdfast.collection import Collection
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.kinds import BUILT_IN, ESCALATION, REVIEW, Caching, Kind
from holdfast.protocols import Change
from holdfast.testing import (
    MemoryAudit,
    MemoryCache,
    MemoryDecisions,
    MemoryDeliveries,
    MemoryFeed,
    MemoryJournalBase,
    MemoryKeys,
    MemoryQuarantine,
    MemoryRecoveryLog,
    MemoryRuns,
    MemoryStorage,
)
from holdfast.testing.door import connect_flows
from holdfast.testing.simulation import World
from holdfast.testing.slow_cache import SlowCache, SlowFences
from holdfast.testing.slow_feed import SlowFeed
from holdfast.testing.slow_storage import SlowStorage
from simulation.guarded import GuardedCache, GuardedFences, GuardedNodes, GuardedStorage
from simulation.health import HealthRecords
from simulation.records import Records
from simulation.themes import Theme

NAMES = ("s1", "s2", "s3")
FENCE_SECONDS = 1.0
"""Minutes run short in these worlds: a fence lives a second, and the fence maps remember two."""
WINDOW_SECONDS = 2.0
TAGS = 5
"""Tags that notes have, one each; L3 forgets the older half of more than 3."""
NOTE = Kind(
    "note",
    Bot,
    tags=lambda note: [str(int(note.name) % TAGS)],
    caching=Caching(l1_entries_max=2, l1_ttl_seconds=2.0, l2_ttl_seconds=FENCE_SECONDS, staleness_bound_seconds=0.4),
)
KEYS = (Key("bot", "b1"), Key("bot", "b2"), Key("note", "n1"), Key("note", "n2"))
BOUNDS = {"bot": 0.25, "note": 0.4}


class Scene:
    """One world.

    Args:
        verify_share: of the answers of each server, the share that it verifies.

    Attributes:
        records: what is committed and answered.
        health: what servers tell of how they are.
        l2, l3, servers: its parts.
    """

    def __init__(self, world: World, theme: Theme, *, verify_share: float = 0.0) -> None:
        self.world = world
        self._verify_share = verify_share
        self.theme = theme
        self.records = Records(world, KEYS)
        self.health = HealthRecords(world)
        self.make_l2 = partial(MemoryCache, fence_lifetime_seconds=FENCE_SECONDS, lease_seconds=0.2, nodes=2)
        self.l2 = self.make_l2(world)
        self.l3 = MemoryStorage([*BUILT_IN, NOTE], seed=1, on_commit=self._committed, statement_keys_max=1, tags_max=3)
        self.servers: Sequence[Server] = [Server(name, self) for name in NAMES]
        self._numbers = 0

    async def start(self, stack: AsyncExitStack) -> None:
        """Connect all servers."""
        settings = Settings(
            l1_config_entries_max=self.world.random.choice((1, 1, 10)),
            l2_fence_lifetime_seconds=FENCE_SECONDS,
            verify_share=self._verify_share,
        )
        self.be_calm(calm=True)
        for server in self.servers:
            await server.start(stack, settings)
            await self.health.listen(server.name, server.flows)
        self.be_calm(calm=False)

    def next_number(self) -> int:
        """The number of a document nobody wrote before."""
        self._numbers += 1
        return self._numbers

    def next_document(self) -> tuple[int, Bot]:
        """A document nobody wrote before, and its number."""
        number = self.next_number()
        return number, Bot(name=str(number))

    def be_calm(self, *, calm: bool) -> None:
        """Let nothing get lost or late, or again."""
        for server in self.servers:
            for tier in (server.feed, server.relay_feed, server.l2, server.l3, server.fences):
                tier.calm = calm

    def _committed(self, xid: int, changes: Sequence[Change]) -> None:
        self.records.committed(self.l3.log.rows, changes)


class Server:
    """One server, and the network between it and the tiers.

    Attributes:
        hearing, relaying: its two readers of the change feed, with their switches.
        flows: once it is started.
    """

    def __init__(self, name: str, scene: Scene) -> None:
        self.name = name
        self.flows: Flows
        self.hearing = MemoryFeed(scene.l3, timeout_seconds=1.0)
        self.relaying = MemoryFeed(scene.l3, timeout_seconds=1.0)
        self._world = world = scene.world
        theme = scene.theme
        most = world.random.choice(theme.delays)
        slow, slow_relay = (world.random.choice((most, most, *theme.slow)) for _ in range(2))
        self.feed = SlowFeed(self.hearing, world, most_seconds=most, lost_share=theme.lost * 0.05)
        self.relay_feed = SlowFeed(self.relaying, world, most_seconds=slow_relay, lost_share=theme.lost * 0.03)
        self.l3 = SlowStorage(
            scene.l3,
            world,
            most_seconds=slow,
            lost_share=theme.lost * 0.03,
            unknown_share=theme.lost * 0.1,
            late_seconds=1.5,
        )
        late = {"most_seconds": most, "late_share": theme.late}
        self.l2 = SlowCache(scene.l2, scene.make_l2, world, late_seconds=2.5 * FENCE_SECONDS, **late)
        self.fences = SlowFences(scene.l2, world, late_seconds=2.0, **late)
        self._nodes = GuardedNodes(scene.l2, world, most_seconds=most)
        self._guarded = GuardedStorage(scene.l3, self.l3, world, most_seconds=most)
        behind, l3 = self._guarded.behind, scene.l3
        self._journals = behind(MemoryJournalBase(l3, world))  # nothing is written behind in these worlds
        self._runs = behind(MemoryRuns(l3, world))
        self._reviews = behind(MemoryDecisions(l3, world, REVIEW))
        self._escalations, self._audit = behind(MemoryDecisions(l3, world, ESCALATION)), behind(MemoryAudit(l3))
        self._key_rows, self._deliveries = behind(MemoryKeys(l3)), behind(MemoryDeliveries(l3, world))
        self._recovery_log, self._quarantine = behind(MemoryRecoveryLog(l3)), behind(MemoryQuarantine(l3))

    async def start(self, stack: AsyncExitStack, settings: Settings) -> None:
        """Connect."""
        stack.push_async_callback(self._nodes.watch.close)
        stack.push_async_callback(self._guarded.guard.close)
        await self._guarded.guard.connect()
        self.flows = await stack.enter_async_context(
            connect_flows(
                kinds=[NOTE],
                l2=GuardedCache(self.l2, self._nodes, self._world),
                l3=self._guarded.behind(self.l3),
                l2_guard=self._nodes.guard,
                l3_guard=self._guarded.guard,
                feed=self.feed,
                relay=(self.relay_feed, GuardedFences(self.fences, self._nodes)),
                journals=self._journals,
                runs=self._runs,
                reviews=self._reviews,
                escalations=self._escalations,
                audit=self._audit,
                key_rows=self._key_rows,
                deliveries=self._deliveries,
                recovery_log=self._recovery_log,
                quarantine=self._quarantine,
                clock=self._world,
                settings=settings,
                window_seconds=WINDOW_SECONDS,
            )
        )

    def collection(self, kind: str) -> Collection[Any]:
        """The door to a kind."""
        return self.flows.store.collections[kind]

    async def drain(self) -> None:
        """Wait for everything of this server that is late."""
        await self.flows.writer.drain()
        await self.flows.resolver.drain()
        await self.l3.drain()
        await self.fences.drain()
