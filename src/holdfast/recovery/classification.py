"""Which type of error a fault is, and how severe (pure)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from holdfast.errors import (
    ContextCorrupt,
    CorruptDocument,
    HoldfastError,
    OutcomeUnknown,
    Overloaded,
    RowRefused,
    SealBroken,
    SerializationFailure,
    StorageFull,
    StorageNotReady,
    TierError,
    TierUnavailable,
    Undecided,
)
from holdfast.protocols.faults import Source
from holdfast.recovery.strategies import RECOVERY_STRATEGIES, Severity, StateErrorType


class Scope(StrEnum):
    """Who is affected."""

    OPERATION = "operation"
    RUN = "run"
    SYSTEM = "system"


class Classification(msgspec.Struct, frozen=True):
    """What is known of a fault.

    Attributes:
        error_type: None: it is no fault of state but, say, a mistake or a conflict that are the caller's.
        retryable: whether making the same operation again may come out otherwise.
    """

    error_type: StateErrorType | None
    severity: Severity
    retryable: bool


_LEAST: Final = {row.error_type: row.severity for row in RECOVERY_STRATEGIES}

# The first that fits counts: special errors come before what they are kinds of.
_CORRUPT: Final = (CorruptDocument, SealBroken)
_RETRYABLE: Final[tuple[tuple[type[HoldfastError], bool], ...]] = (
    (StorageNotReady, False),
    (Undecided, False),  # it is being decided: made again, it would be a second write
    (OutcomeUnknown, False),
    (RowRefused, False),
    (StorageFull, False),  # not until somebody makes room
    (Overloaded, True),
    (SerializationFailure, True),
    (TierUnavailable, True),
    (TierError, True),
)


def classify(fault: BaseException, source: Source, *, scope: Scope = Scope.OPERATION) -> Classification:
    """What a fault met at a source is.

    Args:
        scope: who is affected, as far as is known.
    """
    if isinstance(fault, ContextCorrupt):
        return _of(StateErrorType.CONTEXT_CORRUPTION, scope, retryable=False)
    if isinstance(fault, _CORRUPT):
        if scope is Scope.RUN and source is Source.L3:  # one of its snapshots
            return _of(StateErrorType.CONTEXT_CORRUPTION, scope, retryable=False)
        kind = StateErrorType.CACHE_FAILURE if source is Source.L2 else StateErrorType.STATE_CORRUPTION
        return _of(kind, scope, retryable=source is Source.L2)
    for error, retryable in _RETRYABLE:
        if isinstance(fault, error):
            return _of(_type_of(fault, source), scope, retryable=retryable)
    severity = Severity.WARNING if isinstance(fault, HoldfastError) else Severity.ERROR
    return Classification(None, severity, retryable=False)


def _type_of(fault: BaseException, source: Source) -> StateErrorType:
    if source is Source.L2:
        return StateErrorType.CACHE_FAILURE
    if source is Source.FEED or (isinstance(fault, TierUnavailable) and source is Source.L3):
        return StateErrorType.COMMUNICATION_FAILURE
    return StateErrorType.TRANSACTION_FAILED


def _of(error_type: StateErrorType, scope: Scope, *, retryable: bool) -> Classification:
    return Classification(error_type, severity_of(error_type, scope), retryable)


def severity_of(error_type: StateErrorType, scope: Scope) -> Severity:
    """By the seed's tree: what threatens the data of several is critical; nothing that works at all is fatal.

    One row of it is made stricter: corruption is critical also where a single document is known to be affected.
    """
    least = _LEAST[error_type]
    if least is Severity.CRITICAL and scope is Scope.SYSTEM:
        return Severity.FATAL
    return least
