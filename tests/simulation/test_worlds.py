"""Seeded worlds keep every promise, and every mechanism switched off breaks one.

A failing seed replays: ``simulate(SEED, run_world)`` gives the same faults again, to the last event.
"""

from __future__ import annotations

import asyncio

import pytest

from holdfast.testing.simulation import World, simulate
from simulation.mutants import MUTANTS
from simulation.worlds import run_world

SHORT_SEEDS = range(500)
MUTANT_SEEDS = range(100)
CAUGHT_SOON = (
    "R1-no_tickets",
    "R1-feed_does_not_fence_l1",
    "R1-told_before_the_commit",
    "R2-missing_over_a_fence",
    "R3-R5-lease_never_ends",
    "R3-refreshed_without_a_poll",
    "R4-strong_joins_flights",
    "C3-advance_without_fences",
    "C3-relay_goes_on_from_now",
    "C3-reader_ignores_the_fence_map",
    "C4-reader_ignores_generations",
    "C4-F4-relay_ignores_whole_kinds",
    "F1-incarnation_does_not_flush",
)
"""Mutants that one of the first hundred worlds finds out; the others of `MUTANTS` need rarer schedules."""
LONG_SEEDS = range(1_000, 11_000)


def first_faulty(seeds: range) -> tuple[int, list[str]] | None:
    """The first seed whose world breaks a promise, and how."""
    for seed in seeds:
        if faults := simulate(seed, run_world):
            return seed, faults
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(2))
def test_no_world_breaks_a_promise(part: int) -> None:
    """Three servers over one L3 and one L2, everything failing at random: divergences 0."""
    assert first_faulty(SHORT_SEEDS[part::2]) is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CAUGHT_SOON)
def test_every_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one mechanism switched off, some world breaks a promise."""
    MUTANTS[name](monkeypatch)
    assert first_faulty(MUTANT_SEEDS) is not None


def test_a_seed_repeats_itself() -> None:
    """The same seed gives the same run, so a failure can be replayed."""

    async def trace(world: World) -> list[float]:
        seen: list[float] = []

        async def walk() -> None:
            for _ in range(5):
                await world.pause(1.0)
                seen.append(world.monotonic())

        await asyncio.gather(walk(), walk(), walk())
        return seen

    assert simulate(3, trace) == simulate(3, trace)
    assert simulate(3, trace) != simulate(4, trace)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(2))
def test_prove_worlds(part: int) -> None:
    """The long form: 10,000 seeds."""
    assert first_faulty(LONG_SEEDS[part::2]) is None
