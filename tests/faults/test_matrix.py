"""The fault matrix: each fault, under a steady load on two servers, from before it to after it.

What was acknowledged as JOURNALED or COMMITTED is in effect, no answer is older than it may be, callers see only errors
that say what is away, no call hangs, and all is normal again by itself. The long form is `make faults`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from faults.cells import CELLS, process_killed
from faults.figures import FOLDER_VARIABLE, Figures, Skipped, keep, kept
from faults.matrix import SHOWN_SECONDS, Cell, check, proxied, run_cell
from faults.small_disk import Disk
from holdfast import Durability
from holdfast.testing.server_controls import ServerControls
from simulation.mutants.local import lease_never_ends

pytestmark = [pytest.mark.xdist_group("faults_matrix"), pytest.mark.timeout(240)]

SHORT_SECONDS = 1.5
HANGING_SECONDS = 8.0
"""Beside other tests, a call that lasts longer hangs."""
BY_NAME = {cell.name: cell for cell in CELLS}


async def figures_of(cell: Cell, controls: ServerControls, prefix: str, folder: Path, seconds: float) -> Figures:
    """Run a cell."""
    async with proxied(controls, prefix, folder) as ground:
        return await run_cell(cell, ground, seconds)


async def run_and_keep(cell: Cell, controls: ServerControls, prefix: str, folder: Path, seconds: float) -> None:
    """Run a cell, keep its figures or why it was skipped, and judge it."""
    try:
        figures = await figures_of(cell, controls, prefix, folder, seconds)
    except pytest.skip.Exception as skipped:
        keep(Skipped(cell.name, cell.layer, str(skipped)))
        raise
    keep(figures)
    check(cell, figures)


@pytest.mark.parametrize("cell", [pytest.param(each, id=each.name) for each in CELLS if each.short])
async def test_a_fault_comes_and_goes(cell: Cell, controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The short form of the cells that are most unlike each other; how long calls last is for the long one."""
    cell = replace(cell, longest_seconds=HANGING_SECONDS, patient_seconds=HANGING_SECONDS, mode_seconds=SHOWN_SECONDS)
    check(cell, await figures_of(cell, controls, prefix, tmp_path, SHORT_SECONDS))


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", [pytest.param(each, id=f"faults_{each.layer}: {each.name}") for each in CELLS])
async def test_matrix(cell: Cell, controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The long form of every cell, whose figures are kept."""
    await run_and_keep(cell, controls, prefix, tmp_path, cell.long_seconds)


async def test_without_a_disk_a_cell_is_reported_as_skipped(
    controls: ServerControls, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no small disk may be mounted, the figures say so."""

    def refuse(_disk: Disk, _files: Path) -> None:
        raise OSError("no tmpfs may be mounted here")

    monkeypatch.setattr(Disk, "mount", refuse)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "figures"))
    with pytest.raises(pytest.skip.Exception):
        await run_and_keep(BY_NAME["L3's disk full"], controls, prefix, tmp_path, SHORT_SECONDS)
    assert kept(tmp_path / "figures") == [Skipped("L3's disk full", "l3", "no tmpfs may be mounted here")]


async def test_answers_of_the_past_are_found(
    controls: ServerControls, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant of R3: memory answers without a lease, while the feed is held."""
    lease_never_ends(monkeypatch)
    figures = await figures_of(BY_NAME["feed held"], controls, prefix, tmp_path, SHORT_SECONDS)
    assert figures.oldest_seconds > figures.bound_seconds
    assert figures.violations != []


@pytest.mark.prove
async def test_lost_writes_are_found_by_faults_process(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """Mutant of W2: the server that is killed acknowledges before L2 has anything."""
    cell = replace(BY_NAME["a server killed"], harm=process_killed("journals_nothing"))
    figures = await figures_of(cell, controls, prefix, tmp_path, SHORT_SECONDS)
    assert figures.lost[Durability.JOURNALED.value] > 0
