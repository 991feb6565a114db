"""Undecided writes of other servers that a scope has seen there (rule W7).

A token names the journals they are in, and how far. The journal is read first, then the row and what is decided in one
snapshot of L3: whatever the snapshot does not say is decided lies over its row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from holdfast.clock import Clock
from holdfast.documents import Limits
from holdfast.entry import MISSING, Tier
from holdfast.errors import CorruptDocument, TierUnavailable, UnknownKind
from holdfast.flights import Resolved
from holdfast.keys import Key
from holdfast.kinds import Kind
from holdfast.protocols import JournalBase, JournalStreams, Row
from holdfast.seq_set import SeqSet
from holdfast.write_behind.entries import Entry, decode_entry
from holdfast.write_behind.overlay import laid_over

PAGE: Final = 1000
LOOK_SECONDS: Final = 0.005
SETTLING_SECONDS: Final = 0.05
ARRIVAL_SECONDS: Final = 2.0
"""How long an entry may take to come to its journal; as a rule it is 10 ms."""


class Elsewhere:
    """Reads what other servers have accepted and not committed; one per server.

    Args:
        decode: the document in a row.
    """

    def __init__(
        self,
        base: JournalBase,
        streams: JournalStreams,
        *,
        kinds: Mapping[str, Kind[Any]],
        limits: Limits,
        decode: Callable[[Key, Row], Any],
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._base = base
        self._streams = streams
        self._kinds = kinds
        self._limits = limits
        self._decode = decode
        self._clock = clock
        self._sleep = sleep

    async def entries(self, journals: Mapping[str, int]) -> dict[Key, list[tuple[str, Entry]]]:
        """What is undecided in journals up to these numbers, by key, in order.

        Raises:
            TierUnavailable: L2 or L3 did not answer, or an entry did not come to its journal in time.
        """
        found: dict[Key, list[tuple[str, Entry]]] = {}
        for journal, through in journals.items():
            for entry in await self._entries(journal, through):
                found.setdefault(entry.key, []).append((journal, entry))
        return found

    async def read(
        self, keys: Sequence[Key], seen: Mapping[Key, Sequence[tuple[str, Entry]]]
    ) -> tuple[dict[Key, Resolved], frozenset[Key]]:
        """These rows with the writes of other servers over them, and the keys of which all are decided."""
        journals = list({journal for key in keys for journal, _ in seen[key]})
        began = self._clock.monotonic()
        rows, marks = await self._base.rows_and_marks(keys, journals)
        found, settled = {}, set()
        for key in keys:
            row = rows.get(key)
            left = [entry for journal, entry in seen[key] if not _is_decided(marks, journal, entry.seq)]
            value = MISSING if row is None else self._decode(key, row)
            for entry in left:
                value = laid_over(value, entry)
            version, birth = (0, 0) if row is None else (row.version, row.birth)
            found[key] = Resolved(value, version, Tier.L3, began, birth=birth, pending=bool(left))
            if not left:
                settled.add(key)
        return found, frozenset(settled)

    async def pause(self) -> None:
        """Before another look."""
        await self._sleep(SETTLING_SECONDS)

    async def _entries(self, journal: str, through: int) -> list[Entry]:
        """The entries of a journal up to a number, once it has come there or is decided."""
        deadline = self._clock.monotonic() + ARRIVAL_SECONDS
        while True:
            _, marks = await self._base.rows_and_marks([], [journal])
            decided = marks.get(journal)
            if decided is None:
                return []  # its server left it when all of it was decided
            last = await self._streams.last(journal)
            if last >= through or through in decided:
                return await self._page_through(journal, through, decided)
            if self._clock.monotonic() >= deadline:
                raise TierUnavailable(
                    f"L2: journal {journal} ends at {last}, before {through}, which the scope has seen: its server has"
                    " not brought it there"
                )
            await self._sleep(LOOK_SECONDS)

    async def _page_through(self, journal: str, through: int, decided: SeqSet) -> list[Entry]:
        entries: list[Entry] = []
        after = decided.through
        while page := await self._streams.read(journal, after=after, limit=PAGE):
            for seq, data in page:
                if seq <= through and seq not in decided:
                    entries += self._readable(seq, data)
            after = page[-1][0]
            if after >= through:
                break
            await asyncio.sleep(0)  # others have their turn between pages
        return entries

    def _readable(self, seq: int, data: bytes) -> list[Entry]:
        """An entry, but for one of a kind that nobody can read here, or one that will be refused as damaged."""
        try:
            return [decode_entry(data, seq, self._kinds, self._limits)]
        except (UnknownKind, CorruptDocument):
            return []


def _is_decided(marks: Mapping[str, SeqSet], journal: str, seq: int) -> bool:
    """A journal that L3 does not know was left by its server when all of it was decided."""
    decided = marks.get(journal)
    return decided is None or seq in decided
