"""Runs export and merge in worlds of servers that die, and every mechanism switched off shows.

A failing seed replays: ``simulate(SEED, run_world)`` gives the same faults again, to the last event.
"""

from __future__ import annotations

from functools import partial

import pytest

from holdfast import Set
from holdfast.run_context import ending
from holdfast.run_context.ending import Ending
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


def ask_once(patch: pytest.MonkeyPatch) -> list[str]:
    """Let each lost answer to an end be an end in doubt; the runs that are let go of then."""
    healthy, let_go = Ending._let_go, list[str]()

    async def noted(self: Ending) -> None:
        let_go.append(self._run_id)
        await healthy(self)

    patch.setattr(Ending, "_let_go", noted)
    patch.setattr(ending, "UNKNOWN_MAX", 1)
    return let_go


@pytest.mark.timeout(300)
def test_a_run_whose_end_is_in_doubt_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its end takes effect, and when: all has left it once, or nothing, whoever goes on with it."""
    let_go = ask_once(monkeypatch)
    assert first_faulty(SHORT_SEEDS, theme="lossy") is None
    assert len(let_go) > 5


@pytest.mark.timeout(300)
def test_mutant_letting_go_takes_the_end_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has completed goes on, and all leaves it again."""
    ask_once(monkeypatch)
    monkeypatch.setattr(ending, "LET_GO", (Set("status", "running"), *ending.LET_GO))
    assert first_faulty(MUTANT_SEEDS, theme="lossy") is not None


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
