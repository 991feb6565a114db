"""What recovery records comes to L3: late if it must, once, with the time it was made, and bounded until then."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence

import asyncpg
import msgspec
import pytest

from fix_races import until
from fix_recovery import Person
from holdfast.errors import CorruptDocument, HoldfastError, OutcomeUnknown, RowRefused, TierError, TierUnavailable
from holdfast.metrics.counters import RecoveryCounters
from holdfast.protocols import Evidence, LineFilter, RecoveryLine
from holdfast.protocols.escalations import Asked, EscalationRequest
from holdfast.protocols.faults import EVIDENCE_BYTES_MAX
from holdfast.recovery.log import EVIDENCE_WAITING_MAX, LINES_WAITING_MAX, REQUESTS_WAITING_MAX, RecoveryRecorder
from holdfast.testing import MemoryQuarantine, MemoryRecoveryLog, MemoryStorage
from holdfast.testing.conformance.recovery_rows import FOUND, evidence, line
from holdfast.tiers.l3_errors import meaning


class LosesReplies(MemoryRecoveryLog):
    """The first replies are lost."""

    lost = 2

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        await super().append(lines, rows_max=rows_max)
        if self.lost:
            self.lost -= 1
            raise OutcomeUnknown("the reply was lost")


def met(what: bytes, name: str) -> Evidence:
    """Evidence that was met under a name."""
    return msgspec.structs.replace(evidence(what), met=name)


class Records:
    """A recorder over an L3 in memory."""

    def __init__(self, log: type[MemoryRecoveryLog] = MemoryRecoveryLog, person: Person | None = None) -> None:
        self.l3 = MemoryStorage()
        self.counters = RecoveryCounters()
        self.log, self.quarantine = log(self.l3), MemoryQuarantine(self.l3)
        self.pauses: list[float] = []
        self.person = person or Person()
        self.recorder = RecoveryRecorder(
            self.log,
            self.quarantine,
            self.person,
            lines_max=100_000,
            evidence_max=1000,
            counters=self.counters,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def until_written(self) -> None:
        async def written() -> bool:
            return not self.recorder.waiting

        await until(written)

    async def ids(self) -> list[str]:
        return [each.line.id for each in await self.log.list(after=0, limit=1000)]


async def test_lines_are_merged_when_l3_is_back() -> None:
    """With the time they were made, in their order; L3 is asked once a second meanwhile."""
    records = Records()
    records.l3.away = True
    records.recorder.start()
    try:
        records.recorder.line(line("a", at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)))
        records.recorder.evidence(FOUND)

        async def tried() -> bool:
            return records.pauses.count(1.0) >= 3

        await until(tried)
        assert records.recorder.fault is not None
        records.recorder.line(line("b"))
        assert records.recorder.waiting == 3
        records.l3.away = False
        await records.until_written()
        assert await records.ids() == ["a", "b"]
        assert (await records.log.newest(LineFilter(), limit=2))[0].line.at.year == 2026
        assert len(await records.quarantine.list(limit=10)) == 1
        await until(lambda: _is_well(records))
    finally:
        await records.recorder.stop()


async def _is_well(records: Records) -> bool:
    return records.recorder.fault is None


async def test_a_lost_reply_doubles_no_line() -> None:
    """What L3 may have is written again under the same id."""
    records = Records(LosesReplies)
    records.recorder.start()
    try:
        for name in "abc":
            records.recorder.line(line(name))
        await records.until_written()
        assert await records.ids() == ["a", "b", "c"]
        assert records.log.lost == 0  # type: ignore[attr-defined]
    finally:
        await records.recorder.stop()


async def test_what_waits_is_bounded() -> None:
    """The oldest lines, and the oldest evidence, make room, and are counted; the same evidence is kept once."""
    records = Records()
    for number in range(LINES_WAITING_MAX + 3):
        records.recorder.line(line(str(number)))
    for number in range(EVIDENCE_WAITING_MAX + 2):
        for _ in range(2):
            records.recorder.evidence(evidence(b"%d" % number))
    assert records.recorder.waiting == LINES_WAITING_MAX + EVIDENCE_WAITING_MAX
    assert (records.counters.lines_lost, records.counters.evidence_lost) == (3, 2)
    await records.recorder.write()
    assert (await records.ids())[0] == "3"
    held = await records.quarantine.list(limit=1000)
    assert [each.found.count for each in held] == [2] * EVIDENCE_WAITING_MAX
    assert EVIDENCE_WAITING_MAX * EVIDENCE_BYTES_MAX <= 4 * 1024 * 1024


class Refusing(MemoryRecoveryLog):
    """Refuses a line."""

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        if any(each.id == "bad" for each in lines):
            raise RowRefused("L3: DataError: value out of range")
        await super().append(lines, rows_max=rows_max)


async def test_what_l3_refuses_holds_up_nothing() -> None:
    """One line, or entry, is left out and counted; all others are there, in their order."""
    records = Records(Refusing)
    keep = records.quarantine.keep

    async def keeps_others(found: Sequence[Evidence], *, rows_max: int) -> None:
        if any(each.evidence == b"bad" for each in found):
            raise RowRefused("L3: a constraint")
        await keep(found, rows_max=rows_max)

    records.quarantine.keep = keeps_others  # type: ignore[method-assign]
    for name in ("a", "b", "bad", "c", "d"):
        records.recorder.line(line(name))
        records.recorder.evidence(evidence(name.encode()))
    await records.recorder.write()
    assert await records.ids() == ["a", "b", "c", "d"]
    assert len(await records.quarantine.list(limit=10)) == 4
    assert (records.counters.lines_lost, records.counters.evidence_lost) == (1, 1)
    assert records.recorder.waiting == 0


class Standby(MemoryRecoveryLog):
    """Refuses all, as a server of PostgreSQL does for a while, while there is a `fault`."""

    fault: Exception | None = None

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        if self.fault is not None:
            raise meaning(self.fault, "writing the recovery log", writes=True, rows=True)
        await super().append(lines, rows_max=rows_max)


OF_THE_SERVER = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InternalServerError,
    asyncpg.PostgresIOError,
)


@pytest.mark.parametrize("fault", OF_THE_SERVER)
async def test_what_says_nothing_of_a_line_loses_none(fault: type[asyncpg.PostgresError]) -> None:
    """A failover to a standby, say, or a right that is missing for a while."""
    records = Records(Standby)
    records.log.fault = fault("it is not to be written now")  # type: ignore[attr-defined]
    names = [str(number) for number in range(100)]
    for name in names:
        records.recorder.line(line(name))
    with pytest.raises(TierError):
        await records.recorder.write()
    records.log.fault = None  # type: ignore[attr-defined]
    await records.recorder.write()
    assert (await records.ids(), records.counters.lines_lost) == (names, 0)


async def test_evidence_is_counted_as_often_as_it_was_met() -> None:
    """Also if it is met again, and pushed out, while it is written, and if L3 takes it and its reply is lost."""
    records = Records()
    keep = records.quarantine.keep
    losing = [True]

    async def slowly(found: Sequence[Evidence], *, rows_max: int) -> None:
        await keep(found, rows_max=rows_max)
        if losing.pop() if losing else False:
            for number in range(EVIDENCE_WAITING_MAX):
                records.recorder.evidence(evidence(b"%d" % number))
            records.recorder.evidence(met(b"x", "m2"))
            raise OutcomeUnknown("the reply was lost")

    records.quarantine.keep = slowly  # type: ignore[method-assign]
    for _ in range(5):
        records.recorder.evidence(met(b"x", "m1"))
    with pytest.raises(OutcomeUnknown):
        await records.recorder.write()
    await records.recorder.write()
    counts = [each.found.count for each in await records.quarantine.list(limit=1000)]
    assert counts[0] == 6
    assert set(counts[1:]) == {1}


async def test_closing_writes_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """With L3 away it is said how much is lost, and nobody waits; closing twice is once."""
    records = Records()
    records.recorder.start()
    records.recorder.line(line("a"))
    await records.recorder.stop()
    assert await records.ids() == ["a"]
    records.recorder.line(msgspec.structs.replace(line("b")))
    records.recorder.evidence(FOUND)
    records.l3.away = True
    await records.recorder.stop()
    await records.recorder.stop()
    assert records.recorder.waiting == 2
    assert "1 lines of the recovery log, 1 entries of the quarantine, 0 escalations could not be written" in caplog.text


async def test_a_fault_of_this_package_does_not_end_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown, and what waits is written with the next attempt."""
    records, shown = Records(), list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context["message"]))
    append = records.log.append

    async def broken(lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        monkeypatch.setattr(records.log, "append", append)
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(records.log, "append", broken)
    records.recorder.start()
    try:
        records.recorder.line(line("a"))
        await records.until_written()
        assert await records.ids() == ["a"]
        assert shown == ["holdfast: recording what recovery did failed"]
    finally:
        await records.recorder.stop()


class Away(Person):
    """L3 does not take that somebody is asked, as long as there are `faults`.

    Attributes:
        tried: how often it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[HoldfastError] = []
        self.tried = 0

    async def escalate(self, request: EscalationRequest) -> Asked:
        self.tried += 1
        if self.faults:
            raise self.faults.pop()
        return await super().escalate(request)


def request(recovery_id: str, subject: str = "bot:b1") -> EscalationRequest:
    """About the same fault, where the subject is the same."""
    return EscalationRequest(
        recovery_id=recovery_id, error_type="state_corruption", severity="CRITICAL", subject=subject, failed="it is bad"
    )


async def test_a_person_is_asked_once_l3_takes_that() -> None:
    """For the recovery that asked first; lines do not wait for it."""
    person = Away()
    person.faults = [TierUnavailable("L3 is away"), OutcomeUnknown("the reply was lost")]
    records = Records(person=person)
    records.recorder.ask(request("r1"))
    records.recorder.ask(request("r2"))
    records.recorder.line(line("a"))
    with pytest.raises(OutcomeUnknown):
        await records.recorder.write()
    assert await records.ids() == ["a"]
    assert (records.recorder.waiting, person.asked) == (1, {})
    records.recorder.start()
    try:
        await records.until_written()
        assert (list(person.asked), person.tried) == (["r1"], 3)
    finally:
        await records.recorder.stop()


async def test_what_cannot_be_asked_holds_up_nobody_else() -> None:
    """It is not tried again, and counted as those are that make room for newer ones."""
    person = Away()
    records = Records(person=person)
    for number in range(REQUESTS_WAITING_MAX + 2):
        records.recorder.ask(request(f"r{number}", f"bot:b{number}"))
    assert (records.recorder.waiting, records.counters.requests_lost) == (REQUESTS_WAITING_MAX, 2)
    person.faults = [CorruptDocument("it is there, and cannot be read")]
    await records.recorder.write()
    assert list(person.asked) == [f"r{number}" for number in range(3, REQUESTS_WAITING_MAX + 2)]
    assert records.counters.requests_lost == 3
