"""Seeded worlds: three servers over one L3 and one L2, with everybody writing and everything failing at random.

    faults = simulate(4711, run_world)      # the same seed, the same world, to the last event

What is promised: an answer of a bounded read is at most its kind's bound behind when the read began; a strong read
misses nothing committed before it began; a server sees its own committed writes; nothing is answered that was never
committed. And when all is quiet, L1 and L2 hold what L3 holds, or nothing, and everything works again.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from holdfast.entry import MISSING
from holdfast.protocols import Cached
from holdfast.testing.simulation import World
from holdfast.testing.views import FixedView
from simulation.actors import Agent, Tools
from simulation.chaos import Chaos
from simulation.records import number_in
from simulation.scene import KEYS, Scene, Server
from simulation.themes import THEMES, Theme
from simulation.travellers import Traveller

AGENTS = 2
TRAVELLERS = 2
WORLD_SECONDS = 120.0
"""Nothing may keep an agent waiting so long."""
RECOVERY_SECONDS = 20.0
"""A relay whose every call to L3 takes 0.6 s needs about 5 s a round, and two rounds after the one under way."""


async def run_world(world: World, theme: str | None = None) -> list[str]:
    """Let everybody live in a world; the faults found.

    Args:
        theme: one of `THEMES`; None: any, by the seed.
    """
    scene = Scene(world, any_theme(world, theme))
    await live(scene)
    return [*scene.records.violations(), *scene.health.violations()]


def any_theme(world: World, name: str | None) -> Theme:
    """The theme of this name; None: any, by the seed."""
    return THEMES[name or world.random.choice(list(THEMES))](world.random)


async def live(scene: Scene, travellers: int = TRAVELLERS) -> None:
    """Let everybody work until all agents are done, then wait for quiet.

    Args:
        travellers: scopes that go from server to server.
    """
    async with AsyncExitStack() as stack:
        await scene.start(stack)
        chaos = Chaos(scene)
        others = [asyncio.ensure_future(work) for work in (Tools(scene).run(), chaos.run(scene.theme.faults))]
        async with asyncio.timeout(WORLD_SECONDS):
            agents = [Agent(scene, server).run() for server in scene.servers for _ in range(AGENTS)]
            agents += [Traveller(scene, f"t{number}").run() for number in range(travellers)]
            await asyncio.gather(*agents)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        chaos.heal()
        scene.be_calm(calm=True)
        await check_quiet(scene)
        if not {"crashes", "files"} & set(scene.theme.faults):  # what L3 loses is not in its log of recoveries either
            scene.records.faults += scene.health.unrecorded(scene.l3.log.marks.recovery_log)


async def check_quiet(scene: Scene) -> None:
    """When nothing happens any more, everything must come to rest and be right."""
    for server in scene.servers:
        await server.drain()
    try:
        async with asyncio.timeout(RECOVERY_SECONDS):
            while (  # noqa: ASYNC110
                not all([await server.flows.feed.refresh() for server in scene.servers])
                or not all(has_recovered(scene, server) for server in scene.servers)
                or scene.health.unsettled()
            ):
                await asyncio.sleep(0.05)  # virtual
    except TimeoutError:
        states = [
            (server.name, server.flows.feed.fault, server.flows.relay and server.flows.relay.fault)
            for server in scene.servers
        ]
        unsettled = scene.health.unsettled()
        scene.records.faults.append(f"not recovered within {RECOVERY_SECONDS} s: {states}, {unsettled}")
    for server in scene.servers:
        check_l1(scene, server)
    await check_l2(scene)


def has_recovered(scene: Scene, server: Server) -> bool:
    """Whether a server's caches count, and it can use every node of L2."""
    flows, now, snapshot = server.flows, scene.world.monotonic(), scene.l3.log.snapshot()
    marks = [contents.mark for contents in scene.l2.dump().values()]
    return all(flows.lease.valid(kind, now) for kind in ("bot", "note")) and all(
        mark is not None and flows.view.trusts(mark) and mark.snapshot.covers(snapshot) for mark in marks
    )


def check_l1(scene: Scene, server: Server) -> None:
    """What L1 holds is what L3 holds."""
    for key in KEYS:
        held, row = server.flows.caches[key.kind].shelf(key.kind).entry(key.id), scene.l3.log.rows.get(key)
        if held is None:
            continue
        found = (0, None) if held.value is MISSING else (held.version, int(held.value.name))
        wanted = (0, None) if row is None else (row.version, number_in(row))
        if found != wanted:
            scene.records.faults.append(f"L1 of {server.name} at rest: {key} is {found}, in L3 {wanted}")


async def check_l2(scene: Scene) -> None:
    """What L2 holds and counts is what L3 holds, whoever asks."""
    answers = await scene.l2.read(KEYS, FixedView(scene.l3.coherence()), lease=False)
    for key, answer in answers.items():
        row = scene.l3.log.rows.get(key)
        if isinstance(answer, Cached) and answer.row != row:
            scene.records.faults.append(f"L2 at rest: {key} is {answer.row}, in L3 {row}")
