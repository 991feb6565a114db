"""A scenario's execution as a run, and each step of it as a run below that one.

The scenario's run goes from server to server: each step takes it up and lets go of it again, paused. Its context holds
what the next server needs to go on: which steps have ended, and how many writes they had made to the swarm by then.
Each write counts itself in the swarm. So a server that takes up a step in whose middle another one died knows which of
its writes were made, and makes each of the others once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from holdfast import Consistency, StateStore
from holdfast.cli.demo.messages import Lost, RunReading, StepCommand
from holdfast.cli.demo.swarms import step_id, step_run_id
from holdfast.documents import RunStatus, StepRecord, StepStatus
from holdfast.run_context.active_run import ActiveRun
from holdfast.run_context.restoring import Loss
from holdfast.run_context.runs import ListedRun

WRITES: Final = "writes"
"""Variable: how many writes were in the swarm when the last step had ended."""
LAST_STEP: Final = "last_step"
"""Variable: the number of that step."""
PAGE: Final = 1000


@asynccontextmanager
async def execution_of(state: StateStore, command: StepCommand) -> AsyncIterator[ActiveRun | None]:
    """The scenario's run: begun, or taken up where another server left it; let go of when the block has ended well.

    None: it has been completed.

    Raises:
        NotOwner: a live server runs it.
        RunOver: it has failed.
    """
    row = await state.runs.row(command.execution, consistency=Consistency.STRONG)
    if row is not None and row.status == RunStatus.COMPLETED:
        yield None
    elif row is not None:
        async with state.runs.resume(command.execution) as execution:
            yield execution
            await _let_go(execution, command)
    else:
        begin = state.runs.begin(
            command.scenario, {"run": command.run}, swarm_id=command.swarm, run_id=command.execution
        )
        async with begin as execution:
            execution.context[WRITES] = execution.context[LAST_STEP] = 0
            yield execution
            await _let_go(execution, command)


async def _let_go(execution: ActiveRun, command: StepCommand) -> None:
    if not command.last:  # the end of the block completes it
        await execution.pause()


@asynccontextmanager
async def run_of_step(
    state: StateStore, execution: ActiveRun, command: StepCommand, *, was_entered: bool
) -> AsyncIterator[ActiveRun | None]:
    """The run of a step: begun, or taken up in its middle; completed when the block has ended well. None: it has been.

    Args:
        was_entered: another server has entered the step, and may have begun its run. The step is in the context before
            its run is in L3: of one that is not, nobody can have begun it.

    Raises as `execution_of`.
    """
    name = step_run_id(command.execution, command.step.number)
    row = await state.runs.row(name, consistency=Consistency.STRONG) if was_entered else None
    if row is not None and row.status == RunStatus.COMPLETED:
        yield None
    elif row is not None:
        async with state.runs.resume(name) as run:
            yield run
    else:
        routine = command.step.call.name if command.step.call else command.scenario
        async with state.runs.begin(routine, {"step": command.step.number}, parent=execution, run_id=name) as run:
            yield run


def ended_steps(steps: Mapping[str, StepRecord]) -> int:
    """How many steps have ended well."""
    return sum(record.status == StepStatus.COMPLETED for record in steps.values())


def has_taken(execution: ActiveRun, number: int) -> bool:
    """Whether a step has ended well."""
    record = execution.context.steps.get(step_id(number))
    return record is not None and record.status == StepStatus.COMPLETED


def lost_of(*losses: Loss) -> Lost:
    """What contexts have lost, together."""
    return Lost(
        sum(each.steps for each in losses),
        sum(len(each.variables) for each in losses),
        max((each.seconds for each in losses), default=0.0),
    )


async def read_execution(state: StateStore, execution: str) -> RunReading | None:
    """A scenario's run as it is at the end, with the runs of its steps; None: there is none."""
    view = await state.runs.get(execution, consistency=Consistency.STRONG)
    if view is None:
        return None
    children = await _children(state, execution)
    snapshots = await _snapshots(state, execution)
    return RunReading(
        status=view.run.status,
        steps=[(record.step_id, record.status) for record in view.state.steps.values()],
        children=sorted((int(each.id.rpartition(".")[2]), each.run.status) for each in children),
        checkpoints=view.run.sequence + sum(each.run.sequence for each in children),
        # A step's run is short: the base that it began with is its only one.
        snapshots=snapshots + sum(each.run.sequence + 1 for each in children),
    )


async def _children(state: StateStore, execution: str) -> list[ListedRun]:
    found: list[ListedRun] = []
    while page := await state.runs.list(parent_run_id=execution, after=found[-1].cursor if found else None, limit=PAGE):
        found += page
    return found


async def _snapshots(state: StateStore, execution: str) -> int:
    count, last = 0, None
    while page := await state.runs.history(execution, after=last, limit=PAGE):
        count, last = count + len(page), page[-1].id
    return count


async def orphans(state: StateStore, run: str) -> list[str]:
    """Ids of runs of this run of the demo that no live server runs; of more than 1,000 the newest."""
    return [each.id for each in await state.runs.list(orphaned=True, limit=PAGE) if each.id.startswith(f"{run}.")]
