"""The servers of a world, each a process that may stop at any step, and the tiers they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from math import inf
from typing import Any, ClassVar, TypeVar

from holdfast import Settings
from holdfast.collection import Collection
from holdfast.flows import Flows
from holdfast.kinds import BUILT_IN, ESCALATION, REVIEW, Kind
from holdfast.protocols import Change, Isolation
from holdfast.testing import (
    JournalHub,
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
from holdfast.testing.simulated_process import SimulatedProcess, begun_outside, outside
from holdfast.testing.simulation import World
from holdfast.testing.slow_feed import SlowFeed
from holdfast.testing.slow_journal_base import SlowJournalBase
from holdfast.testing.slow_journals import Replication, SlowJournals
from holdfast.testing.slow_link import SlowLink
from holdfast.testing.slow_storage import SlowStorage, SlowTransaction
from holdfast.write_behind.lives import Life
from holdfast.write_behind.receipts import PendingWrite
from simulation.guarded import GuardedCache, GuardedNodes, GuardedStorage
from simulation.health import HealthRecords
from simulation.write_behind.judge import Judge
from simulation.write_behind.ledger import LEDGER, Ledger
from simulation.write_behind.records import Records
from simulation.write_behind.themes import Theme

Result = TypeVar("Result")

TAKEOVER_SECONDS = 1.0
TROUBLE_SECONDS = 1.5
"""After something went wrong, until all is as before."""
WINDOW_SECONDS = 0.02
SETTINGS = Settings(
    verify_share=0.0,
    staleness_bound_seconds=0.5,
    write_behind_quiet_seconds=0.2,
    write_behind_age_seconds=0.5,
    write_behind_commit_seconds=2.0,
    write_behind_close_seconds=3.0,
    write_behind_takeover_seconds=TAKEOVER_SECONDS,
)
"""Seconds run short in these worlds: what takes 10 of them takes one here."""


class Scene:
    """One world.

    Attributes:
        judge, records: of what is committed, and what servers were told.
        health: what servers tell of how they are.
        l2, l3, hub, replication: its parts.
        servers: too; one that died stays in the list, with the one that came after.
        troubled_at: when something last went wrong that concerns all, monotonic seconds.
    """

    kinds: ClassVar[Sequence[Kind[Any]]] = (LEDGER,)
    settings: ClassVar[Settings] = SETTINGS

    def __init__(self, world: World, theme: Theme) -> None:
        self.world = world
        self.theme = theme
        self.judge = Judge()
        self.records = Records(self.judge, world)
        self.health = HealthRecords(world)
        self.l2 = MemoryCache(world, nodes=2)
        self.l3 = MemoryStorage([*BUILT_IN, *self.kinds], seed=1, on_commit=self._committed)
        self.hub = JournalHub(replicas=theme.replicas)
        self.replication = Replication(self.hub, world)
        self.servers: list[Server] = []
        self.troubled_at = -inf
        self._tokens = 0
        asyncio.get_running_loop().set_exception_handler(self._failed)

    @property
    def living(self) -> Sequence[Server]:
        """Those that have not died."""
        return [server for server in self.servers if not server.is_dead]

    async def begin_server(self) -> Server:
        """One more."""
        server = Server(f"s{len(self.servers) + 1}", self)
        self.servers.append(server)
        await server.start()
        return server

    def token(self) -> str:
        """One that nobody used before."""
        self._tokens += 1
        return f"t{self._tokens}"

    def document(self) -> Ledger:
        """A document nobody wrote before."""
        return Ledger(author=self.token())

    def be_calm(self) -> None:
        """Let nothing get lost any more."""
        for server in self.servers:
            for tier in (server.l2_link, server.l3_link, server.l3, server.feed):
                tier.calm = True

    def _committed(self, xid: int, changes: Sequence[Change]) -> None:
        self.judge.committed(self.l3.log.rows, self.l3.log.marks, self.world.monotonic())

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.records.faults.append(f"{context.get('message')}: {context.get('exception')!r}")


class Server:
    """One process.

    Attributes:
        flows: once it is started.
        is_dead: it will never go on.
        troubled_at: when it last stood still, monotonic seconds.
        closing: lets it end.
    """

    def __init__(self, name: str, scene: Scene) -> None:
        self.name = name
        self.flows: Flows
        self.is_dead = False
        self.troubled_at = -inf
        self._cutting: asyncio.Task[None] | None = None
        self.closing = asyncio.Event()
        self.process = SimulatedProcess()
        self._scene = scene
        self._ready = asyncio.Event()
        world, theme = scene.world, scene.theme
        most = world.random.choice(theme.delays)
        self.hearing = MemoryFeed(scene.l3, timeout_seconds=1.0)
        self.feed = DistantFeed(self.hearing, world, most_seconds=most, lost_share=theme.lost * 0.3)
        self.l2_link = SlowLink(world, most_seconds=most, lost_share=theme.lost)
        self.l3_link = SlowLink(world, most_seconds=most, lost_share=theme.lost)
        self.l3 = DistantStorage(
            self.l3_link,
            scene.l3,
            most_seconds=most,
            lost_share=theme.lost * 0.3,
            unknown_share=theme.lost,
            late_seconds=1.0,
        )
        self.nodes = GuardedNodes(scene.l2, world, most_seconds=most)
        self.guarded = GuardedStorage(scene.l3, self.l3, world, most_seconds=most)
        base = MemoryJournalBase(scene.l3, world, idle_seconds=TAKEOVER_SECONDS / 2, lock_seconds=0.5)
        self.base = SlowJournalBase(base, self.l3_link)
        self.streams = SlowJournals(scene.hub, scene.replication, self.l2_link)

    @property
    def ledgers(self) -> Collection[Ledger]:
        """Its door."""
        return self.flows.store.collection(LEDGER)

    async def start(self) -> None:
        """Begin it, and return when it serves; one that could not connect, or was killed meanwhile, is dead."""
        self.main = self.process.start(self._live())
        while not (self._ready.is_set() or self.main.done() or self.is_dead):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self.is_dead = self.is_dead or self.main.done()

    async def crash(self) -> None:
        """It is dead; its connections end, and some of what it has sent arrives."""
        self.process.stop()
        self.is_dead = True
        self._scene.records.died(self.name, self._window_seconds())
        self._scene.health.died(self.name)
        self._scene.l3.listeners.pop(self.hearing, None)
        self._cutting = begun_outside(self._cut())
        await asyncio.shield(self._cutting)  # to its end, whoever is cancelled

    async def _cut(self) -> None:
        await self.l2_link.cut()
        await self.l3_link.cut()
        self.base.cut()
        await self.l3.cut()

    def _window_seconds(self) -> float:
        """How long before its death a write may have been accepted and not be in the journal.

        An append under way, its answer, the time for others to gather, and the way of the next append; as long as L2
        and L3 have answered all the time, and nobody has taken this server's journal over: until that one is drained
        and the next begun, nothing can be appended.
        """
        if self.flows.write_behind.lives._changing is not None:
            return inf
        troubled_at = max(self.troubled_at, self._scene.troubled_at, self.l2_link.troubled_at, self.l3_link.troubled_at)
        since = self._scene.world.monotonic() - troubled_at - TROUBLE_SECONDS
        window = WINDOW_SECONDS + 8 * self.l2_link.most_seconds
        return window if since > window else inf

    async def drain(self) -> None:
        """Wait for what is on its way from it."""
        if self._cutting is not None:
            await self._cutting
        await self.l2_link.drain()
        await self.l3_link.drain()
        await self.l3.drain()

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.nodes.watch.close)
            stack.push_async_callback(self.guarded.guard.close)
            await self.guarded.guard.connect()
            self.flows = await stack.enter_async_context(self._connect())
            await self._scene.health.listen(self.name, self.flows)
            self._note_entries()
            self._ready.set()
            await self.closing.wait()
            self._scene.health.died(self.name)

    def _connect(self) -> AbstractAsyncContextManager[Flows]:
        scene, world, behind = self._scene, self._scene.world, self.guarded.behind
        seconds = scene.settings.write_behind_takeover_seconds
        return connect_flows(
            kinds=scene.kinds,
            server=self.name,
            l2=GuardedCache(scene.l2, self.nodes, world),
            l3=behind(self.l3),
            l2_guard=self.nodes.guard,
            l3_guard=self.guarded.guard,
            feed=self.feed,
            journals=behind(self.base),
            streams=self.streams,
            runs=behind(MemoryRuns(scene.l3, world, dead_after_seconds=seconds)),
            reviews=behind(MemoryDecisions(scene.l3, world, REVIEW)),
            escalations=behind(MemoryDecisions(scene.l3, world, ESCALATION)),
            audit=behind(MemoryAudit(scene.l3)),
            key_rows=behind(MemoryKeys(scene.l3)),
            deliveries=behind(MemoryDeliveries(scene.l3, world)),
            recovery_log=behind(MemoryRecoveryLog(scene.l3)),
            quarantine=behind(MemoryQuarantine(scene.l3)),
            clock=world,
            settings=scene.settings,
            seed=world.random.getrandbits(32),
        )

    def _note_entries(self) -> None:
        """Have the records told of all that its journals are given."""
        lives, records = self.flows.write_behind.lives, self._scene.records
        make = lives._make_life

        def made(journal: str) -> Life:
            life = make(journal)
            add = life.journal.add

            def noting(write: PendingWrite) -> None:
                records.entered(self.name, journal, write)
                add(write)

            life.journal.add = noting  # type: ignore[method-assign]
            return life

        lives._make_life = made


class DistantStorage(SlowStorage):
    """L3 at the other end: what was sent takes effect there, whatever becomes of the process that sent it."""

    def __init__(self, link: SlowLink, inner: MemoryStorage, **rates: float) -> None:
        super().__init__(inner, link.world, **rates)
        self._link = link
        self._open: list[SlowTransaction] = []

    async def open_transaction(self, isolation: Isolation) -> SlowTransaction:
        """See `Storage.open_transaction`."""

        async def open_() -> SlowTransaction:
            transaction = await super(DistantStorage, self).open_transaction(isolation)
            self._open.append(transaction)
            return transaction

        return await self._link.carry(open_)

    async def step(self, act: Callable[[], Any]) -> Any:
        """One call and its answer."""
        return await self._link.carry(lambda: super(DistantStorage, self).step(act))

    async def write(self, act: Callable[[], Any], give_up: Callable[[], Any] | None = None) -> Any:
        """A call that writes."""
        return await self._link.carry(lambda: super(DistantStorage, self).write(act, give_up))

    async def cut(self) -> None:
        """What its process had open is rolled back."""
        for transaction in self._open:
            await transaction._inner.rollback()


class DistantFeed(SlowFeed):
    """The change feed at the other end."""

    async def _slowly(self, act: Callable[[], Coroutine[Any, Any, Result]]) -> Result:  # type: ignore[override]
        return await outside(lambda: super(DistantFeed, self)._slowly(act))
