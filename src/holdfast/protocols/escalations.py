"""The contract between who recovers from a fault and who asks a person about it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from holdfast.documents.escalation import TriedStep


class EscalationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery asks a person about.

    Attributes:
        recovery_id: of the recovery that asks.
        error_type: a `StateErrorType`, and `severity` a `Severity`.
        subject: what it is about, as in ``bot:b1``, ``run:r1`` or ``tier:l2``.
        failed: the fault, in words without values.
        evidence: what names that which is bad, as its digest: of one there is one escalation, on all servers and for
            good. Empty: nothing stays bad, and there is one an hour.
        tried: steps with what came of them, in words without values.
        timeout_seconds: until the fallback is all there is; None: what the server's setting says.
        options: what a person may decide; none: it is in free words.
        fallback: what is done if nobody answers, in a word, and `cost` what that costs; empty: nothing.
        swarm_id, run_id: whom it concerns.
    """

    recovery_id: str
    error_type: str
    severity: str
    subject: str
    failed: str
    evidence: str = ""
    tried: tuple[TriedStep, ...] = ()
    timeout_seconds: float | None = None
    options: tuple[str, ...] = ()
    fallback: str = ""
    cost: str = ""
    swarm_id: str | None = None
    run_id: str | None = None


class Asked(NamedTuple):
    """Which escalation it is.

    Attributes:
        status: an `EscalationStatus`: it may have been opened, and decided, for the same before.
        alone: it is of this fault; otherwise it stands for many, and has no fallback.
    """

    id: str
    status: str
    alone: bool = True


class FaultEscalator(Protocol):
    """Asks a person about what no step has mended; nobody waits here for the answer."""

    async def escalate(self, request: EscalationRequest) -> Asked:
        """Open an escalation, unless there is one about the same, or there are too many of the same sort.

        Raises:
            InvalidKey: the subject is none.
            OutcomeUnknown: it may be open; ask again.
            TierError: L3 did not do it.
        """
        ...
