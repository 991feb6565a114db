"""Recovery's records of L3 in memory: committed, lost, copied and restored with the rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast.audit.chain import AuditNote
from holdfast.protocols import Evidence, Isolation, LineFilter, LoggedLine, Quarantined, RecoveryLine
from holdfast.protocols.recovery import APPENDED_MAX, KEPT_MAX, LINES_LISTED_MAX, MET_MAX
from holdfast.protocols.runs import check_limit
from holdfast.testing.memory_marks import Marks
from holdfast.testing.memory_storage import MemoryStorage


class MemoryRecoveryLog:
    """`RecoveryLogRows` in memory."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    async def append(self, lines: Sequence[RecoveryLine], *, rows_max: int) -> None:
        """Add lines; see `RecoveryLogRows.append`."""
        check_limit(len(lines), APPENDED_MAX)
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED) as transaction:
            transaction.note(lambda marks: _logged(marks, lines, rows_max))

    async def list(self, *, after: int = 0, limit: int) -> Sequence[LoggedLine]:
        """Lines in order; see `RecoveryLogRows.list`."""
        check_limit(limit, LINES_LISTED_MAX)
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            held = self._storage.log.marks.recovery_log
        return [each for each in held if each.number > after][:limit]

    async def newest(self, which: LineFilter, *, before: int | None = None, limit: int) -> Sequence[LoggedLine]:
        """The newest lines; see `RecoveryLogRows.newest`."""
        check_limit(limit, LINES_LISTED_MAX)
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            held = self._storage.log.marks.recovery_log
        wanted = (each for each in reversed(held) if which.takes(each.line))
        return [each for each in wanted if before is None or each.number < before][:limit]


class MemoryQuarantine:
    """`QuarantineRows` in memory."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage

    async def keep(self, found: Sequence[Evidence], *, rows_max: int) -> None:
        """Keep evidence; see `QuarantineRows.keep`."""
        check_limit(len(found), KEPT_MAX)
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED) as transaction:
            for each in found:
                transaction.note(lambda marks, each=each: _kept(marks, each, rows_max))  # type: ignore[misc]

    async def list(self, *, after: int = 0, limit: int) -> Sequence[Quarantined]:
        """Entries in order; see `QuarantineRows.list`."""
        check_limit(limit, LINES_LISTED_MAX)
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            held = [each for each in self._storage.log.marks.quarantine if each.number > after][:limit]
        return [each._replace(found=msgspec.structs.replace(each.found, evidence=b"", met="")) for each in held]

    async def find(self, number: int) -> Quarantined | None:
        """One entry; see `QuarantineRows.find`."""
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED):
            held = next((each for each in self._storage.log.marks.quarantine if each.number == number), None)
        return None if held is None else held._replace(found=msgspec.structs.replace(held.found, met=""))

    async def discard(self, number: int, note: AuditNote) -> bool:
        """Remove an entry; see `QuarantineRows.discard`."""
        async with await self._storage.open_transaction(Isolation.READ_COMMITTED) as transaction:
            held = self._storage.log.marks.quarantine
            left = tuple(each for each in held if each.number != number)
            if left == held:
                return False
            transaction.note(lambda marks: marks._replace(quarantine=left))
            await transaction.audit(note)
        return True


def _logged(marks: Marks, lines: Sequence[RecoveryLine], rows_max: int) -> Marks:
    known = {each.line.id for each in marks.recovery_log}
    new = {line.id: line for line in lines if line.id not in known}
    drawn = marks.recovery_drawn + len(new)
    added = (LoggedLine(marks.recovery_drawn + place, line) for place, line in enumerate(new.values(), 1))
    return marks._replace(recovery_log=(*marks.recovery_log, *added)[-rows_max:], recovery_drawn=drawn)


def _kept(marks: Marks, found: Evidence, rows_max: int) -> Marks:
    held = list(marks.quarantine)
    for place, each in enumerate(held):
        if _same(each.found, found):
            before = each.found.met.split()
            if found.met in before:
                return marks
            count, at = each.found.count + found.count, max(each.found.at, found.at)
            met = " ".join([found.met, *before][:MET_MAX])
            held[place] = each._replace(found=msgspec.structs.replace(each.found, count=count, at=at, met=met))
            return marks._replace(quarantine=tuple(held))
    drawn = marks.quarantine_drawn + 1
    held.append(Quarantined(drawn, found))
    return marks._replace(quarantine=tuple(held[-rows_max:]), quarantine_drawn=drawn)


def _same(one: Evidence, other: Evidence) -> bool:
    return (one.tier, one.kind, one.id, one.evidence) == (other.tier, other.kind, other.id, other.evidence)
