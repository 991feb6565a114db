"""How a server takes one step: as a run of its own, below the scenario's; from the middle on, if another died there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from holdfast import Consistency, StateStore, Swarm
from holdfast.cli.demo.executions import (
    LAST_STEP,
    WRITES,
    ended_steps,
    execution_of,
    has_taken,
    lost_of,
    run_of_step,
)
from holdfast.cli.demo.messages import StepCommand, StepReply
from holdfast.cli.demo.meter import DisturbedError, Meter
from holdfast.cli.demo.operations import change_operations, note_operations
from holdfast.cli.demo.swarms import step_id, steps_of, with_change, with_step_noted, writes_in, writes_of
from holdfast.run_context.active_run import ActiveRun

Hold = Callable[[int], Awaitable[None]]
"""Awaited in the middle of a step that is to be held there, with the number of writes made."""

MADE: Final = "writes_made"
"""Variable of a step's run: how many of its writes were made."""


async def take_step(state: StateStore, meter: Meter, command: StepCommand, hold: Hold) -> StepReply:
    """Take one step, or what is left of it.

    The writes are accepted by write-behind, and this server sees them at once. Another one takes the next step, and
    reads L3: so the step ends when they are there.
    """
    # This one may be old, as any cached read, and is not used: it brings the swarm into L2, so that a write which
    # failed to fence L2 would show when the cold server reads.
    await meter.swarm(command.swarm, command.run, Consistency.BOUNDED)
    begun = meter.clock()
    async with execution_of(state, command) as execution:
        if execution is None or has_taken(execution, command.step.number):
            return await _taken_before(state, meter, command)
        name, ended = step_id(command.step.number), ended_steps(execution.context.steps)
        was_entered = name in execution.context.steps
        async with (
            execution.step(name) as step,
            run_of_step(state, execution, command, was_entered=was_entered) as run,
        ):
            seconds = meter.clock() - begun
            # What a dead server had written to it was decided when its run was taken up.
            before = await meter.swarm(command.swarm, command.run, Consistency.STRONG)
            made = _writes_made(execution, run, before, command)
            await meter.configuration(command)
            await _Writing(meter, command, run, hold).write(before, made)
            after = await meter.swarm(command.swarm, command.run, Consistency.BOUNDED)
            await meter.flush()
            step.result = {"events": list(command.step.events)}
            execution.context[LAST_STEP] = command.step.number
            execution.context[WRITES] = writes_of(before) - made + writes_in(command.step)
    return StepReply(
        command.id,
        steps_of(before) - (made == writes_in(command.step)),
        steps_of(after),
        meter.reads,
        meter.writes,
        meter.behind,
        steps_ended=ended,
        writes_found=made if was_entered else None,
        taken_up_seconds=seconds,
        lost=lost_of(execution.lost, *(() if run is None else (run.lost,))),
    )


async def _taken_before(state: StateStore, meter: Meter, command: StepCommand) -> StepReply:
    """The answer for a step that another server has ended, and could not say so."""
    view = await state.runs.get(command.execution, consistency=Consistency.STRONG)
    after = await meter.swarm(command.swarm, command.run, Consistency.STRONG)
    return StepReply(
        command.id,
        steps_of(after) - 1,
        steps_of(after),
        meter.reads,
        meter.writes,
        steps_ended=0 if view is None else ended_steps(view.state.steps) - 1,
        writes_found=writes_in(command.step),
    )


def _writes_made(execution: ActiveRun, run: ActiveRun | None, swarm: Swarm, command: StepCommand) -> int:
    """How many writes of the step are in the swarm.

    Raises:
        DisturbedError: not those that the contexts know of.
    """
    made = writes_of(swarm) - int(str(execution.context[WRITES]))
    least = writes_in(command.step) if run is None else int(str(run.context.get(MADE, 0)))
    if not least <= made <= writes_in(command.step):
        raise DisturbedError(
            f"swarm {command.swarm} has {made} writes of step {command.step.number}; by the contexts of its runs it "
            f"has {least} to {writes_in(command.step)}"
        )
    return made


class _Writing:
    """The writes of a step."""

    def __init__(self, meter: Meter, command: StepCommand, run: ActiveRun | None, hold: Hold) -> None:
        self._meter = meter
        self._command = command
        self._run = run
        self._hold = hold

    async def write(self, swarm: Swarm, made: int) -> None:
        """Change the blackboard item by item, and note the call and the events; but for what was made before."""
        command, at = self._command, self._command.at
        for place, change in enumerate(command.step.changes[made:], made + 1):
            operations = change_operations(swarm, change, at)
            await self._meter.write(command.swarm, operations, partial(with_change, change=change, at=at))
            swarm = with_change(swarm, change, at)
            await self._made(place, is_first=place == made + 1)
        if made < writes_in(command.step):
            noting = partial(with_step_noted, identifier=command.swarm, step=command.step, at=at)
            await self._meter.write(command.swarm, note_operations(command.swarm, command.step, at), noting)
            await self._made(writes_in(command.step), is_first=made == len(command.step.changes))

    async def _made(self, place: int, *, is_first: bool) -> None:
        if self._run is None:
            return
        self._run.context[MADE] = place
        if is_first and self._command.hold:
            await self._run.save()
            await self._hold(place)
