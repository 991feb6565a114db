"""Worlds of write-behind keep every promise, and every mechanism switched off breaks one.

A failing seed replays: ``simulate(SEED, run_world)`` gives the same faults again, to the last event.
"""

from __future__ import annotations

from functools import partial

import pytest

from holdfast.recovery.modes import Mode
from holdfast.testing.simulation import World, simulate
from simulation.mutants import MUTANTS
from simulation.seeds import first_faulty_of
from simulation.write_behind.scene import Scene
from simulation.write_behind.themes import THEMES
from simulation.write_behind.worlds import Life, run_world

SHORT_SEEDS = range(100)
MUTANT_SEEDS = range(400)
CAUGHT_IN: dict[str, str | None] = {
    "W4-marks_are_not_looked_at": None,
    "W4-marked_before_the_commit": None,
    "W4-trimmed_too_far": None,
    "W6-set_wins_over_what_was_committed": None,
    "V3-operations_cross_a_delete": None,
    "W7-not_stamped_before_the_commit": None,
    "W7-doubt_is_ignored": None,
    "W7-W9-always_sure": "zombies",
    "W8-out_of_order": None,
    "W9-renewal_enters_everything_again": None,
    "W9-renewal_enters_nothing_again": None,
    "W10-refusals_of_unknown_outcome_are_forgotten": None,
}
"""Mutants, and the theme of the worlds that find them out; None: any."""
BROKEN_ONCE: dict[str | None, tuple[int, ...]] = {
    None: (1225, 1254, 10471, 10481, 10531, 12492, 13297, 14277, 14338),
    "lossy": (3, 14),
    "busy": (3,),
}
"""Seeds in which: a write of a server that was taken over was shown twice; a write that was refused in a transaction of
unknown outcome was told committed, and one was shown twice after a stop; a document whose deletion was undecided was
read as `MISSING`; a deletion was refused in a transaction that had made it, since another row was in the way; a write
that was about to be refused was hidden before that was committed; one was hidden after a transaction that had failed,
since another of its document was in doubt; and, a fault of L3 in memory itself, a transaction that could not reach it
to commit kept its locks."""
LONG_SEEDS = range(10_000, 20_000)


first_faulty = partial(first_faulty_of, run_world)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(2))
def test_no_world_breaks_a_promise(part: int) -> None:
    """Servers die, stand still and are cut off at any step: nothing acknowledged is lost, nothing is applied twice."""
    assert first_faulty(SHORT_SEEDS[part::2]) is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CAUGHT_IN)
def test_every_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one mechanism switched off, some world breaks a promise."""
    MUTANTS[name](monkeypatch)
    assert first_faulty(MUTANT_SEEDS, CAUGHT_IN[name]) is not None


@pytest.mark.parametrize(("theme", "seed"), [(theme, seed) for theme, seeds in BROKEN_ONCE.items() for seed in seeds])
def test_a_promise_once_broken_is_kept(theme: str | None, seed: int) -> None:
    """Each of these worlds has found a fault."""
    assert simulate(seed, partial(run_world, theme=theme)) == []


def test_outages_of_l3_are_buffered() -> None:
    """Worlds come into the mode of servers that write behind, and out of it."""

    async def modes_of(world: World) -> frozenset[Mode]:
        scene = Scene(world, THEMES["l3"](world.random))
        await Life(scene).run()
        return scene.health.modes

    assert Mode.WRITE_BUFFERING in frozenset[Mode]().union(*(simulate(seed, modes_of) for seed in range(10)))


def test_a_seed_repeats_itself() -> None:
    """The same seed gives the same faults, so a failure can be replayed; with a mechanism off there are some."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS["W8-out_of_order"](patch)
        seed, faults = first_faulty(MUTANT_SEEDS) or (0, [])
        assert [len(fault) for fault in simulate(seed, run_world)] == [len(fault) for fault in faults]


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_prove_writebehind_sim_one(part: int) -> None:
    """The long form, in three parts: 10,000 seeds."""
    assert first_faulty(LONG_SEEDS[part::12]) is None


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4, 8))
def test_prove_writebehind_sim_two(part: int) -> None:
    """As above."""
    assert first_faulty(LONG_SEEDS[part::12]) is None


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(8, 12))
def test_prove_writebehind_sim_three(part: int) -> None:
    """As above."""
    assert first_faulty(LONG_SEEDS[part::12]) is None
