"""Seeded worlds keep every promise, and every mechanism switched off breaks one.

A failing seed replays: ``simulate(SEED, run_world)`` gives the same faults again, to the last event.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from holdfast.recovery.modes import Mode
from holdfast.testing.simulation import World, simulate
from simulation.mutants import MUTANTS
from simulation.scene import Scene
from simulation.seeds import first_faulty_of
from simulation.worlds import any_theme, live, run_world

SHORT_SEEDS = range(300)
MUTANT_SEEDS = range(200)
OUTAGE_SEEDS = range(20)
CAUGHT_IN: dict[str, str | None] = {
    "R1-no_tickets": None,
    "R1-feed_does_not_fence_l1": None,
    "R1-told_before_the_commit": "busy",
    "R1-feed_spares_what_was_written_here": "busy",
    "R2-missing_over_a_fence": None,
    "R3-R5-lease_never_ends": None,
    "R3-refreshed_without_a_poll": None,
    "R4-strong_joins_flights": None,
    "C3-advance_without_fences": None,
    "C3-relay_goes_on_from_now": None,
    "C3-reader_ignores_the_fence_map": None,
    "C3-reader_ignores_the_watermark": "relays",
    "C4-reader_ignores_generations": None,
    "C4-F4-relay_ignores_whole_kinds": None,
    "F1-cursor_by_number": "busy",
    "F1-incarnation_does_not_flush": None,
    "F1-identity_is_not_renewed": "files",
    "F4-whole_kind_is_ignored": "feeds",
    "E2-breaker_never_half_opens": "outages",
    "E2-probe_of_l2_always_succeeds": "outages",
    "E2-probe_of_l3_always_succeeds": "outages",
    "E2-forced_mode_never_ends": "outages",
    "E2-told_at_once_to_be_back": "outages",
    "E2-watch_dies": "outages",
    "E2-health_looks_once": "outages",
    "E2-outage_is_not_reported": "outages",
    "E2-outage_is_reported_once": "outages",
    "E2-calls_wait_for_a_silent_l3": "outages",
    "E2-log_of_an_outage_is_lost": "outages",
}
"""Mutants that one of the first worlds finds out, and the theme of these worlds; None: any. The others need
schedules that are rarer: `unit/test_rule_mutants.py` has a test for each."""
LONG_SEEDS = range(1_000, 11_000)
BROKEN_ONCE = (1105, 10884)


first_faulty = partial(first_faulty_of, run_world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(4))
def test_no_world_breaks_a_promise(part: int) -> None:
    """Three servers over one L3 and one L2, everything failing at random: divergences 0."""
    assert first_faulty(SHORT_SEEDS[part::4]) is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CAUGHT_IN)
def test_every_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one mechanism switched off, some world breaks a promise."""
    MUTANTS[name](monkeypatch)
    assert first_faulty(MUTANT_SEEDS, CAUGHT_IN[name]) is not None


def test_outages_bring_every_mode() -> None:
    """Worlds of outages are no quiet ones: their servers, which write nothing behind, come into each other mode."""

    async def modes_of(world: World) -> frozenset[Mode]:
        scene = Scene(world, any_theme(world, "outages"))
        await live(scene)
        return scene.health.modes

    assert frozenset[Mode]().union(*(simulate(seed, modes_of) for seed in OUTAGE_SEEDS)) == frozenset(Mode) - {
        Mode.WRITE_BUFFERING
    }


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


@pytest.mark.parametrize("seed", BROKEN_ONCE)
def test_a_promise_once_broken_is_kept(seed: int) -> None:
    """Seeds in which servers believed an older state of a row with a higher version than their own last write."""
    assert simulate(seed, run_world) == []


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(2))
def test_prove_worlds(part: int) -> None:
    """The long form: 10,000 seeds."""
    assert first_faulty(LONG_SEEDS[part::2]) is None
