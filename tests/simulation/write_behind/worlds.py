"""Seeded worlds: servers that write operations, and die, stand still and are cut off at any step.

    faults = simulate(4711, run_world)      # the same seed, the same world, to the last event

What is promised: whatever L3 decides is applied to the row of then once, in order, or refused by the rules; what was
acknowledged as journaled or committed is decided; receipts tell the truth; a server shows its own accepted writes, once
each; and when all is quiet, nothing is left to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from holdfast.errors import TierError
from holdfast.protocols import JournalState
from holdfast.testing.simulation import World
from simulation.write_behind.chaos import Chaos
from simulation.write_behind.scene import Scene, Server
from simulation.write_behind.themes import THEMES
from simulation.write_behind.writers import Writer

WRITERS = 2
WORLD_SECONDS = 200.0
"""Nothing may keep a writer waiting so long."""
RECOVERY_SECONDS = 40.0


class Runs(Protocol):
    """What a task of a server does."""

    async def run(self) -> None:
        """Do it to its end."""
        ...


async def run_world(world: World, theme: str | None = None) -> list[str]:
    """Let everybody live in a world; the faults found.

    Args:
        theme: one of `THEMES`; None: any, by the seed.
    """
    name = theme or world.random.choice(list(THEMES))
    scene = Scene(world, THEMES[name](world.random))
    return await Life(scene).run()


class Life:
    """Of one world.

    Args:
        make_writer: makes what a task of a server does.
        seconds: nothing may keep it so long.
    """

    def __init__(
        self,
        scene: Scene,
        make_writer: Callable[[Scene, Server], Runs] = Writer,
        *,
        seconds: float = WORLD_SECONDS,
    ) -> None:
        self._scene = scene
        self._make_writer = make_writer
        self._seconds = seconds
        self._tasks: list[tuple[Server, asyncio.Task[None]]] = []
        self._beginnings: list[asyncio.Task[None]] = []

    async def run(self) -> list[str]:
        """From the first server's start to the last one's end; the faults found."""
        scene = self._scene
        for _ in range(scene.world.random.randint(2, 4)):
            await self._begin()
        chaos = Chaos(scene, self._begin_soon)
        others = asyncio.ensure_future(chaos.run())
        await self._until_done()
        others.cancel()
        await asyncio.wait([others])
        chaos.heal()
        scene.be_calm()
        await asyncio.gather(*self._beginnings)
        await self._until_done()
        await self._come_to_rest()
        await self._close()
        if any(record.state is not JournalState.DRAINED for record in scene.l3.log.marks.journals.values()):
            await scene.begin_server()  # whoever comes next sees to what the last ones left
            scene.be_calm()
            await self._come_to_rest()
            await self._close()
        await self._bury()
        return [*scene.records.violations(), *scene.health.violations()]

    async def _until_done(self) -> None:
        """Wait for the writers on servers that live."""
        async with asyncio.timeout(self._seconds):
            while not all(task.done() or server.is_dead for server, task in self._tasks):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # virtual

    def _begin_soon(self) -> None:
        self._beginnings.append(asyncio.ensure_future(self._begin()))

    async def _begin(self) -> None:
        server = await self._scene.begin_server()
        if not server.is_dead:
            for _ in range(WRITERS):
                self._tasks.append((server, server.process.start(self._make_writer(self._scene, server).run())))

    async def _come_to_rest(self) -> None:
        """When nothing fails any more, everything is decided before long."""
        scene = self._scene
        for server in scene.servers:
            await server.drain()
        try:
            async with asyncio.timeout(RECOVERY_SECONDS):
                while not self._is_at_rest():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # virtual
        except TimeoutError:
            left = {server.name: server.flows.store.backlog() for server in scene.living}
            unsettled = scene.health.unsettled()
            scene.records.faults.append(f"not at rest: {left}, {scene.l3.log.marks.journals}, {unsettled}")
        scene.records.faults += scene.health.unrecorded(scene.l3.log.marks.recovery_log)

    def _is_at_rest(self) -> bool:
        living = self._scene.living
        own = {server.flows.write_behind.lives.journal for server in living}
        parts = [server.flows.write_behind for server in living]
        return (
            not self._scene.health.unsettled()
            and all(not len(part.buffer) and part.lives._changing is None for part in parts)
            and all(
                record.state is JournalState.DRAINED or (record.state is JournalState.LIVE and record.journal in own)
                for record in self._scene.l3.log.marks.journals.values()
            )
        )

    async def _close(self) -> None:
        for server in self._scene.living:
            server.closing.set()
            await asyncio.wait([server.main])
            server.is_dead = True

    async def _bury(self) -> None:
        for server in self._scene.servers:
            await server.process.end()
            for task in [server.main, *(task for owner, task in self._tasks if owner is server)]:
                if not task.cancelled() and not isinstance(fault := task.exception(), TierError | None):
                    self._scene.records.faults.append(f"{server.name} fell: {fault!r}")
