"""Faults drawn at random from the matrix, one after the other, on the same two servers under the same load."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from faults.cells import CELLS
from faults.matrix import OF_L3_AWAY, Course, broken, check, judged, proxied, until_normal, working
from holdfast.testing.server_controls import ServerControls

pytestmark = [pytest.mark.xdist_group("faults_matrix")]

SECONDS_MAX = 8.0
"""For how long one fault lasts at most."""


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
async def test_prove_faults(controls: ServerControls, prefix: str, tmp_path: Path, seed: int) -> None:
    """Five minutes for each seed: no violation, no durable write lost, and normal again after every one."""
    source, happened, course = random.Random(seed), Counter[str](), Course()
    drawn = [cell for cell in CELLS if cell.ground is None and cell.layer != "outage"]
    async with AsyncExitStack() as stack:
        ground = await stack.enter_async_context(proxied(controls, prefix, tmp_path))
        stack.push_async_callback(ground.close)
        await ground.connect()
        await until_normal(ground)
        began, longest = time.monotonic(), 0.0
        async with ground.workload.running(), working(course.look_on(ground.servers)):
            while time.monotonic() < began + 300.0:
                cell = source.choice(drawn)
                await broken(cell, ground, source.uniform(0.2, SECONDS_MAX), course)
                happened[cell.name] += 1
                longest = max(longest, course.normal_after)
        everything = replace(drawn[0], name="random faults", errors=OF_L3_AWAY, longest_seconds=8.0)
        figures = await judged(everything, ground, time.monotonic() - began, course)
    sys.stdout.write(
        f"{happened.total()} faults {dict(happened)}; normal again after {longest:.1f} s at most;"
        f" {figures.calls} calls, errors {figures.errors}; acknowledged {figures.acknowledged}, lost {figures.lost};"
        f" oldest answer {figures.oldest_seconds * 1000:.0f} ms; {len(figures.violations)} violations\n"
    )
    check(everything, figures)
