"""Who asks a person what is to become of a fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holdfast.recovery.classification import Classification


class FaultEscalator(Protocol):
    """Opens escalations. Nobody waits for the person: what they decide, or that nobody did, is told later."""

    async def escalate(
        self,
        recovery_id: str,
        classification: Classification,
        subject: str,
        tried: Sequence[tuple[str, str]],
        timeout_seconds: float,
        *,
        swarm_id: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Open an escalation, and return its id; of one recovery there is one, however often this is called.

        Args:
            subject: what is affected: ``bot:b1``, ``run:r1``, ``tier:l2``.
            tried: each step so far, and its outcome.
            timeout_seconds: after which nobody is waited for any more.

        Raises:
            TierError: it could not be opened.
        """
        ...
