"""What an entry of a journal does, in words for people, whatever its kind (pure).

No class of its kind is needed, so that a tool can show the writes of programs that it knows nothing of. Values are cut
short, and a whole document is told by its size alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from holdfast.documents import Limits
from holdfast.errors import CorruptDocument, SchemaTooNew
from holdfast.keys import Key
from holdfast.write_behind.entries import SORTS, StoredOperation, stored_entry
from holdfast.write_behind.operations import Append, Delete, Increment, Merge, Operation, Place, Set

VALUE_CHARACTERS_MAX: Final = 40
PLACE_CHARACTERS_MAX: Final = 120
SHOWN_MAX: Final = 5
"""Operations of an entry, and again values of an operation; the others are counted."""


class Outline(msgspec.Struct, frozen=True):
    """An entry in words.

    Attributes:
        operations: what it does, one after the other.
        accepted_at_ms: since 1970, by the clock of the server that accepted it.
    """

    key: Key
    operations: tuple[str, ...]
    accepted_at_ms: int


def outline(data: bytes, seq: int, limits: Limits) -> Outline:
    """Read an entry for people.

    Raises:
        SchemaTooNew, CorruptDocument: as `decode_entry`, but for what only the entry's kind tells.
    """
    stored = stored_entry(data, seq, limits)
    shown = [_words(operation) for operation in stored.operations[:SHOWN_MAX]]
    left = len(stored.operations) - len(shown)
    return Outline(
        Key(stored.kind, stored.id), (*shown, *([f"and {left} more operations"] if left else [])), stored.accepted_at_ms
    )


def accepted_at_ms(data: bytes, seq: int, limits: Limits) -> int | None:
    """When an entry was accepted; None: it cannot be read."""
    try:
        return stored_entry(data, seq, limits).accepted_at_ms
    except (CorruptDocument, SchemaTooNew):
        return None


def _words(stored: StoredOperation) -> str:
    sort, place = SORTS[stored.sort], Place(stored.path, stored.item, stored.inside)
    if sort is Set and not place.steps:
        return f"put a document of {sum(len(data) for _, data in stored.values)} bytes"
    where = _cut(str(place), PLACE_CHARACTERS_MAX) or "the document"
    values = ", ".join(_shown_values(sort, stored))
    if sort is Delete:
        return f"delete {where}"
    if sort is Append:
        return f"append {values} to {where}"
    if sort is Increment:
        return f"add {values} to {where}"
    if sort is Merge:
        return f"merge {values} into {where}"
    return f"set {where} to {values}"


def _shown_values(sort: type[Operation], stored: StoredOperation) -> Iterator[str]:
    for keys, data in stored.values[:SHOWN_MAX]:
        name = f"{_cut('.'.join(keys), VALUE_CHARACTERS_MAX)}: " if sort is Merge and keys else ""
        yield f"{name}{_shown(data)}"
    if (left := len(stored.values) - SHOWN_MAX) > 0:
        yield f"and {left} more"


class _Held(msgspec.Struct):
    """What holds a value that is no document."""

    value: msgspec.Raw


def _shown(data: bytes) -> str:
    """The beginning of a stored value's JSON."""
    try:
        value = bytes(msgspec.json.decode(data, type=_Held).value)
    except msgspec.MsgspecError:
        return f"a document of {len(data)} bytes"
    return _cut(value[: 4 * VALUE_CHARACTERS_MAX + 4].decode(errors="ignore"), VALUE_CHARACTERS_MAX)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
