"""For how long a server works in `l2_bypassed` because somebody wants that, whatever its tiers ask for (pure)."""

from __future__ import annotations

from typing import NamedTuple

from holdfast.recovery.modes import Mode


class Forced(NamedTuple):
    """How the mode is forced.

    Attributes:
        until: monotonic seconds.
        why: in words.
    """

    until: float
    why: str


class Forcing:
    """On whose account that is so; for each subject the last word counts.

    A subject is a tier, as a rule; what was forced for one goes with its time.
    """

    def __init__(self) -> None:
        self._forced: dict[str, Forced] = {}

    def force(self, seconds: float, why: str, now: float, *, subject: str = "") -> None:
        """Force it; see `Degrading.degrade`."""
        self._forced[subject] = Forced(now + seconds, why)

    def forced(self) -> Forced | None:
        """How it is forced, as `worse` knew last, for the subject of which it was first; None: it is not."""
        return next(iter(self._forced.values()), None)

    def worse(self, natural: Mode, now: float) -> Mode:
        """The worse one of what the tiers ask for and what is forced still."""
        for subject, each in list(self._forced.items()):
            if now >= each.until:
                del self._forced[subject]
        return Mode.L2_BYPASSED if self._forced and natural is Mode.NORMAL else natural
