"""One transaction of L3 that decides entries of a journal: applies them to their rows, or refuses them, and says so.

The marks are written in the same transaction, so whoever does it again does nothing (rule W4). The journal's row is
locked first: after a commit of unknown outcome the next transaction waits for its end and knows it, and a server that
was replaced is refused (rule W9).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final

from holdfast.documents import Limits
from holdfast.errors import AppendOnly, Conflict, CorruptDocument, Overloaded, Refused, RowRefused, SchemaTooNew
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.one_ahead import OneAhead
from holdfast.protocols import ANY_VERSION, FlushTransaction, JournalBase, Letter, Row, Write
from holdfast.row_decoding import Stored
from holdfast.seq_set import SeqSet
from holdfast.write_behind.deciding import Decision, RefusalReason, decide
from holdfast.write_behind.entries import Entry, encode_entry
from holdfast.write_behind.own_rows import OwnRows

ROUNDS_MAX: Final = 16
"""Times that rows which were absent may turn up while they are being inserted."""
ENTRIES_AT_A_TIME: Final = 16
"""Decided without giving others a turn of the event loop, but for those of one key: about a millisecond."""
KEYS_AT_A_TIME: Final = 128
"""In one statement: while L3 writes them, the next ones are decided."""


class Settled:
    """What became of one key's entries.

    Attributes:
        version: of the row now, after these entries; 0: there is none.
        birth: of the row.
        document: what the row holds; None: it was not read as one.
        changed: the transaction wrote the row; `deleted`: it deleted the one that was there.
        covered: entries that were decided before, `withheld` those of them that were refused.
        refused: by number, why.
        tags: of the document.
        before: all of the journal that was decided before.
        history: rows that were inserted with it, and their versions.
    """

    __slots__ = (
        "before",
        "birth",
        "changed",
        "covered",
        "deleted",
        "document",
        "history",
        "refused",
        "tags",
        "version",
        "withheld",
    )

    def __init__(self) -> None:
        self.version = 0
        self.birth = 0
        self.document: Any = None
        self.changed = False
        self.deleted = False
        self.covered: frozenset[int] = frozenset()
        self.withheld: frozenset[int] = frozenset()
        self.before = SeqSet()
        self.history: dict[Key, int] = {}
        self.refused: dict[int, Refused] = {}
        self.tags: tuple[str, ...] = ()


def written(settled: Mapping[Key, Settled]) -> dict[Key, int]:
    """The versions of the rows that a transaction wrote, or found written by one that decided the same before."""
    rows = {key: each.version for key, each in settled.items() if each.changed or each.covered}
    return rows | {key: version for each in settled.values() for key, version in each.history.items()}


def refused_by(settled: Mapping[Key, Settled]) -> dict[Key, int]:
    """The versions of rows of others that writes were refused by; `ANY_VERSION`: the row is gone."""
    return {key: each.version or ANY_VERSION for key, each in settled.items() if each.refused and not each.changed}


Batch = Mapping[Key, Sequence[Entry]]


class Flushing:
    """Decides batches of entries; one per server.

    Args:
        limits: of documents.
        stored: the document in a row.
    """

    def __init__(self, base: JournalBase, kinds: Mapping[str, Kind[Any]], limits: Limits, stored: Stored) -> None:
        self._base = base
        self._kinds = kinds
        self._limits = limits
        self._stored = stored
        self._own_rows = OwnRows()

    async def flush(
        self,
        journal: str,
        epoch: int,
        batch: Batch,
        *,
        before_commit: Callable[[Mapping[Key, Settled]], None] = lambda _: None,
    ) -> dict[Key, Settled]:
        """Decide all entries of a batch, or none.

        Args:
            batch: of each key its entries, in order.
            before_commit: told what will be so once it is committed.

        Raises:
            NotOwner: another server has the journal.
            RowRefused: L3 refuses a row of the batch; nothing is decided.
            OutcomeUnknown: the commit may be in effect; the next call knows.
            TierError: nothing is decided.
        """
        async with self._deciding(journal, epoch) as transaction:
            settled, letters = await self._decided(transaction, batch)
            before_commit(settled)
            decided = SeqSet.of(entry.seq for entries in batch.values() for entry in entries)
            refused = SeqSet.of(seq for each in settled.values() for seq in each.refused)
            await transaction.decide(decided, refused, letters)
        return settled

    async def refuse(self, journal: str, epoch: int, entries: Sequence[Entry], reason: str) -> dict[int, Refused]:
        """Give entries up, and keep them as letters; raises like `flush`.

        Returns why, of those that were not applied by another server meanwhile.
        """
        applied = await self.bury(journal, epoch, [self._letter(entry, reason) for entry in entries])
        return _poisoned([entry for entry in entries if entry.seq not in applied], reason)

    async def bury(self, journal: str, epoch: int, letters: Sequence[Letter]) -> frozenset[int]:
        """Give up the entries of letters, which may be such as cannot be read; raises like `flush`.

        Returns the numbers of those that were applied before.
        """
        async with self._deciding(journal, epoch) as transaction:
            new = [letter for letter in letters if letter.seq not in transaction.decided]
            seqs = SeqSet.of(letter.seq for letter in new)
            await transaction.decide(seqs, seqs, new)
            old = {letter.seq for letter in letters} - {letter.seq for letter in new}
            return frozenset(seq for seq in old if seq not in transaction.refused)

    @asynccontextmanager
    async def _deciding(self, journal: str, epoch: int) -> AsyncIterator[FlushTransaction]:
        """A transaction that is committed at the end, and rolled back whatever becomes of the caller."""
        transaction = await self._base.open_flush(journal, epoch)
        try:
            yield transaction
            await transaction.commit()
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(transaction.rollback()))
            raise

    def _letter(self, entry: Entry, reason: str) -> Letter:
        return Letter(entry.key, entry.seq, encode_entry(entry, self._kinds), reason)

    async def _decided(self, transaction: FlushTransaction, batch: Batch) -> tuple[dict[Key, Settled], list[Letter]]:
        settled: dict[Key, Settled] = {}
        letters: dict[Key, list[Letter]] = {}
        open_ = dict(sorted(batch.items()))  # absent rows are inserted, and so locked, in the order of all writers
        for _ in range(ROUNDS_MAX):
            rows = await transaction.load(list(open_))
            again: dict[Key, Sequence[Entry]] = {}
            async with OneAhead[dict[Key, Sequence[Entry]]]() as ahead:
                for keys in _parts(open_, KEYS_AT_A_TIME):
                    part, writes = await self._settle_all(transaction, rows, {key: open_[key] for key in keys}, letters)
                    settled |= part
                    again |= await ahead.begin(self._write(transaction, rows, writes, part, batch)) or {}
                again |= await ahead.end() or {}
            open_ = again
            if not open_:
                return settled, [letter for each in letters.values() for letter in each]
        raise Overloaded("L3: rows that were absent keep turning up while they are being inserted")

    async def _settle_all(
        self, transaction: FlushTransaction, rows: Mapping[Key, Row], batch: Batch, letters: dict[Key, list[Letter]]
    ) -> tuple[dict[Key, Settled], list[Write]]:
        """Decide what becomes of some keys; what is to be written of them."""
        settled: dict[Key, Settled] = {}
        writes: list[Write] = []
        turn = 0
        for key, entries in batch.items():
            turn += len(entries)
            if turn > ENTRIES_AT_A_TIME:
                await asyncio.sleep(0)
                turn = len(entries)
            each, letters[key], made = self._settle(key, rows.get(key), entries, transaction.decided)
            each.withheld = frozenset(seq for seq in each.covered if seq in transaction.refused)
            settled[key] = each
            writes += made
        return settled, writes

    def _settle(
        self, key: Key, row: Row | None, entries: Sequence[Entry], decided: SeqSet
    ) -> tuple[Settled, list[Letter], list[Write]]:
        settled = Settled()
        settled.before = decided
        new = [entry for entry in entries if entry.seq not in decided]
        settled.covered = frozenset(entry.seq for entry in entries if entry.seq in decided)
        if row is not None:
            settled.version, settled.birth = row.version, row.birth
        if not new:
            return settled, [], []
        kind = self._kinds[key.kind]
        try:
            before = None if row is None else self._document(key, row)
        except (CorruptDocument, SchemaTooNew) as fault:
            # Kept in L3, not here: until somebody mends the row they would take the room of writes of other rows.
            detail = f"its row cannot be read now; once it can be, replay this write: {fault}"
            unreadable = Refused(key, RefusalReason.UNREADABLE.value, detail)
            settled.refused = dict.fromkeys((entry.seq for entry in new), unreadable)
            return settled, [self._letter(entry, f"{unreadable.reason}: {detail}") for entry in new], []
        decision = decide(kind, row, new, kind.on_conflict, self._limits, before=before, kinds=self._kinds)
        if decision.body is not None:
            self._own_rows.keep(key, decision.body, decision.document)
        settled.document, settled.tags = decision.document, decision.tags
        settled.changed, settled.deleted = decision.changed, decision.deleted
        settled.refused = {
            seq: Refused(key, refusal.reason.value, refusal.detail) for seq, refusal in decision.refused.items()
        }
        letters = [
            self._letter(entry, f"{refusal.reason.value}: {refusal.detail}")
            for entry in new
            if (refusal := decision.refused.get(entry.seq)) is not None and refusal.letter
        ]
        settled.history = {write.key: 0 for write in decision.history}
        return settled, letters, writes_of(key, kind, row, decision)

    def _document(self, key: Key, row: Row) -> Any:
        own = self._own_rows.document(key, row)
        return self._stored(key, row) if own is None else own

    async def _write(
        self,
        transaction: FlushTransaction,
        rows: Mapping[Key, Row],
        writes: Sequence[Write],
        settled: Mapping[Key, Settled],
        batch: Batch,
    ) -> dict[Key, Sequence[Entry]]:
        """Write what was decided; returns what is to be decided anew, since a row turned up (rule W8)."""
        for key in [key for key, each in settled.items() if each.deleted and key in rows]:
            settled[key].version, _ = await transaction.delete(key)
        # A row that this transaction has just deleted is locked still: nobody can have inserted it meanwhile.
        held = [write for write in writes if write.key in rows]
        absent = [write for write in writes if write.key in settled and write.key not in rows]
        versions = dict(await transaction.save(held)) if held else {}
        again: dict[Key, Sequence[Entry]] = {}
        if absent:
            try:
                versions |= await transaction.save(absent)
            except Conflict:
                again = {write.key: batch[write.key] for write in absent}
        for write in writes:
            if write.key in settled and (version := versions.get(write.key)) is not None:
                settled[write.key].version = version
                if write.expected == 0:
                    settled[write.key].birth = version
        await self._write_history(transaction, writes, {key: settled[key] for key in settled if key not in again})
        return again

    async def _write_history(
        self, transaction: FlushTransaction, writes: Sequence[Write], settled: Mapping[Key, Settled]
    ) -> None:
        """Insert what moves into history with rows that were written; of others it is made anew with them."""
        wanted = {key for each in settled.values() for key in each.history}
        history = [write for write in writes if write.key in wanted]
        if not history:
            return
        if len(history) != len(wanted):
            raise RowRefused("L3: two documents become history under one id")
        try:
            versions = await transaction.save(history)
        except (AppendOnly, Conflict) as taken:
            raise RowRefused(f"L3: what becomes history has an id that is taken: {taken}") from taken
        for each in settled.values():
            each.history = {key: versions[key] for key in each.history}


def _parts(keys: Iterable[Key], size: int) -> Iterator[list[Key]]:
    """Keys in lists of at most so many."""
    left = iter(keys)
    while part := list(islice(left, size)):
        yield part


def _poisoned(entries: Iterable[Entry], reason: str) -> dict[int, Refused]:
    return {entry.seq: Refused(entry.key, RefusalReason.POISON.value, reason) for entry in entries}


def writes_of(key: Key, kind: Kind[Any], row: Row | None, decision: Decision[Any]) -> list[Write]:
    """What a decision puts: the row, of which one that is deleted first is inserted anew, and history."""
    if decision.body is None:
        return [*decision.history]
    expected = 0 if row is None or decision.deleted else None
    return [Write(key, kind.document.SCHEMA, decision.body, expected, decision.tags), *decision.history]
