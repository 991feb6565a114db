"""Which mode a server works in, by what of its tiers answers (pure)."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Mode(StrEnum):
    """How a server works."""

    NORMAL = "normal"
    L2_BYPASSED = "l2_bypassed"
    """L2 is cut off: reads go from memory to L3, writes to L3 at once."""
    READ_ONLY = "read_only"
    """L3 is cut off: reads are answered as old as their kind allows, writes are refused."""
    WRITE_BUFFERING = "write_buffering"
    """L3 is cut off: the same, and writes of kinds that are written behind are kept in the journal."""
    MEMORY_ONLY = "memory_only"
    """Both are cut off: reads are answered from memory, as old as their kind allows."""


class Tiers(msgspec.Struct, frozen=True):
    """What answers.

    Attributes:
        l2, l3: whether it does.
        buffers: writes are kept in the journal while L3 is away.
    """

    l2: bool
    l3: bool
    buffers: bool


def mode_of(tiers: Tiers) -> Mode:
    """The mode that fits."""
    if tiers.l3:
        return Mode.NORMAL if tiers.l2 else Mode.L2_BYPASSED
    if not tiers.l2:
        return Mode.MEMORY_ONLY
    return Mode.WRITE_BUFFERING if tiers.buffers else Mode.READ_ONLY


class ModeRules(msgspec.Struct, frozen=True):
    """When a mode is left for a better one.

    Attributes:
        settle_seconds: for so long a tier must have answered without a break before it counts as back.
    """

    settle_seconds: float = 2.0


class Presence:
    """Whether a tier counts as there: it is gone at once, and back only when it has stayed.

    Args:
        settle_seconds: for so long it must have answered without a break.
    """

    __slots__ = ("_back_since", "_settle", "is_there")

    def __init__(self, settle_seconds: float) -> None:
        self._settle = settle_seconds
        self._back_since: float | None = None
        self.is_there = True

    def observe(self, now: float, *, answers: bool) -> bool:
        """Take in whether it answers now (monotonic seconds); returns whether that changed anything."""
        before = self.is_there
        if not answers:
            self.is_there, self._back_since = False, None
        elif not self.is_there:
            if self._back_since is None:
                self._back_since = now
            if now - self._back_since >= self._settle:
                self.is_there = True
        return self.is_there is not before
