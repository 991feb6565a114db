"""How an escalation is opened and decided, and what of it is told to whom (pure)."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from holdfast.documents import Delivery
from holdfast.documents.escalation import Escalation, EscalationStatus, TriedStep
from holdfast.errors import EscalationSettled, SettingsError
from holdfast.fault_words import in_words
from holdfast.keys import check_text, joined_id
from holdfast.protocols.escalations import EscalationRequest
from holdfast.recovery.strategies import Severity, StateErrorType

SUBJECT_BYTES_MAX: Final = 1024
WORD_BYTES_MAX: Final = 200
"""Of an option, a fallback or an error type."""
OPTIONS_MAX: Final = 16
TRIED_MAX: Final = 32
"""Steps that are kept, the newest."""
DECISION_BYTES_MAX: Final = 4000
TIMEOUT_SECONDS_MAX: Final = 366 * 86_400.0
ID_BYTES_MAX: Final = 256
"""So that those of its deliveries have room for it, escaped, and for a hook's name."""

FAILED: Final[Mapping[StateErrorType, str]] = {
    StateErrorType.CONTEXT_CORRUPTION: "the context of a run cannot be restored as it was",
    StateErrorType.STATE_CORRUPTION: "a row of L3 does not decode as what it should hold",
    StateErrorType.CACHE_FAILURE: "L2 does not answer, or holds what does not verify",
    StateErrorType.TRANSACTION_FAILED: "L3 did not do what it was asked to write, or does not say whether it did",
    StateErrorType.COMMUNICATION_FAILURE: "L3, or its change feed, cannot be reached",
}
"""What has failed; the fault's own words say more."""
OPEN_MAX: Final = 20
"""Open ones of one type of error and one kind; for further faults one stands that counts them, for an hour."""
MANY_SECONDS: Final = 3600.0
"""How long that one is open at least, unless a person decides it: so a mass of faults asks about 20 times an hour."""
LEAVE: Final = "leave"
"""The decision that no fallback is to be done."""
_ANY: Final = "*"


class EscalationNotice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What hooks, the webhook and the swarm's leader are told: when it is opened, and when it is decided.

    Attributes:
        id: of the escalation; all else as of an `Escalation`.
    """

    id: str
    status: str
    subject: str
    failed: str
    error_type: str
    severity: str
    recovery_id: str
    swarm_id: str | None
    run_id: str | None
    tried: tuple[TriedStep, ...]
    evidence: str
    further: int
    options: tuple[str, ...]
    fallback: str
    cost: str
    opened_at: dt.datetime | None
    deadline: dt.datetime | None
    decision: str | None
    resolved_by: str
    resolved_at: dt.datetime | None
    reason: str


def fault_id(error_type: str, subject: str, evidence: str, at: dt.datetime) -> str:
    """The id of the escalation about a fault: the same on all servers, for good where there is evidence of it.

    Args:
        at: by L3's clock; without evidence there is one an hour.
    """
    what = (error_type, subject, evidence or f"{at:%Y-%m-%dT%H}")
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:32]


def kind_in(subject: str) -> str:
    """The kind of a subject: ``bot`` of ``bot:b1``."""
    return subject.partition(":")[0]


def for_many(request: EscalationRequest) -> EscalationRequest:
    """What is asked about all further faults of one type and kind; its id is the hour's."""
    kind = kind_in(request.subject)
    failed = f"{OPEN_MAX} escalations of {request.error_type} at {kind} are open: further ones are counted here"
    return EscalationRequest(
        recovery_id=request.recovery_id,
        error_type=request.error_type,
        severity=request.severity,
        subject=f"{kind}:{_ANY}",
        failed=failed,
    )


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """Who opens an escalation, when, and until when."""

    at: dt.datetime
    by: str
    timeout_seconds: float
    hooks: Sequence[str]
    masked: Callable[[str], str]


def escalation_id(recovery_id: str) -> str:
    """The id of a recovery's escalation: its own, or its digest if that is too long."""
    if len(quote(recovery_id)) <= ID_BYTES_MAX:
        return recovery_id
    return f"sha256:{hashlib.sha256(recovery_id.encode()).hexdigest()}"


def opened(asked: Escalation, opening: Opening) -> Escalation:
    """A new escalation, its words without secrets and not too long.

    Raises:
        InvalidKey: the subject, an option, the fallback or the error type is too long, or nothing that L3 can store.
        SettingsError: there is no such severity, there are too many options, or the timeout is none.
    """
    check_text("subject", asked.subject, SUBJECT_BYTES_MAX)
    for what, word in (("error type", asked.error_type), ("fallback", asked.fallback)):
        if word:
            check_text(what, word, WORD_BYTES_MAX)
    for option in asked.options:
        check_text("option", option, WORD_BYTES_MAX)
    if len(asked.options) > OPTIONS_MAX:
        raise SettingsError(f"an escalation has at most {OPTIONS_MAX} options, not {len(asked.options)}")
    if asked.severity not in list(Severity):
        raise SettingsError(f"a severity is one of {', '.join(Severity)}, not {asked.severity!r:.60}")
    if not 0 < opening.timeout_seconds <= TIMEOUT_SECONDS_MAX:
        raise SettingsError(f"an escalation waits 0 to {TIMEOUT_SECONDS_MAX:.0f} s, not {opening.timeout_seconds}")
    return msgspec.structs.replace(
        asked,
        failed=in_words(asked.failed, opening.masked),
        tried=[_in_words(each, opening.masked) for each in asked.tried[-TRIED_MAX:]],
        hooks=list(opening.hooks),
        opened_at=opening.at,
        opened_by=opening.by,
        deadline=opening.at + dt.timedelta(seconds=opening.timeout_seconds),
    )


def decided(
    identifier: str, escalation: Escalation, decision: str, *, by: str, reason: str, at: dt.datetime
) -> Escalation:
    """An escalation with a person's decision. One behind the deadline counts, if the fallback was not faster.

    Raises:
        EscalationSettled: it is not open any more.
        SettingsError: it is none of those that there are to choose from.
        InvalidKey: it is empty, too long, or nothing that L3 can store.
    """
    _check_open(identifier, escalation)
    check_text("decision", decision, DECISION_BYTES_MAX)
    if escalation.options and decision not in escalation.options:
        options = ", ".join(escalation.options)
        raise SettingsError(f"escalation {identifier} is decided by one of: {options}; not {decision!r:.60}")
    return _settled(escalation, EscalationStatus.RESOLVED, decision, by=by, reason=reason, at=at)


def is_same_decision(escalation: Escalation, made: Escalation | None) -> bool:
    """Whether it was decided by just that decision, and by none that says the same."""

    def words(each: Escalation) -> tuple[object, ...]:
        return each.status, each.decision, each.resolved_by, each.resolved_at, each.reason

    return made is not None and words(escalation) == words(made)


def is_due(escalation: Escalation, at: dt.datetime) -> bool:
    """Whether its deadline has passed."""
    return escalation.deadline is not None and escalation.deadline <= at


def timed_out(identifier: str, escalation: Escalation, at: dt.datetime, by: str) -> Escalation | None:
    """An escalation that nobody has answered, left to its fallback; None: it is not due.

    Raises:
        EscalationSettled: it is not open any more.
    """
    _check_open(identifier, escalation)
    if not is_due(escalation, at):
        return None
    left = f"left to {escalation.fallback}" if escalation.fallback else "nothing is done"
    reason = f"no person answered until {escalation.deadline}: {left}"
    return _settled(escalation, EscalationStatus.TIMED_OUT, escalation.fallback, by=by, reason=reason, at=at)


def notice_of(identifier: str, escalation: Escalation) -> EscalationNotice:
    """What is told of an escalation as it is now."""
    fields = {name: getattr(escalation, name) for name in EscalationNotice.__struct_fields__ if name != "id"}
    return EscalationNotice(
        id=identifier, **fields | {"tried": tuple(escalation.tried), "options": tuple(escalation.options)}
    )


def deliveries_of(identifier: str, escalation: Escalation) -> dict[str, Delivery]:
    """What is to be brought to each hook of an escalation as it is now, by the delivery's id.

    That has a hook's exporter in the middle, whose name no run's exporter can have: so no two are one.
    """
    told = msgspec.to_builtins(notice_of(identifier, escalation))
    return {
        joined_id(identifier, exporter_of(hook), escalation.status): Delivery(
            run_id=escalation.run_id or "",
            routine_id="",
            swarm_id=escalation.swarm_id,
            key=identifier,
            exporter=exporter_of(hook),
            value=told,
            exported_at=escalation.resolved_at or escalation.opened_at,
        )
        for hook in escalation.hooks
    }


def exporter_of(hook: str) -> str:
    """The exporter that a hook is; no user's can have such a name."""
    return f"escalation:{hook}"


def _settled(
    escalation: Escalation, status: EscalationStatus, decision: str, *, by: str, reason: str, at: dt.datetime
) -> Escalation:
    return msgspec.structs.replace(
        escalation, status=status.value, decision=decision, resolved_by=by, resolved_at=at, reason=reason
    )


def _in_words(step: TriedStep, masked: Callable[[str], str]) -> TriedStep:
    return TriedStep(
        step=in_words(step.step, masked),
        outcome=in_words(step.outcome, masked),
        detail=in_words(step.detail, masked),
    )


def _check_open(identifier: str, escalation: Escalation) -> None:
    if escalation.status != EscalationStatus.OPEN:
        raise EscalationSettled(
            identifier,
            status=escalation.status,
            by=escalation.resolved_by,
            at=escalation.resolved_at,
            decision=escalation.decision,
        )
