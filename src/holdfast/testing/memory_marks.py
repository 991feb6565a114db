"""What L3 in memory has committed beside rows.

Journals, writes that were given up, ids of erased history, data keys, the audit log, what recovery records.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from holdfast.audit.chain import GENESIS, AuditEntry, AuditNote, Link, chained
from holdfast.keys import Key
from holdfast.protocols import DataKeyRow, DeadWrite, JournalRecord, Letter, LoggedLine, Quarantined
from holdfast.seq_set import SeqSet


class Marks(NamedTuple):
    """All of it; never changed, only replaced. The `seconds` kept in it are the moment of the change, not its age.

    Attributes:
        journals: by name, the oldest first.
        letters: the oldest first.
        drawn: the newest number of a letter.
        erased: documents of history that are no more, whose ids stay taken.
        data_keys: by id, the oldest first; `masters`: since when master keys are retired; None: they are not;
            `outdated_keys`: data keys that were there when one was retired.
        audit: the audit log, the oldest first; `audit_head`: what it says its newest is.
        recovery_log, quarantine: recovery's records, the oldest first, and the newest numbers drawn for them.
    """

    journals: Mapping[str, JournalRecord] = MappingProxyType({})
    letters: tuple[DeadWrite, ...] = ()
    drawn: int = 0
    erased: frozenset[Key] = frozenset()
    data_keys: Mapping[str, DataKeyRow] = MappingProxyType({})
    masters: Mapping[str, dt.datetime | None] = MappingProxyType({})
    outdated_keys: frozenset[str] = frozenset()
    audit: tuple[AuditEntry, ...] = ()
    audit_head: Link = GENESIS
    recovery_log: tuple[LoggedLine, ...] = ()
    recovery_drawn: int = 0
    quarantine: tuple[Quarantined, ...] = ()
    quarantine_drawn: int = 0

    def entered(self, record: JournalRecord) -> Marks:
        """With a journal's record in place of the one that was, or as the newest."""
        return self._replace(journals={**self.journals, record.journal: record})

    def decided(
        self,
        journal: str,
        decided: SeqSet,
        refused: SeqSet,
        *,
        letters: Sequence[Letter],
        letters_max: int,
        at: float,
    ) -> Marks:
        """With more decided of a journal; of so many letters the newest are kept."""
        held, first = self.journals[journal], self.drawn + 1
        more = [DeadWrite(first + place, journal, letter, at) for place, letter in enumerate(letters)]
        record = msgspec.structs.replace(held, decided=held.decided | decided, refused=held.refused | refused)
        drawn = self.drawn + len(more)
        return self.entered(record)._replace(letters=(*self.letters, *more)[-letters_max:], drawn=drawn)

    def forgotten(self, journal: str) -> Marks:
        """Without a journal."""
        return self._replace(journals={name: each for name, each in self.journals.items() if name != journal})

    def discarded(self, identifier: int) -> Marks:
        """Without a letter."""
        return self._replace(letters=tuple(each for each in self.letters if each.id != identifier))

    def audited(self, note: AuditNote) -> Marks:
        """With an entry more in the audit log."""
        at = dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=self.audit_head.number + 1)
        entry = chained(self.audit_head, note, at)
        return self._replace(audit=(*self.audit, entry), audit_head=Link(entry.number, entry.hash))
