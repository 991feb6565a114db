"""What the suites of L2 need of an implementation, and what they have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol
from uuid import UUID

from holdfast.keys import Key
from holdfast.protocols import (
    Absent,
    Cached,
    Coherence,
    Failed,
    FenceSink,
    FenceTarget,
    Fill,
    Row,
    SharedCache,
    Snapshot,
    View,
    Watermark,
)
from holdfast.testing.views import FixedView

COHERENCE = Coherence(UUID(int=7), {"all": 100})
OTHER = Coherence(UUID(int=8), {"all": 100})
"""Another incarnation of L3."""
KEY = Key("bot", "b1")
VIEW = FixedView(COHERENCE)
STEP_SECONDS = 0.02
STEPS_MAX = 300


class L2(Protocol):
    """Both sides of one L2."""

    @property
    def cache(self) -> SharedCache:
        """As servers see it."""
        ...

    @property
    def sink(self) -> FenceSink:
        """As the relay sees it."""
        ...


class L2Harness(Protocol):
    """An L2 for one check."""

    def open(self, *, fence_lifetime_seconds: float = 60.0, lease_seconds: float = 30.0) -> L2:
        """Both sides of it; called once."""
        ...

    async def wait(self, seconds: float) -> None:
        """Let a little time pass, for its nodes too."""
        ...

    async def damage(self) -> bytes:
        """Damage the entry of the suites' key so that it seems to be of a version above all others; its bytes then."""
        ...

    async def dump(self) -> object:
        """A copy of all that its nodes hold."""
        ...

    async def restore(self, copy: object) -> None:
        """Have its nodes hold that again, and nothing else, as after a restart from an old dump."""
        ...


def row(version: int, body: bytes = b'{"name":"x"}') -> Row:
    """A row of kind bot."""
    return Row(version, version, 1, body)


def mark_of(
    target: FenceTarget, *, generation: int = 90, at: int = 10, incarnation: UUID = COHERENCE.incarnation
) -> Watermark:
    """A watermark of a node, as a relay would write it.

    Args:
        at: of its snapshot; a later one has a greater number.
    """
    return Watermark(incarnation.bytes, Snapshot(at, at), generation, 100, target.slots, ("anchor",))


class L2Suite:
    """What the checks of both sides are made of."""

    def __init__(self, harness: L2Harness) -> None:
        self.harness = harness

    async def prepared(self, **lifetimes: float) -> L2:
        """An L2 whose nodes all have a watermark; may be called again."""
        l2 = self.harness.open(**lifetimes)
        for target in await l2.sink.targets():
            if await l2.sink.watermark(target) is None:
                assert await l2.sink.advance(target, None, mark_of(target), {})
        return l2

    async def fence(self, l2: L2, versions: Mapping[Key, int]) -> None:
        """Fence keys at whichever nodes serve them, as a relay does after a change."""
        for target in await l2.sink.targets():
            mark = await l2.sink.watermark(target)
            assert mark is not None
            after = mark_of(target, generation=mark.generation, at=mark.snapshot.xmin + 1)
            assert await l2.sink.advance(target, mark, after, versions)

    async def begin_anew(self, l2: L2, generation: int) -> None:
        """Give every node a new generation."""
        for target in await l2.sink.targets():
            before = await l2.sink.watermark(target)
            assert await l2.sink.advance(target, before, mark_of(target, generation=generation), {})

    async def read(self, l2: L2, view: View = VIEW, *, lease: bool = False) -> Cached | Absent | Failed:
        """The answer for the key."""
        return (await l2.cache.read([KEY], view, lease=lease))[KEY]

    async def missed(self, l2: L2, view: View = VIEW, *, lease: bool = False) -> Absent:
        """The answer for the key, which must be a miss."""
        answer = await self.read(l2, view, lease=lease)
        assert isinstance(answer, Absent), answer
        return answer

    async def miss(self, l2: L2) -> Absent:
        """A miss of the key to fill it with, whatever it holds: by a view that counts nothing."""
        return await self.missed(l2, FixedView(COHERENCE, trusting=False))

    async def fill(
        self,
        l2: L2,
        filled: Row | None,
        absent: Absent | None = None,
        *,
        ttl_seconds: float = 900.0,
        coherence: Coherence = COHERENCE,
        tags: tuple[str, ...] | None = None,
    ) -> int:
        """Fill the key, by default after a miss of just now."""
        absent = absent or await self.miss(l2)
        return await l2.cache.fill([Fill(KEY, filled, ttl_seconds, absent, tags)], coherence)

    async def version(self, l2: L2, view: View = VIEW) -> int:
        """The version of the key's value; 0 for a miss."""
        answer = await self.read(l2, view)
        assert not isinstance(answer, Failed), answer
        return answer.row.version if isinstance(answer, Cached) else 0

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Let time pass until it is so."""
        for _ in range(STEPS_MAX):
            if await condition():
                return
            await self.harness.wait(STEP_SECONDS)
        raise AssertionError(f"not so after {STEPS_MAX * STEP_SECONDS:g} s")

    async def until_later_than(self, absent: Absent, l2: L2, *, by_ms: int = 1) -> None:
        """Wait until the node's clock has moved on."""

        async def later() -> bool:
            return (await self.miss(l2)).node_time_ms >= absent.node_time_ms + by_ms

        await self.until(later)

    @staticmethod
    def miss_in(answer: Cached | Absent | Failed) -> Absent:
        """A miss."""
        assert isinstance(answer, Absent), answer
        return answer

    @staticmethod
    def version_of(answer: Cached | Absent | Failed) -> int:
        """The version of a hit."""
        assert isinstance(answer, Cached), answer
        return answer.row.version
