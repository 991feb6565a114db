"""How the flows see whether a tier answers: `tiers.l2_guard`, `tiers.l3_guard` and `testing.memory_guard`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol, Self

import msgspec

from holdfast.recovery.breaker import Circuit


class TierState(StrEnum):
    """Of a tier."""

    THERE = "there"
    DEGRADED = "degraded"
    """Some of its nodes are cut off."""
    AWAY = "away"


class TierHealth(msgspec.Struct, frozen=True):
    """How a tier is.

    Attributes:
        circuits: of each of its nodes, by name.
        fault: why it, or one of its nodes, was cut off last, in words; None: none ever was.
    """

    state: TierState
    circuits: Mapping[str, Circuit]
    fault: str | None

    @classmethod
    def of(cls, circuits: Mapping[str, Circuit], fault: str | None) -> Self:
        """As its circuits are; without any, a tier was not asked yet, or could not even be asked for its nodes."""
        closed = [each is Circuit.CLOSED for each in circuits.values()]
        if all(closed):
            state = TierState.AWAY if fault is not None and not closed else TierState.THERE
        else:
            state = TierState.DEGRADED if any(closed) else TierState.AWAY
        return cls(state, circuits, fault)


class TierGuard(Protocol):
    """Cuts a tier off that does not answer, and knows when it does again."""

    @property
    def answers(self) -> bool:
        """Whether calls are let through to any of it. Cheap: it is asked before each write."""
        ...

    @property
    def opened(self) -> int:
        """How often it, or a node of it, was cut off."""
        ...

    @property
    def in_doubt(self) -> bool:
        """Whether `check` may find out something new."""
        ...

    def health(self) -> TierHealth:
        """How it is, as far as is known."""
        ...

    async def check(self) -> None:
        """Ask it, apart from all callers, and take in what comes of it; never raises for a tier that is away."""
        ...


class StorageGuard(TierGuard, Protocol):
    """That of L3."""

    def heard(self) -> None:
        """L3 has answered somebody whom the guard does not see."""
        ...


class Degrading(Protocol):
    """Puts a server into mode `l2_bypassed` though L2 answers its guard: who found out that it must be spared."""

    def degrade(self, seconds: float, why: str, *, subject: str = "") -> None:
        """Have it work so for a while, where its tiers do not ask for a worse mode.

        Args:
            seconds: 0: no longer.
            why: in words, for whoever reads of it.
            subject: on account of what; if it is on account of several, the mode is left when all let it go.
        """
        ...
