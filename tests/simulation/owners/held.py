"""The documents of these worlds: each is owned under an epoch, and lets its older items become history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from holdfast import Kind
from holdfast.documents import Document, decode
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.keys import Key
from holdfast.protocols import Row
from holdfast.run_context.spilling import Spilled

ITEMS_MAX = 3


class Held(Document, frozen=True, kw_only=True):
    """A document that has an owner.

    Attributes:
        epoch: raised by whoever takes it over, and `owner` who that is.
        items: the tokens of writes, in order, since the last that moved.
        moved: how many parts of history there are.
    """

    epoch: int
    owner: str
    items: Sequence[str] = EMPTY_LIST
    moved: int = 0


class Moved(Document, frozen=True, kw_only=True):
    """Items that became history."""

    items: Sequence[str]


def spill(key: Key, held: Held) -> Spilled[Held] | None:
    """Let the items become history when they are many."""
    if len(held.items) <= ITEMS_MAX:
        return None
    number = held.moved + 1
    row = msgspec.structs.replace(held, items=EMPTY_LIST, moved=number)
    return Spilled(row, (("moved", part_id(key, number), Moved(items=held.items)),))


def part_id(key: Key, number: int) -> str:
    """The id of a part of history."""
    return f"{key.id}/{number}"


HELD: Final = Kind("held", Held, owned_by=lambda held: held.epoch, spill=spill)
MOVED: Final = Kind("moved", Moved, append_only=True)
KEYS: Final = (Key("held", "h1"), Key("held", "h2"))


def held_in(rows: Mapping[Key, Row], key: Key) -> Held | None:
    """A document, as L3 has it."""
    row = rows.get(key)
    return None if row is None else decode(Held, row.body, what=str(key))


def moved_in(rows: Mapping[Key, Row], key: Key, parts: int) -> list[str]:
    """What became history of a document, in so many parts; one that is missing is told in its place."""
    items: list[str] = []
    for number in range(1, parts + 1):
        row = rows.get(Key("moved", part_id(key, number)))
        items += [f"no part {number}"] if row is None else decode(Moved, row.body, what="history").items
    return items
