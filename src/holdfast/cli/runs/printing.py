"""A run on a terminal, and for programs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from holdfast.cli.runs.outlines import RunLine, ShownRun, StepLine, VariableLine, lost_in_words
from holdfast.cli.showing import cell, line

COLUMNS = ("id", "routine", "swarm", "status", "owner", "snapshots", "children", "started", "cursor")


def cells(run: RunLine) -> Sequence[str]:
    """A run's line of the table of these columns."""
    return (
        run.id,
        run.routine,
        run.swarm or "",
        run.status,
        run.owner or "",
        str(run.snapshots),
        str(run.children),
        time(run.started_at),
        "" if run.cursor is None else str(run.cursor),
    )


def time(at: dt.datetime | None) -> str:
    """A time to the second; nothing if it is not known."""
    return "" if at is None else at.isoformat(" ", "seconds")


def print_run(shown: ShownRun, console: Console, *, json: bool) -> None:
    """Print a run with its context: as one JSON object, or in words on a terminal."""
    if json or not console.is_terminal:
        line(console, msgspec.json.encode(shown).decode())
        return
    for text in _heading(shown):
        line(console, text)
    _table(console, "variables", ("name", "value", "sensitivity", "source", "written"), map(_variable, shown.variables))
    _table(console, "steps", ("id", "status", "started", "seconds", "error"), map(_step, shown.steps))
    for what, count in shown.left_out.items():
        line(console, f"and {count} more {what}; --limit shows more")


def _heading(shown: ShownRun) -> Iterator[str]:
    run = shown.run
    as_of = "" if shown.at is None else f", as of snapshot {shown.at}"
    yield f"run {run.id} of {run.routine}: {shown.status}{as_of}"
    yield from (
        f"  {name}: {value}"
        for name, value in (
            ("swarm", run.swarm),
            ("below", run.parent),
            ("owner", run.owner and f"{run.owner}, epoch {run.epoch}"),
            ("started", time(run.started_at)),
            ("ended", time(run.ended_at)),
            ("error", run.error),
            ("current step", shown.current_step),
            ("inputs", ", ".join(shown.inputs)),
            ("intermediate results", ", ".join(shown.intermediate)),
            ("exports", ", ".join(f"{key} to {' and '.join(places)}" for key, places in shown.exports.items())),
            ("not exported", "; ".join(shown.refused_exports)),
        )
        if value
    )
    yield f"  {run.snapshots} snapshots, and {run.changes} changes since; {run.children} runs below it"
    if shown.lost:
        yield f"  {lost_in_words(shown.lost)}"


def _table(console: Console, title: str, columns: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    table = Table(*columns, title=title, title_justify="left", box=None)
    for row in rows:
        table.add_row(*map(cell, row))
    if table.row_count:
        console.print(table)


def _variable(each: VariableLine) -> Sequence[str]:
    source = each.source if each.mutable else f"{each.source}, read-only"
    return each.name, each.value, each.sensitivity, source, time(each.written_at)


def _step(each: StepLine) -> Sequence[str]:
    seconds = "" if each.seconds is None else f"{each.seconds:.3f}"
    return each.id, each.status, time(each.started_at), seconds, each.error or ""
