"""Tells what recovery does: in the recovery log, the quarantine, events for this server's subscribers, and counters."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from holdfast.clock import Clock
from holdfast.fault_words import in_words
from holdfast.invalidation.topics import RECOVERY_COMPLETED, RECOVERY_RETURNED, RECOVERY_STEP
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols import Evidence, RecoveryLine
from holdfast.recovery.handlers import Case, Done, Outcome
from holdfast.recovery.log import RecoveryRecorder
from holdfast.recovery.reports import Report

logger = logging.getLogger("holdfast")


class End(StrEnum):
    """What came of a recovery."""

    RECOVERED = "recovered"
    ESCALATED = "escalated"
    """A person is asked, or was about the same before."""
    DEGRADED = "degraded"
    """A fallback took effect, or a person can have it take effect; or all is served without."""
    FAILED = "failed"


class RecoveryTeller:
    """Tells of one server's recoveries; nothing here waits or raises.

    Args:
        announce: gives this server's subscribers an event.
        masked: takes secrets out of a text.
        wall: the time of day, seconds since 1970.
    """

    def __init__(
        self,
        recorder: RecoveryRecorder,
        counters: RecoveryCounters,
        *,
        announce: Callable[[str, Any], None],
        masked: Callable[[str], str],
        clock: Clock,
        wall: Callable[[], float],
        new_id: Callable[[], str],
        server: str,
    ) -> None:
        self._recorder = recorder
        self._counters = counters
        self._announce = announce
        self._masked = masked
        self._clock = clock
        self._wall = wall
        self._new_id = new_id
        self._server = server

    def detected(self, case: Case) -> None:
        """A recovery begins."""
        self._line(case, "detected", Outcome.DONE.value, self.words(case.report.fault), case.report.began)

    def stepped(self, case: Case, step: str, done: Done, began: float) -> None:
        """A step, or a fallback, that began at a moment (monotonic seconds) was done."""
        self._counters.stepped(step, done.outcome.value)
        self._announce(RECOVERY_STEP, self._line(case, step, done.outcome.value, done.detail, began))

    def completed(self, case: Case, end: End) -> None:
        """A recovery is over."""
        setattr(self._counters, end.value, getattr(self._counters, end.value) + 1)
        facts = self._line(case, "completed", end.value, "", case.report.began)
        tried = [{"step": each.step, "outcome": each.outcome} for each in case.tried]
        self._announce(RECOVERY_COMPLETED, {**facts, "tried": tried})
        logger.warning("%s of %r: %s", case.report.error_type.value, case.report.subject, end.value)

    def returned(self, case: Case) -> None:
        """A tier that was away after its recovery answers again."""
        self._counters.returned += 1
        facts = self._line(case, "returned", Outcome.MENDED.value, "it answers again", case.report.began)
        self._announce(RECOVERY_RETURNED, facts)

    def evidence(self, report: Report) -> None:
        """What does not verify is kept, for a person to look at."""
        if report.key is None or report.evidence is None:
            return
        self._recorder.evidence(
            Evidence(
                tier=report.source.value,
                kind=report.key.kind,
                id=report.key.id,
                version=report.version,
                fault=self.words(report.fault),
                evidence=report.evidence,
                size=report.size,
                server=self._server,
                at=self._now(),
                met=self._new_id(),
            )
        )

    def words(self, fault: BaseException) -> str:
        """A fault in words, without secrets."""
        return in_words(fault, self._masked)

    def _line(self, case: Case, step: str, outcome: str, detail: str, began: float) -> dict[str, Any]:
        """Write a line of the recovery log; returns it as the data of an event."""
        report = case.report
        line = RecoveryLine(
            id=self._new_id(),
            recovery_id=case.id,
            at=self._now(),
            server=self._server,
            error_type=report.error_type.value,
            severity=report.classification.severity.value,
            subject=report.subject,
            step=step,
            outcome=outcome,
            detail=in_words(detail, self._masked),
            millis=max(0, round((self._clock.monotonic() - began) * 1000)),
        )
        self._recorder.line(line)
        return {
            "recoveryId": line.recovery_id,
            "errorType": line.error_type,
            "severity": line.severity,
            "subject": line.subject,
            "runId": report.run_id,
            "swarmId": report.swarm_id,
            "step": step,
            "outcome": outcome,
            "detail": line.detail,
            "millis": line.millis,
            "timestamp": round(self._wall() * 1000),
        }

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._wall(), dt.UTC)
