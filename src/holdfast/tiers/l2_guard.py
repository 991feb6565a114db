"""`TierGuard` over the connection to L2."""

from __future__ import annotations

import contextlib

from holdfast.errors import TierUnavailable
from holdfast.protocols.guards import TierHealth
from holdfast.recovery.breaker import Circuit
from holdfast.tiers.l2_client import RedisConnection


class RedisGuard:
    """Whether L2 answers, by the circuits of its nodes."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    @property
    def answers(self) -> bool:
        """Whether any node may be asked; one that was never connected to counts as there until that fails."""
        circuits = self._connection.circuits()
        return any(each is Circuit.CLOSED for each in circuits.values()) if circuits else not self._connection.fault

    @property
    def opened(self) -> int:
        """See `TierGuard.opened`."""
        return self._connection.opened

    @property
    def in_doubt(self) -> bool:
        """See `TierGuard.in_doubt`."""
        return self._connection.in_doubt

    def health(self) -> TierHealth:
        """See `TierGuard.health`."""
        return TierHealth.of(self._connection.circuits(), self._connection.fault)

    async def check(self) -> None:
        """See `TierGuard.check`."""
        with contextlib.suppress(TierUnavailable):  # `fault` tells
            await self._connection.check()
