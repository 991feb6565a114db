"""What becomes of the entries of one key: each is applied to the current row, or refused (pure).

They are decided one after the other, each by what those before it have made, so that it is the same however many are
decided at once: rules V3, W6, W8, W10 and S3. Only whether the result can be stored is asked of the last one first; if
it cannot, of each. So is what of it becomes history: at the end, or where it has to be, between them.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from holdfast.documents import Document, Limits, encode
from holdfast.entry import MISSING
from holdfast.errors import DocumentTooDeep, DocumentTooLarge
from holdfast.intake import checked_write
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import ANY_VERSION, Row, Write
from holdfast.run_context.conflicts import ConflictStrategy, Resolution, Side, resolve
from holdfast.write_behind.applying import apply
from holdfast.write_behind.entries import Entry
from holdfast.write_behind.growth import UNBOUND, least_growth
from holdfast.write_behind.operations import Operation, Set, with_value
from holdfast.write_behind.places import type_at
from holdfast.write_behind.routes import Inapplicable, value_at
from holdfast.write_behind.typed_values import fingerprint, fingerprint_of

D = TypeVar("D", bound=Document)

NO_KINDS: Final[Mapping[str, Kind[Any]]] = MappingProxyType({})


class RefusalReason(enum.Enum):
    """Why an entry was not applied."""

    GONE = "gone"
    """The row it was addressed to was deleted, or there was none; one that came since is another."""
    CONFLICT = "conflict"
    """Another value was committed meanwhile in the place of one it replaces, and that one stands."""
    LIMIT = "limit"
    """The document would be too large or too deep."""
    POISON = "poison"
    """The document does not allow it, or could not be stored with it."""
    UNREADABLE = "unreadable"
    """The row holds no document that this program can read; replayed once it does, the entry may be applied."""
    NOT_OWNER = "not_owner"
    """Another server had taken over what it was written for, or decided it otherwise when it did."""


class Refusal(msgspec.Struct, frozen=True):
    """That an entry is refused.

    Attributes:
        detail: in words.
        letter: it is to be kept for a person.
    """

    reason: RefusalReason
    detail: str
    letter: bool = False


class Decision(msgspec.Struct, Generic[D], frozen=True):
    """What becomes of a key, and of each entry.

    Attributes:
        document: as it is after all; None: there is no row.
        deleted: the row of before is to be deleted; with a document, before that is inserted as a new row.
        changed: there is anything to write.
        body: the document's JSON, and `tags` its tags, if it is to be written.
        history: rows to be inserted with it.
        applied: the numbers of the entries that took effect.
        refused: those of the others, with the reason.
        conflicts: each `Set` that found another value than it had replaced, and what became of it.
    """

    document: D | None
    deleted: bool
    changed: bool
    body: bytes | None
    tags: tuple[str, ...]
    applied: tuple[int, ...]
    refused: Mapping[int, Refusal]
    conflicts: tuple[Resolution, ...]
    history: tuple[Write, ...] = ()


class _Refused(Exception):
    def __init__(self, reason: RefusalReason, detail: str, *, letter: bool = False) -> None:
        self.refusal = Refusal(reason, detail, letter)


class _Life(NamedTuple):
    """The document as it is so far.

    Attributes:
        birth: of its row; `ANY_VERSION`, above all others, of one that has yet to be inserted.
        cut: the row of before was deleted.
    """

    document: Any
    birth: int
    cut: bool = False


class _Stored(NamedTuple):
    """What is to be stored: a document in JSON, None: nothing; and rows of history."""

    document: Any = None
    body: bytes | None = None
    tags: tuple[str, ...] = ()
    history: tuple[Write, ...] = ()


_NOTHING: Final = _Stored()


class _Course(NamedTuple):
    """What came of the entries in turn; `stored` as the last one left it, if each is stored."""

    life: _Life
    applied: list[int]
    refused: dict[int, Refusal]
    conflicts: list[Resolution]
    history: list[Write]
    stored: _Stored = _NOTHING


class _Rules(NamedTuple):
    """What the decisions on a key are made by."""

    kind: Kind[Any]
    document_type: type[Document]
    key: Key
    strategy: ConflictStrategy
    limits: Limits
    kinds: Mapping[str, Kind[Any]]

    def run(self, life: _Life, entries: Sequence[Entry]) -> _Course:
        """Apply entries in turn, whether what they make can be stored or not."""
        course = _Course(life, [], {}, [], [])
        for entry in entries:
            try:
                life = self._applied(course.life, entry, course.conflicts)
            except _Refused as refused:
                course.refused[entry.seq] = refused.refusal
            else:
                course.applied.append(entry.seq)
                course = course._replace(life=life)
        return course

    def run_storing(self, life: _Life, entries: Sequence[Entry]) -> _Course:
        """Apply entries in turn, and none that makes a document which cannot be stored, history apart.

        Many are applied at a time as long as what they make can be stored, and fewer where it cannot, down to the one
        that is refused: to store a large document for each of a thousand would take longer than L3 waits.
        """
        course, begun, count = _Course(life, [], {}, [], []), 0, len(entries)
        room = _Room(self.limits.bytes_max if self.kind.spill is None else math.inf)
        while begun < len(entries):
            part = entries[begun : begun + count]
            try:
                if room.lacks(course.life.document, part[0]):
                    part = part[:1]
                    self._refuse(course.life, part[0])
                course = self._stored_after(course, part)
            except _Refused as refused:
                if len(part) > 1:
                    count = len(part) // 2
                    continue
                course.refused[part[0].seq] = refused.refusal
                begun += 1
            else:
                begun, count = begun + len(part), 2 * count
        return course

    def _refuse(self, life: _Life, entry: Entry) -> None:
        """Raise _Refused for an entry that there is no room for, unless there is another reason."""
        self._applied(life, entry, [])
        raise _Refused(RefusalReason.LIMIT, "the document would be too large with it", letter=True)

    def _stored_after(self, course: _Course, entries: Sequence[Entry]) -> _Course:
        """The course when some entries more are applied; _Refused if what they make cannot be stored."""
        more = self.run(course.life, entries)
        life, stored = more.life, course.stored
        if life.document is not course.life.document:
            stored = self.stored(life.document)
            life = life._replace(document=stored.document)
        return _Course(
            life,
            course.applied + more.applied,
            course.refused | more.refused,
            course.conflicts + more.conflicts,
            [*course.history, *stored.history] if stored is not course.stored else course.history,
            stored,
        )

    def stored(self, document: Any) -> _Stored:
        """A document as it is stored, and what of it becomes history; _Refused if it cannot be."""
        if document is None:
            return _NOTHING
        try:
            spilled = None if self.kind.spill is None else self.kind.spill(self.key, document)
            row, history = (document, ()) if spilled is None else spilled
            return _Stored(
                row,
                encode(row, self.limits),
                self.kind.tags_of(self.key, row),
                tuple(checked_write(self.kinds[name], id_, each, 0, self.limits) for name, id_, each in history),
            )
        except (DocumentTooLarge, DocumentTooDeep) as fault:
            raise _Refused(RefusalReason.LIMIT, str(fault), letter=True) from fault
        except Exception as fault:  # the kind's functions are a user's, which may fail by any error
            raise _Refused(RefusalReason.POISON, str(fault) or type(fault).__name__, letter=True) from fault

    def _applied(self, life: _Life, entry: Entry, conflicts: list[Resolution]) -> _Life:
        """What an entry makes of the document: all of its operations, or none."""
        if (why := _gone(entry, life)) is not None:
            raise _Refused(RefusalReason.GONE, why)
        document, birth, cut = life
        if document is None:
            document = entry.default
        self._check_owner(entry, document)
        try:
            for operation, expects in zip(entry.operations, entry.expects, strict=True):
                settled = self._settled(document, operation, expects, conflicts)
                document = apply(document, settled)
                if document is None:
                    birth, cut = ANY_VERSION, True
        except Inapplicable as fault:
            raise _Refused(RefusalReason.POISON, str(fault), letter=True) from fault
        return _Life(document, birth, cut)

    def _check_owner(self, entry: Entry, document: Any) -> None:
        """Refuse what was written in the name of somebody who does not own the document (rule S3)."""
        if not entry.owner or document is None:
            return
        try:
            epoch = None if self.kind.owned_by is None else self.kind.owned_by(document)
        except Exception as fault:  # a user's function
            raise _Refused(RefusalReason.POISON, str(fault) or type(fault).__name__, letter=True) from fault
        if epoch != entry.owner:
            detail = f"it was written under epoch {entry.owner}, and the document is owned under {epoch}"
            raise _Refused(RefusalReason.NOT_OWNER, detail)

    def _settled(
        self, document: Any, operation: Operation, expects: bytes | None, conflicts: list[Resolution]
    ) -> Operation:
        """The operation to apply: what was committed in the place of a `Set` meanwhile may stand (rule W6)."""
        if not isinstance(operation, Set) or expects is None:
            return operation
        place = operation.place
        found, annotation = fingerprint(document, place), type_at(self.document_type, place)
        if found in (expects, fingerprint_of(annotation, operation.value)):
            return operation
        parent = MISSING if document is None else value_at(document, place)
        resolution = resolve(self.strategy, Side(parent), Side(operation.value))
        conflicts.append(resolution)
        if resolution.value is parent:
            detail = f"{str(place) or 'document'}: {resolution.reason}"
            raise _Refused(RefusalReason.CONFLICT, detail, letter=resolution.needs_review)
        return with_value(operation, resolution.value)


class _Room:
    """Knows entries for which a document is certain to have no room, without encoding it for each."""

    def __init__(self, bytes_max: float) -> None:
        self._bytes_max = bytes_max
        self._measured: tuple[Any, int] = (None, 0)

    def lacks(self, document: Any, entry: Entry) -> bool:
        """Whether the document with the entry is too large, whatever it is exactly."""
        try:
            growth = None if document is None else least_growth(document, entry.operations)
        except Inapplicable:
            return False  # that is the reason
        if growth is None or growth <= 0:
            return False
        if self._measured[0] is not document:
            self._measured = document, len(encode(document, UNBOUND))
        return self._measured[1] + growth > self._bytes_max


def decide(
    kind: Kind[D],
    row: Row | None,
    entries: Sequence[Entry],
    strategy: ConflictStrategy,
    limits: Limits,
    *,
    before: D | None,
    kinds: Mapping[str, Kind[Any]] = NO_KINDS,
) -> Decision[D]:
    """Decide the entries of one key.

    Args:
        row: the current one, locked; None: there is none.
        entries: at least one, all of one key, in the order of their numbers.
        before: what the row holds; None: there is none.
        kinds: those of the history that the kind spills into.
    """
    key = entries[0].key
    rules = _Rules(kind, kind.document, key, strategy, limits, kinds)
    begin = _Life(before, ANY_VERSION if row is None else row.birth)
    course = rules.run(begin, entries)
    try:
        stored = _NOTHING if course.life.document is before else rules.stored(course.life.document)
        history = stored.history
    except _Refused:
        course = rules.run_storing(begin, entries)
        stored, history = course.stored, tuple(course.history)
    deleted = course.life.cut and row is not None
    is_new_body = stored.body is not None and (row is None or stored.body != row.body)
    changed = deleted or is_new_body or bool(history)
    return Decision(
        document=stored.document if stored.body is not None else course.life.document,
        deleted=deleted,
        changed=changed,
        body=stored.body if changed else None,
        tags=stored.tags if changed else (),
        applied=tuple(course.applied),
        refused=course.refused,
        conflicts=tuple(course.conflicts),
        history=history,
    )


def _gone(entry: Entry, life: _Life) -> str | None:
    """Why an entry has no row to be applied to, or to begin (rule V3); None: it has."""
    exists = life.document is not None
    if entry.birth:
        gone = not exists or life.birth != entry.birth
        return f"the row born at version {entry.birth} is no longer there" if gone else None
    if entry.base_version:
        gone = not exists or life.birth > entry.base_version
        return f"the row that was at version {entry.base_version} is no longer there" if gone else None
    return None if exists or entry.default is not None or _begins(entry) else "there is no row"


def _begins(entry: Entry) -> bool:
    """Whether an entry puts a whole document, which needs no row."""
    first = entry.operations[0] if entry.operations else None
    return isinstance(first, Set) and not first.place.path
