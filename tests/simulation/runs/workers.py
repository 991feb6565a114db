"""Who runs the runs of a world: the tasks of servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from holdfast import Consistency, Durability
from holdfast.errors import HoldfastError
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.runs import Runs

if TYPE_CHECKING:
    from simulation.runs.worlds import RunsScene
    from simulation.write_behind.scene import Server

PARENT = "p"


class Worker:
    """A task of one server: begins runs below the one they all come from, writes, checkpoints, lets go and resumes.

    What it runs it believes to run until it is told otherwise, as a server that stood still does.
    """

    def __init__(self, scene: RunsScene, server: Server) -> None:
        self._scene = scene
        self._server = server
        self._random = scene.world.random
        self._records = scene.runs
        self._owned: dict[str, ActiveRun] = {}

    @property
    def _runs(self) -> Runs:
        return self._server.flows.store.runs

    async def run(self) -> None:
        """Take all steps; what fails as it may is counted."""
        steps: list[Callable[[], Awaitable[None]]] = [
            self._begin,
            self._write,
            self._resume,
            self._read,
            self._let_go,
            self._fork,
            self._prune,
        ]
        for _ in range(self._scene.steps):
            await self._scene.world.pause(self._scene.theme.pace_seconds)
            (step,) = self._random.choices(steps, [8, 16, 5, 5, 2, 0.5, 1])
            try:
                await step()
            except HoldfastError:
                self._records.errors += 1

    async def _begin(self) -> None:
        if PARENT not in self._records.runs:
            await self._begin_parent()
        elif (parent := self._owned.get(PARENT)) is not None:
            children = self._random.randint(1, self._scene.at_once)
            begun = [self._begin_child(parent) for _ in range(children)]
            for fault in await asyncio.gather(*begun, return_exceptions=True):
                if isinstance(fault, HoldfastError):
                    self._records.errors += 1
                elif fault is not None:
                    raise fault
        else:
            await self._take(PARENT, force=self._random.random() < 0.3)

    async def _begin_parent(self) -> None:
        self._records.beginning(PARENT, {}, None)
        run = self._owned[PARENT] = await self._runs.begin("search", run_id=PARENT)
        self._records.begun(PARENT)
        for number in range(self._scene.inherited):
            run.context[f"v{number}"] = f"{PARENT}:{self._scene.token()}"
        await self._keep(run, self._save)

    async def _begin_child(self, parent: ActiveRun) -> None:
        if len(self._records.runs) > self._scene.children:
            return
        name, values = f"c{self._scene.token()}", dict(parent.context)
        self._records.saving(PARENT, parent.epoch, values)
        self._records.beginning(name, values, PARENT)
        run = await self._runs.begin("part", parent=parent, run_id=name, critical=self._random.random() < 0.3)
        self._records.begun(name)
        self._owned[name] = run
        if dict(run.context) != values:
            self._records.faults.append(f"{name} inherited {dict(run.context)}, not {values}")

    async def _write(self) -> None:
        if not self._owned:
            return
        run = self._owned[self._random.choice(list(self._owned))]
        for _ in range(self._random.randint(1, 4)):
            key = f"v{self._random.randrange(self._scene.inherited + 10)}"
            if self._random.random() < 0.2 and key in run.context:
                del run.context[key]
            else:
                run.context[key] = f"{run.id}:{self._scene.token()}"
        await self._keep(run, self._random.choice((self._save, self._save, self._checkpoint, self._step)))

    async def _keep(self, run: ActiveRun, keep: Callable[[ActiveRun], Awaitable[Durability]]) -> None:
        """Keep a state that no other is like."""
        run.context["mark"] = f"{run.id}:{self._scene.token()}"
        index = self._records.saving(run.id, run.epoch, run.context)
        try:
            reached = await keep(run)
        finally:
            if run.is_over:
                self._owned.pop(run.id, None)
        self._records.saved(run.id, run.epoch, index, reached)

    async def _save(self, run: ActiveRun) -> Durability:
        receipt = await run.save(self._random.choice(list(Durability)))
        assert receipt is not None
        return receipt.durability

    async def _checkpoint(self, run: ActiveRun) -> Durability:
        await run.checkpoint()
        return Durability.COMMITTED

    async def _step(self, run: ActiveRun) -> Durability:
        async with run.step(self._scene.token()):
            pass
        return Durability.COMMITTED if run.critical else Durability.JOURNALED

    async def _let_go(self) -> None:
        if not self._owned:
            return
        run = self._owned[self._random.choice(list(self._owned))]
        ends = [run.pause, run.release]
        if run.id != PARENT:
            ends += [run.complete, run.cancel]

        async def end(_: ActiveRun) -> Durability:
            await self._random.choice(ends)()
            return Durability.COMMITTED

        await self._keep(run, end)

    async def _resume(self) -> None:
        await self._take(self._random.choice([*self._records.runs] or [PARENT]), force=self._random.random() < 0.2)

    async def _take(self, name: str, *, force: bool) -> None:
        if name not in self._records.admitted:
            return
        moment = self._records.taking(name)
        run = await self._runs.resume(name, force=force)
        self._records.taken_over(name, run.epoch, moment, run.context.state)
        self._owned[name] = run
        if run.lost:
            self._records.faults.append(f"{name}: lost {run.lost}")

    async def _read(self) -> None:
        name = self._random.choice([*self._records.runs] or [PARENT])
        if name not in self._records.admitted:
            return
        consistency = self._random.choice(list(Consistency))
        least = self._records.least(name) if consistency is Consistency.STRONG else (0, 0)
        view = await self._runs.get(name, consistency=consistency)
        if view is not None:
            self._records.shown(name, view.state, least)
            if view.lost:
                self._records.faults.append(f"{name}, as it was read: lost {view.lost}")
        elif consistency is Consistency.STRONG:
            self._records.faults.append(f"{name} is not there")

    async def _fork(self) -> None:
        name = self._random.choice([*self._records.admitted] or [PARENT])
        view = await self._runs.get(name)
        if view is None:
            return
        fork = await self._runs.fork(name)
        self._records.beginning(fork.id, fork.context, None)
        self._records.begun(fork.id)
        self._records.shown(name, fork.context.state)
        self._owned[fork.id] = fork

    async def _prune(self) -> None:
        if self._owned:
            await self._runs.prune(self._random.choice(list(self._owned)))
