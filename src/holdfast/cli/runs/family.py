"""All runs around one, from the uppermost above it down to the last below."""

from __future__ import annotations

from typing import Final, NamedTuple

from holdfast.cli.runs.outlines import RunLine, run_line
from holdfast.documents import Run
from holdfast.errors import NotFound
from holdfast.run_context.runs import Runs

ABOVE_MAX: Final = 256
"""Runs that are looked at above one: more than any server allows."""


class Family(NamedTuple):
    """Runs, each before those below it.

    Attributes:
        is_cut: there are more.
    """

    lines: list[RunLine]
    is_cut: bool


async def family(runs: Runs, run_id: str, limit: int) -> Family:
    """The runs around one.

    Args:
        limit: of runs, 1 to 1000.

    Raises:
        NotFound: there is no such run.
    """
    root = await _root(runs, run_id)
    lines: list[RunLine] = []
    waiting = [root]
    is_cut = False
    while waiting and len(lines) < limit:
        name, run = waiting.pop()
        lines.append(run_line(name, run))
        if run.children:
            # Those begun last come first, and what is put here last is taken first: so they come in their order.
            listed = await runs.list(parent_run_id=name, limit=limit)
            is_cut = is_cut or len(listed) < run.children
            waiting += [(each.id, each.run) for each in listed]
            is_cut = is_cut or len(waiting) > limit - len(lines)
            del waiting[: max(len(waiting) - (limit - len(lines)), 0)]  # their turn would never come
    return Family(lines, is_cut or bool(waiting))


async def _root(runs: Runs, run_id: str) -> tuple[str, Run]:
    """The uppermost run above one that is still there."""
    below: tuple[str, Run] | None = None
    wanted: str | None = run_id
    for _ in range(ABOVE_MAX):
        found = None if wanted is None else await runs.row(wanted)
        if wanted is None or found is None:
            break
        below, wanted = (wanted, found), found.parent_run_id
    if below is None:
        raise not_there(run_id)
    return below


def not_there(run_id: str) -> NotFound:
    """The error for a run that does not exist."""
    return NotFound(f"there is no run {run_id}; `holdfast runs list` shows those that there are")
