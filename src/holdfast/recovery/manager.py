"""Recovers from faults of state: walks the steps of a strategy, then its fallbacks, apart from whoever met the fault.

Each step is an event, a counter and a line in the recovery log; so is the end, which is the component's notification. A
recovery whose tier still does not answer at the end goes on looking, keeps the mode of the fallback up meanwhile, and
tells when it is back: so an outage is one recovery, however long it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from holdfast.background import Background
from holdfast.clock import Clock
from holdfast.documents import Escalation
from holdfast.documents.escalation import EscalationStatus, TriedStep
from holdfast.errors import HoldfastError
from holdfast.protocols import Source
from holdfast.recovery.classification import Classification, Scope, severity_of
from holdfast.recovery.handlers import ATTEMPT_SECONDS, Case, Done, Handlers, Outcome
from holdfast.recovery.probing import Prober
from holdfast.recovery.reports import FaultReports, Report
from holdfast.recovery.strategies import (
    Fallback,
    FallbackOption,
    RecoveryAction,
    StateErrorType,
    StateRecoveryStrategy,
    Strategies,
)
from holdfast.recovery.telling import End, RecoveryTeller

UNDER_WAY_MAX: Final = 8
URGENT_MAX: Final = 8
"""Beyond them, recoveries whose first step is immediate."""
FALLING_BACK_MAX: Final = 256
"""Recoveries whose escalations were decided for a fallback, or by nobody."""
STEP_SECONDS: Final = 10.0
"""Of a step that does not say how long it may take; all attempts of one fit in."""
DECIDED_SECONDS: Final = 300.0
"""Of a fallback that a person has decided for: a rebuild reads all that there is of a run, however long that is."""
LOOK_SECONDS: Final = 1.0
"""Between two looks whether a tier is back."""

_EFFECTIVE: Final = frozenset({Outcome.DONE, Outcome.MENDED, Outcome.AVAILABLE})


class RecoveryManager:
    """`FaultSink` that acts; one per server.

    Args:
        of_kinds: the strategies of kinds that have rows of their own; `strategies`: of all others.

    Attributes:
        report: takes a report; see `FaultSink.report`.
    """

    def __init__(
        self,
        reports: FaultReports,
        handlers: Handlers,
        prober: Prober,
        teller: RecoveryTeller,
        *,
        strategies: Strategies,
        of_kinds: Mapping[str, Strategies],
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        new_id: Callable[[], str],
    ) -> None:
        self._reports = reports
        self._handlers = handlers
        self._prober = prober
        self._teller = teller
        self._strategies = strategies
        self._of_kinds = of_kinds
        self._clock = clock
        self._sleep = sleep
        self._new_id = new_id
        self._wake = asyncio.Event()
        self._walking: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._falling_back: set[asyncio.Task[None]] = set()
        self.report = reports.report
        self._loop = Background(self._run, "recovery")
        reports.on_evidence = teller.evidence
        reports.on_waiting = self._wake.set

    def start(self) -> None:
        """Begin in the background."""
        self._loop.start()

    async def stop(self) -> None:
        """End what is under way; may be called twice.

        Fallbacks that were decided for have a while: nobody comes back to them. What is not done by then is on record.
        """
        await self._loop.stop()
        tasks = self._walking | self._watching
        for task in tasks:
            task.cancel()
        if self._falling_back:
            await asyncio.wait(self._falling_back, timeout=STEP_SECONDS)
        for task in self._falling_back:
            task.cancel()
        if tasks := tasks | self._falling_back:
            await asyncio.wait(tasks)

    def decided(self, escalation: Escalation) -> None:
        """Do the fallback that was decided for, by a person or since none has answered, apart from the caller.

        Of escalations that no recovery opened nothing is done; with too many under way it is recorded that it is not.

        Neither raises nor waits.
        """
        if not escalation.recovery_id or escalation.error_type not in list(StateErrorType):
            return  # somebody else asked, who knows what a fallback of his own means
        if escalation.decision not in list(Fallback):
            return
        fallback = Fallback(escalation.decision)
        case = self._left(
            escalation.recovery_id,
            StateErrorType(escalation.error_type),
            escalation.subject,
            fallback,
            by_person=escalation.status == EscalationStatus.RESOLVED,
            run_id=escalation.run_id,
            swarm_id=escalation.swarm_id,
        )
        if len(self._falling_back) >= FALLING_BACK_MAX:
            done = Done(Outcome.FAILED, f"{FALLING_BACK_MAX} others are under way: it is left to people")
            self._teller.stepped(case, fallback.value, done, case.report.began)
            self._teller.completed(case, End.FAILED)
            return
        task = asyncio.get_running_loop().create_task(self._fall_back(case), name="holdfast recovery fallback")
        self._falling_back.add(task)
        task.add_done_callback(self._falling_back.discard)

    async def fall_back(
        self,
        recovery_id: str,
        error_type: StateErrorType,
        subject: str,
        fallback: Fallback,
        *,
        by_person: bool = False,
        run_id: str | None = None,
        swarm_id: str | None = None,
    ) -> None:
        """Do a fallback that was decided for: or, if it was by nobody, the first that takes effect from it on.

        The recovery log tells the outcome, and so does its end. Never raises.
        """
        await self._fall_back(
            self._left(
                recovery_id, error_type, subject, fallback, by_person=by_person, run_id=run_id, swarm_id=swarm_id
            )
        )

    async def _fall_back(self, case: Case) -> None:
        try:
            option = await self._first_of(case.fallbacks, case)
        except asyncio.CancelledError:  # nobody comes back to it, so it is on record
            done = Done(Outcome.FAILED, "the server stopped before it was done; it may have taken effect")
            self._teller.stepped(case, case.fallbacks[len(case.tried)].strategy.value, done, case.report.began)
            self._teller.completed(case, End.FAILED)
            raise
        self._teller.completed(case, End.FAILED if option is None else End.DEGRADED)

    def _left(
        self,
        recovery_id: str,
        error_type: StateErrorType,
        subject: str,
        fallback: Fallback,
        *,
        by_person: bool = False,
        run_id: str | None,
        swarm_id: str | None,
    ) -> Case:
        """The recovery that asked, as far as its escalation tells."""
        severity = severity_of(error_type, Scope.OPERATION)
        report = Report(
            fault=HoldfastError("it was decided for"),
            source=Source.L3,
            classification=Classification(error_type, severity, retryable=False),
            error_type=error_type,
            subject=subject,
            of_tier=False,
            began=self._clock.monotonic(),
            run_id=run_id,
            swarm_id=swarm_id,
        )
        # The row of the kind that the subject is of; the report that asked named a run or a document, not both.
        options = self._row("" if run_id is not None else subject.partition(":")[0], error_type).fallback_options
        place = next((place for place, each in enumerate(options) if each.strategy is fallback), None)
        left = (FallbackOption(strategy=fallback),) if place is None else options[place:]
        return Case(recovery_id, report, left[:1] if by_person else left, [], by_person)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (report := self._next()) is not None:
                task = asyncio.get_running_loop().create_task(self._recover(report), name="holdfast recovery step")
                self._walking.add(task)
                task.add_done_callback(self._walked)

    def _next(self) -> Report | None:
        """The recovery that begins now, urgent ones first; None: none waits, or has a place."""
        busy = len(self._walking)
        if busy < UNDER_WAY_MAX + URGENT_MAX and (urgent := self._reports.take(self._is_urgent)) is not None:
            return urgent
        return self._reports.take() if busy < UNDER_WAY_MAX else None

    def _is_urgent(self, report: Report) -> bool:
        steps = self._strategy(report).recovery_steps
        return bool(steps) and steps[0].immediate

    def _walked(self, task: asyncio.Task[None]) -> None:
        self._walking.discard(task)
        self._wake.set()

    async def _recover(self, report: Report) -> None:
        """One recovery. Whatever is wrong in here begins no other one."""
        case = Case(self._new_id(), report, self._strategy(report).fallback_options, [])
        end, option = End.FAILED, None
        try:
            self._teller.detected(case)
            end, option = await self._walk(case)
            self._teller.completed(case, end)
        except Exception as fault:  # noqa: BLE001 - shown, and the next fault of this sort is looked at again
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"holdfast: the recovery of {report.subject} failed", "exception": fault}
            )
        if report.of_tier and end is not End.RECOVERED:
            task = asyncio.get_running_loop().create_task(self._watch(case, option), name="holdfast recovery watch")
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)
        else:
            self._reports.ended(report, mended=end is End.RECOVERED)

    async def _walk(self, case: Case) -> tuple[End, FallbackOption | None]:
        """Steps in order until one has mended it, then fallbacks in order until one takes effect: that one, too."""
        escalated = False
        for step in self._strategy(case.report).recovery_steps:
            # The time that an escalation names is the person's.
            is_call = step.action is not RecoveryAction.ESCALATE_TO_HUMAN
            most = max(STEP_SECONDS, step.max_attempts * ATTEMPT_SECONDS)
            seconds = step.timeout_seconds if is_call and step.timeout_seconds is not None else most
            done = await self._do(case, step.action.value, self._handlers.steps[step.action](case, step), seconds)
            if done.outcome is Outcome.MENDED:
                return End.RECOVERED, None
            escalated = escalated or done.outcome is Outcome.ESCALATED
        if escalated:  # the fallbacks come when nobody has answered
            return End.ESCALATED, None
        if case.report.source is Source.FEED and case.report.of_tier:
            return End.DEGRADED, None  # caches have given way, and L3 answers: no fallback could add to that
        option = await self._first_of(case.fallbacks, case)
        return (End.FAILED if option is None else End.DEGRADED), option

    async def _first_of(self, options: Iterable[FallbackOption], case: Case) -> FallbackOption | None:
        """The first fallback that takes effect; None: none does."""
        seconds = DECIDED_SECONDS if case.by_person else STEP_SECONDS
        for option in options:
            work = self._at_cost(case, option)
            if (await self._do(case, option.strategy.value, work, seconds)).outcome in _EFFECTIVE:
                return option
        return None

    async def _at_cost(self, case: Case, option: FallbackOption) -> Done:
        """Do a fallback; whoever reads that it was done reads what it costs."""
        done = await self._handlers.fallbacks[option.strategy](case, option)
        if done.outcome not in _EFFECTIVE or not option.cost:
            return done
        return done._replace(detail=f"{done.detail} ({option.cost})")

    async def _do(self, case: Case, name: str, work: Awaitable[Done], seconds: float) -> Done:
        """Do a step, and tell of it; whatever it raises is its outcome, and no fault to be recovered from."""
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(seconds) as limit:
                done = await work
        except TimeoutError as fault:
            late = f"it took longer than {seconds:g} s; it may have taken effect"  # or it raised one of its own
            done = Done(Outcome.FAILED, late if limit.expired() else self._teller.words(fault))
        except Exception as fault:  # noqa: BLE001 - a handler may meet anything
            done = Done(Outcome.FAILED, self._teller.words(fault))
        case.tried.append(TriedStep(step=name, outcome=done.outcome.value, detail=done.detail))
        self._teller.stepped(case, name, done, began)
        return done

    async def _watch(self, case: Case, option: FallbackOption | None) -> None:
        """Look until the tier answers; meanwhile the mode of its fallback is kept up, as long as that may last."""
        report = case.report
        try:
            while True:
                await self._sleep(LOOK_SECONDS)
                if await self._is_back(report):
                    break
                lasted = self._clock.monotonic() - report.began
                if option is not None and (option.duration_seconds is None or lasted < option.duration_seconds):
                    self._handlers.keep_up(case, option)
        finally:
            self._reports.ended(report, mended=True)
        if option is not None:
            self._handlers.leave(case, option)
        self._teller.returned(case)

    async def _is_back(self, report: Report) -> bool:
        try:
            await self._prober.check(report)
        except Exception:  # noqa: BLE001 - whatever it is, it is not back
            return False
        return True

    def _strategy(self, report: Report) -> StateRecoveryStrategy:
        kind = report.key.kind if report.key is not None and not report.of_tier else ""
        return self._row(kind, report.error_type)

    def _row(self, kind: str, error_type: StateErrorType) -> StateRecoveryStrategy:
        return self._of_kinds.get(kind, self._strategies)[error_type]
