"""Runs export and merge in worlds of servers that die, and every mechanism switched off shows.

A failing seed replays: ``simulate(SEED, run_world)`` gives the same faults again, to the last event.
"""

from __future__ import annotations

from functools import partial

import pytest

from simulation.exports.worlds import FEW_CONFLICTS, MANY_CHILDREN, MANY_STEPS, run_world
from simulation.mutants import MUTANTS
from simulation.seeds import first_faulty_of

SHORT_SEEDS = range(10)
MUTANT_SEEDS = range(60)
LONG_SEEDS = range(20_000, 20_200)
CAUGHT = tuple(name for name, mutation in MUTANTS.items() if mutation.__module__ == "simulation.mutants.exports")

first_faulty = partial(first_faulty_of, run_world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(2))
def test_a_parent_comes_to_what_the_model_says(part: int) -> None:
    """For each of the five strategies, whoever ends first and whatever becomes of the servers."""
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
def test_prove_exports(part: int) -> None:
    """The long form: 500 children with 5 exports each and conflicts in 2 %, 200 seeds."""
    many = partial(run_world, steps=MANY_STEPS, children=MANY_CHILDREN, conflicts=FEW_CONFLICTS)
    assert first_faulty_of(many, LONG_SEEDS[part::4]) is None
