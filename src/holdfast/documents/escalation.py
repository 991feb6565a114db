"""A fault that a person is asked about, since no step of its recovery has mended it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum

from holdfast.documents.base import Document, Part
from holdfast.documents.frozen import EMPTY_LIST


class EscalationStatus(StrEnum):
    """Of an escalation."""

    OPEN = "open"
    RESOLVED = "resolved"
    TIMED_OUT = "timed_out"


class TriedStep(Part, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What was tried before a person was asked, and what came of it: an outcome in a word, and the detail in words."""

    step: str
    outcome: str = ""
    detail: str = ""


class Escalation(Document, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An escalation; its id is the row's. Its words name places and never hold values of documents.

    Attributes:
        subject: what it is about, as in ``bot:b1``, ``run:r1`` or ``tier:l2``.
        failed: what failed, in words.
        error_type: a `StateErrorType`; empty: none of these.
        severity: a `Severity`.
        recovery_id: of the recovery that asks; empty: somebody else does.
        swarm_id, run_id: whom it concerns, where that is known.
        evidence: the SHA-256 of what is bad, or, of more than 64 KiB, of its beginning with its size and its version;
            in the quarantine its entry is that of the document, of a run that of the snapshot.
        further: reports that it stands for beside its own, if it stands for many.
        options: a decision is one of these; none: it is in free words.
        fallback: what is done if nobody decides, in a word, and `cost` what that costs, in words; empty: nothing.
        hooks: who is told, by name.
        status: an `EscalationStatus`.
        opened_at, deadline, resolved_at: by L3's clock.
        opened_by: the server.
        decision: what was decided; of one that timed out, the fallback; None: it is open.
        resolved_by: who decided; of one that timed out, the server.
        reason: why, in words.
    """

    subject: str
    failed: str
    error_type: str = ""
    severity: str = "ERROR"
    recovery_id: str = ""
    swarm_id: str | None = None
    run_id: str | None = None
    tried: Sequence[TriedStep] = EMPTY_LIST
    evidence: str = ""
    further: int = 0
    options: Sequence[str] = EMPTY_LIST
    fallback: str = ""
    cost: str = ""
    hooks: Sequence[str] = EMPTY_LIST
    status: str = EscalationStatus.OPEN.value
    opened_at: dt.datetime | None = None
    opened_by: str = ""
    deadline: dt.datetime | None = None
    decision: str | None = None
    resolved_by: str = ""
    resolved_at: dt.datetime | None = None
    reason: str = ""
