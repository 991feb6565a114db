"""Finding the write that L3 refuses, or whose row another transaction keeps locked, among many that it would take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdfast.errors import RowRefused, SerializationFailure
from holdfast.keys import Key

T = TypeVar("T")


async def bisected(
    batch: dict[Key, list[T]],
    flush: Callable[[dict[Key, list[T]]], Awaitable[None]],
    give_up: Callable[[T, str], Awaitable[None]],
    postpone: Callable[[Key, SerializationFailure], None],
) -> bool:
    """Flush a batch, or its halves if L3 refuses a row of it, or waits too long for the lock of one.

    The writes of one key stay in their order, so a later one is tried on what the earlier ones made, and waits for
    them if they are postponed. Returns whether nothing was postponed.

    Args:
        give_up: a write that is refused alone.
        postpone: a key whose row is locked.
    """
    try:
        await flush(batch)
    except SerializationFailure as fault:
        if len(batch) == 1:
            postpone(next(iter(batch)), fault)
            return False
    except RowRefused as fault:
        if not _halves(batch):
            ((write,),) = batch.values()
            await give_up(write, str(fault))
            return True
    else:
        return True
    all_tried = True
    for part in _halves(batch):
        if not await bisected(part, flush, give_up, postpone):
            all_tried = False
            if len(batch) == 1:  # the other half is of the same key
                break
    return all_tried


def _halves(batch: dict[Key, list[T]]) -> list[dict[Key, list[T]]]:
    """A batch in two: of several keys half of them, of one key half of its writes; none: it is one write."""
    keys = list(batch)
    if len(keys) > 1:
        middle = len(keys) // 2
        return [{key: batch[key] for key in part} for part in (keys[:middle], keys[middle:])]
    writes = batch[keys[0]]
    if len(writes) == 1:
        return []
    middle = len(writes) // 2
    return [{keys[0]: writes[:middle]}, {keys[0]: writes[middle:]}]
