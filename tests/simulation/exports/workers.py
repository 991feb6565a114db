"""Who runs the runs of a world of exports: the tasks of servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from holdfast import Durability
from holdfast.documents import ContextVariable, Swarm
from holdfast.errors import Conflict, HoldfastError, NotFound, RunOver
from holdfast.protocols import Settled
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.runs import Runs
from simulation.exports.model import STRATEGIES, is_approved

if TYPE_CHECKING:
    from simulation.exports.worlds import ExportsScene
    from simulation.write_behind.scene import Server

PARENT, SWARM = "p", "w"
SHARED = [f"{strategy}.{number}" for strategy in STRATEGIES for number in range(2)]
"""Variables that the parent and its children write; those with a 1 the parent writes again when all are begun."""
EXPORTS = 5


class Reviewer:
    """Decides by the child's name alone, and often not at once."""

    def __init__(self, scene: ExportsScene) -> None:
        self._world = scene.world

    async def settle(
        self, run_id: str, child_run_id: str, parent: ContextVariable | None, child: ContextVariable
    ) -> Settled | None:
        """See `Reviewer.settle`."""
        await self._world.pause(0.05)
        if self._world.chance(0.3):
            return None
        return Settled(child if is_approved(child_run_id) else parent, f"by {child_run_id} below {run_id}")

    async def changed(self) -> None:
        """See `Reviewer.changed`."""
        await self._world.pause(0.2)


class Worker:
    """A task of one server: begins the parent and its children, ends these, and merges them; and resumes any.

    What it runs it believes to run until it is told otherwise, as a server that stood still does.
    """

    def __init__(self, scene: ExportsScene, server: Server) -> None:
        self._scene = scene
        self._server = server
        self._random = scene.world.random
        self._owned: dict[str, ActiveRun] = {}
        self._reviewer = Reviewer(scene)

    @property
    def _runs(self) -> Runs:
        return self._server.flows.store.runs

    async def run(self) -> None:
        """Take steps until all is merged; what fails as it may is counted."""
        for _ in range(self._scene.steps):
            if self._scene.is_done:
                return
            await self._scene.world.pause(self._scene.theme.pace_seconds)
            try:
                await self._step()
            except HoldfastError:
                self._scene.records.errors += 1
            self._owned = {name: run for name, run in self._owned.items() if not run.is_over}

    async def _step(self) -> None:
        steps: list[Callable[[], Awaitable[None]]] = [self._lead, self._finish, self._take]
        (step,) = self._random.choices(steps, [4, 6, 2])
        await step()

    async def _lead(self) -> None:
        """Do what the parent does next."""
        scene = self._scene
        if PARENT not in scene.names:
            await self._begin_parent()
        elif (parent := self._owned.get(PARENT)) is None:
            await self._resume_parent()
        elif "written" in parent.context:
            await self._merge(parent)
        elif parent.context.children < scene.children and len(scene.names) < 2 * scene.children:
            for _ in range(scene.at_once):
                await self._begin_child(parent)
        else:
            for key in SHARED:
                if key.endswith("1"):
                    parent.context[key] = {"by": {PARENT: 1}, "last": PARENT}
            parent.context["written"] = True
            await parent.checkpoint()

    async def _begin_parent(self) -> None:
        with suppress(Conflict):  # an attempt before was in effect
            await self._server.flows.store.swarms.put(SWARM, Swarm(), expected_version=0)
        self._scene.names.append(PARENT)
        await self._resume_parent()

    def _declare(self, run: ActiveRun) -> None:
        for key in SHARED:
            run.context[key] = {"by": {}, "last": ""}
            run.context.declare_strategy(key, key.partition(".")[0])

    async def _begin_child(self, parent: ActiveRun) -> None:
        if not self._scene.is_declared:  # else it may be lost, and declared again after a child has inherited it
            self._declare(parent)
            await parent.checkpoint()
            self._scene.is_declared = True
        name = f"c{self._scene.token()}"
        self._scene.names.append(name)
        try:
            self._owned[name] = await self._runs.begin("part", parent=parent, run_id=name)
        finally:
            self._scene.open.append(name)  # L3 may have it, whatever was heard
        if self._scene.world.chance(0.5):  # somebody else is to do it
            await self._owned[name].release()

    async def _finish(self) -> None:
        """End some children: most are complete, with exports."""
        mine = [name for name in self._owned if name != PARENT]
        for name in self._random.sample(mine, min(len(mine), self._scene.at_once)):
            run = self._owned[name]
            if self._scene.world.chance(0.05):
                await run.release()
                continue
            if self._scene.world.chance(0.05):
                await run.cancel()
            else:
                self._write(run)
                if self._scene.world.chance(0.3):
                    await run.save(self._random.choice(list(Durability)))
                await run.complete()
            self._over(name)

    def _over(self, name: str) -> None:
        if name in self._scene.open:
            self._scene.open.remove(name)

    def _write(self, run: ActiveRun) -> None:
        """What a child writes depends on its name alone, so that doing it again does the same."""
        for key in self._scene.keys_of(run.id):
            run.context[key] = {"by": {run.id: 1}, "last": run.id}
            run.context.mark_for_export(key, "parent_context")
        run.context["out"] = run.id
        run.context.mark_for_export("out", "persistent_store")
        if int(run.id.removeprefix("ct")) % 10 == 0:
            run.context.mark_for_export("out", "blackboard")

    async def _merge(self, parent: ActiveRun) -> None:
        if parent.context.merged == 0:
            await parent.checkpoint()  # what it wrote last may be in memory only, and would be written again
            self._scene.note_before(parent.context.variables)
        merge = await parent.merge_children(wait=self._scene.world.chance(0.5), reviewer=self._reviewer)
        if merge.waits_for is None:
            await parent.checkpoint()
            self._scene.is_done = parent.context.merged > 0

    async def _take(self) -> None:
        """Resume several that somebody else may have left."""
        left = [name for name in self._scene.open if name not in self._owned]
        for name in self._random.sample(left, min(len(left), self._scene.at_once)):
            try:
                self._owned[name] = await self._runs.resume(name, force=self._scene.world.chance(0.1))
            except (NotFound, RunOver):  # it was never begun; or it had ended though nobody was told
                self._over(name)

    async def _resume_parent(self) -> None:
        try:
            self._owned[PARENT] = await self._runs.resume(PARENT, force=self._scene.world.chance(0.05))
        except NotFound:
            self._owned[PARENT] = await self._runs.begin("search", run_id=PARENT, swarm_id=SWARM)
