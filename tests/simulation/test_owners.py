"""Documents are taken over from servers that live, stand still or are dead, and every mechanism switched off shows.

A failing seed replays: ``simulate(SEED, run_world)`` gives the same faults again, to the last event.
"""

from __future__ import annotations

from functools import partial

import pytest

from simulation.mutants import MUTANTS
from simulation.owners.worlds import run_world
from simulation.seeds import first_faulty_of

SHORT_SEEDS = range(100)
MUTANT_SEEDS = range(200)
LONG_SEEDS = range(10_000, 20_000)
CAUGHT = (
    "S3-whoever_owns_it",
    "S3-epoch_raised_before_deciding",
    "S3-first_entry_only",
    "S3-history_without_its_row",
    "S3-W7-rows_of_a_taker_are_laid_over",
    "S3-W7-refusals_of_a_taker_are_not_heard",
    "W4-marks_are_not_looked_at",
)

BROKEN_ONCE = (11766,)
"""In which a write in doubt was hidden by the one that was accepted behind it."""

first_faulty = partial(first_faulty_of, run_world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(2))
def test_what_was_acknowledged_before_a_takeover_is_applied_and_what_comes_later_refused(part: int) -> None:
    """At whatever step, and whatever becomes of the old owner: nothing is lost in silence, or in effect twice."""
    assert first_faulty(SHORT_SEEDS[part::2]) is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CAUGHT)
def test_every_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one mechanism switched off, some world breaks a promise."""
    MUTANTS[name](monkeypatch)
    assert first_faulty(MUTANT_SEEDS) is not None


@pytest.mark.parametrize("seed", BROKEN_ONCE)
def test_a_promise_once_broken_is_kept(seed: int) -> None:
    """Each of these worlds has found a fault."""
    assert first_faulty(range(seed, seed + 1)) is None


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(8))
def test_prove_owners(part: int) -> None:
    """The long form: 10,000 seeds."""
    assert first_faulty(LONG_SEEDS[part::8]) is None
