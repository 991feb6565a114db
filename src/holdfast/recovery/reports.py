"""Takes reports of faults: says what each is, and which of them begins a recovery (pure).

Of one type of error and one subject at most one recovery is under way. What it could not mend begins none again for a
while, which doubles each time: a document that stays corrupt is read often, and nobody is asked twice a minute. What a
step meets is reported as by anybody else, and may be a fault of another subject: of a document's L3, say. Chains of
that sort end soon, for beside documents and runs there are few subjects.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import msgspec

from holdfast.errors import TierUnavailable
from holdfast.keys import Key
from holdfast.kinds import SWARM
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols.faults import EVIDENCE_BYTES_MAX, Source
from holdfast.recovery.classification import Classification, Scope, classify
from holdfast.recovery.strategies import StateErrorType

WAITING_MAX: Final = 256
"""Recoveries that wait for their turn; a further fault is counted, and begins none."""
KNOWN_MAX: Final = 2048
"""Subjects that are left alone for a while; the one known longest makes room."""
MENDED_SECONDS: Final = 1.0
UNMENDED_SECONDS: Final = 60.0
UNMENDED_SECONDS_MAX: Final = 3600.0

Slot = tuple[StateErrorType, str]
"""A type of error and a subject in words."""


class Report(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A fault as it was reported.

    Attributes:
        error_type: of its classification, which has one here.
        subject: in words: ``run:r1``, ``bot:b1``, ``tier:l2``.
        of_tier: it is the whole tier that does not answer; the key is only what was asked of it.
        evidence: the first bytes of what did not verify, and `size` how many there were.
        version: of the row of L3 that they are in.
        began: monotonic seconds.
    """

    fault: BaseException
    source: Source
    classification: Classification
    error_type: StateErrorType
    subject: str
    of_tier: bool
    began: float
    key: Key | None = None
    run_id: str | None = None
    swarm_id: str | None = None
    evidence: bytes | None = None
    size: int = 0
    version: int | None = None

    @property
    def slot(self) -> Slot:
        """Of which one recovery is under way at most."""
        return self.error_type, self.subject


class FaultReports:
    """`FaultSink` of one server: keeps reports until the manager takes them.

    Args:
        monotonic: the server's clock.

    Attributes:
        on_evidence: called with each report that has evidence, whether or not it begins a recovery.
        on_waiting: called when a recovery waits. Neither may raise or await; who listens sets them.
    """

    def __init__(self, monotonic: Callable[[], float], counters: RecoveryCounters) -> None:
        self._monotonic = monotonic
        self._counters = counters
        self._waiting: deque[Report] = deque()
        self._under_way: set[Slot] = set()
        self._left_alone: OrderedDict[Slot, tuple[float, float]] = OrderedDict()  # until when, and for how long then
        self.on_evidence: Callable[[Report], None] = lambda _: None
        self.on_waiting: Callable[[], None] = lambda: None

    def report(
        self,
        fault: BaseException,
        source: Source,
        *,
        key: Key | None = None,
        run_id: str | None = None,
        swarm_id: str | None = None,
        evidence: bytes | None = None,
        version: int | None = None,
    ) -> None:
        """Take a report; see `FaultSink.report`."""
        of_tier = isinstance(fault, TierUnavailable)
        classification = classify(fault, source, scope=_scope(run_id, of_tier=of_tier))
        if classification.error_type is None:
            return
        report = Report(
            fault=fault,
            source=source,
            classification=classification,
            error_type=classification.error_type,
            subject=_subject(source, key, run_id, of_tier=of_tier),
            of_tier=of_tier,
            began=self._monotonic(),
            key=key,
            run_id=run_id,
            swarm_id=swarm_id or (key.id if key is not None and key.kind == SWARM.name and not of_tier else None),
            evidence=None if evidence is None else evidence[:EVIDENCE_BYTES_MAX],
            size=len(evidence or b""),
            version=version,
        )
        self._counters.reported += 1
        if report.evidence is not None and key is not None:
            self.on_evidence(report)
        self._enter(report)

    def take(self, wanted: Callable[[Report], bool] = lambda _: True) -> Report | None:
        """The oldest report of those wanted, whose recovery begins now; None: none waits."""
        for place, report in enumerate(self._waiting):
            if wanted(report):
                del self._waiting[place]
                return report
        return None

    def ended(self, report: Report, *, mended: bool) -> None:
        """Its recovery is over: the next fault begins another one, when a while has passed."""
        self._under_way.discard(report.slot)
        _, before = self._left_alone.pop(report.slot, (0.0, UNMENDED_SECONDS / 2))
        seconds = MENDED_SECONDS if mended else min(max(2 * before, UNMENDED_SECONDS), UNMENDED_SECONDS_MAX)
        self._left_alone[report.slot] = (self._monotonic() + seconds, seconds)
        if len(self._left_alone) > KNOWN_MAX:
            self._left_alone.popitem(last=False)

    def _enter(self, report: Report) -> None:
        until, _ = self._left_alone.get(report.slot, (0.0, 0.0))
        if report.slot in self._under_way or report.began < until:
            self._counters.repeated += 1
        elif len(self._waiting) >= WAITING_MAX:
            self._counters.dropped += 1
        else:
            self._under_way.add(report.slot)
            self._waiting.append(report)
            self.on_waiting()


def _subject(source: Source, key: Key | None, run_id: str | None, *, of_tier: bool) -> str:
    if run_id is not None:
        return f"run:{run_id}"
    return f"tier:{source.value}" if of_tier or key is None else str(key)


def _scope(run_id: str | None, *, of_tier: bool) -> Scope:
    if of_tier:
        return Scope.SYSTEM
    return Scope.OPERATION if run_id is None else Scope.RUN
