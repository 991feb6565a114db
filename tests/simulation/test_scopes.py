"""Scopes that travel between servers on which everything fails never go back; with a mechanism off, some do.

The checker judges each answer by read-your-writes, monotonic reads and the staleness bound.
"""

from __future__ import annotations

import pytest

from holdfast.testing.simulation import World, simulate
from simulation.mutants import MUTANTS
from simulation.records import Records
from simulation.scene import Scene
from simulation.worlds import any_theme, live

SHORT_SEEDS = range(40)
MUTANT_SEEDS = range(600)
TRAVELLERS = 12
CAUGHT = (
    "S2-scopes_without_tokens",
    "S1-scope_believes_its_caches",
    "S1-scope_keeps_no_floors",
    "S1-scope_forgets_transactions",
    "S2-token_is_always_covered",
    "S2-token_carries_no_floors",
)
PARTS = 2
ANSWERS_WANTED = 1_000_000
LONG_SEEDS = range(20_000, 30_000)


def judged(seed: int, travellers: int = TRAVELLERS) -> tuple[int, list[str]]:
    """How many answers scopes were given in a world, and what was wrong."""

    async def world(world: World) -> Records:
        scene = Scene(world, any_theme(world, None))
        await live(scene, travellers)
        return scene.records

    records = simulate(seed, world)
    return records.scoped_answers, records.violations()


@pytest.mark.timeout(300)
def test_no_scope_goes_back() -> None:
    """Violations 0."""
    for seed in SHORT_SEEDS:
        answers, violations = judged(seed)
        assert violations == [], f"seed {seed}"
        assert answers, f"seed {seed}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CAUGHT)
def test_without_it_some_scope_goes_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens first of all: without them the same checker finds violations."""
    MUTANTS[name](monkeypatch)
    assert any(judged(seed)[1] for seed in MUTANT_SEEDS)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_prove_scopes(part: int) -> None:
    """The long form: a million checked answers."""
    checked = 0
    for seed in LONG_SEEDS[part::PARTS]:
        answers, violations = judged(seed, 40)
        assert violations == [], f"seed {seed}"
        checked += answers
        if checked >= ANSWERS_WANTED / PARTS:
            break
    assert checked >= ANSWERS_WANTED / PARTS
