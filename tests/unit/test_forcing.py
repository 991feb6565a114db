"""A mode that somebody has forced, beside what the tiers ask for."""

from __future__ import annotations

import pytest

from holdfast.errors import SettingsError
from holdfast.recovery.forcing import Forcing
from holdfast.recovery.modes import Mode

SETTLE = 2.0


def test_the_worse_mode_counts_for_its_time() -> None:
    """Then what the tiers ask for."""
    forcing = Forcing(SETTLE)
    forcing.force(Mode.READ_ONLY, 300.0, "rows of a kind do not decode", 10.0)
    assert forcing.worse(Mode.NORMAL, 309.9) is Mode.READ_ONLY
    assert forcing.worse(Mode.MEMORY_ONLY, 309.9) is Mode.MEMORY_ONLY
    assert forcing.worse(Mode.NORMAL, 310.0) is Mode.NORMAL
    assert forcing.forced(Mode.READ_ONLY) is None


def test_without_a_time_it_lasts_until_all_is_well() -> None:
    """And for a moment at least, for the tiers may not have shown yet what was found out."""
    forcing = Forcing(SETTLE)
    forcing.force(Mode.L2_BYPASSED, None, "L2 holds what does not verify", 10.0)
    assert forcing.worse(Mode.NORMAL, 11.0) is Mode.L2_BYPASSED
    assert forcing.worse(Mode.L2_BYPASSED, 60.0) is Mode.L2_BYPASSED
    assert forcing.worse(Mode.NORMAL, 61.0) is Mode.NORMAL


def test_the_last_word_counts() -> None:
    """It may shorten what was forced before."""
    forcing = Forcing(SETTLE)
    forcing.force(Mode.READ_ONLY, 300.0, "one", 10.0)
    forcing.force(Mode.READ_ONLY, 1.0, "other", 10.0)
    assert forcing.worse(Mode.NORMAL, 12.0) is Mode.NORMAL


def test_who_lets_a_mode_go_takes_it_from_nobody_else() -> None:
    """The feed is heard again, and L3 must be spared still."""
    forcing = Forcing(SETTLE)
    forcing.force(Mode.READ_ONLY, 5.0, "tier:l3 does not answer", 10.0, subject="tier:l3")
    forcing.force(Mode.READ_ONLY, 5.0, "tier:feed does not answer", 10.5, subject="tier:feed")
    forcing.force(Mode.READ_ONLY, 0.0, "tier:feed answers", 11.0, subject="tier:feed")
    assert forcing.worse(Mode.NORMAL, 11.0) is Mode.READ_ONLY
    forced = forcing.forced(Mode.READ_ONLY)
    assert forced is not None
    assert forced.why == "tier:l3 does not answer"
    forcing.force(Mode.READ_ONLY, 0.0, "tier:l3 answers", 12.0, subject="tier:l3")
    assert forcing.worse(Mode.NORMAL, 12.0) is Mode.NORMAL


@pytest.mark.parametrize("mode", [Mode.NORMAL, Mode.WRITE_BUFFERING, Mode.MEMORY_ONLY])
def test_nobody_forces_what_says_that_a_tier_is_away(mode: Mode) -> None:
    """The others can be forced."""
    with pytest.raises(SettingsError, match="can be forced"):
        Forcing(SETTLE).force(mode, 1.0, "", 10.0)
