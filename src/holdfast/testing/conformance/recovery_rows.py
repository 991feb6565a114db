"""The contracts of recovery's records: lines and evidence are added once, bounded, and told in order."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from holdfast.audit.chain import AuditAction, AuditNote
from holdfast.protocols import AuditRows, Evidence, LineFilter, QuarantineRows, RecoveryLine, RecoveryLogRows
from holdfast.protocols.faults import EVIDENCE_BYTES_MAX
from holdfast.protocols.recovery import APPENDED_MAX, KEPT_MAX, LINES_LISTED_MAX

AT: Final = dt.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC)
LINE: Final = RecoveryLine(
    id="l1",
    recovery_id="r1",
    at=AT,
    server="ada@here:1",
    error_type="cache_failure",
    severity="ERROR",
    subject='bot:b1 "\\ ä',
    step="retry_operation",
    outcome="mended",
    detail="at\nonce",
    millis=12,
)
FOUND: Final = Evidence(
    tier="l2", kind="bot", id="b1", version=2**62, fault="no\nchecksum", evidence=b"\0\xff'", size=3, server="s", at=AT
)
NOTE: Final = AuditNote(action=AuditAction.DISCARDED, subject="quarantine:1", actor="ada", reason="looked at")
MANY: Final = 1000


class RecoveryRecords(Protocol):
    """Makes what a check needs, over one L3 without records."""

    def log(self) -> RecoveryLogRows:
        """The recovery log as one more server sees it."""
        ...

    def quarantine(self) -> QuarantineRows:
        """The quarantine as one more server sees it."""
        ...

    def audit(self) -> AuditRows:
        """The audit log."""
        ...


class RecoveryRowsSuite:
    """The checks."""

    def __init__(self, records: RecoveryRecords) -> None:
        self.log, self.other_log = records.log(), records.log()
        self.quarantine, self.other_quarantine = records.quarantine(), records.quarantine()
        self.audit = records.audit()

    async def check_lines_come_as_they_were_given(self) -> None:
        """Any text, and the moment it was done at, which may lie before that of lines that came earlier."""
        late = line("l2", at=AT - dt.timedelta(hours=1))
        await self.log.append([LINE], rows_max=MANY)
        await self.log.append([late], rows_max=MANY)
        assert [each.line for each in await self.other_log.list(limit=10)] == [LINE, late]

    async def check_a_line_is_added_once(self) -> None:
        """Who does not know whether it was added adds it again."""
        await self.log.append([LINE, line("l2")], rows_max=MANY)
        await self.other_log.append([LINE, line("l3")], rows_max=MANY)
        assert await self.ids() == ["l1", "l2", "l3"]

    async def check_what_is_kept_again_under_one_name_is_counted_once(self) -> None:
        """Who does not know whether it was kept keeps it again, also when others have met the same meanwhile."""
        mine, others = (msgspec.structs.replace(FOUND, met=name, count=3) for name in ("m1", "m2"))
        for found in (mine, others, mine, others, FOUND, FOUND):
            await self.quarantine.keep([found], rows_max=MANY)
        (kept,) = await self.other_quarantine.list(limit=10)
        assert (kept.found.count, kept.found.met) == (8, "")
        assert await self.quarantine.find(kept.number) == kept._replace(
            found=msgspec.structs.replace(kept.found, evidence=FOUND.evidence)
        )

    async def check_the_newest_lines_are_kept(self) -> None:
        """However many are added at once."""
        await self.log.append([line(f"a{number}") for number in range(5)], rows_max=3)
        assert await self.ids() == ["a2", "a3", "a4"]
        await self.log.append([line("b")], rows_max=3)
        assert await self.ids() == ["a3", "a4", "b"]

    async def check_pages_of_lines_follow_each_other(self) -> None:
        """Behind a number in order, or from the newest down."""
        await self.log.append([line(f"a{number}") for number in range(5)], rows_max=MANY)
        first = await self.log.list(limit=3)
        assert [each.line.id for each in first] == ["a0", "a1", "a2"]
        newest = await self.log.newest(LineFilter(), limit=2)
        assert [each.line.id for each in newest] == ["a4", "a3"]
        assert list(await self.log.list(after=first[-1].number, limit=3)) == [*reversed(newest)]
        assert list(await self.log.list(after=newest[0].number, limit=3)) == []
        rest = await self.log.newest(LineFilter(), before=newest[-1].number, limit=10)
        assert list(rest) == [*reversed(first)]
        assert list(await self.log.newest(LineFilter(), before=first[0].number, limit=10)) == []

    async def check_lines_are_found(self) -> None:
        """Those of a recovery, of a subject, since a moment, and those for which all of it holds."""
        late = AT + dt.timedelta(seconds=1)
        told = [("a", "r1", "bot:b1", AT), ("b", "r1", "bot:b1", late), ("c", "r1", "bot:b2", late)]
        told += [("d", "r2", "bot:b1", late), ("e", "r1", "bot:b1", AT), ("f", "r1", "bot:b1", late)]
        for identifier, recovery_id, subject, at in told:
            each = msgspec.structs.replace(line(identifier, at=at), recovery_id=recovery_id, subject=subject)
            await self.log.append([each], rows_max=MANY)
        for which, found in (
            (LineFilter(recovery_id="r1"), "fecba"),
            (LineFilter(subject="bot:b1"), "fedba"),
            (LineFilter(since=late), "fdcb"),
            (LineFilter(recovery_id="r1", subject="bot:b1", since=late), "fb"),
            (LineFilter(recovery_id="bot:b1"), ""),
        ):
            assert "".join([each.line.id for each in await self.log.newest(which, limit=10)]) == found
        last, first = await self.log.newest(LineFilter(recovery_id="r1", subject="bot:b1", since=late), limit=2)
        which = LineFilter(recovery_id="r1", subject="bot:b1")
        between = await self.log.newest(which, before=last.number, limit=1)
        assert [each.line.id for each in between] == ["e"]
        assert [each.line.id for each in await self.log.newest(which, before=first.number, limit=1)] == ["a"]

    async def check_evidence_comes_as_it_was_given(self) -> None:
        """With its bytes if it is asked for alone."""
        whole = evidence(b"x" * EVIDENCE_BYTES_MAX, version=None)
        await self.quarantine.keep([FOUND, whole], rows_max=MANY)
        one, two = await self.other_quarantine.list(limit=10)
        assert sorted([one.found, two.found], key=lambda each: each.size) == [bytesless(FOUND), bytesless(whole)]
        found = [await self.other_quarantine.find(each.number) for each in (one, two)]
        assert {each.found.evidence for each in found if each is not None} == {FOUND.evidence, whole.evidence}
        assert await self.quarantine.find(two.number + 1) is None

    async def check_the_same_bytes_are_kept_once(self) -> None:
        """With the sum of their counts, and the last time; those of another document, tier or content apart."""
        later = msgspec.structs.replace(FOUND, at=AT + dt.timedelta(seconds=5), count=3)
        await asyncio.gather(*(rows.keep([FOUND], rows_max=MANY) for rows in self.both for _ in range(4)))
        await self.quarantine.keep([later], rows_max=MANY)
        await self.quarantine.keep([FOUND], rows_max=MANY)
        held = await self.quarantine.list(limit=10)
        assert [(each.found.count, each.found.at) for each in held] == [(12, later.at)]
        others = [
            evidence(b"other"),
            *(msgspec.structs.replace(FOUND, **{name: "o"}) for name in ("tier", "kind", "id")),
        ]
        await self.quarantine.keep(others, rows_max=MANY)
        assert [each.found.count for each in await self.quarantine.list(limit=10)] == [12, 1, 1, 1, 1]

    async def check_evidence_is_bounded(self) -> None:
        """What was added last is kept."""
        for number in range(5):
            await self.quarantine.keep([evidence(b"%d" % number)], rows_max=3)
        numbers = [each.number for each in await self.quarantine.list(limit=10)]
        held = [await self.quarantine.find(each) for each in numbers]
        assert [each.found.evidence for each in held if each is not None] == [b"2", b"3", b"4"]
        assert [each.number for each in await self.quarantine.list(after=numbers[0], limit=1)] == numbers[1:2]

    async def check_an_entry_is_discarded_with_a_record(self) -> None:
        """Once."""
        await self.quarantine.keep([FOUND, evidence(b"other")], rows_max=MANY)
        one, two = list(await self.quarantine.list(limit=10))
        assert [await rows.discard(one.number, NOTE) for rows in self.both] == [True, False]
        assert [each.number for each in await self.quarantine.list(limit=10)] == [two.number]
        assert [each.note for each in await self.audit.list(after=0, limit=10)] == [NOTE]

    async def check_limits_are_kept(self) -> None:
        """Too many at once are refused, and nothing is added."""
        lines, found = [line(f"a{number}") for number in range(APPENDED_MAX + 1)], [FOUND] * (KEPT_MAX + 1)
        for call in (
            lambda: self.log.append(lines, rows_max=MANY),
            lambda: self.log.list(limit=LINES_LISTED_MAX + 1),
            lambda: self.log.newest(LineFilter(), limit=LINES_LISTED_MAX + 1),
            lambda: self.quarantine.keep(found, rows_max=MANY),
            lambda: self.quarantine.list(limit=0),
        ):
            await self.refused(call)
        assert (await self.ids(), list(await self.quarantine.list(limit=10))) == ([], [])

    @property
    def both(self) -> Sequence[QuarantineRows]:
        """The quarantine of two servers."""
        return self.quarantine, self.other_quarantine

    async def ids(self) -> list[str]:
        """Of all lines."""
        return [each.line.id for each in await self.log.list(after=0, limit=LINES_LISTED_MAX)]

    async def refused(self, call: Callable[[], Awaitable[Any]]) -> None:
        """A call is refused."""
        try:
            await call()
        except ValueError:
            return
        raise AssertionError("a limit was passed")


def line(identifier: str, *, at: dt.datetime = AT) -> RecoveryLine:
    """A line."""
    return msgspec.structs.replace(LINE, id=identifier, at=at)


def evidence(data: bytes, *, version: int | None = 5) -> Evidence:
    """Evidence of these bytes."""
    return msgspec.structs.replace(FOUND, evidence=data, size=len(data), version=version)


def bytesless(found: Evidence) -> Evidence:
    """As it is listed."""
    return msgspec.structs.replace(found, evidence=b"")
