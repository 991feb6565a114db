"""Journals of servers that are gone, and writes that were given up, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast import Set
from holdfast.documents import Limits
from holdfast.keys import Key
from holdfast.kinds import register
from holdfast.protocols import JournalBase, JournalState, JournalStreams, Letter
from holdfast.seq_set import SeqSet
from holdfast.write_behind.checking import checked
from holdfast.write_behind.entries import Entry, encode_entry
from holdfast.write_behind.operations import Operation

KEY = Key("bot", "b1")
KINDS = register([])
LIMITS = Limits()


def entry(seq: int, *operations: Operation, key: Key = KEY, **facts: Any) -> Entry:
    """An entry addressed to whatever row there is, as a server would have made it."""
    ready = checked(KINDS[key.kind].document, operations, LIMITS)
    made = Entry(seq, key, ready, 0, 0, None, (None,) * len(ready), KINDS[key.kind].document.SCHEMA, 1_000)
    return msgspec.structs.replace(made, **facts)


def named(seq: int, name: str = "new", **facts: Any) -> Entry:
    """An entry that gives a bot another name."""
    return entry(seq, Set("name", name), **facts)


async def leave(
    base: JournalBase,
    streams: JournalStreams,
    entries: Sequence[Entry | tuple[int, bytes]],
    *,
    journal: str = "j",
    server: str = "dead",
) -> None:
    """A server that ended and left these entries in its journal."""
    await base.register(journal, server)
    stored = [(each.seq, encode_entry(each, KINDS)) if isinstance(each, Entry) else each for each in entries]
    await streams.append(journal, stored, expected=0, keep_from=0)
    assert await base.enter_state(journal, 1, JournalState.RELEASED)


async def give_up(base: JournalBase, entries: Sequence[Entry | Letter], *, journal: str = "j") -> list[int]:
    """Letters of writes that were given up; returns the ids of all there are."""
    await base.register(journal, "dead")
    letters = [
        each if isinstance(each, Letter) else Letter(each.key, each.seq, encode_entry(each, KINDS), "poison: by hand")
        for each in entries
    ]
    seqs = SeqSet.of(letter.seq for letter in letters)
    flush = await base.open_flush(journal, 1)
    await flush.decide(seqs, seqs, letters)
    await flush.commit()
    return [dead.id for dead in await base.letters(limit=1000)]
