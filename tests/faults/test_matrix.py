"""The fault matrix: each fault, under a steady load on two servers, from before it to after it.

What was acknowledged as JOURNALED or COMMITTED is in effect, no answer is older than it may be, callers see only errors
that say what is away, no call hangs, and all is normal again by itself. The long form is `make faults`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.cells import CELLS
from faults.figures import Skipped, keep
from faults.matrix import Cell, check, proxied, run_cell
from holdfast.testing.server_controls import ServerControls

pytestmark = [pytest.mark.xdist_group("faults_matrix"), pytest.mark.timeout(240)]

SHORT_SECONDS = 1.5


async def try_cell(cell: Cell, controls: ServerControls, prefix: str, folder: Path, seconds: float) -> None:
    """Run a cell, keep its figures, and judge them."""
    try:
        async with proxied(controls, prefix, folder) as ground:
            figures = await run_cell(cell, ground, seconds)
    except pytest.skip.Exception as skipped:
        keep(Skipped(cell.name, cell.layer, str(skipped)))
        raise
    keep(figures)
    check(cell, figures)


@pytest.mark.parametrize("cell", [pytest.param(each, id=each.name) for each in CELLS if each.short])
async def test_a_fault_comes_and_goes(cell: Cell, controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The short form of the cells that are most unlike each other."""
    await try_cell(cell, controls, prefix, tmp_path, SHORT_SECONDS)


@pytest.mark.prove
@pytest.mark.parametrize("cell", [pytest.param(each, id=f"{each.layer}: {each.name}") for each in CELLS])
async def test_matrix(cell: Cell, controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """The long form of every cell; `make faults`."""
    await try_cell(cell, controls, prefix, tmp_path, cell.long_seconds)
