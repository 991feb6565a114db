"""Servers that run runs, over tiers in memory that they share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from holdfast import Settings
from holdfast.documents import Run, decode
from holdfast.flows import Flows
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.run_context.contexts import RunView
from holdfast.run_context.exports import Transformation
from holdfast.testing import JournalHub, ManualClock, MemoryJournals, MemoryStorage
from holdfast.testing.door import connect_flows
from holdfast.testing.memory_cache import MemoryCache
from holdfast.testing.memory_events import EventHub, MemoryEvents

SETTINGS = Settings(
    write_behind_quiet_seconds=600.0,
    write_behind_age_seconds=600.0,
    write_behind_commit_seconds=10.0,
    verify_share=0.0,
)
"""Nothing is due before somebody waits for it."""
HASTY: dict[str, Any] = {"write_behind_commit_seconds": 0.2}
"""For what is to be undecided: nobody waits for long."""
RUN = "r1"


class Hall:
    """What the servers share.

    Attributes:
        servers: those that serve, by name.
    """

    def __init__(self, settings: Settings, transformations: Mapping[str, Transformation]) -> None:
        self.settings = settings
        self.transformations = transformations
        self.clock = ManualClock()
        self.hub = JournalHub()
        self.l2 = MemoryCache(self.clock)
        self.l3 = MemoryStorage(register([]).values())
        self.events = EventHub(self.clock)
        self.servers: dict[str, Flows] = {}

    @asynccontextmanager
    async def server(self, name: str, **options: Any) -> AsyncIterator[Flows]:
        """One more, which takes no journals over.

        Args:
            options: of `connect_flows`.
        """
        async with connect_flows(
            l2=self.l2,
            l3=self.l3,
            streams=MemoryJournals(self.hub),
            events=MemoryEvents(self.events),
            clock=self.clock,
            settings=self.settings,
            transformations=self.transformations,
            server=name,
            **options,
        ) as flows:
            await flows.takeover.stop()
            self.servers[name] = flows
            yield flows

    @property
    def a(self) -> Any:
        """The runs of server "a"."""
        return self.servers["a"].store.runs

    @property
    def b(self) -> Any:
        """The runs of server "b"."""
        return self.servers["b"].store.runs

    def row(self, run_id: str = RUN) -> Run:
        """A run's row in L3."""
        return decode(Run, self.l3.log.rows[Key("run", run_id)].body)

    def snapshots(self, run_id: str = RUN) -> list[str]:
        """What L3 has of a run's snapshots, without its id."""
        names = [key.id for key in self.l3.log.rows if key.kind == "run_snapshot"]
        return sorted(name.removeprefix(f"{run_id}/") for name in names if name.startswith(f"{run_id}/"))

    async def kill(self, name: str) -> None:
        """End a server as if by a signal: it tells nobody, and its beat is old."""
        lives = self.servers[name].write_behind.lives
        assert lives.current is not None
        await lives.current.stop()
        lives.current = None
        self.clock.advance(self.settings.write_behind_takeover_seconds + 1.0)
        for other in self.servers.values():  # those that live beat on
            if (life := other.write_behind.lives.current) is not None:
                await life.heartbeat.beat()

    def damage(self, name: str, body: bytes | None = b"{}", run_id: str = RUN) -> None:
        """Let a snapshot be something else, or None: gone."""
        key = Key("run_snapshot", f"{run_id}/{name}")
        rows = self.l3.log.rows
        if body is None:
            del rows[key]
        else:
            rows[key] = msgspec.structs.replace(rows[key], body=body)


@asynccontextmanager
async def hall(
    *names: str, transformations: Mapping[str, Transformation] = MappingProxyType({}), **changes: Any
) -> AsyncIterator[Hall]:
    """Servers of these names; by default "a" and "b".

    Args:
        transformations: that all of them know.
        changes: of the settings.
    """
    shared = Hall(msgspec.structs.replace(SETTINGS, **changes), transformations)
    async with AsyncExitStack() as stack:
        for name in names or ("a", "b"):
            await stack.enter_async_context(shared.server(name))
        yield shared


def values(view: RunView | None) -> dict[str, Any]:
    """The variables of a run as it was read."""
    assert view is not None
    return {key: variable.value for key, variable in view.state.variables.items()}
