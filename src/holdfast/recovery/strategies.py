"""What is done about each type of error, as data (pure): steps in order, then fallbacks in order.

The types, actions and fallbacks are the seed's, and so are the rows of `CACHE_FAILURE` and `CONTEXT_CORRUPTION`. A kind
may have rows of its own; see `strategies_with`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from holdfast.errors import SettingsError


class StateErrorType(StrEnum):
    """What kind of fault it is."""

    CONTEXT_CORRUPTION = "context_corruption"
    """A run's context cannot be restored as it was."""
    STATE_CORRUPTION = "state_corruption"
    """A row of L3, other than a context, does not decode as what it should hold."""
    CACHE_FAILURE = "cache_failure"
    """L2 does not answer, or holds what does not verify; nothing is lost by it."""
    TRANSACTION_FAILED = "transaction_failed"
    """L3 did not do what it was asked to write, or does not say whether it did."""
    COMMUNICATION_FAILURE = "communication_failure"
    """L3, or its change feed, cannot be reached."""


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"
    FATAL = "FATAL"


class RecoveryAction(StrEnum):
    """A step that may mend it."""

    RETRY_OPERATION = "retry_operation"
    FORCE_RELOAD_FROM_L3 = "force_reload_from_l3"
    INVALIDATE_RELATED_CACHE = "invalidate_related_cache"
    TERMINATE_ROUTINE = "terminate_routine"
    NOTIFY_SWARM_LEADER = "notify_swarm_leader"
    ESCALATE_TO_HUMAN = "escalate_to_human"


class Fallback(StrEnum):
    """What is left if no step has mended it."""

    DIRECT_L3_ACCESS = "direct_l3_access"
    READ_ONLY_MODE = "read_only_mode"
    RESTORE_LAST_SNAPSHOT = "restore_last_snapshot"
    EMERGENCY_STATE_REBUILD = "emergency_state_rebuild"


class RecoveryStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step.

    Attributes:
        max_attempts: how often the operation is made again.
        timeout_seconds: for how long it may go on; of an escalation, until nobody is waited for any more, in a row of
            your own: None, and the rows of the table, take the setting `escalation_timeout_seconds`.
        scope: what of the caches is given up: `key`, or `pattern`: all of the kind.
        immediate: without waiting for the step under way.
        urgency: how the swarm's leader is told: `normal` or `high`.
    """

    action: RecoveryAction
    max_attempts: int = 1
    timeout_seconds: float | None = None
    scope: str = "key"
    immediate: bool = False
    urgency: str = "normal"


class FallbackOption(msgspec.Struct, frozen=True, kw_only=True):
    """One fallback.

    Attributes:
        performance_impact: `none`, `low` or `high`.
        duration_seconds: for how long a mode is kept; None: until what failed is back. Of what is done once it is None.
        data_loss: `none` or `possible`.
    """

    strategy: Fallback
    performance_impact: str = "none"
    duration_seconds: float | None = None
    data_loss: str = "none"

    @property
    def cost(self) -> str:
        """What it costs, in words, for who decides and who reads of it; empty: nothing."""
        told = {"performance impact": self.performance_impact, "data loss": self.data_loss}
        return ", ".join(f"{what} {how}" for what, how in told.items() if how != "none")


class StateRecoveryStrategy(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about one type of error.

    Attributes:
        severity: at least; how many are affected, and by what, may make it worse.
    """

    error_type: StateErrorType
    severity: Severity
    recovery_steps: tuple[RecoveryStep, ...]
    fallback_options: tuple[FallbackOption, ...]


_RETRY: Final = RecoveryStep(action=RecoveryAction.RETRY_OPERATION, max_attempts=3)
_RELOAD: Final = RecoveryStep(action=RecoveryAction.FORCE_RELOAD_FROM_L3, timeout_seconds=5.0)
_INVALIDATE: Final = RecoveryStep(action=RecoveryAction.INVALIDATE_RELATED_CACHE, scope="pattern")
_INVALIDATE_ONE: Final = RecoveryStep(action=RecoveryAction.INVALIDATE_RELATED_CACHE, scope="key")
_TELL_LEADER: Final = RecoveryStep(action=RecoveryAction.NOTIFY_SWARM_LEADER, urgency="high")
_ESCALATE: Final = RecoveryStep(action=RecoveryAction.ESCALATE_TO_HUMAN, timeout_seconds=60.0)
_READ_ONLY: Final = FallbackOption(strategy=Fallback.READ_ONLY_MODE, duration_seconds=300.0)

RECOVERY_STRATEGIES: Final = (
    StateRecoveryStrategy(
        error_type=StateErrorType.CACHE_FAILURE,
        severity=Severity.ERROR,
        recovery_steps=(_RETRY, _RELOAD, _INVALIDATE),
        fallback_options=(
            FallbackOption(strategy=Fallback.DIRECT_L3_ACCESS, performance_impact="high"),
            _READ_ONLY,
        ),
    ),
    StateRecoveryStrategy(
        error_type=StateErrorType.CONTEXT_CORRUPTION,
        severity=Severity.CRITICAL,
        recovery_steps=(
            RecoveryStep(action=RecoveryAction.TERMINATE_ROUTINE, immediate=True),
            _TELL_LEADER,
            _ESCALATE,
        ),
        fallback_options=(
            FallbackOption(strategy=Fallback.RESTORE_LAST_SNAPSHOT, data_loss="possible"),
            FallbackOption(strategy=Fallback.EMERGENCY_STATE_REBUILD, data_loss="possible"),
        ),
    ),
    StateRecoveryStrategy(
        error_type=StateErrorType.STATE_CORRUPTION,
        severity=Severity.CRITICAL,
        # What is bad is the row: copies of other documents are good, and no mode of a whole server mends it.
        recovery_steps=(_RELOAD, _INVALIDATE_ONE, _TELL_LEADER, _ESCALATE),
        fallback_options=(),
    ),
    StateRecoveryStrategy(
        error_type=StateErrorType.TRANSACTION_FAILED,
        severity=Severity.ERROR,
        # An L3 that does not answer at all is a failure of communication, and has the fallback for it there.
        recovery_steps=(_RETRY, _RELOAD),
        fallback_options=(),
    ),
    StateRecoveryStrategy(
        error_type=StateErrorType.COMMUNICATION_FAILURE,
        severity=Severity.ERROR,
        recovery_steps=(_RETRY,),
        fallback_options=(_READ_ONLY,),
    ),
)
"""One row for each type."""

Strategies = Mapping[StateErrorType, StateRecoveryStrategy]
DEFAULT: Final[Strategies] = {row.error_type: row for row in RECOVERY_STRATEGIES}
OF_ONE_KIND: Final = frozenset(
    {StateErrorType.STATE_CORRUPTION, StateErrorType.CACHE_FAILURE, StateErrorType.TRANSACTION_FAILED}
)
"""Types of faults of documents of one kind. A context is always a run's, and communication fails with a whole tier."""
ATTEMPTS_MAX: Final = 10
SCOPES: Final = ("key", "pattern")


def strategies_with(overrides: Iterable[StateRecoveryStrategy] = (), beneath: Strategies = DEFAULT) -> Strategies:
    """A table with other rows in the place of some; of a kind, say.

    Raises:
        SettingsError: a row that cannot work, or two for one type.
    """
    table = dict(beneath)
    seen = set[StateErrorType]()
    for row in overrides:
        if not isinstance(row, StateRecoveryStrategy):
            raise SettingsError(f"recovery: a row is a StateRecoveryStrategy, not {type(row).__name__}")
        if row.error_type in seen:
            raise SettingsError(f"recovery: there are two rows for {row.error_type}")
        seen.add(row.error_type)
        table[row.error_type] = _checked(row)
    return table


def answered_within(seconds: float) -> Strategies:
    """The table, in which a person has so long to answer."""
    return {
        error_type: msgspec.structs.replace(
            row,
            recovery_steps=tuple(
                msgspec.structs.replace(step, timeout_seconds=seconds)
                if step.action is RecoveryAction.ESCALATE_TO_HUMAN
                else step
                for step in row.recovery_steps
            ),
        )
        for error_type, row in DEFAULT.items()
    }


def check_of_kind(rows: Iterable[StateRecoveryStrategy]) -> None:
    """Check the rows of one kind.

    Raises:
        SettingsError: a row that cannot work, two for one type, or one for a type that is never of one kind.
    """
    for error_type in strategies_with(rows, {}):
        if error_type not in OF_ONE_KIND:
            raise SettingsError(f"recovery: {error_type} is never of one kind; give its row to connect(recovery=...)")


def _checked(row: StateRecoveryStrategy) -> StateRecoveryStrategy:
    if not row.recovery_steps and not row.fallback_options:
        raise SettingsError(f"recovery: the row for {row.error_type} has neither steps nor fallbacks")
    for step in row.recovery_steps:
        if not 1 <= step.max_attempts <= ATTEMPTS_MAX:
            raise SettingsError(f"recovery: {row.error_type}: {step.action} takes 1 to {ATTEMPTS_MAX} attempts")
        if step.timeout_seconds is not None and not step.timeout_seconds > 0:
            raise SettingsError(f"recovery: {row.error_type}: {step.action} needs a timeout over 0 seconds, or none")
        if step.scope not in SCOPES:
            raise SettingsError(f"recovery: {row.error_type}: {step.action} has the scope key or pattern")
    return row
