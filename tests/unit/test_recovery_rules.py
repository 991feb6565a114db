"""Strategies, classification, breakers, timeouts, budgets and modes: the rules of recovery, without I/O."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Bot, Kind, connect
from holdfast.errors import (
    Conflict,
    ContextCorrupt,
    CorruptDocument,
    HoldfastError,
    OutcomeUnknown,
    Overloaded,
    SchemaTooNew,
    SettingsError,
    StorageFull,
    StorageNotReady,
    TierUnavailable,
)
from holdfast.keys import Key
from holdfast.protocols.faults import Source
from holdfast.recovery.breaker import Breaker, BreakerRules, Circuit
from holdfast.recovery.classification import Scope, classify
from holdfast.recovery.modes import Mode, Presence, Tiers, mode_of
from holdfast.recovery.pacing import AdaptiveTimeout, RetryBudget
from holdfast.recovery.strategies import (
    OF_ONE_KIND,
    RECOVERY_STRATEGIES,
    Fallback,
    RecoveryAction,
    RecoveryStep,
    Severity,
    StateErrorType,
    StateRecoveryStrategy,
    answered_within,
    strategies_with,
)

RULES = BreakerRules()


def test_each_type_has_one_row() -> None:
    """None is left without a strategy, and none has two."""
    assert sorted(row.error_type for row in RECOVERY_STRATEGIES) == sorted(StateErrorType)
    assert all(row.recovery_steps for row in RECOVERY_STRATEGIES)


def test_the_rows_of_the_seed() -> None:
    """As the seed writes them, in seconds."""
    table = strategies_with()
    cache = table[StateErrorType.CACHE_FAILURE]
    assert cache.severity == "ERROR"
    assert [each.action for each in cache.recovery_steps] == [
        "retry_operation",
        "force_reload_from_l3",
        "invalidate_related_cache",
    ]
    assert cache.recovery_steps[0].max_attempts == 3
    assert cache.recovery_steps[1].timeout_seconds == 5.0
    assert cache.recovery_steps[2].scope == "pattern"
    assert [(each.strategy, each.performance_impact, each.duration_seconds) for each in cache.fallback_options] == [
        (Fallback.DIRECT_L3_ACCESS, "high", None),
        (Fallback.READ_ONLY_MODE, "none", 300.0),
    ]
    context = table[StateErrorType.CONTEXT_CORRUPTION]
    assert context.severity == "CRITICAL"
    assert [each.action for each in context.recovery_steps] == [
        "terminate_routine",
        "notify_swarm_leader",
        "escalate_to_human",
    ]
    assert context.recovery_steps[0].immediate
    assert context.recovery_steps[1].urgency == "high"
    assert context.recovery_steps[2].timeout_seconds == 60.0
    assert [(each.strategy, each.data_loss) for each in context.fallback_options] == [
        (Fallback.RESTORE_LAST_SNAPSHOT, "possible"),
        (Fallback.EMERGENCY_STATE_REBUILD, "possible"),
    ]


def test_a_row_takes_the_place_of_another() -> None:
    """Of its own type, and of no other."""
    row = StateRecoveryStrategy(
        error_type=StateErrorType.CACHE_FAILURE,
        severity=Severity.WARNING,
        recovery_steps=(RecoveryStep(action=RecoveryAction.FORCE_RELOAD_FROM_L3),),
        fallback_options=(),
    )
    table = strategies_with([row])
    assert table[StateErrorType.CACHE_FAILURE] is row
    assert set(table) == set(StateErrorType)
    assert strategies_with()[StateErrorType.CACHE_FAILURE] is RECOVERY_STRATEGIES[0]


def test_a_table_may_stand_upon_another() -> None:
    """A kind's upon the server's, and that upon the default, in which a person has as long as the setting says."""
    row = StateRecoveryStrategy(
        error_type=StateErrorType.CACHE_FAILURE,
        severity=Severity.WARNING,
        recovery_steps=(RecoveryStep(action=RecoveryAction.ESCALATE_TO_HUMAN),),
        fallback_options=(),
    )
    beneath = answered_within(600.0)
    table = strategies_with([row], beneath)
    assert table[StateErrorType.CACHE_FAILURE] is row
    steps = table[StateErrorType.STATE_CORRUPTION].recovery_steps
    assert [each.timeout_seconds for each in steps if each.action is RecoveryAction.ESCALATE_TO_HUMAN] == [600.0]
    assert answered_within(60.0) == strategies_with()


@pytest.mark.parametrize("error_type", sorted({*StateErrorType} - OF_ONE_KIND))
def test_what_is_never_of_one_kind_is_no_rule_of_one(error_type: StateErrorType) -> None:
    """It would never be looked at."""
    row = msgspec.structs.replace(RECOVERY_STRATEGIES[0], error_type=error_type)
    with pytest.raises(SettingsError, match=f"kind plan: recovery: {error_type} is never of one kind; give its row to"):
        Kind("plan", Bot, recovery=(row,))
    for other in OF_ONE_KIND:
        Kind("plan", Bot, recovery=(msgspec.structs.replace(row, error_type=other),))


def test_a_row_of_the_server_that_cannot_work_is_refused_before_anything_connects() -> None:
    """As a kind's is."""
    with pytest.raises(SettingsError, match="two rows for cache_failure"):
        connect(recovery=[RECOVERY_STRATEGIES[0]] * 2)
    with pytest.raises(SettingsError, match="a row is a StateRecoveryStrategy, not str"):
        connect(recovery=["cache_failure"])  # type: ignore[list-item]


def step(action: RecoveryAction, **facts: Any) -> dict[str, object]:
    """A row of this one step."""
    return {"recovery_steps": (RecoveryStep(action=action, **facts),)}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"recovery_steps": (), "fallback_options": ()}], "neither steps nor fallbacks"),
        (
            [{"recovery_steps": (RecoveryStep(action=RecoveryAction.RETRY_OPERATION, max_attempts=0),)}],
            "1 to 10 attempts",
        ),
        ([{"recovery_steps": (RecoveryStep(action=RecoveryAction.RETRY_OPERATION, max_attempts=11),)}], "1 to 10"),
        ([{"recovery_steps": (RecoveryStep(action=RecoveryAction.ESCALATE_TO_HUMAN, timeout_seconds=0),)}], "over 0"),
        (
            [{"recovery_steps": (RecoveryStep(action=RecoveryAction.FORCE_RELOAD_FROM_L3, scope="*"),)}],
            "key or pattern",
        ),
        ([{}, {}], "two rows for cache_failure"),
    ],
)
def test_a_row_that_cannot_work_is_refused(rows: list[dict[str, object]], words: str) -> None:
    """In a sentence that names it."""
    default = {
        "error_type": StateErrorType.CACHE_FAILURE,
        "severity": Severity.ERROR,
        "recovery_steps": (RecoveryStep(action=RecoveryAction.RETRY_OPERATION),),
        "fallback_options": (),
    }
    with pytest.raises(SettingsError, match=words):
        strategies_with(StateRecoveryStrategy(**{**default, **row}) for row in rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "source", "error_type", "severity", "retryable"),
    [
        (TierUnavailable("away"), Source.L2, StateErrorType.CACHE_FAILURE, Severity.ERROR, True),
        (CorruptDocument("bits"), Source.L2, StateErrorType.CACHE_FAILURE, Severity.ERROR, True),
        (CorruptDocument("bits"), Source.L3, StateErrorType.STATE_CORRUPTION, Severity.CRITICAL, False),
        (ContextCorrupt("r1", ()), Source.L3, StateErrorType.CONTEXT_CORRUPTION, Severity.CRITICAL, False),
        (TierUnavailable("away"), Source.L3, StateErrorType.COMMUNICATION_FAILURE, Severity.ERROR, True),
        (TierUnavailable("away"), Source.FEED, StateErrorType.COMMUNICATION_FAILURE, Severity.ERROR, True),
        (OutcomeUnknown("who knows"), Source.L3, StateErrorType.TRANSACTION_FAILED, Severity.ERROR, False),
        (Overloaded("full"), Source.L3, StateErrorType.TRANSACTION_FAILED, Severity.ERROR, True),
        (StorageFull("disk"), Source.L3, StateErrorType.TRANSACTION_FAILED, Severity.ERROR, False),
        (StorageNotReady("migrate"), Source.L3, StateErrorType.TRANSACTION_FAILED, Severity.ERROR, False),
    ],
)
def test_what_a_fault_is(
    fault: HoldfastError,
    source: Source,
    error_type: StateErrorType,
    severity: Severity,
    retryable: bool,  # noqa: FBT001 - one of the table's columns
) -> None:
    """By where it was met."""
    found = classify(fault, source)
    assert (found.error_type, found.severity, found.retryable) == (error_type, severity, retryable)


@pytest.mark.parametrize(
    "fault",
    [
        SchemaTooNew("bot:b1", found=3, known=2),  # E1: an older server in a rolling deploy, never corruption
        Conflict(Key("bot", "b1"), expected=1, actual=2),
        ValueError("the caller's"),
    ],
)
def test_what_is_no_fault_of_state(fault: Exception) -> None:
    """It is the caller's to decide: nothing is recovered."""
    assert classify(fault, Source.L3).error_type is None


def test_corruption_of_all_is_fatal() -> None:
    """What threatens the data of everybody stops everything."""
    assert classify(CorruptDocument("bits"), Source.L3, scope=Scope.SYSTEM).severity is Severity.FATAL
    assert classify(TierUnavailable("away"), Source.L2, scope=Scope.SYSTEM).severity is Severity.ERROR


def broken(breaker: Breaker, now: float) -> None:
    """Fail until it is open."""
    for _ in range(RULES.failures):
        permit = breaker.permit(now)
        assert permit is not None
        breaker.ended(permit, now, well=False)
    assert breaker.circuit is Circuit.OPEN


def test_it_opens_on_failures_within_its_window_and_lets_nothing_pass() -> None:
    """Failures further apart say nothing of now."""
    breaker = Breaker(RULES)
    for now in (0.0, 1.5, 3.0, 4.5):
        breaker.ended(breaker.permit(now) or 0, now, well=False)
    assert breaker.circuit is Circuit.CLOSED
    broken(breaker, 10.0)
    assert breaker.permit(10.0 + RULES.pause_seconds - 0.01) is None


def test_a_few_failures_among_many_calls_open_nothing() -> None:
    """At least half of the calls of a window must have failed."""
    breaker = Breaker(RULES)
    for number in range(100):
        breaker.ended(breaker.permit(0.0) or 0, number / 1000, well=number % 3 != 0)
    assert breaker.circuit is Circuit.CLOSED


def test_one_probe_at_a_time_and_so_many_close_it() -> None:
    """While one is under way nobody else passes."""
    breaker = Breaker(RULES)
    broken(breaker, 0.0)
    now = RULES.pause_seconds
    for left in reversed(range(RULES.probes)):
        probe = breaker.permit(now)
        assert probe is not None
        assert breaker.permit(now) is None
        breaker.ended(probe, now, well=True)
        assert breaker.circuit is (Circuit.HALF_OPEN if left else Circuit.CLOSED)


def test_a_probe_that_fails_or_never_comes_back_opens_it_for_longer() -> None:
    """Twice as long each time, up to a bound; closed, it begins anew."""
    breaker, now, pauses = Breaker(RULES), 0.0, []
    broken(breaker, now)
    for failing in (True, False, True, False, True, False):
        began = now
        while (probe := breaker.permit(now)) is None:
            now += 0.125
        pauses.append(now - began)
        if failing:
            breaker.ended(probe, now, well=False)
        else:
            now += RULES.probe_seconds
            assert breaker.permit(now) is None
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_one_that_is_known_to_answer_is_let_back_at_once() -> None:
    """Whether it was open, or a probe under way; what comes of that opens nothing any more."""
    breaker = Breaker(RULES)
    broken(breaker, 0.0)
    breaker.mend()
    assert breaker.circuit is Circuit.CLOSED
    broken(breaker, 1.0)
    probe = breaker.permit(1.0 + RULES.pause_seconds)
    assert probe is not None
    breaker.mend()
    assert breaker.permit(2.0) is not None
    for _ in range(RULES.failures):
        breaker.ended(probe, 2.0, well=False)
    assert breaker.circuit is Circuit.CLOSED


def test_a_call_from_before_says_nothing_of_a_probe() -> None:
    """It was made while the circuit was closed: neither its success nor its failure is the probe's."""
    for well in (True, False):
        breaker = Breaker(RULES)
        early = breaker.permit(0.0)
        assert early is not None
        broken(breaker, 0.0)
        probe = breaker.permit(RULES.pause_seconds)
        assert probe is not None
        for _ in range(RULES.probes + 1):
            breaker.ended(early, RULES.pause_seconds, well=well)
        assert breaker.circuit is Circuit.HALF_OPEN


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=300))
def test_whatever_ends_in_whatever_order_it_never_stays_shut(calls: list[tuple[float, bool]]) -> None:
    """After any past, an endpoint that answers again is let back within a bounded time."""
    breaker, now = Breaker(RULES), 0.0
    for pause, well in calls:
        now += pause
        if (permit := breaker.permit(now)) is not None:
            breaker.ended(permit, now + pause, well=well)
    bound = now + RULES.pause_max_seconds + RULES.probe_seconds + RULES.pause_max_seconds + 10
    while breaker.circuit is not Circuit.CLOSED:
        now += 0.25
        assert now < bound
        if (permit := breaker.permit(now)) is not None:
            breaker.ended(permit, now, well=True)


@given(st.lists(st.floats(0.0001, 10), min_size=1, max_size=200))
def test_a_timeout_stays_within_its_bounds(times: list[float]) -> None:
    """And is never below what it has seen of a steady endpoint."""
    timeout = AdaptiveTimeout(0.05, 1.0)
    for seconds in times:
        timeout.observe(seconds)
        assert 0.05 <= timeout.seconds <= 1.0
    for _ in range(300):
        timeout.observe(0.2)
    assert 0.2 <= timeout.seconds < 0.4


def test_a_timeout_follows_the_endpoint_and_yields_when_it_may_be_wrong() -> None:
    """Fast answers make it short, and each one that does not come in time twice as long, up to its bound."""
    timeout = AdaptiveTimeout(0.05, 1.0)
    assert timeout.seconds == 1.0
    for _ in range(100):
        timeout.observe(0.001)
    grown = [timeout.seconds]
    for _ in range(6):
        timeout.expired()
        grown.append(timeout.seconds)
    assert grown == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@given(st.lists(st.booleans(), max_size=2000))
def test_an_outage_multiplies_no_load(calls: list[bool]) -> None:
    """However calls fall out, those made again are at most a tenth of the first ones, and the reserve."""
    refused: list[None] = []
    budget, again = RetryBudget(share=0.1, reserve=10, on_refused=lambda: refused.append(None)), 0
    for fails in calls:
        budget.note_answered()
        again += fails and budget.take()
    assert again <= 10 + 0.1 * len(calls)
    assert again + len(refused) == sum(calls)


def test_modes_by_what_answers() -> None:
    """Each state of the tiers has a mode, and only the healthy one is normal."""
    modes = {
        (l2, l3, buffers): mode_of(Tiers(l2, l3, buffers))
        for l2, l3, buffers in itertools.product([True, False], repeat=3)
    }
    assert modes[True, True, True] is modes[True, True, False] is Mode.NORMAL
    assert modes[False, True, True] is modes[False, True, False] is Mode.L2_BYPASSED
    assert modes[True, False, True] is Mode.WRITE_BUFFERING
    assert modes[True, False, False] is Mode.READ_ONLY
    assert modes[False, False, True] is modes[False, False, False] is Mode.MEMORY_ONLY
    assert set(modes.values()) == set(Mode)


def test_a_tier_is_gone_at_once_and_back_when_it_stays() -> None:
    """One that comes and goes does not make the mode flutter."""
    tier = Presence(2.0)
    assert not tier.observe(0.0, answers=True)
    assert tier.observe(1.0, answers=False)
    assert not tier.is_there
    for now in (2.0, 3.9):
        assert not tier.observe(now, answers=True)
    assert not tier.observe(3.95, answers=False)
    assert not tier.observe(4.0, answers=True)
    assert not tier.observe(5.9, answers=True)
    assert tier.observe(6.0, answers=True)
    assert tier.is_there
