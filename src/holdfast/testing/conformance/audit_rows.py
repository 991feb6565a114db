"""The contract of the audit log: entries are numbered, chained and kept, by whoever and however they are appended."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from holdfast.audit.chain import GENESIS, AuditNote, chained
from holdfast.audit.log import AuditLog
from holdfast.keys import Key
from holdfast.protocols import AuditRows, Isolation, Storage, Target, Write
from holdfast.protocols.audit import AUDIT_LISTED_MAX

NOTE: Final = AuditNote(
    action="resolved", subject="review:a/b/c", actor='äda "\\', reason="because\nof this", detail='{"choice":"child"}'
)


class AuditLogs(Protocol):
    """Makes what a check needs, over one L3 without entries."""

    @property
    def storage(self) -> Storage:
        """Its rows."""
        ...

    def rows(self) -> AuditRows:
        """The log as one more server sees it."""
        ...


class AuditRowsSuite:
    """The checks."""

    def __init__(self, logs: AuditLogs) -> None:
        self.storage = logs.storage
        self.rows, self.other = logs.rows(), logs.rows()
        self.log = AuditLog(self.rows, server="the suite")

    async def check_an_empty_log_holds(self) -> None:
        """It has a head, from which the first entry follows."""
        assert await self.rows.head() == GENESIS
        assert await self.rows.list(after=0, limit=10) == self.empty(await self.rows.list(after=5, limit=10))
        report = await self.log.verify()
        assert (report.entries, report.head, report.broken) == (0, GENESIS, None)

    async def check_entries_come_as_they_were_given(self) -> None:
        """Any text, chained as `chain.py` does it, and the head is the newest."""
        await self.rows.append(NOTE)
        await self.other.append(AuditNote(action="a later word", subject="s", actor="b", reason="r"))
        one, two = await self.other.list(after=0, limit=10)
        assert (one.number, one.note) == (1, NOTE)
        assert one == chained(GENESIS, NOTE, one.at)
        assert (two.number, two.previous, two.note.action, two.note.detail) == (2, one.hash, "a later word", "{}")
        assert two.at >= one.at
        assert await self.rows.head() == (2, two.hash)

    async def check_pages_follow_each_other(self) -> None:
        """Behind a number; no more than are allowed."""
        for _ in range(5):
            await self.rows.append(NOTE)
        assert [each.number for each in await self.rows.list(after=0, limit=2)] == [1, 2]
        assert [each.number for each in await self.rows.list(after=2, limit=9)] == [3, 4, 5]
        for limit in (0, AUDIT_LISTED_MAX + 1):
            try:
                await self.rows.list(after=0, limit=limit)
            except ValueError:
                continue
            raise AssertionError(f"a limit of {limit} was taken")

    async def check_many_at_once_leave_no_gap(self) -> None:
        """Whoever appends: the chain holds."""
        await asyncio.gather(*(rows.append(NOTE) for rows in (self.rows, self.other) for _ in range(20)))
        report = await self.log.verify()
        assert (report.entries, report.broken) == (40, None)

    async def check_an_entry_goes_with_its_transaction(self) -> None:
        """It is there if that is in effect; one that is not leaves no gap."""
        for effective in (True, False, True):
            transaction = await self.storage.open_transaction(Isolation.READ_COMMITTED)
            await transaction.save([Write(Key("bot", "b1"), 1, b'{"name": "Ada"}')])
            await transaction.audit(NOTE)
            assert await (transaction.commit() if effective else transaction.rollback()) is None
        report = await self.log.verify()
        assert (report.entries, report.broken) == (2, None)

    async def check_an_invalidation_is_recorded_if_it_is_to_be(self) -> None:
        """In the same transaction: of one that is refused there is no entry."""
        target = Target(tag="bot:b1")
        done = await self.storage.invalidate(target, reason="why", actor="ada", note=NOTE)
        await self.storage.invalidate(target, reason="a rule", actor="a rule")
        try:
            await self.storage.invalidate(Target("nothing"), reason="why", actor="ada", note=NOTE)
        except Exception:  # noqa: BLE001 - which one is told elsewhere
            entries = await self.rows.list(after=0, limit=10)
        else:
            raise AssertionError("a kind that is not there was made void")
        assert [each.note for each in entries] == [NOTE]
        assert (done.actor, done.reason) == ("ada", "why")
        assert (await self.log.verify()).broken is None

    def empty(self, found: Any) -> Any:
        """No entries, as a tier gives them."""
        assert len(found) == 0
        return found
