"""What each step and each fallback of a strategy does."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

import msgspec

from holdfast.clock import Clock
from holdfast.documents.escalation import EscalationStatus, TriedStep
from holdfast.errors import ContextCorrupt, HoldfastError, OutcomeUnknown
from holdfast.fault_words import in_words
from holdfast.protocols import Source, Target
from holdfast.protocols.escalations import Asked, EscalationRequest, FaultEscalator
from holdfast.protocols.guards import Degrading, TierGuard, TierState
from holdfast.recovery.escalation_rules import LEAVE
from holdfast.recovery.leaders import ALERT, LeaderNotice, Leaders
from holdfast.recovery.log import may_pass
from holdfast.recovery.modes import Mode
from holdfast.recovery.pacing import RetryBudget
from holdfast.recovery.probing import PATIENCE_SECONDS, Prober
from holdfast.recovery.reports import Report
from holdfast.recovery.strategies import Fallback, FallbackOption, RecoveryAction, RecoveryStep, StateErrorType
from holdfast.run_context.rescuing import Rescuing, Termination
from holdfast.run_context.restoring import Loss

PAUSE_SECONDS: Final = 0.05
"""Before the first retry at most; doubled with each, up to `PAUSE_SECONDS_MAX`."""
PAUSE_SECONDS_MAX: Final = 0.5
ATTEMPT_SECONDS: Final = PAUSE_SECONDS_MAX + PATIENCE_SECONDS
"""That one retry takes at most."""
KIND_SECONDS: Final = 60.0
"""A kind is made void once in so long, however many of its documents are affected."""
ASK_SECONDS: Final = 5.0
"""How long a step waits until it is stored that a person is asked; then that is done behind it."""
DEGRADED_SECONDS: Final = 5.0
"""For how long a mode is asked for at a time: as long as its cause lasts, that is done again before."""
REASON: Final = "recovery"
NO_DOCUMENT: Final = "no document is known to be affected"
NO_RUN: Final = "no run is affected"
NO_TIER: Final = "one document alone is affected: what it means for others is nothing"


class Outcome(StrEnum):
    """What came of a step."""

    MENDED = "mended"
    """What failed works again."""
    DONE = "done"
    """It took effect; whether that is enough, the next steps tell."""
    ESCALATED = "escalated"
    """A person was asked; if nobody answers in time the fallbacks come."""
    AVAILABLE = "available"
    """A person can do it, in the way that `detail` names; nothing was done."""
    SKIPPED = "skipped"
    """It does not apply here."""
    FAILED = "failed"


class Done(NamedTuple):
    """What a handler has done, `detail` in words, without values."""

    outcome: Outcome
    detail: str


class Case(msgspec.Struct, frozen=True, eq=False):
    """A recovery under way.

    Attributes:
        id: of the recovery.
        fallbacks: what is left if no step mends it, in order.
        tried: each step so far, and what came of it.
        by_person: a person has decided for the fallback.
    """

    id: str
    report: Report
    fallbacks: tuple[FallbackOption, ...]
    tried: list[TriedStep]
    by_person: bool = False


StepHandler: TypeAlias = Callable[[Case, RecoveryStep], Awaitable[Done]]
FallbackHandler: TypeAlias = Callable[[Case, FallbackOption], Awaitable[Done]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What handlers work with.

    Attributes:
        void: makes a target void, for a reason, in somebody's name.
        rebuild: begins a run with what is left of another one, and returns its id and what it lacks.
        masked: takes secrets out of a text.
        ask_later: has a person asked once L3 takes that.
        l2: knows whether L2 answers.
        random_: for jitter.
        retries: how many calls may be made again.
    """

    prober: Prober
    void: Callable[[Target, str, str | None], Awaitable[object]]
    rescue: Rescuing
    rebuild: Callable[[str], Awaitable[tuple[str, Loss]]]
    leaders: Leaders
    masked: Callable[[str], str]
    escalator: FaultEscalator
    ask_later: Callable[[EscalationRequest], None]
    degrading: Degrading
    l2: TierGuard
    clock: Clock
    sleep: Callable[[float], Awaitable[object]]
    random_: random.Random
    retries: RetryBudget


class Handlers:
    """One handler for each action and each fallback.

    A handler may raise what its means raise: then the step has failed.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._voided: dict[str, float] = {}
        self.steps: Mapping[RecoveryAction, StepHandler] = {
            RecoveryAction.RETRY_OPERATION: self._retry,
            RecoveryAction.FORCE_RELOAD_FROM_L3: self._reload,
            RecoveryAction.INVALIDATE_RELATED_CACHE: self._invalidate,
            RecoveryAction.TERMINATE_ROUTINE: self._terminate,
            RecoveryAction.NOTIFY_SWARM_LEADER: self._notify,
            RecoveryAction.ESCALATE_TO_HUMAN: self._escalate,
        }
        self.fallbacks: Mapping[Fallback, FallbackHandler] = {
            Fallback.DIRECT_L3_ACCESS: self._bypass_l2,
            Fallback.READ_ONLY_MODE: self._read_only,
            Fallback.RESTORE_LAST_SNAPSHOT: self._last_snapshot,
            Fallback.EMERGENCY_STATE_REBUILD: self._rebuild,
        }

    async def _retry(self, case: Case, step: RecoveryStep) -> Done:
        """Ask the same again, after pauses with jitter: many servers may meet the same fault at once.

        All that this process repeats comes out of one budget: in an outage that is soon empty.
        """
        means = self._means
        if not case.report.classification.retryable:
            return Done(Outcome.SKIPPED, "made again it would come out the same, or be done twice")
        for attempt in range(step.max_attempts):
            if not means.retries.take():
                return Done(Outcome.FAILED, f"after {attempt} attempts this process may repeat no more calls")
            await means.sleep(means.random_.uniform(0, min(PAUSE_SECONDS * 2**attempt, PAUSE_SECONDS_MAX)))
            try:
                await means.prober.check(case.report)
            except HoldfastError:
                if attempt + 1 == step.max_attempts:
                    raise
            else:
                return Done(Outcome.MENDED, f"attempt {attempt + 1} of {step.max_attempts} succeeded")
        raise AssertionError("a strategy has at least one attempt")

    async def _reload(self, case: Case, _step: RecoveryStep) -> Done:
        """Have L3 asked again. That mends a document, and a fault of L3's; of L2 it says that reads are served."""
        await self._means.prober.reload(case.report)
        if case.report.of_tier and case.report.source is not Source.L3:
            return Done(Outcome.DONE, "L3 answers; reads go there")
        return Done(Outcome.MENDED, "L3 answers, and what it holds can be read")

    async def _invalidate(self, case: Case, step: RecoveryStep) -> Done:
        """Make void what caches hold of the document, or of its kind."""
        key = case.report.key
        if key is None or case.report.of_tier:
            return Done(Outcome.SKIPPED, NO_DOCUMENT)
        if step.scope == "key":
            await self._means.void(Target.of(key), REASON, None)
            return Done(Outcome.DONE, f"what caches hold of {key} is void")
        now = self._means.clock.monotonic()
        if now - self._voided.get(key.kind, -KIND_SECONDS) < KIND_SECONDS:
            return Done(Outcome.SKIPPED, f"what caches hold of kind {key.kind} was made void just now")
        self._voided[key.kind] = now  # before it is done: others of the kind come meanwhile
        try:
            await self._means.void(Target(key.kind), REASON, None)
        except BaseException:
            del self._voided[key.kind]
            raise
        return Done(Outcome.DONE, f"what caches hold of kind {key.kind} is void")

    async def _terminate(self, case: Case, _step: RecoveryStep) -> Done:
        """End the run, unless its context verifies after all."""
        if case.report.run_id is None:
            return Done(Outcome.SKIPPED, NO_RUN)
        became = await self._means.rescue.terminate(case.report.run_id)
        return Done(Outcome.MENDED if became is Termination.RESTORABLE else Outcome.DONE, _TERMINATIONS[became])

    async def _notify(self, case: Case, step: RecoveryStep) -> Done:
        """Tell the swarm's leader, by an event that waits for whoever listens."""
        report = case.report
        if report.swarm_id is None:
            return Done(Outcome.SKIPPED, "no swarm is known to be affected")
        notice = LeaderNotice(
            swarm_id=report.swarm_id,
            leader_bot_id=None,
            recovery_id=case.id,
            error_type=report.error_type.value,
            severity=report.classification.severity.value,
            subject=report.subject,
            run_id=report.run_id,
            urgency=step.urgency,
            tried=tuple(case.tried),
        )
        leader = await self._means.leaders.tell(ALERT, notice)
        return Done(Outcome.DONE, "told" if leader is None else f"told, for bot {leader}")

    async def _escalate(self, case: Case, step: RecoveryStep) -> Done:
        """Ask a person; nobody waits here for the answer. The fallbacks of an outage wait for none either."""
        request = self._request(case, step)
        try:
            asked = await self._ask(request)
        except HoldfastError as fault:
            if case.report.of_tier or not may_pass(fault):
                raise  # nobody need be asked of an outage that is over
            self._means.ask_later(request)
            return Done(Outcome.ESCALATED, f"a person is asked once L3 takes that ({type(fault).__name__})")
        if not asked.alone:
            return Done(Outcome.DONE, f"counted in escalation {asked.id}, which stands for many")
        if case.report.of_tier:
            return Done(Outcome.DONE, f"escalation {asked.id}")
        before = "" if asked.status == EscalationStatus.OPEN else f", which was {asked.status} before"
        return Done(Outcome.ESCALATED, f"escalation {asked.id}{before}")

    async def _ask(self, request: EscalationRequest) -> Asked:
        """Ask a person; it raises as `FaultEscalator.escalate`."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._means.escalator.escalate(request)
        except TimeoutError as fault:
            raise OutcomeUnknown(f"L3 has not said within {ASK_SECONDS:g} s that a person is asked") from fault

    def _request(self, case: Case, step: RecoveryStep) -> EscalationRequest:
        report = case.report
        # Modes are of outages: of one document none comes, and nobody is told that it will.
        left = [] if report.run_id is None else [each for each in case.fallbacks if each.strategy not in _OF_OUTAGES]
        return EscalationRequest(
            recovery_id=case.id,
            error_type=report.error_type.value,
            severity=report.classification.severity.value,
            subject=report.subject,
            failed=in_words(report.fault, self._means.masked),
            evidence=_digest(report),
            tried=tuple(case.tried),
            timeout_seconds=step.timeout_seconds,
            options=(*(each.strategy.value for each in left), LEAVE) if left else (),
            fallback=left[0].strategy.value if left else "",
            cost=left[0].cost if left else "",
            swarm_id=report.swarm_id,
            run_id=report.run_id,
        )

    async def _bypass_l2(self, case: Case, _option: FallbackOption) -> Done:
        """Have reads go past L2."""
        if not case.report.of_tier:
            return Done(Outcome.SKIPPED, NO_TIER)
        return self._pass_by(case)

    def _pass_by(self, case: Case) -> Done:
        """What its guard has cut off is passed by anyway, and just that, for just as long as it does not answer.

        Likewise a node that answers, but refuses: its other nodes serve their keys, and nobody waits for a refusal.
        """
        health = self._means.l2.health()
        if health.state is not TierState.THERE:
            return Done(Outcome.DONE, "what of L2 does not answer is cut off, until it does")
        if len(health.circuits) > 1:
            return Done(Outcome.DONE, "a node of L2 refuses; reads of its keys go to L3")
        subject = case.report.subject
        self._means.degrading.degrade(DEGRADED_SECONDS, f"{subject} does not answer", subject=subject)
        return Done(Outcome.DONE, f"mode {Mode.L2_BYPASSED}")

    async def _read_only(self, case: Case, _option: FallbackOption) -> Done:
        """Say whether writes are refused: as long as its guard has cut L3 off they are anyway, and not any longer."""
        if not case.report.of_tier:
            return Done(Outcome.SKIPPED, NO_TIER)
        if await self._means.prober.l3_answers():
            return Done(Outcome.SKIPPED, "L3 answers: no write need be refused")
        return Done(Outcome.DONE, "L3 is cut off, and writes are refused, until it answers")

    def keep_up(self, case: Case, option: FallbackOption) -> None:
        """Have the mode of a fallback that took effect last on."""
        if option.strategy is Fallback.DIRECT_L3_ACCESS:
            self._pass_by(case)

    def leave(self, case: Case, option: FallbackOption) -> None:
        """The tier answers: nothing asks any more for the mode of a fallback that took effect."""
        if option.strategy is Fallback.DIRECT_L3_ACCESS:
            subject = case.report.subject
            self._means.degrading.degrade(0.0, f"{subject} answers", subject=subject)

    async def _last_snapshot(self, case: Case, _option: FallbackOption) -> Done:
        """Say what a resume would go on from. Nothing is put in the context's place but by whoever resumes it."""
        if case.report.run_id is None:
            return Done(Outcome.SKIPPED, NO_RUN)
        try:
            restored = await self._means.rescue.last_good(case.report.run_id)
        except ContextCorrupt as fault:
            return Done(Outcome.FAILED, str(fault))
        return Done(
            Outcome.AVAILABLE,
            f"`holdfast runs resume {case.report.run_id}` goes on from base {restored.base}, or `runs fork` if it has"
            f" ended; lost would be {_in_words(restored.lost)}, {restored.lost.seconds:g} s of work",
        )

    async def _rebuild(self, case: Case, _option: FallbackOption) -> Done:
        """Begin a run with what is left past what is damaged, if a person wants that; else say what there would be."""
        if case.report.run_id is None:
            return Done(Outcome.SKIPPED, NO_RUN)
        if case.by_person:
            begun, lost = await self._means.rebuild(case.report.run_id)
            return Done(Outcome.DONE, f"run {begun} was begun, for a server to resume; lost are {_in_words(lost)}")
        left = await self._means.rescue.remains(case.report.run_id)
        if left.is_empty:
            return Done(Outcome.FAILED, "none of its snapshots verifies, and the row holds no change")
        inputs = "no inputs" if left.base is None else f"all of base {left.base}"
        looked = " of what was looked at, which is not all" if left.partial else ""
        there = f"{inputs}, {len(left.state.steps)} steps and {len(left.state.variables)} variables"
        command = f"`holdfast runs rebuild {case.report.run_id} --yes` begins a new run{looked} with {there}"
        return Done(Outcome.AVAILABLE, f"{command}; lost would be {_in_words(left.lost)}")


def _in_words(lost: Loss) -> str:
    return (
        f"{lost.snapshots} snapshots with {lost.steps} steps and changes of"
        f" {len(lost.variables) + lost.more} variables, and {lost.unknown} of which nobody tells what they held"
    )


_OF_OUTAGES: Final = (Fallback.DIRECT_L3_ACCESS, Fallback.READ_ONLY_MODE)
_TERMINATIONS: Final[Mapping[Termination, str]] = {
    Termination.RESTORABLE: "its context verifies after all; it was left as it is",
    Termination.PARTLY: "a part of its context verifies, from which a resume goes on; it was left as it is",
    Termination.FAILED: "nobody live runs it: it has failed",
    Termination.TOLD: "a live server runs it: that ends it, at its next step end at the latest, with all it knows",
    Termination.OVER: "it was over already",
}


def _digest(report: Report) -> str:
    """The digest of what is bad; empty: it is nothing that stays as it is until somebody changes it."""
    if report.evidence is not None:
        digest = hashlib.sha256(report.evidence)
        if report.size > len(report.evidence):  # another row may begin with the same
            digest.update(f"{report.size} {report.version}".encode())
        return digest.hexdigest()
    if report.error_type in (StateErrorType.CONTEXT_CORRUPTION, StateErrorType.STATE_CORRUPTION):
        return hashlib.sha256(str(report.fault).encode(errors="replace")).hexdigest()
    return ""
