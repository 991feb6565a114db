"""The contract between who recovers from a fault and who asks a person about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Classified(Protocol):
    """What of a fault's classification an escalation tells; `Classification` is one."""

    @property
    def error_type(self) -> str | None:
        """A `StateErrorType`; None: it is no fault of state."""
        ...

    @property
    def severity(self) -> str:
        """A `Severity`."""
        ...


class FaultEscalator(Protocol):
    """Asks a person about what no step has mended; nobody waits here for the answer."""

    async def escalate(
        self,
        recovery_id: str,
        classification: Classified,
        subject: str,
        tried: Sequence[tuple[str, str]],
        timeout_seconds: float,
        *,
        fallback: str = "",
        swarm_id: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Open an escalation, and return its id; of one recovery there is one, however often it is asked for.

        Args:
            subject: what it is about, as in ``bot:b1``, ``run:r1`` or ``tier:l2``.
            tried: steps with what came of them, in words without values.
            timeout_seconds: until the fallback is all there is.
            fallback: what is done then, by the strategy of what failed, in a word; empty: nothing.

        Raises:
            InvalidKey: the subject is none.
            OutcomeUnknown: it may be open; ask again.
            TierError: L3 did not do it.
        """
        ...
