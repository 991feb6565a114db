"""The event bus over a transport in memory, with time that passes by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from fix_loop import settle
from holdfast import Event
from holdfast.audit.log import AuditLog
from holdfast.invalidation.bus import BusRules, EventBus
from holdfast.invalidation.subscription import HandlerRules
from holdfast.protocols import DeadLetter
from holdfast.testing import EventHub, ManualClock, MemoryAudit, MemoryEvents, MemoryStorage

LOOK_SECONDS = 0.002
DEADLINE_SECONDS = 30.0


class Naps:
    """Pauses that end when the clock is advanced."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._ends: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def longest(self) -> float:
        """How long the longest pause now has still to go, seconds."""
        return max((end - self.clock.monotonic() for end, done in self._ends if not done.done()), default=0.0)

    async def sleep(self, seconds: float) -> None:
        """A pause."""
        done = asyncio.get_running_loop().create_future()
        self._ends.append((self.clock.monotonic() + seconds, done))
        await done

    async def advance(self, seconds: float) -> None:
        """Let time pass, and all that waited for it go on."""
        self.clock.advance(seconds)
        for end, done in self._ends:
            if end <= self.clock.monotonic() and not done.done():
                done.set_result(None)
        self._ends = [(end, done) for end, done in self._ends if not done.done()]
        await settle()


class Notes:
    """A handler that notes what it gets, and fails when it is told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise ValueError(f"no {event.data}")

    @property
    def data(self) -> list[Any]:
        """Of the events, in their order."""
        return [event.data for event in self.events]

    async def until(self, number: int) -> None:
        """Wait until so many came."""

        async def came() -> bool:
            return len(self.events) >= number

        await until(came)


class Stage:
    """Servers that share a hub."""

    def __init__(self, **rules: Any) -> None:
        self.clock = ManualClock()
        self.naps = Naps(self.clock)
        self.hub = EventHub(self.clock)
        self.l3 = MemoryStorage()
        # The clock of these tests leaps: leases are so long that they end only where a test is about that.
        self.rules = BusRules(handlers=HandlerRules(**rules), lease_seconds=10_000.0)
        self._numbers = count(1)

    @asynccontextmanager
    async def server(self) -> AsyncIterator[EventBus]:
        """One more server."""
        number = next(self._numbers)
        ids = count(1)
        bus = EventBus(
            MemoryEvents(self.hub),
            server=f"s{number}",
            rules=self.rules,
            clock=self.clock,
            wall=self.clock.monotonic,
            new_id=lambda: f"s{number}-{next(ids)}",
            sleep=self.naps.sleep,
            audit=AuditLog(MemoryAudit(self.l3), server=f"s{number}"),
        )
        await bus.start()
        try:
            yield bus
        finally:
            await bus.stop()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - there is no event: what is waited for is elsewhere
            await asyncio.sleep(LOOK_SECONDS)


async def letters(stage: Stage) -> list[DeadLetter]:
    """The dead letters of all partitions."""
    return [letter for partition in stage.hub.contents for letter in partition.letters.values()]


def wake(bus: EventBus) -> None:
    """Let a server look into every partition now."""
    for partition in range(bus._transport.partitions):
        bus._hint(partition)


async def until_letters(stage: Stage, number: int) -> None:
    """Wait until there are so many dead letters."""

    async def there() -> bool:
        return len(await letters(stage)) >= number

    await until(there)


async def finish(
    stage: Stage, condition: Callable[[], bool], *, step: float = 1.0, on_look: Callable[[], None] = lambda: None
) -> None:
    """Let time pass, in steps, until it is so."""

    async def passed() -> bool:
        on_look()
        if condition():
            return True
        await stage.naps.advance(step)
        return condition()

    await until(passed)
