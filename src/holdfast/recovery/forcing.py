"""Which mode a server works in when somebody has put it into a worse one than its tiers ask for (pure)."""

from __future__ import annotations

from typing import Final, NamedTuple

from holdfast.errors import SettingsError
from holdfast.recovery.modes import Mode

FORCEABLE: Final = (Mode.L2_BYPASSED, Mode.READ_ONLY)
_ORDER: Final = (Mode.NORMAL, Mode.L2_BYPASSED, Mode.READ_ONLY, Mode.WRITE_BUFFERING, Mode.MEMORY_ONLY)
"""Of two the later is shown. Who forces `read_only` while L3 is away takes nothing from `write_buffering`."""


class Forced(NamedTuple):
    """A mode that is forced.

    Attributes:
        until: monotonic seconds.
        lasts: also beyond that, until every tier answers.
        why: in words.
    """

    until: float
    lasts: bool
    why: str


class Forcing:
    """What is forced; of each mode, for each subject, the last word counts.

    A subject is a tier, as a rule; what was forced for one goes with its time.

    Args:
        settle_seconds: for so long at least, where no time was given.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle = settle_seconds
        self._forced: dict[tuple[Mode, str], Forced] = {}

    def force(self, mode: Mode, seconds: float | None, why: str, now: float, *, subject: str = "") -> None:
        """Force a mode; see `Degrading.degrade`.

        Raises:
            SettingsError: nobody may force that mode: it says that a tier is away.
        """
        if mode not in FORCEABLE:
            raise SettingsError(f"only {' or '.join(FORCEABLE)} can be forced, not {mode}")
        self._forced[mode, subject] = Forced(now + (self._settle if seconds is None else seconds), seconds is None, why)

    def forced(self, mode: Mode) -> Forced | None:
        """How a mode is forced, as `worse` knew last, for the subject of which it was first; None: it is not."""
        return next((each for (forced, _), each in self._forced.items() if forced is mode), None)

    def worse(self, natural: Mode, now: float) -> Mode:
        """The worst of what the tiers ask for and what is forced still."""
        for slot, each in list(self._forced.items()):
            if now >= each.until and not (each.lasts and natural is not Mode.NORMAL):
                del self._forced[slot]
        return max((natural, *(mode for mode, _ in self._forced)), key=_ORDER.index)
