"""A relay on a bench: L2 of three nodes in memory, advances that can be held up or fail, rounds made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from holdfast.invalidation.relay import SILENT_SECONDS, Relay
from holdfast.keys import Key
from holdfast.protocols import FenceTarget, Watermark
from holdfast.testing import ManualClock, MemoryCache, MemoryFeed, MemoryStorage

KEYS = [Key("bot", f"b{number}") for number in range(12)]
A, B, *_ = KEYS


class Line:
    """`FenceSink` around L2 in memory.

    Attributes:
        sent: each advance: the node's name and what was fenced.
        faults: raised by the next advances, after they took effect, one each.
        held_up: while set, advances stop before they take effect.
    """

    def __init__(self, inner: MemoryCache) -> None:
        self.sent: list[tuple[str, dict[Key, int]]] = []
        self.faults: list[BaseException] = []
        self.held_up: asyncio.Event | None = None
        self._inner = inner

    async def targets(self) -> Sequence[FenceTarget]:
        """The nodes."""
        return await self._inner.targets()

    async def watermark(self, target: FenceTarget) -> Watermark | None:
        """A node's watermark."""
        return await self._inner.watermark(target)

    async def advance(
        self, target: FenceTarget, before: Watermark | None, after: Watermark, versions: Mapping[Key, int]
    ) -> bool:
        """Fence and move."""
        self.sent.append((target.name, dict(versions)))
        if self.held_up is not None:
            await self.held_up.wait()
        moved = await self._inner.advance(target, before, after, versions)
        if self.faults:
            raise self.faults.pop(0)
        return moved


class Bench:
    """A relay of a server, over L2 of three nodes, with its rounds made by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.l3 = MemoryStorage()
        self.l2 = MemoryCache(self.clock, nodes=3)
        self.line = Line(self.l2)
        self.feed = MemoryFeed(self.l3)
        self.relay = Relay(self.feed, self.line, clock=self.clock)

    async def round(self) -> None:
        """One round; nodes that were left alone are tried again."""
        self.clock.advance(SILENT_SECONDS)
        self.line.sent.clear()
        await self.relay._round()

    async def put(self, *keys: Key) -> dict[Key, int]:
        """Write rows, with whatever tool."""
        return {key: await self.l3.raw_put(key, b"{}") for key in keys}

    def owner(self, key: Key) -> str:
        """The name of the node that serves a key."""
        return self.l2._node(key).name

    def fence(self, key: Key) -> int | None:
        """The version of a key's fence; None: there is none."""
        held = self.l2._live(key)
        return None if held is None or held.entry.row is not None else held.entry.version

    def marks(self) -> dict[str, Watermark | None]:
        """The nodes' watermarks."""
        return {name: contents.mark for name, contents in self.l2.dump().items()}


async def begun() -> Bench:
    """A relay that leads, over nodes that have begun."""
    bench = Bench()
    await bench.round()
    assert bench.relay.leading
    assert None not in bench.marks().values()
    return bench
