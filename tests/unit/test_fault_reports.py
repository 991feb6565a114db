"""Reports of faults: what begins a recovery, what does not, and what is bounded."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.errors import Conflict, ContextCorrupt, CorruptDocument, SchemaTooNew, TierUnavailable
from holdfast.keys import Key
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols.faults import EVIDENCE_BYTES_MAX, Source
from holdfast.recovery.reports import KNOWN_MAX, UNMENDED_SECONDS_MAX, WAITING_MAX, FaultReports, Report
from holdfast.recovery.strategies import StateErrorType

B1, S1 = Key("bot", "b1"), Key("swarm", "s1")
BAD, AWAY = CorruptDocument("bad"), TierUnavailable("away")


class Desk:
    """Reports under a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.counters = RecoveryCounters()
        self.reports = FaultReports(lambda: self.now, self.counters)
        self.evidence: list[Report] = []
        self.reports.on_evidence = self.evidence.append

    def taken(self) -> list[Report]:
        """All that wait."""
        found = []
        while (report := self.reports.take()) is not None:
            found.append(report)
        return found


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(
    ("fault", "source", "about", "expected"),
    [
        (BAD, Source.L2, {"key": B1}, ("bot:b1", StateErrorType.CACHE_FAILURE, None)),
        (BAD, Source.L3, {"key": S1}, ("swarm:s1", StateErrorType.STATE_CORRUPTION, "s1")),
        (AWAY, Source.L2, {"key": S1}, ("tier:l2", StateErrorType.CACHE_FAILURE, None)),
        (AWAY, Source.L3, {}, ("tier:l3", StateErrorType.COMMUNICATION_FAILURE, None)),
        (AWAY, Source.FEED, {}, ("tier:feed", StateErrorType.COMMUNICATION_FAILURE, None)),
        (
            ContextCorrupt("r1", ()),
            Source.L3,
            {"run_id": "r1", "swarm_id": "s2"},
            ("run:r1", StateErrorType.CONTEXT_CORRUPTION, "s2"),
        ),
    ],
)
def test_what_a_report_is_about(fault: Exception, source: Source, about: dict[str, Any], expected: Any) -> None:
    """A run, a document or a whole tier, and of which swarm."""
    desk = Desk()
    desk.reports.report(fault, source, **about)
    (report,) = desk.taken()
    assert (report.subject, report.error_type, report.swarm_id) == expected


def test_what_is_no_fault_of_state_is_no_report(desk: Desk) -> None:
    """A conflict, a mistake, a document of a newer server (E1)."""
    newer = SchemaTooNew("bot:b1", found=9, known=1)
    for fault in (Conflict(B1, expected=1, actual=2), ValueError("mine"), newer):
        desk.reports.report(fault, Source.L3, key=B1, evidence=b"x")
    assert (desk.taken(), desk.evidence, desk.counters.reported) == ([], [], 0)


def test_one_recovery_of_a_type_and_subject(desk: Desk) -> None:
    """While it waits, is under way, or ended just before; another type or subject is another one."""
    for _ in range(3):
        desk.reports.report(BAD, Source.L3, key=B1)
    (report,) = desk.taken()
    desk.reports.report(BAD, Source.L3, key=B1)
    assert desk.taken() == []
    desk.reports.report(BAD, Source.L2, key=B1)
    desk.reports.report(BAD, Source.L3, key=S1)
    assert len(desk.taken()) == 2
    desk.reports.ended(report, mended=True)
    desk.now += 0.5
    desk.reports.report(BAD, Source.L3, key=B1)
    assert desk.taken() == []
    desk.now += 1.0
    desk.reports.report(BAD, Source.L3, key=B1)
    assert len(desk.taken()) == 1
    assert (desk.counters.reported, desk.counters.repeated) == (8, 4)


def test_what_was_not_mended_is_left_alone_for_longer_each_time(desk: Desk) -> None:
    """Up to an hour; mended once, it begins anew."""
    paused = []
    for mended in (False, False, False, *[False] * 5, True, False):
        desk.reports.report(BAD, Source.L3, key=B1)
        (report,) = desk.taken()
        desk.reports.ended(report, mended=mended)
        began = desk.now
        while not desk.taken():
            desk.now += 1.0
            desk.reports.report(BAD, Source.L3, key=B1)
        desk.reports._under_way.clear()
        paused.append(desk.now - began)
    assert paused == [60, 120, 240, 480, 960, 1920, UNMENDED_SECONDS_MAX, UNMENDED_SECONDS_MAX, 1, 60]


def test_what_waits_is_bounded(desk: Desk) -> None:
    """A fault beyond is counted, and may begin a recovery later; evidence is kept all the same."""
    keys = [Key("bot", str(number)) for number in range(WAITING_MAX + 5)]
    for key in keys:
        desk.reports.report(BAD, Source.L3, key=key, evidence=b"x")
    assert desk.counters.dropped == 5
    assert len(desk.evidence) == WAITING_MAX + 5
    assert len(desk.taken()) == WAITING_MAX
    desk.reports.report(BAD, Source.L3, key=keys[-1])
    assert [report.key for report in desk.taken()] == [keys[-1]]


def test_what_is_known_is_bounded(desk: Desk) -> None:
    """Of very many subjects the one known longest is forgotten."""
    for number in range(KNOWN_MAX + 10):
        desk.reports.report(BAD, Source.L3, key=Key("bot", str(number)))
        (report,) = desk.taken()
        desk.reports.ended(report, mended=False)
    assert len(desk.reports._left_alone) == KNOWN_MAX
    assert not desk.reports._under_way


def test_evidence_is_cut(desk: Desk) -> None:
    """Its beginning is kept, and how much there was; whether or not the fault begins a recovery."""
    for _ in range(2):
        desk.reports.report(BAD, Source.L2, key=B1, evidence=b"x" * (EVIDENCE_BYTES_MAX + 7))
    for report in desk.evidence:
        assert (len(report.evidence or b""), report.size) == (EVIDENCE_BYTES_MAX, EVIDENCE_BYTES_MAX + 7)
    assert len(desk.evidence) == 2


def test_those_wanted_come_first(desk: Desk) -> None:
    """In the order of their reports; the others stay."""
    for number in range(4):
        desk.reports.report(BAD, Source.L3, key=Key("bot", str(number)))
    wanted = desk.reports.take(lambda report: report.subject in {"bot:2", "bot:3"})
    assert wanted is not None
    assert [wanted.subject, *(report.subject for report in desk.taken())] == ["bot:2", "bot:0", "bot:1", "bot:3"]
