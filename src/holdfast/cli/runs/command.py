"""`holdfast runs`: list, show, tree, history, diff, resume, fork, rebuild and reveal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from holdfast.cli.runs.family import family, not_there
from holdfast.cli.runs.outlines import (
    DifferenceLine,
    RunLine,
    difference_lines,
    lost_in_words,
    run_line,
    shown_run,
)
from holdfast.cli.runs.printing import COLUMNS, cells, print_run, time
from holdfast.cli.serving import serving
from holdfast.cli.showing import Place, line, show, tell_left_out
from holdfast.documents.faults import DEPTH_CEILING
from holdfast.documents.tagging import to_wire
from holdfast.node import process_name
from holdfast.protocols import ListedSnapshot
from holdfast.protocols.runs import LISTED_MAX
from holdfast.run_context.active_run import ActiveRun

Limit = Annotated[int, Parameter(validator=Number(gte=1, lte=LISTED_MAX))]
DIFFERENCES_MAX: Final = 1000

runs = cyclopts.App(name="runs", help="Runs of routines: who runs them, what they know, and how to go on with them.")


@runs.command(name="list")
async def list_(
    *,
    swarm: str | None = None,
    status: str | None = None,
    routine: str | None = None,
    parent: str | None = None,
    orphaned: bool = False,
    limit: Limit = 100,
    after: Place | None = None,
    json: bool = False,
) -> None:
    """Show runs for which all of this holds, those begun last first.

    On a terminal it is a table, otherwise one JSON object a line.

    Parameters
    ----------
    swarm
        Id of the swarm that they work for.
    status
        As "running", "paused" or "failed".
    routine
        Id of the routine that they run.
    parent
        Id of the run that began them.
    orphaned
        Only those that have not ended and that no live server runs: what to resume after a crash.
    limit
        How many to show, 1 to 1000.
    after
        The cursor of the last one shown, to go on behind it.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        found = await state.runs.list(
            swarm_id=swarm,
            status=status,
            routine_id=routine,
            parent_run_id=parent,
            orphaned=orphaned,
            limit=limit,
            after=after,
        )
    show([run_line(*each) for each in found], COLUMNS, cells, "there is no such run", json=json)
    tell_left_out([each.cursor for each in found], found.unreadable, limit)


@runs.command(name="show")
async def show_(run: str, /, *, at: Place | None = None, limit: Limit = 100, json: bool = False) -> None:
    """Show a run: who runs it, its variables and steps, and what is lost of it, if anything.

    Values are cut short, and those whose sensitivity is confidential, secret or pii are not shown. Of inputs and
    intermediate results only the names are.

    Parameters
    ----------
    run
        Id of the run.
    at
        Number of a snapshot, to show the context as it was then.
    limit
        How many variables and how many steps to show, 1 to 1000; of steps the last.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        if (row := await state.runs.row(run)) is None:
            raise not_there(run)
        if at is not None:
            shown = shown_run(run, row, await state.runs.at(run, at), at=at, most=limit)
        elif (view := await state.runs.get(run)) is not None:
            shown = shown_run(run, view.run, view.state, view.lost, at=None, most=limit)
        else:
            raise not_there(run)
    print_run(shown, Console(), json=json)


@runs.command
async def tree(run: str, /, *, limit: Limit = 200, json: bool = False) -> None:
    """Show a run with all runs around it: from the uppermost one above it down to the last one below.

    On a terminal they are indented below the run that began them, otherwise one JSON object a line, with the depth.

    Parameters
    ----------
    run
        Id of any run of the tree.
    limit
        How many to show, 1 to 1000; each before those below it.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        found = await family(state.runs, run, limit)
    console = Console()
    for each in found.lines:
        if json or not console.is_terminal:
            line(console, msgspec.json.encode(each).decode())
        else:
            line(console, "  " * (each.depth - found.lines[0].depth) + _in_tree(each, run))
    if found.is_cut:
        line(Console(stderr=True), "there are more; --limit, or `holdfast runs tree` of one of these, shows them")


@runs.command
async def history(run: str, /, *, limit: Limit = 100, after: str | None = None, json: bool = False) -> None:
    """Show the snapshots of a run, in order: deltas, and the bases that hold all of it.

    Parameters
    ----------
    run
        Id of the run.
    limit
        How many to show, 1 to 1000.
    after
        The id of the last one shown, to go on behind it.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        found = await state.runs.history(run, after=after, limit=limit)
        if not found and await state.runs.row(run) is None:
            raise not_there(run)
    show(found, ("snapshot", "bytes", "written"), _snapshot_cells, "there are no more snapshots", json=json)
    if len(found) == limit:
        line(Console(stderr=True), f"there may be more: --after {found[-1].id}")


@runs.command
async def diff(run: str, earlier: Place, later: Place | None = None, /, *, json: bool = False) -> None:
    """Show what is different between two snapshots of a run; what is not shown of a run is not shown here either.

    Parameters
    ----------
    run
        Id of the run.
    earlier
        Number of a snapshot, as `history` shows them; 0: what the run began with.
    later
        Number of another; without it, as the run is now.
    json
        JSON on a terminal too.
    """
    async with serving() as state:
        lines = list(difference_lines(await state.runs.diff(run, earlier, later)))
    columns = ("section", "key", "what", "before", "after")
    show(lines[:DIFFERENCES_MAX], columns, _difference_cells, "nothing is different", json=json)
    if len(lines) > DIFFERENCES_MAX:
        line(Console(stderr=True), f"and {len(lines) - DIFFERENCES_MAX} more differences")


@runs.command
async def resume(run: str, /, *, force: bool = False) -> int:
    """Take a run over from a server that is gone, see what is left of it, and let go of it for a server to go on.

    What its server had written is decided first, and refused from then on; the context is verified, and repaired if
    snapshots of it are damaged. Then the run is one that nobody runs: servers, and `holdfast runs list --orphaned`,
    find it as such. The exit status is 1 if anything is lost.

    Parameters
    ----------
    run
        Id of the run.
    force
        Also if its server is alive.
    """
    async with serving() as state:
        taken = await state.runs.resume(run, force=force)
        await taken.release()
    console = Console()
    line(console, f"{run}: {lost_in_words(taken.lost)}; {_holding(taken)}")
    line(console, "it was let go of: `holdfast runs list --orphaned` shows it until a server resumes it")
    return 1 if taken.lost else 0


@runs.command
async def fork(run: str, /, *, at: Place | None = None, id: str | None = None) -> None:  # noqa: A002 - the option
    """Begin a run that goes on from where another was; that one stays as it is. Prints the new one's id.

    Nobody runs it yet: servers, and `holdfast runs list --orphaned`, find it as such.

    Parameters
    ----------
    run
        Id of the run.
    at
        Number of a snapshot; without it, as the run is now.
    id
        Of the new run; without it, one is made.
    """
    async with serving() as state:
        forked = await state.runs.fork(run, at=at, new_run_id=id)
        await forked.release()
    line(Console(stderr=True), f"a fork of {run}: {_holding(forked)}; a server has to resume it")
    line(Console(), forked.id)


@runs.command
async def rebuild(run: str, /, *, yes: bool = False, id: str | None = None) -> int:  # noqa: A002 - the option
    """Begin a run with all that verifies of another whose context cannot be restored; that one stays as it is.

    What is damaged is left out, also where later changes build on it: it may be a state that the run never had.
    Without `--yes` it is said what there would be, nothing is done, and the exit status is 1. Prints the new one's id.

    Parameters
    ----------
    run
        Id of the run.
    yes
        Do it.
    id
        Of the new run; without it, one is made.
    """
    console = Console(stderr=True)
    async with serving() as state:
        if not yes:
            left = await state.runs.rescue.remains(run)
            if left.is_empty:
                line(console, f"nothing of {run} verifies: no run can be begun of it")
                return 1
            some = " of what could be looked at in a few seconds" if left.partial else ""
            there = f"{len(left.state.steps)} steps, {len(left.state.variables)} variables"
            line(console, f"from {run}{some}: {there}; {lost_in_words(left.lost)}; with --yes it is begun")
            return 1
        rebuilt = await state.runs.rebuild(run, new_run_id=id)
        await rebuilt.release()
    line(console, f"rebuilt from {run}: {_holding(rebuilt)}; {lost_in_words(rebuilt.lost)}; a server has to resume it")
    line(Console(), rebuilt.id)
    return 0


@runs.command
async def reveal(run: str, key: str, /, *, reason: str, by: str | None = None) -> None:
    """Print the value of a variable as JSON, also of one that is secret; the audit log says who has seen it, and why.

    It is printed to the standard output as it is. The master keys of the settings have to open it.

    Parameters
    ----------
    run
        Id of the run.
    key
        Name of the variable.
    reason
        Why, for the audit log.
    by
        Who looks at it, for the audit log; by default user@host:pid.
    """
    async with serving() as state:
        value = await state.runs.reveal(run, key, by=by or process_name(), reason=reason)
    line(Console(), msgspec.json.encode(to_wire(value, DEPTH_CEILING)).decode())


def _holding(run: ActiveRun) -> str:
    context = run.context
    return f"{len(context.steps)} steps, {len(context)} variables, epoch {run.epoch}"


def _in_tree(each: RunLine, wanted: str) -> str:
    mark = "  <--" if each.id == wanted else ""
    return f"{each.id}  {each.status}  {each.routine}{mark}"


def _snapshot_cells(each: ListedSnapshot) -> Sequence[str]:
    return each.id, str(each.bytes), time(each.at)


def _difference_cells(each: DifferenceLine) -> Sequence[str]:
    return each.section, each.key, each.what, each.before or "", each.after or ""
