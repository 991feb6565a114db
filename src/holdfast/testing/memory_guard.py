"""`TierGuard` over a tier in memory, which says itself whether it is away."""

from __future__ import annotations

from typing import Final

from holdfast.protocols.guards import TierHealth
from holdfast.recovery.breaker import Circuit

NODE: Final = "memory"


class MemoryGuard:
    """Whether a tier in memory is `away`; any other tier, of which nobody has given a guard, counts as there."""

    def __init__(self, tier: object) -> None:
        self._tier = tier

    @property
    def answers(self) -> bool:
        """See `TierGuard.answers`."""
        return not getattr(self._tier, "away", False)

    in_doubt = False
    opened = 0
    """Nothing is found out about it, so nothing is cut off."""

    def health(self) -> TierHealth:
        """See `TierGuard.health`."""
        circuit = Circuit.CLOSED if self.answers else Circuit.OPEN
        return TierHealth.of({NODE: circuit}, None if self.answers else "it is away")

    async def check(self) -> None:
        """See `TierGuard.check`: there is nothing to find out."""

    def heard(self) -> None:
        """See `StorageGuard.heard`: there is nothing to learn."""
