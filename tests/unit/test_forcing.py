"""A mode that somebody has forced, beside what the tiers ask for."""

from __future__ import annotations

from holdfast.recovery.forcing import Forcing
from holdfast.recovery.modes import Mode


def test_the_worse_mode_counts_for_its_time() -> None:
    """Then what the tiers ask for."""
    forcing = Forcing()
    forcing.force(300.0, "L2 holds what does not verify", 10.0)
    assert forcing.worse(Mode.NORMAL, 309.9) is Mode.L2_BYPASSED
    for worse in (Mode.READ_ONLY, Mode.WRITE_BUFFERING, Mode.MEMORY_ONLY):
        assert forcing.worse(worse, 309.9) is worse
    assert forcing.worse(Mode.NORMAL, 310.0) is Mode.NORMAL
    assert forcing.forced() is None


def test_the_last_word_counts() -> None:
    """It may shorten what was forced before."""
    forcing = Forcing()
    forcing.force(300.0, "one", 10.0)
    forcing.force(1.0, "other", 10.0)
    assert forcing.worse(Mode.NORMAL, 12.0) is Mode.NORMAL


def test_who_lets_a_mode_go_takes_it_from_nobody_else() -> None:
    """L3 answers again, and L2 must be spared still."""
    forcing = Forcing()
    forcing.force(5.0, "tier:l2 does not answer", 10.0, subject="tier:l2")
    forcing.force(5.0, "tier:l3 does not answer", 10.5, subject="tier:l3")
    forcing.force(0.0, "tier:l3 answers", 11.0, subject="tier:l3")
    assert forcing.worse(Mode.NORMAL, 11.0) is Mode.L2_BYPASSED
    forced = forcing.forced()
    assert forced is not None
    assert forced.why == "tier:l2 does not answer"
    forcing.force(0.0, "tier:l2 answers", 12.0, subject="tier:l2")
    assert forcing.worse(Mode.NORMAL, 12.0) is Mode.NORMAL
