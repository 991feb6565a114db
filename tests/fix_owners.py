"""Documents that have an owner, and what a server does with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from holdfast import Append, Consistency, Durability, Kind
from holdfast.documents import Document
from holdfast.documents.frozen import EMPTY_LIST
from holdfast.keys import Key
from holdfast.run_context.spilling import Spilled
from holdfast.store import StateStore
from holdfast.write_behind.receipts import PendingWrite

ITEMS_MAX: Final = 3


class Task(Document, frozen=True, kw_only=True):
    """A document that is owned under an epoch; beyond three its items become history."""

    epoch: int = 1
    items: Sequence[str] = EMPTY_LIST
    parts: int = 0


class Part(Document, frozen=True, kw_only=True):
    """What became history of one."""

    items: Sequence[str]


def spill(key: Key, task: Task) -> Spilled[Task] | None:
    """Let the items become history when they are many."""
    if len(task.items) <= ITEMS_MAX:
        return None
    row = msgspec.structs.replace(task, items=EMPTY_LIST, parts=task.parts + 1)
    return Spilled(row, (("part", f"{key.id}/{row.parts}", Part(items=task.items)),))


TASK: Final = Kind("task", Task, owned_by=lambda task: task.epoch, spill=spill)
PART: Final = Kind("part", Part, append_only=True)
KINDS: Final[list[Kind[Any]]] = [TASK, PART]
KEY: Final = Key("task", "t1")


async def append(
    state: StateStore, *tokens: str, owner: int = 0, durability: Durability = Durability.JOURNALED, key: str = KEY.id
) -> PendingWrite:
    """Append items under an epoch; 0: in nobody's name."""
    operations = [Append("items", token) for token in tokens]
    receipt = await state.collection(TASK).accept(Key("task", key), operations, None, durability, owner)
    assert isinstance(receipt, PendingWrite)
    return receipt


async def raise_epoch(state: StateStore) -> None:
    """Take the document over, when all is decided."""
    await state.collection(TASK).update(KEY.id, lambda task: msgspec.structs.replace(task, epoch=task.epoch + 1))


async def items_of(state: StateStore, consistency: Consistency = Consistency.BOUNDED) -> list[str]:
    """The items that a server shows."""
    task = await state.collection(TASK).get(KEY.id, consistency=consistency)
    assert task is not None
    return list(task.items)
