"""What goes wrong in a world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from simulation.write_behind.scene import TAKEOVER_SECONDS, Scene, Server

GAP_SECONDS = 0.6
STEPS_TO_LIVE = 400
AWAY_SECONDS = 0.8
SERVERS_MAX = 6


class Chaos:
    """Faults at random, one after the other, until cancelled; `heal` ends what lasts.

    Args:
        begin: begins another server, with its tasks.
    """

    def __init__(self, scene: Scene, begin: Callable[[], None]) -> None:
        self._scene = scene
        self._world = scene.world
        self._begin = begin
        faults: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "crash": self._crash,
            "freeze": self._freeze,
            "freeze_and_crash": self._freeze_and_crash,
            "fail_over": self._fail_over,
            "l2_away": self._l2_away,
            "l3_away": self._l3_away,
            "l2_gone": self._l2_gone,
            "l3_gone": self._l3_gone,
            "l3_restart": self._l3_restart,
            "l3_crash": self._l3_crash,
        }
        self._faults = [faults[name] for name in scene.theme.faults]

    async def run(self) -> None:
        """Do one fault after the other."""
        while self._faults:
            await self._world.pause(GAP_SECONDS)
            await self._world.random.choice(self._faults)()

    def heal(self) -> None:
        """End what lasts."""
        self._scene.l3.away = self._scene.l2.away = self._scene.hub.away = False
        for server in self._scene.living:
            server.process.go_on()

    async def _crash(self) -> None:
        """A server stops for good at one of its next steps, wherever that is."""
        if len(self._scene.servers) < SERVERS_MAX and (server := await self._stopped()) is not None:
            await server.crash()
            if self._world.chance(0.7):
                self._begin()

    async def _freeze(self) -> None:
        """A server stands still at one of its next steps, perhaps for so long that others take it for dead."""
        server = await self._stopped()
        if server is not None:
            await self._world.pause(4 * TAKEOVER_SECONDS)
            server.process.go_on()
            server.troubled_at = self._world.monotonic()

    async def _freeze_and_crash(self) -> None:
        """A server stands still for so long that it is taken for dead, and dies soon after it has gone on."""
        if len(self._scene.servers) < SERVERS_MAX and (server := await self._stopped()) is not None:
            await self._world.pause(4 * TAKEOVER_SECONDS)
            server.process.go_on()
            server.troubled_at = self._world.monotonic()
            await self._stop(server)
            await server.crash()
            self._begin()

    async def _stopped(self) -> Server | None:
        """A server that has been stopped at one of its next steps; None: there is only one left."""
        living = self._scene.living
        if len(living) < 2:
            return None
        server = self._world.random.choice(living)
        await self._stop(server)
        return server

    async def _stop(self, server: Server) -> None:
        stopped = asyncio.Event()
        server.process.stop_after(self._world.random.randint(1, STEPS_TO_LIVE), stopped.set)
        await stopped.wait()

    async def _fail_over(self) -> None:
        self._scene.replication.fail_over()
        self._scene.troubled_at = self._world.monotonic()

    async def _l2_away(self) -> None:
        self._scene.hub.away = self._scene.l2.away = True
        await self._world.pause(AWAY_SECONDS)
        self._l2_comes()

    async def _l2_gone(self) -> None:
        """For so long that all must see it."""
        self._scene.hub.away = self._scene.l2.away = True
        await self._outage("L2")
        self._l2_comes()

    def _l2_comes(self) -> None:
        self._scene.hub.away = self._scene.l2.away = False
        self._scene.troubled_at = self._world.monotonic()

    async def _l3_away(self) -> None:
        self._scene.l3.away = True
        await self._world.pause(AWAY_SECONDS)
        self._l3_comes()

    async def _l3_gone(self) -> None:
        """For so long that all must see it."""
        self._scene.l3.away = True
        await self._outage("L3")
        self._l3_comes()

    def _l3_comes(self) -> None:
        self._scene.l3.away = False
        self._scene.troubled_at = self._world.monotonic()

    async def _outage(self, tier: str) -> None:
        async with self._scene.health.outage(tier):
            await self._world.pause(AWAY_SECONDS)

    async def _l3_restart(self) -> None:
        self._scene.l3.restart()
        self._scene.troubled_at = self._world.monotonic()

    async def _l3_crash(self) -> None:
        """It comes back as another incarnation, with all that was committed."""
        self._scene.l3.crash(0)
        self._scene.troubled_at = self._world.monotonic()
