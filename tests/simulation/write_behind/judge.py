"""Judges each commit of L3: what it decides is applied to the row exactly once, or refused as the rules say.

It looks at the committed state alone: at the marks for what is newly decided, at the rows for what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import NamedTuple, cast

from holdfast.documents import decode
from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.seq_set import SeqSet
from holdfast.testing.memory_marks import Marks
from holdfast.write_behind.applying import apply, apply_all
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.operations import Set
from holdfast.write_behind.routes import Inapplicable
from holdfast.write_behind.typed_values import fingerprint
from simulation.write_behind.ledger import KEYS, Ledger, cuts, with_token

Name = tuple[str, int]
"""Of an entry: its journal and its number."""


class Document(NamedTuple):
    """A row as it is so far; of one that has yet to be inserted the birth is infinite."""

    value: Ledger | None
    birth: float

    @classmethod
    def of(cls, row: Row | None) -> Document:
        """Of a row that is there, or not."""
        return cls(_read(row), inf if row is None else row.birth)


FLUSH_SECONDS = 2.0
"""A flush takes no longer."""


class Judge:
    """Told of each commit.

    Attributes:
        entries: all that were ever accepted, by name.
        puts, updates: what direct writes may leave, once each: documents by author, and tokens.
        deletes: how many direct deletions there may be.
        applied, refused: what was decided so far.
        cut: when a document of a key was last ended by somebody, by key.
    """

    def __init__(self) -> None:
        self.entries: dict[Name, Entry] = {}
        self.puts: dict[str, Ledger] = {}
        self.updates: set[str] = set()
        self.deletes = 0
        self.applied: set[Name] = set()
        self.refused: set[Name] = set()
        self.cut: dict[Key, float] = {}
        self.faults: list[str] = []
        self._decided: dict[str, SeqSet] = {}
        self._rows: dict[Key, Row] = {}

    def committed(self, rows: Mapping[Key, Row], marks: Marks, now: float) -> None:
        """A transaction has committed."""
        flushed: dict[Key, list[Name]] = {}
        for name in self._newly_decided(marks):
            if name in self.entries:
                flushed.setdefault(self.entries[name].key, []).append(name)
            else:
                self.faults.append(f"{name} was decided, and nobody wrote it")
        for key in KEYS:
            before, after = self._rows.get(key), rows.get(key)
            if key in flushed:
                self._judge_flush(key, before, after, sorted(flushed[key]), now)
            elif before is not after:
                self._judge_direct(key, _read(before), _read(after))
            if _author(before) != _author(after):
                self.cut[key] = now
        self._rows = {key: rows[key] for key in KEYS if key in rows}

    def _newly_decided(self, marks: Marks) -> Iterator[Name]:
        for journal, record in marks.journals.items():
            before = self._decided.get(journal, SeqSet())
            if record.decided is before:
                continue
            self._decided[journal] = record.decided
            for start, end in record.decided.ranges():
                for seq in range(start, end):
                    if seq not in before:
                        (self.refused if seq in record.refused else self.applied).add((journal, seq))
                        yield journal, seq

    def _judge_flush(self, key: Key, before: Row | None, after: Row | None, names: Sequence[Name], now: float) -> None:
        faults = self._faults_of(Document.of(before), after, names)
        if faults and after is before and now - self.cut.get(key, -inf) < FLUSH_SECONDS:
            # A flush locks no row that is not there: one that turns up while it writes nothing comes after it.
            faults = self._faults_of(Document.of(None), None, names)
        self.faults += [f"{key}: {fault}" for fault in faults]

    def _faults_of(self, document: Document, after: Row | None, names: Sequence[Name]) -> list[str]:
        before, faults = document, []
        for name in names:
            entry = self.entries[name]
            why = why_refused(entry, document)
            if (why is not None) != (name in self.refused):
                said = "applied" if why else "refused"
                faults.append(f"{said}, by the rules {why}: {name} {entry} on {document}")
            if name in self.applied:
                try:
                    document = _applied(entry, document)
                except Inapplicable as fault:
                    return [*faults, f"applied, and cannot be: {name} {entry} on {document}: {fault}"]
        if _read(after) != document.value:
            entries = [self.entries[name] for name in names]
            faults.append(f"{entries} make of {before} {document.value}, and there is {after}")
        if after is not None and document.birth == inf and after.birth == before.birth:
            faults.append(f"{names} deleted the row, and another one has its birth")
        return faults

    def _judge_direct(self, key: Key, before: Ledger | None, after: Ledger | None) -> None:
        if after is None:
            self.deletes -= 1
            lawful = self.deletes >= 0
        elif after.author != (before and before.author):
            lawful = self.puts.pop(after.author, None) == after
        else:
            tokens = list(after.tokens)
            added = tokens[len(before.tokens) :] if before is not None else tokens
            lawful = len(added) == 1 and added[0] in self.updates
            self.updates -= set(added)
            lawful = lawful and before is not None and after == with_token(before, added[0])
        if not lawful:
            self.faults.append(f"{key}: nobody wrote {after} over {before}")


def why_refused(entry: Entry, document: Document) -> str | None:
    """Why an entry must be refused (rules V3, W6); None: it must be applied."""
    value: Ledger | None = document.value
    birth = document.birth
    if entry.birth:
        if value is None or birth != entry.birth:
            return "gone"
    elif entry.base_version:
        if value is None or birth > entry.base_version:
            return "gone"
    elif value is None and entry.default is None and not _begins(entry):
        return "gone"
    if value is None:
        value = _default(entry)
    for operation, expects in zip(entry.operations, entry.expects, strict=True):
        if isinstance(operation, Set):
            wanted = fingerprint(apply(value, operation), operation.place)
            if fingerprint(value, operation.place) not in {expects, wanted}:
                return "conflict"
        value = apply(value, operation)
    return None


def _begins(entry: Entry) -> bool:
    first = entry.operations[0]
    return isinstance(first, Set) and not first.place.path


def _applied(entry: Entry, document: Document) -> Document:
    value = document.value if document.value is not None else _default(entry)
    made = apply_all(value, entry.operations)
    ends = cuts(entry.operations) and made is None
    return Document(made, inf if ends else document.birth)


def _default(entry: Entry) -> Ledger | None:
    return cast("Ledger | None", entry.default)


def _read(row: Row | None) -> Ledger | None:
    return None if row is None else decode(Ledger, row.body, what="a row")


def _author(row: Row | None) -> str | None:
    document = _read(row)
    return None if document is None else document.author
