"""Faults drawn at random from the matrix, one after the other, on the same two servers under the same load."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from faults.cells import CELLS
from faults.matrix import COMMIT_SECONDS, OF_L3_AWAY, Course, broken, check, judged, proxied, until_normal, working
from faults.recorded import lines_of_recovery, unrecorded
from holdfast.testing.server_controls import ServerControls

pytestmark = [pytest.mark.xdist_group("faults_matrix")]

SECONDS = 300.0
SECONDS_MAX = 8.0
"""For how long one fault lasts at most."""
LINES_MAX = 1_000_000
"""None of the recovery log is to go before it was looked at."""


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_faults_one(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """Five minutes: no violation, no durable write lost, normal again after each fault, and all of it recorded."""
    await at_random(controls, prefix, tmp_path, seed=1)


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_prove_faults_two(controls: ServerControls, prefix: str, tmp_path: Path) -> None:
    """And five more."""
    await at_random(controls, prefix, tmp_path, seed=2)


async def at_random(controls: ServerControls, prefix: str, folder: Path, *, seed: int) -> None:
    """Draw faults for so long, and show the figures of all of it."""
    source, happened, course = random.Random(seed), Counter[str](), Course()
    drawn = [cell for cell in CELLS if cell.ground is None and cell.layer != "outage"]
    async with AsyncExitStack() as stack:
        ground = await stack.enter_async_context(proxied(controls, prefix, folder))
        ground.settings = msgspec.structs.replace(ground.settings, recovery_log_rows_max=LINES_MAX)
        stack.push_async_callback(ground.close)
        await ground.connect()
        await until_normal(ground)
        began, longest = time.monotonic(), 0.0
        async with ground.workload.running(), working(course.look_on(ground.servers)):
            while time.monotonic() < began + SECONDS:
                cell = source.choice(drawn)
                await broken(cell, ground, source.uniform(0.2, SECONDS_MAX), course)
                happened[cell.name] += 1
                longest = max(longest, course.normal_after)
        everything = replace(
            drawn[0], name="random faults", errors=OF_L3_AWAY, longest_seconds=1.5, patient_seconds=COMMIT_SECONDS + 1.5
        )
        figures = await judged(everything, ground, time.monotonic() - began, course)
        assert unrecorded(course.episodes, await lines_of_recovery(ground.servers)) == []
    sys.stdout.write(
        f"{happened.total()} faults {dict(happened)}; normal again after {longest:.1f} s at most;"
        f" {figures.calls} calls, errors {figures.errors}; acknowledged {figures.acknowledged}, lost {figures.lost};"
        f" oldest answer {figures.oldest_seconds * 1000:.0f} ms; {len(figures.violations)} violations\n"
    )
    check(everything, figures)
