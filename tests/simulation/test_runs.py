"""Runs live in worlds of servers that die, stand still and are cut off, and every mechanism switched off shows.

A failing seed replays: ``simulate(SEED, run_world)`` gives the same faults again, to the last event.
"""

from __future__ import annotations

from functools import partial

import pytest

from simulation.mutants import MUTANTS
from simulation.runs.worlds import MANY_CHILDREN, MANY_STEPS, run_world
from simulation.seeds import first_faulty_of

SHORT_SEEDS = range(4, 16)
MUTANT_SEEDS = range(100)
LONG_SEEDS = range(10_000, 10_200)
CAUGHT = tuple(name for name, mutation in MUTANTS.items() if mutation.__module__ == "simulation.mutants.runs")

first_faulty = partial(first_faulty_of, run_world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(2))
def test_a_run_is_found_in_a_state_that_was_kept_and_shares_none_with_another(part: int) -> None:
    """At whatever step, and whatever becomes of its servers; what was acknowledged is in it."""
    assert first_faulty(SHORT_SEEDS[part::2]) is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CAUGHT)
def test_every_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one mechanism switched off, some world breaks a promise."""
    MUTANTS[name](monkeypatch)
    assert first_faulty(MUTANT_SEEDS) is not None


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
def test_prove_runs(part: int) -> None:
    """The long form: a parent of hundreds of children, 200 seeds."""
    many = partial(run_world, steps=MANY_STEPS, children=MANY_CHILDREN)
    assert first_faulty_of(many, LONG_SEEDS[part::4]) is None
