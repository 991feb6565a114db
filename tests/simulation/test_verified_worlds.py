"""Worlds in which every server verifies all its answers: no false alarm while all is well, and no fault overlooked."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import pytest

from holdfast.entry import Tier
from holdfast.invalidation import verifier
from holdfast.invalidation.consistency import Finding
from holdfast.invalidation.verifier import Verifier
from holdfast.testing.simulation import World, simulate
from simulation.mutants import MUTANTS
from simulation.scene import Scene
from simulation.worlds import any_theme, live

SEEDS = range(80)
MUTANT_SEEDS = range(500)
ROUND_SECONDS = 0.02
"""Worlds are short: answers are verified as fast as they are given."""


class Verified(NamedTuple):
    """What all servers of some worlds found out."""

    samples: int
    differing: int
    findings: tuple[Finding, ...]


async def run_verified(world: World, theme: str | None = None) -> Verified:
    """One world, and what its servers found."""
    scene = Scene(world, any_theme(world, theme), verify_share=1.0)
    await live(scene)
    reports = [server.flows.verifier.report() for server in scene.servers]
    tallies = [report.of(tier) for report in reports for tier in (Tier.L1, Tier.L2)]
    return Verified(
        sum(tally.samples for tally in tallies),
        sum(tally.differing for tally in tallies),
        tuple(finding for report in reports for finding in report.findings),
    )


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify without rest."""
    monkeypatch.setattr(verifier, "ROUND_SECONDS", ROUND_SECONDS)


def first_finding(seeds: range, tier: Tier, theme: str | None = None, *, cause: str = "") -> Finding | None:
    """The first finding of a tier whose cause says so: one fault may do several things."""
    for seed in seeds:
        for finding in simulate(seed, partial(run_verified, theme=theme)).findings:
            if finding.tier is tier and cause in finding.cause:
                return finding
    return None


@pytest.mark.timeout(300)
def test_no_false_alarm_in_any_world() -> None:
    """Everybody writes and everything fails, many answers differ from L3 when it is asked, and none is called stale."""
    worlds = [simulate(seed, run_verified) for seed in SEEDS]
    assert [finding for world in worlds for finding in world.findings] == []
    assert sum(world.samples for world in worlds) > 800
    assert sum(world.differing for world in worlds) > 30


async def no_wait(*_: object) -> bool:
    """Mutant of the verifier: nobody waits for a poll."""
    return True


@pytest.mark.parametrize("tier", [Tier.L1, Tier.L2])
def test_without_the_poll_there_are_false_alarms(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: judged by L3's answer alone, answers that are lawfully old are called stale."""
    monkeypatch.setattr(Verifier, "_has_heard_since", no_wait)
    assert first_finding(MUTANT_SEEDS, tier) is not None


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "theme", "tier", "cause"),
    [
        ("R1-no_tickets", None, Tier.L1, "it was not refused"),
        ("R1-feed_does_not_fence_l1", None, Tier.L1, "version"),
        ("C3-reader_ignores_the_fence_map", None, Tier.L2, "Word of"),
        ("C3-advance_without_fences", "feeds", Tier.L2, "L2's entry was read"),
        ("F4-whole_kind_is_ignored", None, Tier.L1, "the feed left it out"),
        ("F4-whole_kind_is_ignored", None, Tier.L2, "the feed left it out"),
    ],
)
def test_a_fault_of_holdfast_is_found_and_repaired(
    name: str, theme: str | None, tier: Tier, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mechanism of the caches switched off, the verifier finds what that does, repairs it, and says why."""
    MUTANTS[name](monkeypatch)
    finding = first_finding(MUTANT_SEEDS, tier, theme, cause=cause)
    assert finding is not None
    assert finding.repaired, finding
    assert finding.history
