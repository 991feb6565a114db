"""The tiers in memory behind the guards of the real ones: what cuts Redis and PostgreSQL off cuts these off, too."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from glide import TimeoutError as GlideTimeoutError

from holdfast.errors import OutcomeUnknown, TierUnavailable
from holdfast.keys import Key
from holdfast.protocols import (
    Absent,
    Cached,
    Coherence,
    Failed,
    FenceSink,
    FenceTarget,
    Fill,
    SharedCache,
    View,
    Watermark,
    Withdrawal,
)
from holdfast.recovery.breaker import Circuit
from holdfast.testing import MemoryCache, MemoryStorage
from holdfast.testing.simulation import World
from holdfast.testing.slow_storage import SlowStorage
from holdfast.tiers.l2_guard import RedisGuard
from holdfast.tiers.l2_topology import Node
from holdfast.tiers.l2_watch import NodeWatch
from holdfast.tiers.l3_guard import PostgresGuard

Result = TypeVar("Result")
Tier = TypeVar("Tier")

REQUEST_SECONDS: Final = 0.5
"""How long a request to a node may take: so long one waits for a node that says nothing."""
READS: Final = frozenset(
    {
        *("load", "scan", "count", "open_transaction", "invalidations"),
        *("records", "open_flush", "rows_and_marks", "letters", "letter"),
        *("list", "children", "snapshots", "bases", "neglected", "due", "now"),
        *("head", "find", "outdated", "newest", "masters"),
    }
)
"""Calls of L3 that write nothing."""


class GuardedNodes:
    """The nodes of L2 as one server sees them: what `RedisConnection` is to a real one.

    Args:
        inner: tells what the nodes are, and whether they answer.
        most_seconds: for a ping, and for its answer.
    """

    def __init__(self, inner: MemoryCache, world: World, *, most_seconds: float) -> None:
        self._inner = inner
        self._world = world
        self._most_seconds = most_seconds
        self._nodes = inner._topology.nodes
        self.watch = NodeWatch(self._sign_of_life, monotonic=world.monotonic, request_timeout_seconds=REQUEST_SECONDS)
        self.guard = RedisGuard(cast("Any", self))

    @property
    def fault(self) -> str | None:
        """What a node was cut off for last."""
        return self.watch.fault

    @property
    def opened(self) -> int:
        """How often a node was cut off."""
        return self.watch.opened

    @property
    def in_doubt(self) -> bool:
        """Whether `check` would find anything out."""
        return self.watch.guards.any_suspect or bool(self.watch.unheard(self._nodes))

    def circuits(self) -> Mapping[str, Circuit]:
        """The circuit of each node."""
        return self.watch.circuits(self._nodes)

    async def check(self) -> None:
        """Ask the nodes that are cut off, or were not heard of for a while."""
        await self.watch.check(self._nodes)

    def node_of(self, key: Key) -> Node:
        """Who serves a key."""
        return self._inner._node(key)

    def note(self, node: Node, began: float, fault: TierUnavailable | None) -> None:
        """A node was asked; None: it has answered."""
        if fault is None:
            self.watch.answered(node, began)
        else:
            self.watch.failed(node, began, GlideTimeoutError(str(fault)))

    async def ask(self, node: Node, act: Callable[[], Awaitable[Result]]) -> Result:
        """One call of one node.

        Raises:
            TierUnavailable: it is cut off, or did not answer.
        """
        if refused := self.watch.refused([node]):
            raise refused[node]
        began = self._world.monotonic()
        try:
            result = await act()
        except TierUnavailable as fault:
            self.note(node, began, fault)
            raise
        self.note(node, began, None)
        return result

    async def _sign_of_life(self, node: Node) -> GlideTimeoutError | None:
        await self._world.pause(self._most_seconds)
        if node.name in self._inner.silent:
            await asyncio.sleep(REQUEST_SECONDS)
        if not self._inner._answers(node):
            return GlideTimeoutError(f"{node.name} does not answer")
        await self._world.pause(self._most_seconds)
        return None


class GuardedCache:
    """`SharedCache` whose nodes are not asked while they are cut off."""

    def __init__(self, inner: SharedCache, nodes: GuardedNodes, world: World) -> None:
        self._inner = inner
        self._nodes = nodes
        self._world = world

    async def read(
        self, keys: Sequence[Key], view: View, *, lease: bool = True
    ) -> Mapping[Key, Cached | Absent | Failed]:
        """Look keys up; see `SharedCache.read`."""
        nodes = {key: self._nodes.node_of(key) for key in keys}
        refused = self._nodes.watch.refused(dict.fromkeys(nodes.values()))
        asked = [key for key in keys if nodes[key] not in refused]
        began = self._world.monotonic()
        answers = await self._inner.read(asked, view, lease=lease) if asked else {}
        for node in dict.fromkeys(nodes[key] for key in asked):
            self._nodes.note(node, began, _lost(answers[key] for key in asked if nodes[key] is node))
        return {key: Failed(refused[node]) if node in refused else answers[key] for key, node in nodes.items()}

    async def fill(self, fills: Sequence[Fill], coherence: Coherence) -> int:
        """Store entries; see `SharedCache.fill`."""
        return await self._inner.fill([each for each in fills if self._may_ask(each.key)], coherence)

    async def withdraw(self, withdrawals: Sequence[Withdrawal], coherence: Coherence) -> int:
        """Put fences in the place of entries; see `SharedCache.withdraw`."""
        return await self._inner.withdraw([each for each in withdrawals if self._may_ask(each.key)], coherence)

    def _may_ask(self, key: Key) -> bool:
        return not self._nodes.watch.guards.is_cut_off(self._nodes.node_of(key).name)


def _lost(answers: Any) -> TierUnavailable | None:
    """What says that a node did not answer, if anything of it does."""
    faults = (each.error for each in answers if isinstance(each, Failed))
    return next((fault for fault in faults if isinstance(fault, TierUnavailable)), None)


class GuardedFences:
    """`FenceSink` whose nodes are not asked while they are cut off."""

    def __init__(self, inner: FenceSink, nodes: GuardedNodes) -> None:
        self._inner = inner
        self._nodes = nodes

    async def targets(self) -> Sequence[FenceTarget]:
        """The primaries; see `FenceSink.targets`."""
        return self._nodes._nodes

    async def watermark(self, target: FenceTarget) -> Watermark | None:
        """A node's watermark; see `FenceSink.watermark`."""
        return await self._nodes.ask(cast("Node", target), lambda: self._inner.watermark(target))

    async def advance(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        """Fence keys and move the watermark; see `FenceSink.advance`."""
        return await self._nodes.ask(cast("Node", target), lambda: self._inner.advance(target, before, after, versions))


class GuardedStorage:
    """All of L3 as one server sees it: what its pools of connections are to a real one.

    Args:
        inner: tells whether it is there.
        way: on which this server's requests lie while L3 reads nothing.
        most_seconds: for a sign of life, and for its answer.
    """

    def __init__(self, inner: MemoryStorage, way: SlowStorage, world: World, *, most_seconds: float) -> None:
        self._inner = inner
        self._way = way
        self._world = world
        self._most_seconds = most_seconds
        self._limits: dict[asyncio.Timeout, float] = {}
        self.guard = PostgresGuard(self._open, monotonic=world.monotonic)
        self.guard.join(self)

    def behind(self, tier: Tier) -> Tier:
        """A side of L3, whose calls are refused while it is cut off, and tell the guard what became of them."""
        return cast("Tier", _Behind(tier, self))

    def waits_since(self) -> float | None:
        """See `Waiting.waits_since`."""
        return next(iter(self._limits.values()), None)

    def refuse_waiting(self) -> None:
        """See `Waiting.refuse_waiting`: no call waits for a connection here."""

    def end_lent(self) -> None:
        """See `Waiting.end_lent`."""
        now = self._world.monotonic()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)

    def is_connected(self) -> bool:
        """See `Waiting.is_connected`: each call has a connection of its own."""
        return bool(self._limits)

    async def call(self, act: Callable[[], Awaitable[Result]], *, writes: bool) -> Result:
        """One call, by a connection of its own."""
        self.guard.admit()
        try:
            async with asyncio.timeout(None) as limit:
                self._limits[limit] = self._world.monotonic()
                try:
                    await self._way.is_read()
                    result = await act()
                finally:
                    del self._limits[limit]
        except TimeoutError as fault:
            error = OutcomeUnknown if writes else TierUnavailable
            raise error("L3 in memory: the connection was ended, since nothing was heard") from fault
        except (TierUnavailable, OutcomeUnknown):
            self.guard.lost()
            raise
        self.guard.heard()
        return result

    async def _open(self) -> Any:
        await self._ask()
        return _Session(self._inner, self._ask)

    async def _ask(self) -> None:
        await self._world.pause(self._most_seconds)
        await self._way.is_read()
        if self._inner.away:
            raise TierUnavailable("L3 in memory is away")
        await self._world.pause(self._most_seconds)


class _Session:
    """The guard's own connection, which ends with the server that it was opened to."""

    def __init__(self, storage: MemoryStorage, ask: Callable[[], Awaitable[None]]) -> None:
        self._storage = storage
        self._started: str | None = storage.started
        self._ask = ask

    async def fetchval(self, _query: str) -> None:
        await self._ask()

    def is_closed(self) -> bool:
        return self._storage.started != self._started

    def terminate(self) -> None:
        self._started = None


class _Behind:
    """One side of L3 behind the guard."""

    def __init__(self, tier: object, storage: GuardedStorage) -> None:
        self._tier = tier
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._tier, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._storage.call(lambda: method(*arguments, **named), writes=name not in READS)

        return call
